"""Computes activations of a run's network for many images, and writes them to a file or a directory."""

import os
import shutil
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
import rich.console
import tensorflow as tf

from alexnet_tf.data import image_files
from alexnet_tf.evaluation import feature_files
from alexnet_tf.runs import dataset
from alexnet_tf.runs import inputs
from alexnet_tf.runs import loaded
from alexnet_tf.runs import queries
from alexnet_tf.runs import restore
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import output
from alexnet_tf.utils import pathnames

# Unreadable images that are printed.
_MAX_PRINTED = 10
_PARTIAL = ".partial"


class Images(NamedTuple):
    """The images to compute features of."""

    names: list[str]
    read: Callable[[int], np.ndarray]  # from an index to uint8 [image_size, image_size, 3]; may raise ValueError
    sizes: np.ndarray  # int64 [images], of the files in bytes; -1 if unknown
    labels: np.ndarray | None = None  # int64 [images]; None for image files
    class_names: tuple[str, ...] = ()

    def digest(self) -> str:
        """Returns a checksum of names, sizes and labels."""
        names = b"\0".join(map(os.fsencode, self.names))
        parts = [names, self.sizes.tobytes(), b"" if self.labels is None else self.labels.tobytes()]
        return files.digest(parts)


class Result(NamedTuple):
    """What was computed."""

    shapes: dict[str, tuple[int, ...]]  # of each layer's array
    skipped: list[dict[str, Any]]  # the place, name and reason of each image that could not be read


def compute(
    workdir: str | os.PathLike,
    layers: Sequence[str],
    out: str | os.PathLike,
    *,
    images: Sequence[str] = (),
    split: str = "",
    source: str = "",
    data_dir: str = "",
    checkpoint: str = "auto",
) -> Result:
    """Computes activations of the central crops of images, and writes them as float32 arrays.

    Args:
      workdir: as in `loaded.load`.
      layers: names as in `loaded.LoadedRun.features`.
      out: the name of an .npz file, with an array for each layer, ``names``, ``skipped`` and for a split ``labels``
        and ``class_names``; or a directory as `feature_files` describes it. An interrupted computation resumes.
      images: as in `image_files.find`; empty if `split` is given.
      split: a split of the run's data set; empty if `images` are given.
      source, data_dir: the new location of the data set if it has moved, or another one.
      checkpoint: as in `loaded.load`.

    Raises:
      ValueError, OSError: for invalid arguments, a damaged run, or files that cannot be written.
    """
    console = output.Console()
    layers = list(dict.fromkeys(layers))
    out = _check_arguments(layers, os.fspath(out))
    found = image_files.find(images) if images else None
    run = loaded.load(workdir, jit_compile=True, checkpoint=checkpoint)
    console.print(f"checkpoint {run.checkpoint} ({run.chosen.describe()})", markup=False)
    activations = run.activations(layers)
    if found:
        for note in found.notes:
            console.print(f"warning: {note}", markup=False)
        pictures = _of_files(found.paths, run.config.image_size)
    else:
        pictures = _of_split(run, split, source, data_dir, console)
    request = {**run.identity, "data": pictures.digest()}
    shapes = dict(zip(layers, activations.shapes))
    is_archive = out.endswith(".npz")
    directory = f"{out}{_PARTIAL}" if is_archive else out
    with feature_files.open_writer(directory, shapes, len(pictures.names), request) as writer:
        _write(writer, pictures, layers, activations, console)
        if is_archive:
            _pack(out, writer, layers, pictures)
        rows = len(pictures.names) - len(writer.skipped)
        result = Result({name: (rows, *shape) for name, shape in shapes.items()}, writer.skipped)
    _print(result, out, console)
    return result


def _check_arguments(layers, out):
    """Returns where to write; raises for invalid arguments before images are looked for."""
    if not layers:
        raise ValueError("Expected at least one layer. Received: none")
    if not out or out.endswith(".npy"):
        raise ValueError(
            f"Expected the name of an .npz file, or a directory for .npy files, in --out. Received: {out or 'none'}"
        )
    out = os.path.abspath(out) if out.endswith(os.sep) else out
    if out.endswith(".npz"):
        if os.path.isdir(out):
            raise IsADirectoryError(f"Expected the name of a file. Received: the directory {out}")
        if not os.path.isdir(os.path.dirname(os.path.abspath(out))):
            raise FileNotFoundError(f"Expected a file in an existing directory. Received: {out}")
    elif os.path.exists(out) and not os.path.isdir(out):
        raise NotADirectoryError(f"Expected a directory, or the name of an .npz file. Received: the file {out}")
    return out


