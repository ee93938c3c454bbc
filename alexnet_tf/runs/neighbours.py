"""Finds the images of a run's data set with the nearest features to a query, as in the paper's Figure 4 (right)."""

import collections
import os
import pathlib
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.data import examples
from alexnet_tf.data import pipeline
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import feature_index
from alexnet_tf.evaluation import nearest
from alexnet_tf.export import signatures
from alexnet_tf.reporting import figures
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.runs import inputs
from alexnet_tf.runs import queries
from alexnet_tf.runs import restore
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import output

# Rows of a figure.
MAX_ROWS = 50


class RetrievalRun(NamedTuple):
    """A run with its data set and the features of its network."""

    config: config.Config
    source: sources.Source
    image_statistics: statistics.Statistics
    features: Callable[[tf.Tensor], tf.Tensor]  # uint8 [batch, image_size, image_size, 3] to float32 [batch, units]
    units: int
    identity: dict[str, Any]  # what the features depend on, for JSON


def open_run(
    workdir: str | os.PathLike,
    *,
    source: str = "",
    data_dir: str = "",
    checkpoint: str = "auto",
    log: Callable[[str], None] = lambda line: None,
) -> RetrievalRun:
    """Opens a run at its best or newest checkpoint.

    Args:
      workdir: a directory in which `train.train` ran.
      source, data_dir: the new location of a data set that has moved; empty for the run's own.
      checkpoint: "best", "newest" or "auto", as in `selection.select`.
      log: as in `dataset.open_data`, and called with a line about the checkpoint.

    Raises:
      ValueError, OSError: if a file is missing or does not belong to the run.
    """
    run_config = restore.read_config(workdir, source, data_dir)
    data_source, _ = dataset.open_data(run_config, log, workdir=workdir)
    run = restore.open_run(workdir, run_config, data_source.class_names, checkpoint)
    log(f"checkpoint {run.checkpoint} ({run.chosen.describe()})")
    network = signatures.with_features(run.model)
    view = builders.central_view(run_config, run.image_statistics)

    @tf.function(reduce_retracing=True, autograph=False)
    def features(images):
        return tf.cast(network(view(images), training=False)[1], tf.float32)

    units = network.outputs[1].shape[-1]
    return RetrievalRun(run_config, data_source, run.image_statistics, features, units, restore.identity(run))


def default_index_dir(workdir: str | os.PathLike, split: str) -> str:
    """Returns the default directory of the index of a split."""
    return os.path.join(workdir, "neighbours", split)


def index_run(
    workdir: str | os.PathLike,
    split: str = "train",
    index_dir: str | os.PathLike = "",
    *,
    dtype: str = "auto",
    source: str = "",
    data_dir: str = "",
    checkpoint: str = "auto",
) -> feature_index.Index:
    """Opens the index of a split's features. Builds it if there is none, or if it has other weights or images.

    Args:
      workdir: a directory in which `train.train` ran.
      split: "train", "validation" or "test".
      index_dir: directory of the index; empty for ``neighbours/SPLIT`` in the work directory.
      dtype: "float16" or "float32" for the features; "auto" keeps that of an existing index, float16 for a new one.
      source, data_dir, checkpoint: as in `open_run`.

    Raises:
      ValueError, OSError: as `open_run` and `feature_index.write`, or if the index is damaged or belongs to another run
        or split.
    """
    console = output.Console()
    run = open_run(workdir, source=source, data_dir=data_dir, checkpoint=checkpoint, log=dataset.logger(console))
    return _index(run, split, index_dir, dtype, console)


def _index(run, split, index_dir, dtype, console):
    """Opens the index of a split, and builds it before if necessary."""
    queries.check_split(run.source, split)
    directory = index_dir or default_index_dir(run.identity["run"], split)
    try:
        index = feature_index.open_index(directory)
        reason = _reason_to_rebuild(index, run, split, dtype)
    except FileNotFoundError:
        reason = f"there is none in {directory}"
    if not reason:
        return index
    console.print(f"building an index: {reason}", markup=False)
    _build_index(run, split, directory, "float16" if dtype == "auto" else dtype, console)
    index = feature_index.open_index(directory)
    console.print(
        f"index {directory}: {len(index)} {split} images, {run.units} features each in {index.features.dtype}, "
        f"{index.features.nbytes / 1e6:.1f} MB",
        markup=False,
    )
    return index


