"""From the photographs or prepared images of a split to `examples.Examples`, kept in memory where they fit."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import psutil
import tensorflow as tf

from alexnet_tf.data import examples
from alexnet_tf.data import photograph
from alexnet_tf.data import pipeline
from alexnet_tf.data import sources
from alexnet_tf.data import statistics

IMAGE_SIZE = photograph.IMAGE_SIZE
CACHES = ("auto", "memory", "none")

# `cache="auto"` keeps decoded images in memory if they fit into this share of the available memory.
CACHE_SHARE = 0.5

# A photograph that takes longer is named. Most take a hundredth of a second.
SLOW_SECONDS = 5.0

_BATCH_SIZE = 32


class SkippedImage(NamedTuple):
    """A photograph that could not be read."""

    name: str
    reason: str


class LoadedSplit(NamedTuple):
    """A split that is ready to be read by index."""

    examples: examples.Examples
    skipped: list[SkippedImage]
    statistics: statistics.Statistics | None  # if they were requested


def load(
    split: sources.Split,
    *,
    image_size: int = IMAGE_SIZE,
    cache: str = "auto",
    collect_statistics: bool = False,
    progress: Callable[[int], None] | None = None,
    report_slow: Callable[[str, float], None] | None = None,
    promised: int = 0,
) -> LoadedSplit:
    """Makes a split ready to be read by index.

    Photographs are read once from the first to the last, to find those that cannot be read. Prepared images are read
    only for ``cache="memory"``, or if their statistics are requested. With "auto" each is kept from its first use, so
    that training starts at once.

    Args:
      split: a `sources.Split`.
      image_size: int, the side of the squares that photographs are scaled to; 256 for prepared images.
      cache: "memory" keeps the decoded images, "none" does not, "auto" does if they fit into `CACHE_SHARE` of the
        available memory.
      collect_statistics: bool, whether to compute the mean image and the principal components of the colors.
      progress: called with the number of photographs read so far, the last time with the number of all.
      report_slow: called with the name of each photograph that took longer than `SLOW_SECONDS` to read, and with the
        seconds.
      promised: int, the sum of `examples.Examples.promised` of the splits loaded before.

    Returns:
      `LoadedSplit`.

    Raises:
      ValueError: if no photograph can be read, `cache` is unknown, or `image_size` is not that of prepared images.
    """
    is_prepared = split.records is not None
    if is_prepared and image_size != IMAGE_SIZE:
        raise ValueError(
            f"Expected image_size to be {IMAGE_SIZE}, the size of prepared images. Received: image_size={image_size}"
        )
    if cache not in CACHES:
        raise ValueError(f"Expected cache to be one of {', '.join(CACHES)}. Received: cache={cache!r}")
    # The operating system's disk cache serves raw pixels just as fast.
    fits = fits_in_memory(len(split.labels), image_size, promised)
    automatic = cache == "auto" and not split.is_raw and fits
    keep = cache == "memory" or automatic
    if is_prepared and not collect_statistics and cache != "memory":
        on_disk = examples.from_records(split)
        if not automatic:
            return LoadedSplit(on_disk, [], None)
        return LoadedSplit(examples.kept_when_read(on_disk), [], None)
    report_slow = report_slow or (lambda name, seconds: None)
    if is_prepared:
        batches = _prepared_images(split)
    else:
        batches = _photographs(split, image_size, report_slow)
    readable, images, image_statistics = _read_all(split, batches, image_size, keep, collect_statistics, progress)
    skipped = [explain_skipped(split, index) for index in np.setdiff1d(np.arange(len(split.labels)), readable)]
    if not len(readable):
        first = f"{skipped[0].name} ({skipped[0].reason})"
        raise ValueError(
            f"Expected at least one readable image. Received: {len(skipped)} unreadable files, the first {first}"
        )
    if keep:
        found = examples.in_memory(split.labels[readable], images)
    elif is_prepared:
        found = examples.from_records(split)
    else:
        found = examples.from_photographs(split, readable, image_size)
    return LoadedSplit(found, skipped, image_statistics)


def fits_in_memory(count: int, image_size: int = IMAGE_SIZE, promised: int = 0) -> bool:
    """Returns whether `count` decoded images fit into the share of the available memory that `cache="auto"` uses.

    Args:
      count, image_size: of the images.
      promised: bytes of that memory that will be taken by something else.
    """
    return _bytes(count, image_size) <= CACHE_SHARE * (psutil.virtual_memory().available - promised)


def _bytes(count, image_size):
    return count * image_size * image_size * 3


def _read_all(split, batches, image_size, keep, collect_statistics, progress):
    """Reads every image of a split once, in batches of their indices and pixels.

    Returns:
      The indices of the readable images, int64 ``[examples]``; their pixels if `keep`, else None; and their
      `statistics.Statistics` if `collect_statistics`, else None.
    """
    count = len(split.labels)
    images = np.empty([count, image_size, image_size, 3], np.uint8) if keep else None
    accumulator = statistics.Accumulator() if collect_statistics else None
    readable = []
    for indices, batch in batches:
        if keep:
            images[len(readable) : len(readable) + len(indices)] = batch
        if accumulator:
            accumulator.add(batch)
        readable += indices.tolist()
        if progress:
            progress(int(indices[-1]) + 1)
    if progress:
        progress(count)
    image_statistics = accumulator.result() if accumulator and readable else None
    return np.array(readable, np.int64), images[: len(readable)] if keep else None, image_statistics


def read_timed(split: sources.Split, index: tf.Tensor, image_size: int = IMAGE_SIZE) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads a photograph inside tf.data.

    Returns:
      uint8 ``[image_size, image_size, 3]``, and the seconds that it took, scalar float64.
    """
    begun = _clock(index)
    with tf.control_dependencies([begun]):
        image = photograph.decode_to_square(split.read(tf.identity(index)), image_size)
    return image, _clock(image[0, 0, 0]) - begun


