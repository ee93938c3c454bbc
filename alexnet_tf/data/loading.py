"""From the photographs or prepared images of a split to `examples.Examples`, kept in memory where they fit."""

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
from alexnet_tf.utils import messages

IMAGE_SIZE = photograph.IMAGE_SIZE
CACHES = ("auto", "memory", "none")

# `cache="auto"` keeps decoded images in memory if they fit into this share of the available memory.
CACHE_SHARE = 0.5

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
) -> LoadedSplit:
    """Makes a split ready to be read by index.

    Photographs are read once from the first to the last, to find those that cannot be read. Prepared images are read
    only if they are to be kept in memory or their statistics are requested.

    Args:
      split: a `sources.Split`.
      image_size: int, the side of the squares that photographs are scaled to; 256 for prepared images.
      cache: "memory" keeps the decoded images, "none" does not, "auto" does if they fit into `CACHE_SHARE` of the
        available memory.
      collect_statistics: bool, whether to compute the mean image and the principal components of the colors.
      progress: called with the number of photographs read so far, the last time with the number of all.

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
    automatic = cache == "auto" and not split.is_raw and fits_in_memory(len(split.labels), image_size)
    keep = cache == "memory" or automatic
    if is_prepared and not keep and not collect_statistics:
        return LoadedSplit(examples.from_records(split), [], None)
    readable, images, image_statistics = _read_all(split, image_size, keep, collect_statistics, progress)
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


def fits_in_memory(count: int, image_size: int = IMAGE_SIZE) -> bool:
    """Returns whether `count` decoded images fit into the share of the available memory that `cache="auto"` uses."""
    return count * image_size * image_size * 3 <= CACHE_SHARE * psutil.virtual_memory().available


def _read_all(split, image_size, keep, collect_statistics, progress):
    """Reads every image of a split once.

    Returns:
      The indices of the readable images, int64 ``[examples]``; their pixels if `keep`, else None; and their
      `statistics.Statistics` if `collect_statistics`, else None.
    """
    count = len(split.labels)
    images = np.empty([count, image_size, image_size, 3], np.uint8) if keep else None
    accumulator = statistics.Accumulator() if collect_statistics else None
    readable = []
    for indices, batch in _prepared_images(split) if split.records is not None else _photographs(split, image_size):
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


def _photographs(split, image_size):
    """Yields (indices, uint8 images) of the photographs that can be read, in order."""

    def read(index):
        return index, photograph.decode_to_square(split.read(index), image_size)

    dataset = tf.data.Dataset.range(len(split.labels))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.ignore_errors().batch(_BATCH_SIZE).prefetch(2).as_numpy_iterator()


def _prepared_images(split):
    """Yields (indices, uint8 images) of prepared images in order; raises an error if one is damaged."""
    first = 0
    batches = pipeline.evaluation_batches(examples.from_records(split), batch_size=_BATCH_SIZE)
    for images, labels in batches.as_numpy_iterator():
        yield np.arange(first, first + len(labels)), images
        first += len(labels)


def explain_skipped(split: sources.Split, index: int) -> SkippedImage:
    """Reads an unreadable photograph again to find the reason."""
    try:
        photograph.decode_to_square(split.read(tf.constant(index, tf.int64)))
        reason = "unreadable"
    except (tf.errors.OpError, ValueError) as error:
        reason = messages.first_line(error)
    return SkippedImage(split.name_of(int(index)), reason)
