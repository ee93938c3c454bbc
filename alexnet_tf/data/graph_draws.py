"""The random numbers of `draws` in TensorFlow operations, for pipelines that run in another process.

Orders, crop positions and mirroring are equal to the bit; the noise may differ in the last bits of float32.
"""

import math

import numpy as np
import tensorflow as tf

from alexnet_tf.data import draws

# Philox4x64-10 (Salmon et al., 2011): multipliers of the counter's words 0 and 2, and increments of the key.
_MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)
_KEY_STEPS = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], np.uint64)
_ROUNDS = 10


def _numbers(seed, stream, epoch, positions):
    """Returns four random numbers for each position.

    Args:
      seed, stream: ints.
      epoch: scalar int64 tensor.
      positions: int64 ``[count]``.

    Returns:
      uint64 ``[4, count]``.
    """
    # NumPy increments the counter before it draws.
    counters = tf.stack([positions + 1, tf.fill(tf.shape(positions), epoch)])
    return _philox(tf.constant([[seed], [stream]], tf.uint64), tf.cast(counters, tf.uint64))


# Traced once, although several functions of a pipeline call it.
@tf.function(input_signature=[tf.TensorSpec([2, 1], tf.uint64), tf.TensorSpec([2, None], tf.uint64)])
def _philox(key, even):
    """Returns four numbers, uint64 ``[4, count]``, for counters with the given even words and zeros as odd words."""
    odd = tf.zeros_like(even)
    for _ in range(_ROUNDS):
        high, low = _product(even, _MULTIPLIERS)
        even, odd = _xor(_xor(high[::-1], odd), key), low[::-1]
        key += _KEY_STEPS
    return tf.stack([even[0], odd[0], even[1], odd[1]])


def _product(words, factors):
    """Returns the upper and the lower 64 bits of products of uint64 words, computed from halves of 32 bits."""
    upper, lower = _halves(words)
    factors_upper, factors_lower = factors >> np.uint64(32), factors & np.uint64(2**32 - 1)
    # No sum exceeds 64 bits: (2 ** 32 - 1) ** 2 + 2 * (2 ** 32 - 1) is 2 ** 64 - 1.
    carry, _ = _halves(lower * factors_lower)
    middle_upper, middle_lower = _halves(upper * factors_lower + carry)
    carry, _ = _halves(lower * factors_upper + middle_lower)
    return upper * factors_upper + middle_upper + carry, words * factors


def _halves(words):
    """Returns the upper and the lower 32 bits of uint64 words, each as uint64."""
    return _shifted(words, 32), tf.bitwise.bitwise_and(words, np.uint64(2**32 - 1))


def _shifted(words, bits):
    return tf.bitwise.right_shift(words, np.uint64(bits))


def _xor(one, other):
    return tf.bitwise.bitwise_xor(one, other)


def order(count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns `draws.order` of an epoch that is a tensor.

    Args:
      count: int, the number of images.
      seed: int.
      epoch: scalar int64 tensor.

    Returns:
      int64 ``[count]``, each index once.
    """
    words = _numbers(seed, draws.ORDER, epoch, tf.range(-(-count // 4), dtype=tf.int64))
    numbers = tf.reshape(tf.transpose(words), [-1])[:count]
    # TensorFlow sorts signed numbers only; they have the same order once their highest bits are flipped.
    signed = tf.bitcast(_xor(numbers, np.uint64(2**63)), tf.int64)
    return tf.cast(tf.argsort(signed, stable=True), tf.int64)


def draw(
    seed: int,
    epoch: tf.Tensor,
    first: tf.Tensor,
    count: int,
    *,
    margin: int,
    pad: int = 0,
    crops: str = "random",
    flips: str = "horizontal",
    images_per_draw: int = 1,
) -> draws.Draws:
    """Returns `draws.draw` of an epoch and a first position that are tensors.

    Args:
      seed: int.
      epoch, first: scalar int64 tensors.
      count: int, the number of images.
      margin, pad, crops, flips, images_per_draw: as in `draws.draw`.

    Returns:
      `draws.Draws` of tensors.
    """
    positions = first + tf.range(count, dtype=tf.int64)
    geometry = _numbers(seed, draws.GEOMETRY, epoch, positions // images_per_draw)
    if crops == "random":
        offsets = tf.cast(_shifted(_shifted(geometry[:2], 32) * np.uint64(margin + 2 * pad + 1), 32), tf.int32) - pad
    else:
        offsets = tf.fill([2, count], margin // 2)
    heads = tf.cast(_shifted(geometry[2:], 63), tf.bool)
    noise = _normal(_numbers(seed, draws.NOISE, epoch, positions))
    return draws.Draws(
        offsets=tf.cast(tf.transpose(offsets), tf.int32),
        flips=tf.transpose(heads) & np.array(draws.FLIPS[flips]),
        noise=tf.cast(noise, tf.float32),
    )


def areas(
    seed: int, epoch: tf.Tensor, first: tf.Tensor, count: int, *, side: int, images_per_draw: int = 1
) -> draws.Areas:
    """Returns `draws.areas` of an epoch and a first position that are tensors.

    Args:
      seed, epoch, first, count: as in `draw`.
      side, images_per_draw: as in `draws.areas`.

    Returns:
      `draws.Areas` of tensors.
    """
    shared = (first + tf.range(count, dtype=tf.int64)) // images_per_draw
    geometry, shapes = (_numbers(seed, stream, epoch, shared) for stream in (draws.GEOMETRY, draws.SHAPES))
    sizes = _sizes(shapes, side)
    offsets = _shifted(_shifted(geometry[:2], 32) * tf.cast(side - sizes + 1, tf.uint64), 32)
    return draws.Areas(tf.cast(tf.transpose(offsets), tf.int32), tf.transpose(sizes))


def _sizes(words, side):
    """Returns height and width of rectangles, int32 ``[2, count]``."""
    uniform = tf.cast(_shifted(words[:2], 11), tf.float64) * 2.0**-53
    (smallest, largest), (narrowest, widest) = draws.AREAS, draws.ASPECTS
    area = (smallest + (largest - smallest) * uniform[0]) * (side * side)
    aspect = narrowest + (widest - narrowest) * uniform[1]
    exact = tf.sqrt(tf.stack([area * aspect, area / aspect]))
    return tf.cast(tf.clip_by_value(tf.floor(exact + 0.5), 1, side), tf.int32)


def _normal(words):
    """Returns three independent standard normal numbers, float64 ``[count, 3]``, from four words."""
    uniform = (tf.cast(_shifted(words, 11), tf.float64) + 0.5) * 2.0**-53
    radii = tf.sqrt(-2 * tf.math.log(uniform[:2]))
    angles = 2 * math.pi * uniform[2:]
    return tf.transpose(tf.concat([radii * tf.cos(angles), radii[:1] * tf.sin(angles[:1])], axis=0))