def _clock(value):
    """Returns the time at which a tensor is known, in seconds, scalar float64."""
    # Not tf.timestamp: it is stateful, and a deterministic pipeline may run stateful operations one at a time.
    return tf.ensure_shape(tf.numpy_function(_now, [value], tf.float64, stateful=False), [])


def _now(value):
    del value
    return time.monotonic()


def report_each_slow(split: sources.Split, indices, seconds, report_slow: Callable[[str, float], None]) -> None:
    """Calls `report_slow` for those of the photographs at `indices` that took longer than `SLOW_SECONDS`."""
    for index, each in zip(indices.tolist(), seconds.tolist()):
        if each > SLOW_SECONDS:
            report_slow(split.name_of(index), each)


def _photographs(split, image_size, report_slow):
    """Yields (indices, uint8 images) of the photographs that can be read, in order."""
    dataset = tf.data.Dataset.range(len(split.labels))
    dataset = dataset.map(
        lambda index: (index, *read_timed(split, index, image_size)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    batches = dataset.ignore_errors().batch(_BATCH_SIZE).prefetch(2)
    for indices, images, seconds in batches.as_numpy_iterator():
        report_each_slow(split, indices, seconds, report_slow)
        yield indices, images


def _prepared_images(split):
    """Yields (indices, uint8 images) of prepared images in order; raises an error if one is damaged."""
    first = 0
    batches = pipeline.evaluation_batches(examples.from_records(split), batch_size=_BATCH_SIZE)
    for images, labels in batches.as_numpy_iterator():
        yield np.arange(first, first + len(labels)), images
        first += len(labels)


def explain_skipped(split: sources.Split, index: int) -> SkippedImage:
    """Reads an unreadable photograph again to find the reason, and names the time if that takes long."""
    begun = time.monotonic()
    reason = examples.reason_unreadable(split, int(index)) or "unreadable"
    seconds = time.monotonic() - begun
    if seconds > SLOW_SECONDS:
        reason += f" (after {seconds:.0f} s)"
    return SkippedImage(split.name_of(int(index)), reason)
