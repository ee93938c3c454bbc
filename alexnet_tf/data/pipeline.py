"""From a split of photographs to batches: every draw follows from seed, epoch and position alone.

So a run that is resumed at step n gets batch n + 1 at once, without replaying what was before.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import psutil
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import prepare
from alexnet_tf.data import statistics

CROP_SIZE = augmentation.CROP_SIZE
IMAGE_SIZE = prepare.IMAGE_SIZE
IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3

# `cache="auto"` keeps decoded images in memory while all of them take no more than this share of what is free.
CACHE_SHARE = 0.5

# Streams of random numbers that must not meet.
_ORDER, _DRAWS = 1, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Prepared images that are read by index."""

    labels: np.ndarray  # int64 [examples]
    read: Callable  # maps a scalar int64 tensor to uint8 [256, 256, 3]

    def __len__(self):
        return len(self.labels)


class Skipped(NamedTuple):
    """A photograph that could not be read."""

    name: str
    reason: str


def load(split, *, cache="auto", collect_statistics=False, progress=None):
    """Reads a split once from end to end: finds what cannot be read, and keeps the rest in memory if it fits.

    Args:
      split: a `sources.Split`.
      cache: "memory" keeps the decoded images, "none" does not, "auto" does if they fit `CACHE_SHARE` of free memory.
      collect_statistics: also take the mean image and the colour components.
      progress: called with the number of photographs read so far, and told the last time when all are.

    Returns:
      `Examples`, a list of `Skipped`, and `statistics.Statistics` or None.

    Raises:
      ValueError: if no photograph at all can be read, or for another `cache`.
    """
    count = len(split.labels)
    _expect("cache", cache, ("auto", "memory", "none"))
    keep = cache == "memory" or (cache == "auto" and fits_in_memory(count))
    table = _table(count) if keep else None
    accumulator = statistics.Accumulator() if collect_statistics else None
    good = []
    for indices, batch in _readable(split, progress):
        if keep:
            places = np.arange(len(good), len(good) + len(indices))
            table.scatter_update(tf.IndexedSlices(batch, places))
        if accumulator:
            accumulator.add(batch)
        good += indices.tolist()
    if progress:
        progress(count)
    skipped = [_why_skipped(split, index) for index in np.setdiff1d(np.arange(count), good)]
    if not good:
        first = f"{skipped[0].name} ({skipped[0].reason})"
        raise ValueError(f"Expected photographs. Received: {count} unreadable files, the first {first}")
    labels = split.labels[good]
    examples = _cached(labels, table) if keep else _uncached(labels, split, good)
    return examples, skipped, accumulator.result() if accumulator else None


def fits_in_memory(count):
    """Whether `count` decoded images fit the share of free memory that `cache="auto"` takes."""
    return count * IMAGE_BYTES <= CACHE_SHARE * psutil.virtual_memory().available


def _readable(split, progress):
    """Yields (indices, uint8 images) of those photographs that can be read, in order."""

    def read(index):
        return index, prepare.prepare_image(split.read(index))

    dataset = tf.data.Dataset.range(len(split.labels))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    for indices, images in dataset.ignore_errors().batch(32).prefetch(2).as_numpy_iterator():
        yield indices, images
        if progress:
            progress(int(indices[-1]) + 1)


def _why_skipped(split, index):
    try:
        prepare.prepare_image(split.read(tf.constant(index, tf.int64)))
        reason = "unreadable"
    except (tf.errors.OpError, ValueError) as error:
        reason = (str(getattr(error, "message", error)).splitlines() or [type(error).__name__])[0]
        # TensorFlow's messages begin with {{function_node ...}} and end with the operation's name.
        reason = reason.split("}} ")[-1].split(" [Op:")[0]
    return Skipped(split.name_of(int(index)), reason)


def _expect(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"Expected {name} to be one of {', '.join(allowed)}. Received: {name}={value!r}")


def _table(count):
    """Room for images in main memory, to be filled in place.

    A variable, because a constant of that size would be held three times while it is made from an array, and twice
    from the moment that a data set reads it.
    """
    with tf.device("/CPU:0"):
        return tf.Variable(tf.zeros([count, IMAGE_SIZE, IMAGE_SIZE, 3], tf.uint8), trainable=False)