def _of_files(paths, image_size):
    def size(path):
        try:
            return os.stat(path).st_size
        except (OSError, ValueError):
            return -1

    sizes = np.array([size(path) for path in paths], np.int64)
    return Images(paths, lambda index: inputs.read_file(paths[index], image_size), sizes)


def _of_split(run, split, source, data_dir, console):
    run_config = restore.read_config(run.workdir, source, data_dir)
    data_source, _ = dataset.open_data(run_config, dataset.logger(console), workdir=run.workdir)
    queries.check_split(data_source, split)
    part = data_source.splits[split]
    names = [part.name_of(index) for index in range(len(part.labels))]
    read = lambda index: inputs.read_example(part, index, run_config.image_size)
    return Images(
        names, read, np.asarray(part.sizes(), np.int64), np.asarray(part.labels, np.int64), data_source.class_names
    )


def _write(
    writer: feature_files.Writer,
    images: Images,
    layers: Sequence[str],
    activations: loaded.Activations,
    console: rich.console.Console,
) -> None:
    """Computes and writes what a writer does not have yet."""
    if writer.is_complete:
        return
    count, first = len(images.names), writer.done
    if first:
        console.print(f"resumed after {first} of {count} images", markup=False)
    with dataset.progress_bar(console) as bar:
        task = bar.add_task(f"features of {count} images", total=count, completed=first)
        read = inputs.reporting_slow(images.read, images.names.__getitem__, dataset.slow_reporter(console))
        for batch in inputs.batches(read, range(first, count), dataset.EVALUATION_BATCH_SIZE):
            pixels = [each for each in batch if not isinstance(each, ValueError)]
            skipped = [
                {"place": place, "name": images.names[place], "reason": str(each)}
                for place, each in enumerate(batch, start=writer.done)
                if isinstance(each, ValueError)
            ]
            outputs = activations.compute(tf.constant(np.stack(pixels))) if pixels else []
            writer.add({name: each.numpy() for name, each in zip(layers, outputs)}, skipped)
            bar.update(task, completed=writer.done)
    if len(writer.skipped) == count:
        raise ValueError(
            f"Expected at least one image. Received: {count} unreadable ones; {writer.skipped[0]['reason']}"
        )
    writer.finish(_listing(writer, images))


def _listing(writer, images):
    """Returns what is said about the images of the rows."""
    skipped = {each["place"] for each in writer.skipped}
    places = [place for place in range(len(images.names)) if place not in skipped]
    listing = {"names": [images.names[place] for place in places]}
    if images.labels is not None:
        listing |= {"labels": images.labels[places].tolist(), "class_names": list(images.class_names)}
    return listing


def _pack(out, writer, layers, images):
    """Writes the arrays of a directory to an .npz file, and removes the directory."""
    listing = {name: np.array(values) for name, values in _listing(writer, images).items()}
    skipped = np.array([each["name"] for each in writer.skipped], np.str_)
    arrays = {name: np.load(writer.path(name), mmap_mode="r", allow_pickle=False) for name in layers}
    with files.atomic_write(out, "wb") as file:
        np.savez(file, **arrays, **listing, skipped=skipped)
    shutil.rmtree(writer.directory)


def _print(result, out, console):
    for each in result.skipped[:_MAX_PRINTED]:
        name = pathnames.printable(each["name"])
        console.print(escaping.one_line(f"skipped {name}: {each['reason']}"), markup=False)
    if len(result.skipped) > _MAX_PRINTED:
        console.print(f"skipped {len(result.skipped) - _MAX_PRINTED} other images", markup=False)
    for name, shape in result.shapes.items():
        console.print(f"{name}: float32 {list(shape)}, {4e-6 * np.prod(shape, dtype=float):.1f} MB", markup=False)
    console.print(f"features {out}", markup=False)
