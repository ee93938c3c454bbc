"""From a split of photographs to batches: every draw follows from seed, epoch and position alone.

So a run that is resumed at step n gets batch n + 1 at once, without replaying what was before. Work is done a batch
at a time where it is only copying; what has to be decoded is decoded image by image on all cores.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import psutil
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import draws
from alexnet_tf.data import photograph
from alexnet_tf.data import statistics
from alexnet_tf.utils import messages

CROP_SIZE = augmentation.CROP_SIZE
IMAGE_SIZE = photograph.IMAGE_SIZE

# `cache="auto"` keeps decoded images in memory while all of them take no more than this share of what is free.
CACHE_SHARE = 0.5

# Pixels beyond a crop's sides that its colours depend on.
_COLOR_REACH = 2

# Batches that are fetched at a time: enough to keep a disk busy while another batch is copied.
_FETCHED_AT_A_TIME = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Images that are read by index, in two steps.

    `fetch(indices, offsets, size)` takes int64 ``[images]`` and int32 ``[images, 2]`` and returns an array with an
    entry of `fetched_dtype` for each image; `decode(entry, offset, size)` makes of one of them, in TensorFlow
    operations, the square of an image, uint8 ``[size, size, 3]``, whose first pixel is at the offset. Where `decode` is
    None, `fetch` returns the squares themselves.
    """

    labels: np.ndarray  # int64 [examples]
    fetch: Callable
    fetched_dtype: tf.DType
    decode: Callable | None = None
    image_size: int = IMAGE_SIZE  # the side of the squares that are cut out of

    def __len__(self):
        return len(self.labels)

    def images(self, places):
        """Some of the images, whole.

        Args:
          places: int ``[count]``, at least one.

        Returns:
          uint8 ``[count, image_size, image_size, 3]``.
        """
        places = np.asarray(places, np.int64)
        offsets = np.zeros([len(places), 2], np.int32)
        fetched = self.fetch(places, offsets, self.image_size)
        if self.decode is not None:
            fetched = [self.decode(entry, offset, self.image_size) for entry, offset in zip(fetched, offsets)]
        return np.stack(fetched)


class Skipped(NamedTuple):
    """A photograph that could not be read."""

    name: str
    reason: str


def load(split, *, image_size=IMAGE_SIZE, cache="auto", collect_statistics=False, progress=None):
    """Makes a split ready to be read by index.

    Photographs as they come are read once from end to end, to find those that cannot be read. Prepared images are read
    only if they are to be kept.

    Args:
      split: a `sources.Split`.
      image_size: int, the side of the squares that photographs become; that of prepared images is what it is.
      cache: "memory" keeps the decoded images, "none" does not, "auto" does if they fit `CACHE_SHARE` of free memory.
      collect_statistics: also take the mean image and the colour components.
      progress: called with the number of photographs read so far, and told the last time when all are.

    Returns:
      `Examples`, a list of `Skipped`, and `statistics.Statistics` or None.

    Raises:
      ValueError: if no photograph at all can be read, for another `cache`, or another size than prepared images have.
    """
    count = len(split.labels)
    if split.records is not None and image_size != IMAGE_SIZE:
        raise ValueError(f"Expected image_size to be {IMAGE_SIZE}, as prepared images are. Received: {image_size}")
    _expect("cache", cache, ("auto", "memory", "none"))
    # What is stored as pixels is as quickly read from the disk's cache.
    keep = cache == "memory" or (cache == "auto" and not split.is_raw and fits_in_memory(count, image_size))
    if split.records is not None and not keep and not collect_statistics:
        return prepared_examples(split), [], None
    table = np.empty([count, image_size, image_size, 3], np.uint8) if keep else None
    accumulator = statistics.Accumulator() if collect_statistics else None
    good = []
    for indices, batch in _prepared(split) if split.records is not None else _readable(split, image_size):
        if keep:
            table[len(good) : len(good) + len(indices)] = batch
        if accumulator:
            accumulator.add(batch)
        good += indices.tolist()
        if progress:
            progress(int(indices[-1]) + 1)
    if progress:
        progress(count)
    skipped = [why_skipped(split, index) for index in np.setdiff1d(np.arange(count), good)]
    if not good:
        first = f"{skipped[0].name} ({skipped[0].reason})"
        raise ValueError(f"Expected photographs. Received: {count} unreadable files, the first {first}")
    if keep:
        examples = cached_examples(split.labels[good], table[: len(good)])
    elif split.records is not None:
        examples = prepared_examples(split)
    else:
        examples = _direct_examples(split, np.array(good), image_size)
    return examples, skipped, accumulator.result() if accumulator else None


