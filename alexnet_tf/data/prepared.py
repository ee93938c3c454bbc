"""A prepared data set: 256 x 256 images in TFRecord shards, read by index and verified as they are read.

The directory is a TFDS data set (``tfds.builder_from_directory``) with additional files:

* ``manifest.json``: how the data set was made, counts, the skipped images with the reasons, and a checksum per file. It
  is written last; a directory without it is not a data set;
* ``records.npz``: the location, label and name of each record;
* ``statistics.npz``: the mean image and the principal components of the colors (`statistics`);
* ``classes.json``: the name of each class and further metadata, such as its ILSVRC number.
"""

import functools
import hashlib
import json
import mmap
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from alexnet_tf.data import image_records
from alexnet_tf.data import records
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.utils import files

MANIFEST = "manifest.json"
INDEX = "records.npz"
STATISTICS = "statistics.npz"
CLASSES = "classes.json"
# Folder with the state of an unfinished preparation.
PROGRESS = ".progress"

_MANIFEST_FIELDS = {"source": str, "license": str, "storage": str, "request": dict, "files": dict, "splits": dict}
_SPLIT_FIELDS = {"examples": int, "per_class": list, "skipped": list, "shards": list}
_SHARD_FIELDS = {"file": str, "examples": int, "bytes": int, "sha256": str}


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the name of a shard, by TFDS's pattern."""
    return f"prepared-{split}.tfrecord-{number:05d}-of-{count:05d}"


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads the manifest of a prepared data set.

    Raises:
      FileNotFoundError: if there is no data set in the directory, or its preparation did not finish.
      ValueError: if the manifest is damaged, or names files outside the directory.
    """
    directory = pathlib.Path(directory)
    path = directory / MANIFEST
    if not path.is_file():
        found = "an unfinished preparation; run the same command again" if (directory / PROGRESS).is_dir() else "none"
        raise FileNotFoundError(
            f"Expected a data set made by tools/prepare.py, with its {MANIFEST}, in {directory}. Received: {found}"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        _check_manifest(manifest, directory)
        return manifest
    except KeyError as error:
        raise ValueError(f"Expected a manifest of version 1 in {path}. Received: no {error}") from None
    # Deeply nested lists cause a RecursionError.
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"Expected a manifest of version 1 in {path}. Received: {error}") from None


def _check_manifest(manifest, directory):
    """Raises an error unless a manifest has all its fields and names only files in the directory."""
    if manifest["version"] != 1:
        raise ValueError(f"version {manifest['version']}")
    _check_fields(manifest, _MANIFEST_FIELDS)
    for metadata in manifest["splits"].values():
        _check_fields(metadata, _SPLIT_FIELDS)
        for shard in metadata["shards"]:
            _check_fields(shard, _SHARD_FIELDS)
    manifest["splits"]["train"]
    shards = [shard["file"] for metadata in manifest["splits"].values() for shard in metadata["shards"]]
    for name in [*manifest["files"], *shards]:
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise ValueError(f"{name!r}, which is not the name of a file in {directory}")


def _check_fields(values, kinds):
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} that is not of type {kind.__name__}")


def open_data_dir(directory: str | os.PathLike) -> tuple[sources.Source, statistics.Statistics]:
    """Opens a prepared data set.

    Args:
      directory: where `prepare.prepare` wrote it.

    Returns:
      A `sources.Source` whose splits have records, and the training set's `statistics.Statistics`.

    Raises:
      FileNotFoundError: if there is no data set in the directory, or its preparation did not finish.
      ValueError: if a shard has the wrong size, another file is damaged, or an index points outside the shards.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    classes = _read_classes(directory)
    is_raw = manifest["storage"] == "raw"
    source = sources.Source(
        name=f"{directory} ({manifest['source']})",
        class_names=tuple(each["name"] for each in classes),
        splits={
            split: _open_split(directory, split, metadata, len(classes), is_raw)
            for split, metadata in manifest["splits"].items()
        },
        license=manifest["license"],
        class_metadata=tuple(classes),
        version=f"prepared {_content(manifest)}",
    )
    return source, statistics.load(directory / STATISTICS)


def _content(manifest):
    """Returns a checksum of the names, labels and images of a data set, from the checksums in its manifest."""
    shards = [shard["sha256"] for metadata in manifest["splits"].values() for shard in metadata["shards"]]
    return hashlib.sha256(json.dumps([manifest["files"].get(INDEX), *shards]).encode()).hexdigest()


