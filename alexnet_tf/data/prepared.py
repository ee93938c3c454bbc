"""A prepared data set: 256 x 256 images in TFRecord shards, each found by index and checked as it is read.

The directory is a TFDS data set (``tfds.builder_from_directory``) with a few files beside:

* ``manifest.json``: how it was made, counts, what was left out and why, a checksum a file. Written last: a directory
  without it is no data set;
* ``records.npz``: where each record is, its label and name;
* ``statistics.npz``: mean image, colour components (`statistics`);
* ``classes.json``: for each class its name and what else is known of it, such as its ILSVRC number.
"""

import functools
import hashlib
import json
import mmap
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.data import records
from alexnet_tf.data import sources
from alexnet_tf.data import statistics

MANIFEST = "manifest.json"
INDEX = "records.npz"
STATISTICS = "statistics.npz"
CLASSES = "classes.json"
# What an unfinished preparation keeps.
PROGRESS = ".progress"

_MANIFEST_FIELDS = {"source": str, "license": str, "storage": str, "request": dict, "files": dict, "splits": dict}
_SPLIT_FIELDS = {"examples": int, "per_class": list, "skipped": list, "shards": list}
_SHARD_FIELDS = {"file": str, "examples": int, "bytes": int, "sha256": str}


class Index(NamedTuple):
    """Where the records of a split are: arrays with an entry for each."""

    labels: np.ndarray  # int64
    shards: np.ndarray  # int32, number of the shard
    places: np.ndarray  # int64, first byte of the record in it
    lengths: np.ndarray  # int64, bytes of the record's data
    image_places: np.ndarray  # int32, first byte of the image in the data
    image_lengths: np.ndarray  # int32, its bytes
    names: np.ndarray  # bytes of UTF-8, name of the photograph in its source


class ImageRecords:
    """The images of a split, read by index.

    Args:
      directory: of the data set.
      files: names of the shards in it.
      index: `Index`.

    Attributes: ``index``, and ``paths``, the shards'.
    """

    def __init__(self, directory, files, index):
        self.index = index
        self.paths = [pathlib.Path(directory) / file for file in files]
        self._records = records.Records(self.paths, index.shards, index.places, index.lengths, self.name_of)

    def name_of(self, number):
        """The name of the photograph in its source."""
        return self.index.names[number].decode()

    def image(self, number):
        """The bytes of an image, encoded or its pixels, as a memoryview.

        Raises:
          records.DamagedRecordError: if they are not what was written, naming image and shard.
        """
        first = self.index.image_places[number]
        return memoryview(self._records.read(number))[first : first + self.index.image_lengths[number]]


def shard_name(split, number, count):
    """The name of a shard, TFDS's own pattern."""
    return f"prepared-{split}.tfrecord-{number:05d}-of-{count:05d}"


def read_manifest(directory):
    """The manifest of a prepared data set.

    Raises:
      FileNotFoundError: for a directory that is none, or whose preparation did not end.
      ValueError: for a manifest that cannot be read, or that names files outside of the directory.
    """
    directory = pathlib.Path(directory)
    path = directory / MANIFEST
    if not path.is_file():
        found = "an unfinished preparation; run the same command again" if (directory / PROGRESS).is_dir() else "none"
        raise FileNotFoundError(
            f"Expected a data set that tools/prepare.py made, with its {MANIFEST}, in {directory}. Received: {found}"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["version"] != 1:
            raise ValueError(f"version {manifest['version']}")
        _expect_fields(manifest, _MANIFEST_FIELDS)
        for metadata in manifest["splits"].values():
            _expect_fields(metadata, _SPLIT_FIELDS)
            for shard in metadata["shards"]:
                _expect_fields(shard, _SHARD_FIELDS)
        manifest["splits"]["train"]
        shards = [shard["file"] for metadata in manifest["splits"].values() for shard in metadata["shards"]]
        for name in [*manifest["files"], *shards]:
            # Nothing outside the directory is read.
            if "/" in name or "\0" in name or name in ("", ".", ".."):
                raise ValueError(f"{name!r}, which names no file in {directory}")
        return manifest
    except KeyError as error:
        raise ValueError(f"Expected a manifest of version 1 in {path}. Received: no {error}") from None
    # A RecursionError is what lists in lists in lists end in.
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"Expected a manifest of version 1 in {path}. Received: {error}") from None


def _expect_fields(values, kinds):
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} that is no {kind.__name__}")