def fits_in_memory(count, image_size=IMAGE_SIZE):
    """Whether `count` decoded images fit the share of free memory that `cache="auto"` takes."""
    return count * image_size * image_size * 3 <= CACHE_SHARE * psutil.virtual_memory().available


def _readable(split, image_size):
    """Yields (indices, uint8 images) of those photographs that can be read, in order."""

    def read(index):
        return index, photograph.prepare_image(split.read(index), image_size)

    dataset = tf.data.Dataset.range(len(split.labels))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.ignore_errors().batch(32).prefetch(2).as_numpy_iterator()


def _prepared(split):
    """Yields (indices, uint8 images) of prepared images, all of which can be read or it raises."""
    first = 0
    for images, labels in evaluation_batches(prepared_examples(split), batch_size=32).as_numpy_iterator():
        yield np.arange(first, first + len(labels)), images
        first += len(labels)


def why_skipped(split, index):
    """The name of a photograph that could not be read and the reason, found by reading it again."""
    try:
        photograph.prepare_image(split.read(tf.constant(index, tf.int64)))
        reason = "unreadable"
    except (tf.errors.OpError, ValueError) as error:
        reason = messages.first_line(error)
    return Skipped(split.name_of(int(index)), reason)


def _expect(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"Expected {name} to be one of {', '.join(allowed)}. Received: {name}={value!r}")


def cached_examples(labels, table):
    """`Examples` of decoded images in memory.

    Args:
      labels: int64 ``[examples]``.
      table: uint8 ``[examples, size, size, 3]``.
    """
    fetch = functools.partial(_squares, table.__getitem__)
    return Examples(labels, fetch, tf.uint8, image_size=table.shape[1])


def _squares(image_at, indices, offsets, size):
    """`Examples.fetch` by a function from an index to the uint8 pixels of an image."""
    squares = np.empty([len(indices), size, size, 3], np.uint8)
    for square, index, (top, left) in zip(squares, indices.tolist(), offsets.tolist()):
        square[:] = image_at(index)[top : top + size, left : left + size]
    return squares


def prepared_examples(split):
    """`Examples` of images that were prepared, read from the disk as they are needed.

    Args:
      split: a `sources.Split` with records, as `prepared.open_data_dir` gives.
    """
    records = split.records

    def fetch_encoded(indices, offsets, size):
        del offsets, size
        return np.array([bytes(records.image(index)) for index in indices.tolist()], object)

    def pixels(index):
        return np.frombuffer(records.image(index), np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 3)

    def decode(encoded, offset, size):
        # Decodes no more than the blocks that the crop touches, and the colours' next ones: between blocks, colours of
        # half the resolution are interpolated, and pixels at the crop's sides would not be those of the whole image.
        first = tf.maximum(offset[1] - _COLOR_REACH, 0)
        last = tf.minimum(offset[1] + size + _COLOR_REACH, IMAGE_SIZE)
        wide = tf.io.decode_and_crop_jpeg(encoded, [offset[0], first, size, last - first], channels=3)
        return wide[:, offset[1] - first : offset[1] - first + size]

    if split.is_raw:
        return Examples(split.labels, functools.partial(_squares, pixels), tf.uint8)
    return Examples(split.labels, fetch_encoded, tf.string, decode)