def _cached(labels, table):
    return Examples(labels, lambda index: tf.gather(table, index))


def _uncached(labels, split, good):
    table = tf.constant(good, tf.int64)

    def read(index):
        return prepare.prepare_image(split.read(tf.gather(table, index)))

    return Examples(labels, read)


def training_batches(examples, *, batch_size, seed, first_step, steps, crops="random", flips="horizontal"):
    """Batches for training, each image once an epoch in a new order; the last, partial batch of an epoch is left out.

    Args:
      examples: `Examples`.
      batch_size: int, at most the number of examples.
      seed: int. Order and draws follow from it, the epoch and the position in it.
      first_step: int, steps already taken: the first batch is that of step `first_step` + 1.
      steps: int, the last step.
      crops: "random", any of 33 x 33 positions, or "center".
      flips: "none", "horizontal" or "both" (upside down as well), each with probability one half.

    Returns:
      A ``tf.data.Dataset`` of dicts: ``crops`` uint8 ``[batch, 224, 224, 3]``, ``offsets`` int32 ``[batch, 2]`` (row
      and column where each was cut), ``flips`` bool ``[batch, 2]`` (upside down, left to right), ``labels`` int64
      ``[batch]``, ``noise`` float32 ``[batch, 3]``, standard normal draws for the colour noise.

    Raises:
      ValueError: if a batch needs more examples than there are, or for other `crops` or `flips`.
    """
    _expect("crops", crops, ("random", "center"))
    _expect("flips", flips, ("none", "horizontal", "both"))
    count = len(examples)
    steps_per_epoch = batches_per_epoch(count, batch_size)
    labels = tf.constant(examples.labels)
    in_epoch = steps_per_epoch * batch_size

    def read(number):
        epoch, position = number // in_epoch, number % in_epoch
        order = tf.random.fold_in([seed, _ORDER], epoch)
        index = tf.random.experimental.index_shuffle(position, order, tf.constant(count - 1, tf.int64))
        seeds = tf.random.fold_in(tf.random.fold_in([seed, _DRAWS], epoch), position)
        offset, flip, noise = _draw(seeds, crops, flips)
        image = examples.read(index)
        return {
            "crops": tf.slice(image, [offset[0], offset[1], 0], [CROP_SIZE, CROP_SIZE, 3]),
            "offsets": offset,
            "flips": flip,
            "labels": tf.gather(labels, index),
            "noise": noise,
        }

    dataset = tf.data.Dataset.range(first_step * batch_size, steps * batch_size)
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(2)


def batches_per_epoch(count, batch_size):
    """Whole batches in `count` examples.

    Raises:
      ValueError: if there is none.
    """
    if count < batch_size:
        raise ValueError(f"Expected batch_size to be at most the {count} training images. Received: {batch_size}")
    return count // batch_size


def _draw(seeds, crops, flips):
    """An offset, int32 [2], a flip, bool [2], and noise, float32 [3]."""
    margin = IMAGE_SIZE - CROP_SIZE
    if crops == "random":
        offset = tf.random.stateless_uniform([2], seeds, maxval=margin + 1, dtype=tf.int32)
    else:
        offset = tf.constant([margin // 2, margin // 2])
    wanted = {"none": [False, False], "horizontal": [False, True], "both": [True, True]}[flips]
    heads = tf.random.stateless_uniform([2], tf.random.fold_in(seeds, 1)) < 0.5
    noise = tf.random.stateless_normal([3], tf.random.fold_in(seeds, 2))
    return offset, heads & tf.constant(wanted), noise


def evaluation_batches(examples, *, batch_size):
    """Every example once, in order; the last batch may be smaller.

    Args:
      examples: `Examples`.
      batch_size: int.

    Returns:
      A ``tf.data.Dataset`` of (uint8 ``[batch, 256, 256, 3]``, int64 ``[batch]``).
    """
    labels = tf.constant(examples.labels)

    def read(index):
        return examples.read(index), tf.gather(labels, index)

    dataset = tf.data.Dataset.range(len(examples))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2)
