"""From photographs to 256 x 256 images in shards, written once: a TFDS data set with statistics. `prepared` reads it.

A shard gets its name when it is complete. Its metadata (labels, locations, sums for the statistics) then goes to a file
in ``.progress``, so an interrupted preparation continues after its last complete shard.
"""

import hashlib
import importlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.data import draws
from alexnet_tf.data import duplicates
from alexnet_tf.data import image_records
from alexnet_tf.data import loading
from alexnet_tf.data import photograph
from alexnet_tf.data import prepared
from alexnet_tf.data import records
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.utils import checksums
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import schema

STORAGES = ("jpeg", "raw")
# Images that pass from the decoding threads to the writer at once.
_BATCH_SIZE = 32
_LOCK = ".lock"
_RESTART = "delete it, and run the same command again"
_COUNTS = schema.Array("i", (None,), low=0)
# The metadata of a complete shard: columns with an entry per image, and values of the shard.
_COLUMNS = {
    **dict.fromkeys(("positions", "lengths", "places", "image_places", "image_lengths"), _COUNTS),
    "names": schema.Array("S", (None,)),
}
_SHARD = {"sha256": schema.Array("U", ()), "skipped": schema.Array("U", ())}
_SUMS = {
    "sums.image": schema.Array("f", (photograph.IMAGE_SIZE, photograph.IMAGE_SIZE, 3), low=0, high=1e12),
    "sums.products": schema.Array("f", (3, 3), low=0, high=1e24),
    "sums.num_examples": schema.Array("i", (), low=1),
}
_SKIPPED = schema.List(schema.List(schema.Text(), length=2))


class Options(NamedTuple):
    """Options for writing a data set."""

    storage: str = "jpeg"  # or "raw", pixels: 196,608 bytes per image instead of about 40,000
    jpeg_quality: int = 95  # 1 to 100
    shard_examples: int = 4096  # photographs per shard, at least 1
    seed: int = 0  # of the order on disk