def open_data_dir(directory):
    """Opens a prepared data set.

    Args:
      directory: where `prepare.prepare` wrote it.

    Returns:
      A `sources.Source` whose splits have records, and the training set's `statistics.Statistics`.

    Raises:
      FileNotFoundError: for a directory that is none, or whose preparation did not end.
      ValueError: for a shard of another size, a damaged file beside, or an index that points outside of the shards.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    classes = _read_classes(directory)
    splits = {}
    for split, metadata in manifest["splits"].items():
        for shard in metadata["shards"]:
            path = directory / shard["file"]
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                received = "none" if size is None else f"{size} bytes"
                raise ValueError(f"Expected {path} of {shard['bytes']} bytes. Received: {received}")
        index = read_index(directory, split)
        _check_index(index, metadata["shards"], len(classes), directory, split)
        image_records = ImageRecords(directory, [shard["file"] for shard in metadata["shards"]], index)
        is_raw = manifest["storage"] == "raw"
        splits[split] = sources.Split(
            labels=index.labels,
            read=functools.partial(_read, image_records, is_raw),
            name_of=image_records.name_of,
            records=image_records,
            is_raw=is_raw,
        )
    source = sources.Source(
        name=f"{directory} ({manifest['source']})",
        class_names=tuple(each["name"] for each in classes),
        splits=splits,
        license=manifest["license"],
        class_metadata=tuple(classes),
    )
    return source, statistics.load(directory / STATISTICS)


def _check_index(index, shards, classes, directory, split):
    """Raises unless all that an index says lies within the shards and the classes."""
    sizes = np.array([shard["bytes"] for shard in shards], np.int64)
    are_whole_numbers = all(column.dtype.kind == "i" and column.ndim == 1 for column in index[:-1])
    fits = are_whole_numbers and index.names.dtype.kind == "S" and len({column.shape for column in index}) == 1
    if fits:
        lowest = min(int(column.min(initial=0)) for column in index[:-1])
        fits = lowest >= 0 and index.labels.max(initial=-1) < classes and index.shards.max(initial=-1) < len(shards)
    if fits:
        # Differences, as sums of any two numbers could be too large for an int64.
        fits = np.all(index.lengths <= sizes[index.shards] - records.OVERHEAD - index.places)
        fits &= np.all(index.image_lengths <= index.lengths - index.image_places)
    if not fits:
        raise ValueError(
            f"Expected the places of the records of {split} in {directory / INDEX}, within {len(shards)} shards and "
            f"{classes} classes. Received: others"
        )


def _read(image_records, is_raw, number):
    """The image at a scalar int64 tensor, inside tf.data."""
    encoded = tf.numpy_function(lambda index: bytes(image_records.image(index)), [number], tf.string, stateful=False)
    if is_raw:
        return tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [256, 256, 3])
    return tf.ensure_shape(encoded, [])


def _read_classes(directory):
    path = directory / CLASSES
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(each["name"], str) for each in classes):
            raise ValueError("names that are none")
        return classes
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"Expected the classes in {path}. Received: {error}") from None


def read_index(directory, split):
    """The `Index` of a split."""
    path = pathlib.Path(directory) / INDEX
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Index(**{field: arrays[f"{split}.{field}"] for field in Index._fields})
    except statistics.LOADING_ERRORS as error:
        raise ValueError(f"Expected the places of the records of {split} in {path}. Received: {error}") from None


def checksum(path):
    """The SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file):
    # Python 3.10 has no file_digest.
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def verify(directory, progress=None):
    """Reads a prepared data set from end to end and compares it with its manifest.

    Args:
      directory: of the data set.
      progress: called with the number of images checked so far.

    Returns:
      A list of what is wrong, a line each, naming shard and image; empty if all is as it was written.

    Raises:
      FileNotFoundError, ValueError: as `read_manifest`, or for an index that points outside of the shards.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    wrong = [
        f"{directory / file}: not the bytes that were written"
        for file, expected in manifest["files"].items()
        if not (directory / file).is_file() or checksum(directory / file) != expected
    ]
    if wrong:
        # Without these nothing else can be found.
        return wrong
    seen = 0
    for split, metadata in manifest["splits"].items():
        index = read_index(directory, split)
        _check_index(index, metadata["shards"], len(metadata["per_class"]), directory, split)
        for number, shard in enumerate(metadata["shards"]):
            members = np.flatnonzero(index.shards == number)
            wrong += _verify_shard(directory / shard["file"], shard, index, members)
            seen += len(members)
            if progress:
                progress(seen)
        counts = np.bincount(index.labels, minlength=len(metadata["per_class"])).tolist()
        if counts != metadata["per_class"] or len(index.labels) != metadata["examples"]:
            wrong.append(f"{directory / INDEX}: {split} has other counts than {MANIFEST}")
    return wrong


def _verify_shard(path, shard, index, members):
    """What is wrong with a shard."""
    if not path.is_file():
        return [f"{path}: not there"]
    if path.stat().st_size != shard["bytes"]:
        return [f"{path}: {path.stat().st_size} bytes, not {shard['bytes']}"]
    if not len(members):
        return []
    wrong = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for place, length, label, name in zip(
            index.places[members], index.lengths[members], index.labels[members], index.names[members]
        ):
            record = content[place : place + length + records.OVERHEAD]
            try:
                example = tf.train.Example.FromString(records.check(record, f"{name.decode()} in {path}"))
            except records.DamagedRecordError as error:
                wrong.append(str(error))
                continue
            if example.features.feature["label"].int64_list.value[0] != label:
                wrong.append(f"{path}: {name.decode()} has another label than in {INDEX}")
    if not wrong and checksum(path) != shard["sha256"]:
        wrong.append(f"{path}: not the bytes that were written")
    return wrong