def _direct_examples(split, good, image_size):
    """`Examples` of photographs as they come, of which those at `good` can be read."""

    def decode(index, offset, size):
        image = photograph.prepare_image(split.read(index), image_size)
        return tf.slice(image, tf.concat([offset, [0]], axis=0), [size, size, 3])

    fetch = lambda indices, offsets, size: good[indices]
    return Examples(split.labels[good], fetch, tf.int64, decode, image_size)


def check_training(count, *, batch_size, crops, flips, worker):
    """Checks options of `training_batches` for a number of examples.

    Returns:
      The steps in an epoch and the examples in this worker's part of a batch, ints.

    Raises:
      ValueError: as `training_batches`.
    """
    _expect("crops", crops, ("random", "center"))
    _expect("flips", flips, tuple(draws.FLIPS))
    steps_per_epoch = batches_per_epoch(count, batch_size)
    parts = worker[1]
    if batch_size % parts:
        raise ValueError(f"Expected batch_size to be a multiple of the {parts} workers. Received: {batch_size}")
    return steps_per_epoch, batch_size // parts


def training_batches(
    examples,
    *,
    batch_size,
    seed,
    first_step,
    steps,
    crop_size=CROP_SIZE,
    crops="random",
    flips="horizontal",
    images_per_draw=1,
    reshuffle=True,
    noise_epochs=None,
    worker=(0, 1),
):
    """Batches for training, each image once an epoch; the last, partial batch of an epoch is left out.

    Args:
      examples: `Examples`.
      batch_size: int, over all workers; at most the number of examples.
      seed: int. Order and draws follow from it, the epoch and the position in it.
      first_step: int, steps already taken: the first batch is that of step `first_step` + 1.
      steps: int, the last step.
      crop_size: int, at most the images' side.
      crops: "random", any position (33 x 33 for 224 of 256), or "center".
      flips: "none", "horizontal" or "both" (upside down as well), each with probability one half.
      images_per_draw: int; so many images in a row share one crop and mirroring (original #145: 32).
      reshuffle: a new order every epoch; else always that of the first (original #145), each epoch going on where the
        one before ended, so that those which were left out come next.
      noise_epochs: float; from this epoch on the colour noise is 0; None never turns it off.
      worker: (index, count): which of `count` equal parts of each batch to read, in the order of the whole.

    Returns:
      A ``tf.data.Dataset`` of dicts: ``crops`` uint8 ``[batch, crop_size, crop_size, 3]``, ``offsets`` int32
      ``[batch, 2]`` (row and column where each was cut), ``flips`` bool ``[batch, 2]`` (upside down, left to right),
      ``labels`` int64 ``[batch]``, ``noise`` float32 ``[batch, 3]``, standard normal draws for the colour noise.

    Raises:
      ValueError: if a batch needs more examples than there are or cannot be shared equally, or for other `crops` or
        `flips`.
    """
    count = len(examples)
    steps_per_epoch, share = check_training(count, batch_size=batch_size, crops=crops, flips=flips, worker=worker)
    part = worker[0]

    def batch_of(step):
        epoch, place = divmod(int(step), steps_per_epoch)
        first = place * batch_size + part * share
        positions = range(first, first + share)
        if reshuffle:
            indices = draws.order(count, seed, epoch)[first : first + share]
        else:
            indices = draws.order(count, seed, 0)[(epoch * steps_per_epoch * batch_size + np.array(positions)) % count]
        drawn = draws.draw(
            seed,
            epoch,
            positions,
            margin=examples.image_size - crop_size,
            crops=crops,
            flips=flips,
            images_per_draw=images_per_draw,
        )
        noise = drawn.noise
        if noise_epochs is not None and step / steps_per_epoch >= noise_epochs:
            noise = np.zeros_like(noise)
        fetched = examples.fetch(indices, drawn.offsets, crop_size)
        return fetched, drawn.offsets, drawn.flips, examples.labels[indices], noise

    columns = {
        "offsets": tf.TensorSpec([2], tf.int32),
        "flips": tf.TensorSpec([2], tf.bool),
        "labels": tf.TensorSpec([], tf.int64),
        "noise": tf.TensorSpec([3], tf.float32),
    }
    numbers = tf.data.Dataset.range(first_step, steps)
    return _read(numbers, batch_of, examples, crop_size, columns, batch_size=share, whole=True)