def read_request(directory: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the request of a prepared data set or of an unfinished preparation; None if there is neither.

    Raises:
      ValueError: if it is damaged.
    """
    directory = pathlib.Path(directory)
    if (directory / MANIFEST).is_file():
        return read_manifest(directory)["request"]
    path = directory / PROGRESS / "request.json"
    return files.read_json(path, ["source", "settings"]) if path.is_file() else None


def _open_split(directory, split, metadata, num_classes, is_raw):
    for shard in metadata["shards"]:
        path = directory / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            received = "none" if size is None else f"{size} bytes"
            raise ValueError(f"Expected {path} of {shard['bytes']} bytes. Received: {received}")
    index = read_index(directory, split)
    _check_index(index, metadata["shards"], num_classes, directory, split)
    images = image_records.ImageRecords(directory, [shard["file"] for shard in metadata["shards"]], index)
    return sources.Split(
        labels=index.labels,
        read=functools.partial(_read, images, is_raw),
        name_of=images.name_of,
        records=images,
        is_raw=is_raw,
    )


def _check_index(index, shards, classes, directory, split):
    """Raises an error unless all entries of an index lie within the shards and the classes."""
    sizes = np.array([shard["bytes"] for shard in shards], np.int64)
    are_integers = all(column.dtype.kind == "i" and column.ndim == 1 for column in index[:-1])
    fits = are_integers and index.names.dtype.kind == "S" and len({column.shape for column in index}) == 1
    if fits:
        lowest = min(int(column.min(initial=0)) for column in index[:-1])
        fits = lowest >= 0 and index.labels.max(initial=-1) < classes and index.shards.max(initial=-1) < len(shards)
    if fits:
        # Differences, as sums could overflow int64.
        fits = np.all(index.lengths <= sizes[index.shards] - records.OVERHEAD - index.places)
        fits &= np.all(index.image_lengths <= index.lengths - index.image_places)
    if not fits:
        raise ValueError(
            f"Expected the record locations of {split} in {directory / INDEX} to be within {len(shards)} shards and "
            f"{classes} classes. Received: locations or labels outside"
        )


def _read(images, is_raw, number):
    """Implements `sources.Split.read`."""
    encoded = tf.numpy_function(lambda index: bytes(images.image(index)), [number], tf.string, stateful=False)
    if is_raw:
        return tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [256, 256, 3])
    return tf.ensure_shape(encoded, [])


def _read_classes(directory):
    path = directory / CLASSES
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(each["name"], str) for each in classes):
            raise ValueError("a class without a name")
        return classes
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"Expected the classes in {path}. Received: {error}") from None


def read_index(directory: str | os.PathLike, split: str) -> image_records.Index:
    """Reads the `image_records.Index` of a split.

    Raises:
      ValueError: if the file is missing or damaged.
    """
    path = pathlib.Path(directory) / INDEX
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            fields = image_records.Index._fields
            return image_records.Index(**{field: arrays[f"{split}.{field}"] for field in fields})
    except statistics.LOADING_ERRORS as error:
        raise ValueError(f"Expected the record locations of {split} in {path}. Received: {error}") from None


def checksum(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: str | os.PathLike, progress: Callable[[int], None] | None = None) -> list[str]:
    """Reads an entire prepared data set and compares it with its manifest.

    Args:
      directory: of the data set.
      progress: called with the number of images verified so far.

    Returns:
      A list of one-line messages that name each damaged shard and image; empty if everything is as it was written.

    Raises:
      FileNotFoundError: as `read_manifest`.
      ValueError: as `read_manifest`, or if an index points outside the shards.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    problems = [
        f"{directory / file}: not the bytes that were written"
        for file, expected in manifest["files"].items()
        if not (directory / file).is_file() or checksum(directory / file) != expected
    ]
    if problems:
        # The shards cannot be verified without these files.
        return problems
    verified = 0
    for split, metadata in manifest["splits"].items():
        index = read_index(directory, split)
        _check_index(index, metadata["shards"], len(metadata["per_class"]), directory, split)
        for number, shard in enumerate(metadata["shards"]):
            members = np.flatnonzero(index.shards == number)
            problems += _verify_shard(directory / shard["file"], shard, index, members)
            verified += len(members)
            if progress:
                progress(verified)
        counts = np.bincount(index.labels, minlength=len(metadata["per_class"])).tolist()
        if counts != metadata["per_class"] or len(index.labels) != metadata["examples"]:
            problems.append(f"{directory / INDEX}: the counts of {split} differ from {MANIFEST}")
    return problems


def _verify_shard(path, shard, index, members):
    """Returns the problems with a shard, one line each."""
    if not path.is_file():
        return [f"{path}: missing"]
    if path.stat().st_size != shard["bytes"]:
        return [f"{path}: {path.stat().st_size} bytes, not {shard['bytes']}"]
    if not len(members):
        return []
    problems = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for place, length, label, name in zip(
            index.places[members], index.lengths[members], index.labels[members], index.names[members]
        ):
            record = content[place : place + length + records.OVERHEAD]
            try:
                example = tf.train.Example.FromString(records.check(record, f"{name.decode()} in {path}"))
            except records.DamagedRecordError as error:
                problems.append(str(error))
                continue
            if example.features.feature["label"].int64_list.value[0] != label:
                problems.append(f"{path}: {name.decode()} has a label that differs from {INDEX}")
    if not problems and checksum(path) != shard["sha256"]:
        problems.append(f"{path}: not the bytes that were written")
    return problems