def _build_index(run, split, directory, dtype, console):
    data = dataset.load_data(run.config, run.source, [split], run.image_statistics, console)
    images = _images(data, split)
    with dataset.progress_bar(console) as bar, examples.naming_unreadable(data.examples[split]):
        task = bar.add_task(f"features of {len(images.labels)} {split} images", total=len(images.labels))
        batches = pipeline.evaluation_batches(data.examples[split], batch_size=dataset.EVALUATION_BATCH_SIZE)
        feature_index.write(
            directory,
            (run.features(pixels).numpy() for pixels, _ in batches),
            images,
            units=run.units,
            class_names=run.source.class_names,
            metadata={**run.identity, "split": split, "data": run.source.name},
            dtype=dtype,
            progress=lambda done: bar.update(task, completed=done),
        )


def _reason_to_rebuild(index, run, split, dtype):
    """Returns why an index must be rebuilt, empty if it is up to date; raises if it belongs to another run or split."""
    metadata = index.metadata
    is_same = all(metadata.get(name) == run.identity[name] for name in ("weights", "precision"))
    # The index of a run that was moved is inside the run's directory.
    own = pathlib.Path(run.identity["run"]).resolve()
    is_own = metadata.get("run") == run.identity["run"] or own in index.directory.resolve().parents
    if metadata.get("split") != split or not (is_same or is_own):
        raise ValueError(
            f"Expected the index in {index.directory} to have {split} images and features of {run.identity['run']}. "
            f"Received: {metadata.get('split')} images and features of {metadata.get('run')}; use another --index_dir"
        )
    if not is_same:
        before, now = metadata.get("checkpoint"), run.identity["checkpoint"]
        return f"the one in {index.directory} has features of {before}, but the checkpoint is {now}"
    if dtype not in ("auto", index.features.dtype.name):
        return f"the one in {index.directory} is in {index.features.dtype}"
    labels = run.source.splits[split].labels
    places = index.images.places
    if places.max() >= len(labels) or not np.array_equal(labels[places], index.images.labels):
        return f"the one in {index.directory} has different images"
    return ""


def _images(data, split):
    """Returns the `feature_index.Images` of a split's examples."""
    part = data.source.splits[split]
    names = [part.name_of(place) for place in range(len(part.labels))]
    skipped = {each.name for each in data.skipped[split]}
    places = np.array([place for place, name in enumerate(names) if name not in skipped], np.int64)
    return feature_index.Images(data.examples[split].labels, [names[place] for place in places], places)


def query(
    workdir: str | os.PathLike,
    request: queries.Queries,
    *,
    index_split: str = "train",
    index_dir: str | os.PathLike = "",
    dtype: str = "auto",
    k: int = 6,
    method: str = "auto",
    json_path: str | os.PathLike = "",
    figure_path: str | os.PathLike = "",
    source: str = "",
    data_dir: str = "",
    checkpoint: str = "auto",
) -> dict[str, Any]:
    """Finds and prints the images of a split with the nearest features to each query.

    A query that is in the index is not among its own neighbors. An image of a split is identified by its index, a file
    by its path.

    Args:
      workdir, index_dir, dtype, source, data_dir, checkpoint: as in `index_run`.
      request: the queries.
      index_split: the split that is searched.
      k: number of neighbors of each query.
      method: as in `feature_index.Index.search`. The first approximate search builds what it needs.
      json_path: a file for the neighbors; empty for none.
      figure_path: a PNG file for the neighbors, a row per query as in the paper's Figure 4; empty for none.

    Returns:
      A dict for JSON with the run, the index, and ``queries``: each with its name, class (None for a file) and
      ``neighbours``, nearest first, with index in the split, name, class and Euclidean distance. A class that is named
      by an identifier has its ``words`` next to it.

    Raises:
      ValueError, OSError: if a file is missing, or an image cannot be read.
      ModuleNotFoundError: without matplotlib for a figure, or without faiss for an approximate search.
    """
    console = output.Console()
    _check_outputs(json_path, figure_path)
    nearest.choose_method(method, 0)
    # Raises for bad files before the run and its data are opened, which may take a minute.
    image_size = restore.read_config(workdir, source, data_dir).image_size
    loaded = queries.load_files(request, image_size, dataset.slow_reporter(console))
    run = open_run(workdir, source=source, data_dir=data_dir, checkpoint=checkpoint, log=dataset.logger(console))
    # Raises for bad indices before an index is built, which may take hours.
    loaded += queries.load_from_split(run.source, request, image_size, dataset.slow_reporter(console))
    if figure_path and len(loaded) > MAX_ROWS:
        raise ValueError(f"Expected at most {MAX_ROWS} queries in a figure. Received: {len(loaded)}")
    index = _index(run, index_split, index_dir, dtype, console)
    chosen = nearest.choose_method(method, len(index))
    if chosen == "approximate" and not index.has_approximate:
        _build_approximate(index, console)
    answers = {
        **run.identity,
        "index": {
            "directory": str(index.directory),
            "split": index_split,
            "images": len(index),
            "units": run.units,
            "dtype": str(index.features.dtype),
        },
        "method": chosen,
        "queries": _search(run, index, loaded, k, chosen),
    }
    console.print(table(answers), markup=False)
    if json_path:
        files.write_json(json_path, answers)
        console.print(f"neighbors {json_path}", markup=False)
    if figure_path:
        _draw(run, index_split, loaded, answers["queries"], figure_path)
        console.print(f"figure {figure_path}", markup=False)
    return answers