class _Job(NamedTuple):
    """A split to write."""

    split: str
    source: sources.Split
    root: str  # folder that is removed from the photographs' names
    order: np.ndarray  # int64 [photographs]: index into the source of each position on disk
    directory: pathlib.Path
    options: Options
    report_slow: Callable[[str, float], None]

    @property
    def shards(self):
        return -(-len(self.order) // self.options.shard_examples)

    def path(self, number):
        return self.directory / prepared.shard_name(self.split, number, self.shards)

    def metadata_path(self, number):
        """Returns the file with the metadata of a complete shard, kept until all shards are complete."""
        return self.directory / prepared.PROGRESS / f"{self.split}-{number:05d}.npz"

    def positions(self, number):
        """Returns the positions of a shard's photographs."""
        size = self.options.shard_examples
        return range(number * size, min((number + 1) * size, len(self.order)))


class _Piece(NamedTuple):
    """Images of one shard that were decoded together."""

    positions: np.ndarray  # int64 [images]: positions in the order on disk
    images: np.ndarray  # uint8 [images, 256, 256, 3]
    stored: list[bytes]  # the images as they are written


def import_tfds() -> None:
    """Imports TFDS. Call it before other threads import anything, as it replaces Python's ``__import__`` meanwhile."""
    importlib.import_module("tensorflow_datasets")


def prepare(
    source: sources.Source,
    directory: str | os.PathLike,
    options: Options,
    *,
    settings: dict[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
    report_slow: Callable[[str, float], None] = lambda name, seconds: None,
) -> dict[str, Any]:
    """Writes a data set, or the rest of an unfinished one.

    Args:
      source: a `sources.Source` with a training set.
      directory: of the data set; created if it does not exist.
      options: `Options`.
      settings: dict of other settings that the result depends on, such as the seed of the validation split; stored in
        the manifest.
      progress: called with the number of photographs processed so far, over all splits.
      report_slow: as of `loading.load`.

    Returns:
      The manifest, a dict.

    Raises:
      ValueError: if an option is out of range, the directory has a preparation with other options, or no photograph of
        a split can be read.
      BlockingIOError: if another process is writing to the directory.
      OSError: if the disk is full; complete shards are kept.
    """
    _check_options(options)
    # TFDS has a file of one name a line.
    escaping.check_names(source.class_names, "class")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    request = {
        "source": source.name,
        **options._asdict(),
        "settings": settings or {},
        "photographs": {split: len(source.splits[split].labels) for split in source.splits},
        "classes": len(source.class_names),
        "content": _content(source),
    }
    with files.exclusive_lock(directory / _LOCK, directory):
        if (directory / prepared.MANIFEST).exists():
            manifest = prepared.read_manifest(directory)
            _check_request(request, manifest["request"], directory)
            # Left over if the program was killed just after it wrote the manifest.
            shutil.rmtree(directory / prepared.PROGRESS, ignore_errors=True)
            return manifest
        _begin(directory, request)
        jobs = []
        done_before = 0
        for split, part in source.splits.items():
            order = draws.order_on_disk(len(part.labels), options.seed)
            jobs.append(_Job(split, part, source.root, order, directory, options, report_slow))
            _write_split(jobs[-1], lambda done, before=done_before: progress and progress(before + done))
            done_before += len(order)
        return _finish(source, jobs, request)


def _content(source):
    """Returns a checksum of the names and file sizes of all photographs."""
    digest = hashlib.sha256()
    for split, part in source.splits.items():
        digest.update(b"\0".join([split.encode(), *part.names(source.root).tolist()]))
        if part.sizes_of:
            digest.update(part.sizes_of(np.arange(len(part.labels))).tobytes())
    return digest.hexdigest()


def _check_options(options):
    if options.storage not in STORAGES:
        raise ValueError(f"Expected storage to be one of {', '.join(STORAGES)}. Received: {options.storage!r}")
    if not 1 <= options.jpeg_quality <= 100:
        raise ValueError(f"Expected jpeg_quality to be 1 to 100. Received: {options.jpeg_quality}")
    if options.shard_examples < 1:
        raise ValueError(f"Expected shard_examples to be at least 1. Received: {options.shard_examples}")


def _check_request(request, before, directory):
    differing = [name for name in request if request[name] != before.get(name)]
    # Version 0.1 did not write it.
    if differing == ["content"] and "content" in before:
        raise ValueError(
            f"Expected the photographs that the preparation in {directory} was started with. Received: other names or "
            "file sizes; restore the photographs, or use a new --data_dir"
        )
    differing = [name for name in differing if name != "content"]
    if differing:
        what = f"The preparation in {directory} was started"
        raise ValueError(messages.different_values(what, differing, before, request, "data_dir"))


def _begin(directory, request):
    """Claims the directory for a request, or checks that it belongs to this request."""
    path = directory / prepared.PROGRESS / "request.json"
    if path.exists():
        before = schema.read_json(path, schema.Map(), "the options of a preparation", _RESTART)
        _check_request(request, before, directory)
        return
    others = [entry.name for entry in directory.iterdir() if entry.name not in (_LOCK, prepared.PROGRESS)]
    if others:
        found = ", ".join(sorted(others)[:3])
        raise ValueError(f"Expected {directory} to be empty. Received: {found}; use a new --data_dir")
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, request)


def _write_split(job, progress):
    """Writes the missing shards of a split."""
    todo = [number for number in range(job.shards) if not job.metadata_path(number).exists()]
    finished = len(job.order) - sum(len(job.positions(number)) for number in todo)
    progress(finished)
    pieces = _pieces(job, todo)
    pending = next(pieces, None)

    def of_shard(number):
        nonlocal pending, finished
        while pending is not None and pending.positions[0] in job.positions(number):
            yield pending
            progress(finished + int(pending.positions[-1]) + 1 - job.positions(number).start)
            pending = next(pieces, None)
        finished += len(job.positions(number))

    for number in todo:
        _write_shard(job, number, of_shard(number))
    progress(len(job.order))


def _pieces(job, numbers):
    """Yields the readable photographs of shards in order, a `_Piece` for each batch and shard."""
    raw = job.options.storage == "raw"
    table = tf.constant(job.order)

    def read(position):
        image, seconds = loading.read_timed(job.source, tf.gather(table, position))
        return position, image, seconds, "" if raw else tf.io.encode_jpeg(image, quality=job.options.jpeg_quality)

    ranges = [np.arange(job.positions(number).start, job.positions(number).stop) for number in numbers]
    dataset = tf.data.Dataset.from_tensor_slices(np.concatenate([np.empty([0], np.int64), *ranges]))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = dataset.ignore_errors().batch(_BATCH_SIZE).prefetch(2)
    for positions, images, seconds, encoded in batches.as_numpy_iterator():
        loading.report_each_slow(job.source, job.order[positions], seconds, job.report_slow)
        shards = positions // job.options.shard_examples
        for shard in np.unique(shards):
            mine = np.flatnonzero(shards == shard)
            yield _Piece(positions[mine], images[mine], [images[i].tobytes() if raw else encoded[i] for i in mine])


def _write_shard(job, number, pieces):
    """Writes a shard, then its metadata."""
    accumulator = statistics.Accumulator()
    columns = {name: [] for name in ("positions", "lengths", "image_places", "image_lengths", "names")}

    def payloads():
        for piece in pieces:
            if job.split == "train":
                accumulator.add(piece.images)
            for position, image in zip(piece.positions.tolist(), piece.stored):
                index = int(job.order[position])
                name = job.source.name_of(index).removeprefix(f"{job.root}/").encode()
                payload = _example(image, int(job.source.labels[index]), name)
                # The image is by far the longest part, so its bytes occur only once.
                row = (position, len(payload), payload.index(image), len(image), name)
                for column, value in zip(columns.values(), row):
                    column.append(value)
                yield payload

    places, digest = records.write(job.path(number), payloads())
    skipped = np.setdiff1d(job.positions(number), columns["positions"])
    reasons = [loading.explain_skipped(job.source, int(job.order[position])) for position in skipped]
    metadata = {name: np.array(values, "S" if name == "names" else np.int64) for name, values in columns.items()}
    metadata |= {"places": places, "sha256": digest, "skipped": json.dumps(reasons)}
    if accumulator.sums:
        metadata |= {f"sums.{field}": value for field, value in accumulator.sums._asdict().items()}
    with files.atomic_write(job.metadata_path(number), "wb") as file:
        np.savez(file, **metadata)


def _example(image, label, name):
    """Returns a serialized ``tf.train.Example`` that TFDS can read."""
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
    }
    # Otherwise the order of the features differs between processes.
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True)


