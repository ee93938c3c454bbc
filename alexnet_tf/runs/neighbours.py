"""The training images that a run's network finds most like a photograph, as in the paper's Figure 4 (right)."""

import functools
import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np
import rich.console
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import photograph
from alexnet_tf.data import pipeline
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import feature_index
from alexnet_tf.evaluation import nearest
from alexnet_tf.export import signatures
from alexnet_tf.reporting import figures
from alexnet_tf.runs import dataset
from alexnet_tf.runs import restore
from alexnet_tf.utils import files
from alexnet_tf.utils import messages

# Rows of a figure.
MOST_DRAWN = 50


class Queries(NamedTuple):
    """What is looked for: photographs, or images of a split, or some of a split that are drawn."""

    images: tuple = ()  # paths of files
    split: str = "test"
    indices: tuple = ()  # of images in the split
    random: int = 0  # how many more to draw from the split
    seed: int = 0


class Run(NamedTuple):
    """A run, its data set and its network, for retrieval."""

    config: object  # config.Config
    source: sources.Source
    image_statistics: statistics.Statistics
    features: object  # from uint8 [batch, image_size, image_size, 3] to float32 [batch, units]
    units: int
    # For JSON: what the features depend on.
    identity: dict


def open_run(workdir, *, source="", data_dir=""):
    """Opens a run with its newest checkpoint.

    Args:
      workdir: a directory in which `train.train` ran.
      source, data_dir: another place of its data set, where it has moved; empty for the run's own.

    Returns:
      `Run`.

    Raises:
      ValueError, OSError: for what is not there, or not of this run.
    """
    config = restore.read_config(workdir, source, data_dir)
    data_source, _ = dataset.open_data(config)
    opened = restore.open_run(workdir, config, data_source.class_names)
    image_statistics = opened.image_statistics
    network = signatures.with_features(opened.model)
    view = functools.partial(
        augmentation.central_view,
        mean_image=image_statistics.mean_image,
        size=config.crop_size,
        scale=config.input_scale,
    )

    @tf.function(reduce_retracing=True, autograph=False)
    def features(images):
        return tf.cast(network(view(images), training=False)[1], tf.float32)

    identity = {
        "run": os.path.abspath(workdir),
        "checkpoint": os.path.basename(opened.checkpoint),
        "step": opened.step,
        # Of its table, which has a checksum of each weight.
        "weights": hashlib.sha256(pathlib.Path(f"{opened.checkpoint}.index").read_bytes()).hexdigest(),
        "precision": config.precision,
    }
    return Run(config, data_source, image_statistics, features, network.outputs[1].shape[-1], identity)


def default_index_dir(workdir, split):
    """Where the index of a split is if nothing else is said."""
    return os.path.join(workdir, "neighbours", split)


def index_run(workdir, split="train", index_dir="", *, dtype="auto", source="", data_dir=""):
    """Makes an index of a split's features where there is none, or one of other weights or images.

    Args:
      workdir: a directory in which `train.train` ran.
      split: "train", "validation" or "test".
      index_dir: where the index is; empty for ``neighbours/SPLIT`` in the work directory.
      dtype: "float16" or "float32" of the features; "auto" for what is there, float16 where there is none.
      source, data_dir: as in `open_run`.

    Returns:
      `feature_index.Index`.

    Raises:
      ValueError, OSError: as `open_run` and `feature_index.write`; for an index that is damaged, or of another run or
        split.
    """
    console = rich.console.Console(soft_wrap=True, highlight=False)
    return _index(open_run(workdir, source=source, data_dir=data_dir), split, index_dir, dtype, console)


def _index(run, split, index_dir, dtype, console):
    """The index of a split, which is made unless it is there."""
    _check_split(run.source, split)
    directory = index_dir or default_index_dir(run.identity["run"], split)
    try:
        index = feature_index.open_index(directory)
        reason = _why_not(index, run, split, dtype)
    except FileNotFoundError:
        reason = f"there is none in {directory}"
    if not reason:
        return index
    console.print(f"making an index: {reason}", markup=False)
    data = dataset.load_data(run.config, run.source, [split], run.image_statistics, console)
    images = _images(data, split)
    with dataset.progress_bar(console) as bar:
        task = bar.add_task(f"features of {len(images.labels)} {split} images", total=len(images.labels))
        batches = pipeline.evaluation_batches(data.examples[split], batch_size=dataset.EVALUATION_BATCH_SIZE)
        feature_index.write(
            directory,
            (run.features(pixels).numpy() for pixels, _ in batches),
            images,
            units=run.units,
            class_names=run.source.class_names,
            metadata={**run.identity, "split": split, "data": run.source.name},
            dtype="float16" if dtype == "auto" else dtype,
            progress=lambda done: bar.update(task, completed=done),
        )
    index = feature_index.open_index(directory)
    console.print(
        f"index {directory}: {len(index)} {split} images, {run.units} features each in {index.features.dtype}, "
        f"{index.features.nbytes / 1e6:.1f} MB",
        markup=False,
    )
    return index