def _check_outputs(json_path, figure_path):
    """Raises if an output file could not be written at the end."""
    for path in (json_path, figure_path):
        if path and not pathlib.Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"Expected a file in an existing directory. Received: {path}")
    if figure_path and not str(figure_path).endswith(".png"):
        raise ValueError(f"Expected the name of a figure to end in .png. Received: {figure_path}")
    if figure_path:
        figures.require_matplotlib("a figure")


def _build_approximate(index, console):
    with dataset.progress_bar(console) as bar:
        task = bar.add_task(f"approximate index of {len(index)} images", total=len(index))
        index.build_approximate(lambda done: bar.update(task, completed=done))


def _search(run, index, loaded, k, method):
    """Returns the neighbors of each query, for JSON."""
    size = dataset.EVALUATION_BATCH_SIZE
    parts = [loaded[first : first + size] for first in range(0, len(loaded), size)]
    features = [run.features(np.stack([each.pixels for each in part])).numpy() for part in parts]
    own = np.array([queries.place_in_index(each, index) for each in loaded])
    exclude = own if (own >= 0).any() else None
    found = index.search(np.concatenate(features), k, method=method, exclude=exclude)
    answers = []
    for each, place, distances, places in zip(loaded, own.tolist(), found.distances.tolist(), found.indices.tolist()):
        answers.append(
            {
                "name": each.name,
                "split": each.split,
                "index": each.place,
                **_class(run, index, each.label),
                "left_out": index.images.names[place] if place >= 0 else None,
                "neighbours": [_neighbor(run, index, *pair) for pair in zip(places, distances)],
            }
        )
    return answers


def _class(run, index, label):
    """Returns the class of a label, and its words if it has any, for JSON; None for the class of a file."""
    if label is None:
        return {"class": None}
    name = index.class_names[label]
    words = run.source.class_words.get(name)
    return {"class": name, "words": words} if words else {"class": name}


def _neighbor(run, index, place, distance):
    label = int(index.images.labels[place])
    return {
        "index": int(index.images.places[place]),
        "name": index.images.names[place],
        "label": label,
        **_class(run, index, label),
        "distance": distance,
    }


def table(answers: dict[str, Any]) -> str:
    """Formats what `query` returns: a line per neighbor, and how many neighbors have the class of their query."""
    lines = []
    for each in answers["queries"]:
        lines.append(escaping.one_line(f"{each['name']}{': ' * bool(each['class'])}{_display_name(each)}"))
        for number, near in enumerate(each["neighbours"], start=1):
            line = f"  {number:>3} {near['distance']:>10.4g}  {_display_name(near):<24} {near['name']}"
            lines.append(escaping.one_line(line))
    known = [each for each in answers["queries"] if each["class"] is not None]
    if known:
        same = sum(near["class"] == each["class"] for each in known for near in each["neighbours"])
        total = sum(len(each["neighbours"]) for each in known)
        lines.append(f"neighbors of the same class as their query: {same} of {total}")
    return "\n".join(lines)


def _display_name(answer):
    """Returns the class of a query or a neighbor as people read it; empty for a file."""
    return sources.display_name(answer["class"], answer.get("words", "")) if answer["class"] else ""


def figure_names(class_words: dict[str, str]) -> dict[str, str]:
    """Returns the first of the words of each class by class name, or the class name if several classes share it."""
    first = {name: words.split(",")[0] for name, words in class_words.items()}
    counts = collections.Counter(first.values())
    return {name: word if counts[word] == 1 else name for name, word in first.items()}


def _draw(run, split, loaded, answers, path):
    """Writes the figure of the neighbors."""
    part = run.source.splits[split]
    size = run.config.image_size
    rows, short = [], figure_names(run.source.class_words)
    for each, answer in zip(loaded, answers):
        own = answer["class"]
        name = short.get(own, own) or os.path.basename(each.name)
        near = [
            figures.NamedImage(
                inputs.read_example(part, other["index"], size),
                short.get(other["class"], other["class"]),
                other["distance"],
            )
            for other in answer["neighbours"]
        ]
        rows.append(figures.NeighborsRow(figures.NamedImage(each.pixels, name), own is not None, near))
    figures.save_figure(figures.neighbors(rows), path)