def _finish(source, jobs, request):
    """Combines the metadata of the shards and writes it, the manifest last."""
    directory = jobs[0].directory
    accumulator = statistics.Accumulator()
    index, splits = {}, {}
    for job in jobs:
        entries, metadata = _gather(job, accumulator)
        if not metadata["examples"]:
            first = metadata["skipped"][0]
            raise ValueError(
                f"Expected at least one readable image. Received: {len(job.order)} unreadable files "
                f"for {job.split}, the first {first['name']} ({first['reason']})"
            )
        index |= {f"{job.split}.{field}": column for field, column in entries._asdict().items()}
        metadata["per_class"] = np.bincount(entries.labels, minlength=len(source.class_names)).tolist()
        splits[job.split] = metadata
    with files.atomic_write(directory / prepared.INDEX, "wb") as file:
        np.savez(file, **index)
    statistics.save(accumulator.result(), directory / prepared.STATISTICS)
    class_metadata = source.class_metadata or [{}] * len(source.class_names)
    classes = [{**metadata, "name": name} for name, metadata in zip(source.class_names, class_metadata)]
    files.write_json(directory / prepared.CLASSES, classes)
    _write_tfds_metadata(source, directory, splits, request)
    files.sync(directory / name for name in prepared.TFDS_FILES)
    manifest = {
        "version": 1,
        "source": source.name,
        "license": source.license,
        "storage": request["storage"],
        "request": request,
        "files": {
            name: checksums.of_file(directory / name)
            for name in (prepared.INDEX, prepared.STATISTICS, prepared.CLASSES, *prepared.TFDS_FILES)
        },
        "splits": splits,
    }
    if found := duplicates.describe(source):
        manifest["duplicates"] = found
    files.write_json(directory / prepared.MANIFEST, manifest)
    shutil.rmtree(directory / prepared.PROGRESS)
    return manifest