def _check_split(source, split):
    if split not in source.splits:
        raise ValueError(f"Expected split to be one of {', '.join(source.splits)}. Received: {split}")


def _why_not(index, run, split, dtype):
    """Why an index that is there must be made anew, empty if it must not; raises for one of something else."""
    metadata = index.metadata
    is_same = all(metadata.get(name) == run.identity[name] for name in ("weights", "precision"))
    # A run that was moved has its index within.
    own = pathlib.Path(run.identity["run"]).resolve()
    is_own = metadata.get("run") == run.identity["run"] or own in index.directory.resolve().parents
    if metadata.get("split") != split or not (is_same or is_own):
        raise ValueError(
            f"Expected the index in {index.directory} to be of {split} images by {run.identity['run']}. Received: one "
            f"of {metadata.get('split')} images by {metadata.get('run')}; take another --index_dir"
        )
    if not is_same:
        before, now = metadata.get("checkpoint"), run.identity["checkpoint"]
        return f"the one in {index.directory} is of {before}, now there is {now}"
    if dtype not in ("auto", index.features.dtype.name):
        return f"the one in {index.directory} is in {index.features.dtype}"
    labels = run.source.splits[split].labels
    places = index.images.places
    if places.max() >= len(labels) or not np.array_equal(labels[places], index.images.labels):
        return f"the one in {index.directory} is of other images"
    return ""


def _images(data, split):
    """`feature_index.Images` of a split's examples."""
    part = data.source.splits[split]
    names = [part.name_of(place) for place in range(len(part.labels))]
    skipped = {each.name for each in data.skipped[split]}
    places = np.array([place for place, name in enumerate(names) if name not in skipped], np.int64)
    return feature_index.Images(data.examples[split].labels, [names[place] for place in places], places)


def query(
    workdir,
    queries,
    *,
    index_split="train",
    index_dir="",
    dtype="auto",
    k=6,
    method="auto",
    json_path="",
    figure_path="",
    source="",
    data_dir="",
):
    """The images of a split that are nearest to each query by their features, and says them.

    A query that is in the index is not among its own neighbours: an image of the split by its index, a photograph by
    its path.

    Args:
      workdir, index_dir, dtype, source, data_dir: as in `index_run`.
      queries: `Queries`.
      index_split: the split that is searched.
      k: int, how many neighbours of each.
      method: as in `feature_index.Index.search`; where the search is approximate, what that needs is made once.
      json_path: a file for the answers; empty for none.
      figure_path: a PNG for them, a row a query as in the paper's Figure 4; empty for none.

    Returns:
      The answers, a dict as for JSON: of the run, of the index, and ``queries``, each with its name, class (None for a
      photograph) and ``neighbours`` with index in the split, name, class and Euclidean distance, the nearest first.

    Raises:
      ValueError, OSError: for what is not there, or a photograph that cannot be read.
      ModuleNotFoundError: without matplotlib for a figure, or faiss for an approximate search.
    """
    console = rich.console.Console(soft_wrap=True, highlight=False)
    _check_outputs(json_path, figure_path)
    nearest.choose_method(method, 0)
    run = open_run(workdir, source=source, data_dir=data_dir)
    # Before an index is made, which may take hours.
    asked = _read_queries(run, queries)
    if figure_path and len(asked) > MOST_DRAWN:
        raise ValueError(f"Expected at most {MOST_DRAWN} queries in a figure. Received: {len(asked)}")
    index = _index(run, index_split, index_dir, dtype, console)
    chosen = nearest.choose_method(method, len(index))
    if chosen == "approximate" and not index.has_approximate:
        _build_approximate(index, console)
    found = _search(run, index, asked, k, chosen)
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
        "queries": found,
    }
    console.print(table(answers), markup=False)
    if json_path:
        files.write_json(json_path, answers)
        console.print(f"answers {json_path}", markup=False)
    if figure_path:
        _draw(run, index_split, asked, found, figure_path)
        console.print(f"figure {figure_path}", markup=False)
    return answers


def _check_outputs(json_path, figure_path):
    """Raises for files that could not be written at the end."""
    for path in (json_path, figure_path):
        if path and not pathlib.Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"Expected a file in a directory that is there. Received: {path}")
    if figure_path and not str(figure_path).endswith(".png"):
        raise ValueError(f"Expected a figure's file to end in .png. Received: {figure_path}")
    if figure_path:
        figures.require_matplotlib("a figure")


class _Query(NamedTuple):
    name: str
    pixels: np.ndarray  # uint8 [image_size, image_size, 3]
    # None for a photograph.
    split: str | None = None
    place: int | None = None
    label: int | None = None


