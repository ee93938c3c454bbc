"""From examples to batches. Every draw follows from the seed, the epoch and the position in the epoch.

A run that resumes at step n therefore gets batch n + 1 at once, without replaying the batches before it.
"""

import functools

import numpy as np
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import draws
from alexnet_tf.data import examples
from alexnet_tf.data import sampling

# Batches that are fetched in parallel: enough to keep a disk busy while another batch is copied.
_FETCHED_AT_A_TIME = 4


def training_batches(data: examples.Examples, options: sampling.Sampling) -> tf.data.Dataset:
    """Returns batches for training: each image at most once an epoch, without the last, partial batch.

    With ``options.balanced``, each class is drawn equally often instead.

    Args:
      data: `examples.Examples`.
      options: `sampling.Sampling`.

    Returns:
      A ``tf.data.Dataset`` of dicts: ``crops`` uint8 ``[batch, crop_size, crop_size, 3]``, ``offsets`` int32
      ``[batch, 2]`` (row and column of each crop's first pixel; where a crop extends past the image, ``crops`` has the
      nearest square within, see `augmentation.inside`), ``flips`` bool ``[batch, 2]`` (upside down, left to right),
      ``labels`` int64 ``[batch]``, and ``noise`` float32 ``[batch, 3]``, standard normal draws for the color noise. The
      batch is this worker's part. Crops of random area also have ``sizes`` int32 ``[batch, 2]`` (height and width),
      and ``crops`` has the entire images.

    Raises:
      ValueError: if a batch needs more examples than there are.
    """
    steps_per_epoch = sampling.batches_per_epoch(len(data), options.batch_size)
    share = options.images_per_worker
    draw_options = options.draw_options(data.image_size)

    order_of = _order_function(data, options, steps_per_epoch)
    size = options.read_size(data.image_size)

    def batch_of(step):
        position = options.position(int(step), steps_per_epoch)
        order = order_of(position.order_epoch)
        indices = order[(position.order_first + np.arange(share)) % len(order)]
        positions = range(position.first, position.first + share)
        drawn = draws.draw(options.seed, position.epoch, positions, **draw_options)
        noise = drawn.noise if options.has_noise(int(step), steps_per_epoch) else np.zeros_like(drawn.noise)
        fetched = data.fetch(indices, np.clip(drawn.offsets, 0, data.image_size - size), size)
        values = drawn.flips, data.labels[indices], noise
        if options.has_areas:
            area_options = options.area_options(data.image_size)
            areas = draws.areas(options.seed, position.epoch, positions, **area_options)
            return fetched, areas.offsets, *values, areas.sizes
        return fetched, drawn.offsets, *values

    columns = {
        "offsets": tf.TensorSpec([2], tf.int32),
        "flips": tf.TensorSpec([2], tf.bool),
        "labels": tf.TensorSpec([], tf.int64),
        "noise": tf.TensorSpec([3], tf.float32),
        **({"sizes": tf.TensorSpec([2], tf.int32)} if options.has_areas else {}),
    }
    steps = tf.data.Dataset.range(options.first_step, options.steps)
    return _read(steps, batch_of, data, size, columns, batch_size=share, drop_remainder=True)


def _order_function(data, options, steps_per_epoch):
    """Returns the function from an epoch to the indices of its images."""
    if not options.balanced:
        return lambda epoch: draws.order(len(data), options.seed, epoch)
    length = steps_per_epoch * options.batch_size
    return functools.lru_cache(2)(lambda epoch: draws.balanced_order(data.labels, options.seed, epoch, length))


def evaluation_batches(
    data: examples.Examples, *, batch_size: int, worker: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Returns every example once, in order; the last batch may be smaller.

    Args:
      data: `examples.Examples`.
      batch_size: int.
      worker: pair of ints, (index, count): which of `count` workers reads. Batches are dealt out in turn.

    Returns:
      A ``tf.data.Dataset`` of (uint8 ``[batch, image_size, image_size, 3]``, int64 ``[batch]``).
    """
    count = len(data)

    def batch_of(number):
        indices = np.arange(number * batch_size, min((number + 1) * batch_size, count))
        offsets = np.zeros([len(indices), 2], np.int32)
        return data.fetch(indices, offsets, data.image_size), offsets, data.labels[indices]

    columns = {"offsets": tf.TensorSpec([2], tf.int32), "labels": tf.TensorSpec([], tf.int64)}
    numbers = tf.data.Dataset.range(-(-count // batch_size)).shard(worker[1], worker[0])
    dataset = _read(numbers, batch_of, data, data.image_size, columns, batch_size=batch_size, drop_remainder=False)
    return dataset.map(lambda batch: (batch["crops"], batch["labels"]))


def prefetch_to_device(batches: tf.data.Dataset, device: str | None) -> tf.data.Dataset:
    """Copies batches to a device while the batch before is processed.

    Args:
      batches: a ``tf.data.Dataset``.
      device: a TensorFlow device name such as ``"/GPU:0"``; None leaves the batches where they are.

    Returns:
      A ``tf.data.Dataset``. It supports iteration only, no further transformations.
    """
    return batches.apply(tf.data.experimental.prefetch_to_device(device, 2)) if device else batches


def _read(numbers, batch_of, data, size, columns, *, batch_size, drop_remainder):
    """Reads batches in two steps: fetches each batch, then decodes its images if they are encoded.

    Args:
      numbers: a ``tf.data.Dataset`` of int64.
      batch_of: maps a number to a tuple of arrays: the result of `data.fetch`, and the columns.
      data: `examples.Examples`.
      size: int, the side of the squares.
      columns: dict of the ``tf.TensorSpec`` of one example; includes "offsets".
      batch_size: int.
      drop_remainder: bool, whether every batch has that size; otherwise some may be smaller.

    Returns:
      A ``tf.data.Dataset`` of dicts of "crops" and the columns.
    """
    fetched = tf.TensorSpec([] if data.decode else [size, size, 3], data.fetched_dtype)
    columns = {"crops": fetched, **columns}

    def fetch(number):
        values = tf.numpy_function(batch_of, [number], [each.dtype for each in columns.values()], stateful=False)
        length = batch_size if drop_remainder else None
        return {
            name: tf.ensure_shape(value, [length, *each.shape]) for (name, each), value in zip(columns.items(), values)
        }

    def decode(example):
        crop = data.decode(example["crops"], augmentation.inside(example["offsets"], data.image_size - size), size)
        return {**example, "crops": tf.ensure_shape(crop, [size, size, 3])}

    dataset = numbers.map(fetch, num_parallel_calls=_FETCHED_AT_A_TIME, deterministic=True)
    if data.decode:
        dataset = dataset.unbatch().map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    return dataset.prefetch(2)