def prefetch_to_device(batches, device):
    """Copies batches to a device while the one before is worked on.

    Args:
      batches: a ``tf.data.Dataset``; nothing may be done to what is returned but iterating.
      device: a TensorFlow device name such as ``"/GPU:0"``; None leaves the batches where they are.

    Returns:
      A ``tf.data.Dataset``.
    """
    return batches.apply(tf.data.experimental.prefetch_to_device(device, 2)) if device else batches


def _read(numbers, batch_of, examples, size, columns, *, batch_size, whole):
    """Batches in two steps: what `batch_of` fetches for a number, and where that is encoded, each image decoded.

    Args:
      numbers: a ``tf.data.Dataset`` of int64.
      batch_of: maps a number to a tuple of arrays: what `examples` fetched, and the columns.
      examples: `Examples`.
      size: int, the side of the squares.
      columns: dict of the ``tf.TensorSpec`` of one example; "offsets" among them.
      batch_size: int.
      whole: whether every batch has that size; else some may be smaller.

    Returns:
      A ``tf.data.Dataset`` of dicts of "crops" and the columns.
    """
    fetched = tf.TensorSpec([] if examples.decode else [size, size, 3], examples.fetched_dtype)
    columns = {"crops": fetched, **columns}

    def fetch(number):
        values = tf.numpy_function(batch_of, [number], [each.dtype for each in columns.values()], stateful=False)
        length = batch_size if whole else None
        return {
            name: tf.ensure_shape(value, [length, *each.shape]) for (name, each), value in zip(columns.items(), values)
        }

    def decode(example):
        crop = examples.decode(example["crops"], example["offsets"], size)
        return {**example, "crops": tf.ensure_shape(crop, [size, size, 3])}

    dataset = numbers.map(fetch, num_parallel_calls=_FETCHED_AT_A_TIME, deterministic=True)
    if examples.decode:
        dataset = dataset.unbatch().map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = dataset.batch(batch_size, drop_remainder=whole)
    return dataset.prefetch(2)


def batches_per_epoch(count, batch_size):
    """Whole batches in `count` examples.

    Raises:
      ValueError: if there is none.
    """
    if count < batch_size:
        raise ValueError(f"Expected batch_size to be at most the {count} training images. Received: {batch_size}")
    return count // batch_size


def evaluation_batches(examples, *, batch_size, worker=(0, 1)):
    """Every example once, in order; the last batch may be smaller.

    Args:
      examples: `Examples`.
      batch_size: int.
      worker: (index, count): which of `count` workers reads; the batches are dealt out in turn.

    Returns:
      A ``tf.data.Dataset`` of (uint8 ``[batch, image_size, image_size, 3]``, int64 ``[batch]``).
    """
    count = len(examples)

    def batch_of(number):
        indices = np.arange(number * batch_size, min((number + 1) * batch_size, count))
        offsets = np.zeros([len(indices), 2], np.int32)
        return examples.fetch(indices, offsets, examples.image_size), offsets, examples.labels[indices]

    columns = {"offsets": tf.TensorSpec([2], tf.int32), "labels": tf.TensorSpec([], tf.int64)}
    numbers = tf.data.Dataset.range(-(-count // batch_size)).shard(worker[1], worker[0])
    dataset = _read(numbers, batch_of, examples, examples.image_size, columns, batch_size=batch_size, whole=False)
    return dataset.map(lambda batch: (batch["crops"], batch["labels"]))