def _read_queries(run, queries):
    """A `_Query` for each of `Queries`."""
    size = run.config.image_size
    found = [_Query(str(path), _read_photograph(path, size)) for path in queries.images]
    if not queries.indices and not queries.random:
        if not found:
            raise ValueError("Expected at least one query. Received: none")
        return found
    _check_split(run.source, queries.split)
    part = run.source.splits[queries.split]
    count = len(part.labels)
    for place in queries.indices:
        if not 0 <= place < count:
            raise ValueError(f"Expected queries from 0 to {count - 1}, of {queries.split}. Received: {place}")
    if not 0 <= queries.random <= count:
        raise ValueError(f"Expected to draw 0 to the {count} {queries.split} images. Received: {queries.random}")
    drawn = np.random.default_rng(queries.seed).permutation(count)[: queries.random]
    for place in [*queries.indices, *drawn.tolist()]:
        pixels = _read_image(part, place, size)
        found.append(_Query(part.name_of(place), pixels, queries.split, place, int(part.labels[place])))
    return found


def _read_photograph(path, size):
    try:
        return photograph.decode_to_square(tf.io.read_file(os.fspath(path)), size).numpy()
    except tf.errors.OpError as error:
        raise ValueError(f"Expected a photograph in {path}. Received: {messages.first_line(error)}") from None


def _read_image(part, place, size):
    """An image of a split, by its place, as it is indexed."""
    try:
        return photograph.decode_to_square(part.read(tf.constant(place, tf.int64)), size).numpy()
    except tf.errors.OpError as error:
        name = part.name_of(place)
        raise ValueError(f"Expected a photograph in {name}. Received: {messages.first_line(error)}") from None


def _build_approximate(index, console):
    with dataset.progress_bar(console) as bar:
        task = bar.add_task(f"an approximate index of {len(index)} images", total=len(index))
        index.build_approximate(lambda done: bar.update(task, completed=done))


def _search(run, index, asked, k, method):
    """The answers to queries, for JSON."""
    size = dataset.EVALUATION_BATCH_SIZE
    parts = [asked[first : first + size] for first in range(0, len(asked), size)]
    features = [run.features(np.stack([query.pixels for query in part])).numpy() for part in parts]
    own = np.array([_own_index(query, index) for query in asked])
    exclude = own if (own >= 0).any() else None
    found = index.search(np.concatenate(features), k, method=method, exclude=exclude)
    answers = []
    for each, place, distances, places in zip(asked, own.tolist(), found.distances.tolist(), found.indices.tolist()):
        near = [_neighbour(index, *pair) for pair in zip(places, distances)]
        class_name = None if each.label is None else index.class_names[each.label]
        answers.append(
            {
                "name": each.name,
                "split": each.split,
                "index": each.place,
                "class": class_name,
                "left_out": index.images.names[place] if place >= 0 else None,
                "neighbours": near,
            }
        )
    return answers


def _own_index(query, index):
    """Where a query itself is in the index; -1 if it is not there."""
    if query.split is not None:
        if query.split != index.metadata["split"]:
            return -1
        same = np.flatnonzero(index.images.places == query.place)
        return int(same[0]) if len(same) else -1
    # Names are paths, or within the folder that was prepared the ends of paths.
    paths = {f"/{os.path.abspath(query.name)}", f"/{os.path.realpath(query.name)}"}
    for place, name in enumerate(index.images.names):
        if any(path.endswith(f"/{name}") for path in paths):
            return place
    return -1


def _neighbour(index, place, distance):
    label = int(index.images.labels[place])
    return {
        "index": int(index.images.places[place]),
        "name": index.images.names[place],
        "label": label,
        "class": index.class_names[label],
        "distance": distance,
    }


def table(answers):
    """The answers of `query` as text: a line for each neighbour, and how many are of their query's class.

    Args:
      answers: from `query`.

    Returns:
      A string of lines.
    """
    lines = []
    for query in answers["queries"]:
        lines.append(f"{query['name']}{': ' * bool(query['class'])}{query['class'] or ''}")
        for number, near in enumerate(query["neighbours"], start=1):
            lines.append(f"  {number:>3} {near['distance']:>10.4g}  {near['class']:<24} {near['name']}")
    known = [query for query in answers["queries"] if query["class"] is not None]
    if known:
        same = sum(near["class"] == query["class"] for query in known for near in query["neighbours"])
        total = sum(len(query["neighbours"]) for query in known)
        lines.append(f"of their query's class: {same} of {total} neighbours")
    return "\n".join(lines)


def _draw(run, split, asked, found, path):
    """Writes the figure of answers."""
    part = run.source.splits[split]
    size = run.config.image_size
    rows = []
    for query, answer in zip(asked, found):
        name = answer["class"] or os.path.basename(query.name)
        near = [
            figures.NamedImage(_read_image(part, each["index"], size), each["class"], each["distance"])
            for each in answer["neighbours"]
        ]
        rows.append(figures.NeighborsRow(figures.NamedImage(query.pixels, name), answer["class"] is not None, near))
    figures.save_figure(figures.neighbors(rows), path)