def _gather(job, accumulator):
    """Returns the `image_records.Index` of a split and its part of the manifest; adds its sums to the accumulator."""
    columns = {field: [] for field in image_records.Index._fields}
    skipped, shards = [], []
    for number in range(job.shards):
        metadata, reasons = _read_shard_metadata(job, number)
        positions = metadata["positions"]
        columns["labels"].append(job.source.labels[job.order[positions]].astype(np.int64))
        columns["shards"].append(np.full(len(positions), number, np.int32))
        for field in ("places", "lengths", "names"):
            columns[field].append(metadata[field])
        for field in ("image_places", "image_lengths"):
            columns[field].append(metadata[field].astype(np.int32))
        skipped += [{"name": name, "reason": reason} for name, reason in reasons]
        shards.append(
            {
                "file": job.path(number).name,
                "examples": len(positions),
                "bytes": job.path(number).stat().st_size,
                "sha256": str(metadata["sha256"]),
            }
        )
        if "sums.image" in metadata:
            accumulator.add_sums(statistics.Sums(*(metadata[f"sums.{field}"] for field in statistics.Sums._fields)))
    index = image_records.Index(**{field: np.concatenate(parts) for field, parts in columns.items()})
    return index, {"examples": len(index.labels), "skipped": skipped, "shards": shards}


def _read_shard_metadata(job, number):
    """Returns the arrays that describe a shard, by name, and its skipped photographs, pairs of name and reason."""
    path, what = job.metadata_path(number), "the metadata of a shard"
    metadata = schema.read_npz(path, _COLUMNS | _SHARD, what, _RESTART, optional=_SUMS)
    positions = metadata["positions"]
    is_complete = len({len(metadata[name]) for name in _COLUMNS}) == 1 and len({*_SUMS} & {*metadata}) in (
        0,
        len(_SUMS),
    )
    if not is_complete or not set(positions.tolist()) <= set(job.positions(number)):
        raise schema.error(what, path, "other positions", _RESTART)
    return metadata, schema.parse(str(metadata["skipped"]), _SKIPPED, what, path, _RESTART)


def _write_tfds_metadata(source, directory, splits, request):
    """Makes the directory a TFDS data set with the name "prepared"."""
    import tensorflow_datasets as tfds  # `import_tfds`

    side = photograph.IMAGE_SIZE
    if request["storage"] == "raw":
        image = tfds.features.Tensor(shape=(side, side, 3), dtype=np.uint8, encoding="bytes")
    else:
        image = tfds.features.Image(shape=(side, side, 3), encoding_format="jpeg")
    features = tfds.features.FeaturesDict(
        {
            "image": image,
            "label": tfds.features.ClassLabel(names=list(source.class_names)),
            "file_name": tfds.features.Text(),
        }
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(directory),
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard["examples"] for shard in metadata["shards"]],
                num_bytes=sum(shard["bytes"] for shard in metadata["shards"]),
            )
            for split, metadata in splits.items()
        ],
        check_data=False,
        description=f"{source.name}, shorter side scaled to {side}, center {side} x {side}",
        supervised_keys=("image", "label"),
        license=source.license or None,
    )
