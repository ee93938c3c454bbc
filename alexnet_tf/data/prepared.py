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
from alexnet_tf.utils import checksums
from alexnet_tf.utils import messages
from alexnet_tf.utils import schema

MANIFEST = "manifest.json"
INDEX = "records.npz"
STATISTICS = "statistics.npz"
CLASSES = "classes.json"
# Folder with the state of an unfinished preparation.
PROGRESS = ".progress"

# What TFDS reads; the files of the package are listed above.
TFDS_FILES = ("dataset_info.json", "features.json", "label.labels.txt")

_COUNT = schema.Number(low=0, integer=True)
_SHARD = schema.Object({"file": schema.Text(), "examples": _COUNT, "bytes": _COUNT, "sha256": schema.Text()})
_SPLIT = schema.Object(
    {
        "examples": _COUNT,
        "per_class": schema.List(_COUNT),
        "skipped": schema.List(schema.Object({"name": schema.Text(), "reason": schema.Text()})),
        "shards": schema.List(_SHARD),
    }
)
_MANIFEST = schema.Object(
    {
        "version": schema.Number(),
        "source": schema.Text(),
        "license": schema.Text(),
        "storage": schema.Text(("jpeg", "raw")),
        "request": schema.Map(),
        "files": schema.Map(schema.Text()),
        "splits": schema.Map(_SPLIT, required=("train",)),
    },
    {"duplicates": schema.List(schema.Text())},
)
_REQUEST = schema.Object({"source": schema.Text(), "settings": schema.Map()})
_CLASSES = schema.List(schema.Object({"name": schema.Text()}))
_LOCATION = schema.Array("i", (None,), low=0)
_COLUMNS = dict.fromkeys(image_records.Index._fields, _LOCATION) | {"names": schema.Array("S", (None,))}
_DATASET_INFO = schema.Object(
    {"splits": schema.List(schema.Object({"name": schema.Text(), "shardLengths": schema.List(schema.Text())}))}
)
_REMEDY = "copy the file from a backup, or prepare the data again in a new --data_dir"


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
            f"Expected a data set made by {messages.program('prepare')}, with its {MANIFEST}, in {directory}. "
            f"Received: {found}"
        )
    what = "a manifest of version 1"
    manifest = schema.read_json(path, schema.Object({"version": schema.Number()}), what)
    if manifest["version"] != 1:
        raise schema.error(what, path, f"version {manifest['version']}")
    schema.check(manifest, _MANIFEST, what, path)
    shards = [shard["file"] for metadata in manifest["splits"].values() for shard in metadata["shards"]]
    for name in [*manifest["files"], *shards]:
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise schema.error(what, path, f"{name!r}, which is not the name of a file in {directory}")
    return manifest


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
    structure = _CLASSES._replace(length=len(manifest["splits"]["train"]["per_class"]))
    classes = schema.read_json(_existing(directory / CLASSES, "the classes"), structure, "the classes", _REMEDY)
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
        duplicates=tuple(manifest.get("duplicates", ())),
    )
    image_statistics = statistics.load(directory / STATISTICS)
    # Last, as the errors above say more about what is wrong.
    for file in (INDEX, STATISTICS, CLASSES):
        if checksums.of_file(directory / file) != manifest["files"].get(file):
            raise schema.error("the bytes that were written", directory / file, "others", _REMEDY)
    return source, image_statistics


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
    what = "the options of a preparation"
    if (directory / MANIFEST).is_file():
        request = read_manifest(directory)["request"]
        schema.check(request, _REQUEST, what, directory / MANIFEST, _REMEDY)
        return request
    path = directory / PROGRESS / "request.json"
    return schema.read_json(path, _REQUEST, what, "delete the directory, and prepare again") if path.is_file() else None


def _open_split(directory, split, metadata, num_classes, is_raw):
    for shard in metadata["shards"]:
        path = directory / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            received = "none" if size is None else f"{size} bytes"
            raise ValueError(f"Expected {path} to have {shard['bytes']} bytes. Received: {received}; {_REMEDY}")
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
            f"{classes} classes. Received: locations or labels outside of these; {_REMEDY}"
        )


def _read(images, is_raw, number):
    """Implements `sources.Split.read`."""
    encoded = tf.numpy_function(lambda index: bytes(images.image(index)), [number], tf.string, stateful=False)
    if is_raw:
        return tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [256, 256, 3])
    return tf.ensure_shape(encoded, [])


def read_index(directory: str | os.PathLike, split: str) -> image_records.Index:
    """Reads the `image_records.Index` of a split.

    Raises:
      ValueError: if the file is missing or damaged.
    """
    what = f"the record locations of {split}"
    path = _existing(pathlib.Path(directory) / INDEX, what)
    columns = {f"{split}.{field}": column for field, column in _COLUMNS.items()}
    arrays = schema.read_npz(path, columns, what, _REMEDY)
    return image_records.Index(*(arrays[name] for name in columns))


def _existing(path, what):
    """Returns a path; raises ValueError if there is no file."""
    if not path.is_file():
        raise schema.error(what, path, "none", _REMEDY)
    return path


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
        if not (directory / file).is_file() or checksums.of_file(directory / file) != expected
    ]
    problems += _verify_tfds_metadata(directory, manifest)
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


def _verify_tfds_metadata(directory, manifest):
    """Returns the problems with TFDS's files in a data set of version 0.1, whose manifest has no checksums of them."""
    structures = {"dataset_info.json": _DATASET_INFO, "features.json": schema.Map()}
    problems = []
    for name, structure in structures.items():
        if name in manifest["files"]:
            continue
        try:
            found = schema.read_json(directory / name, structure, "the metadata of TFDS")
        except (OSError, ValueError) as error:
            problems.append(f"{directory / name}: damaged ({error})")
            continue
        for split in found.get("splits", ()):
            shards = manifest["splits"].get(split["name"], {}).get("shards", [])
            if split["shardLengths"] != [str(shard["examples"]) for shard in shards]:
                problems.append(f"{directory / name}: the counts of {split['name']} differ from {MANIFEST}")
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
    if not problems and checksums.of_file(path) != shard["sha256"]:
        problems.append(f"{path}: not the bytes that were written")
    return problems
