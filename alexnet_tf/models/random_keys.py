"""Keys of random numbers, computed on the device that draws them, and random numbers that XLA can compile.

TensorFlow turns a seed into the key and the counter of its generator in host memory: on a GPU, each draw by a seed that
a variable holds waits for a copy to the host and one back (``StatelessRandomGetKeyCounter`` registers ``seed``, ``key``
and ``counter`` as ``HostMemory`` in tensorflow/core/kernels/stateless_random_ops_v2.cc). The draw itself reads both on
the device. So the same arithmetic is done there, as one program of XLA.

Where XLA compiles a draw itself, it returns other numbers than TensorFlow's kernels for the same key. So that a network
drops the same outputs either way, `compilable_uniform` computes those of the kernels.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

# Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011): multipliers, and the increments
# of the key after each round.
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
# Each value of the counter gives this many numbers.
_BLOCK = 4
# The key with which TensorFlow scrambles a seed.
_SEED_KEY = 0x3EC8F720, 0x02461E29
_WORD = 0xFFFFFFFF
# The exponent of floats in [1, 2), and the bits of their fractions.
_ONE, _FRACTION = 0x3F800000, 0x007FFFFF


@tf.function(jit_compile=True, autograph=False)
def key_and_counter(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes what ``tf.raw_ops.StatelessRandomGetKeyCounter`` does, without host memory.

    Args:
      seed: int64 ``[2]``.

    Returns:
      A pair: the key, uint64 ``[1]``, and the counter, uint64 ``[2]``, of Philox.
    """
    seed = tf.cast(seed, tf.uint64)
    words = _philox([*_words(seed[0]), *_words(seed[1])], [_uint64(word) for word in _SEED_KEY])
    pack = lambda low, high: low + high * _uint64(1 << 32)
    return pack(*words[:2])[None], tf.stack([tf.zeros([], tf.uint64), pack(*words[2:])])


def uniform(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns the numbers of ``tf.random.stateless_uniform(shape, seed)``, float32, without host memory."""
    key, counter = key_and_counter(seed)
    philox = tf.random.Algorithm.PHILOX.value
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=key, counter=counter, alg=philox, dtype=tf.float32)


def compilable_uniform(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns the same numbers as `uniform` also where XLA compiles this function."""
    key, counter = key_and_counter(seed)
    size = math.prod(shape)
    # The lower half of the counter begins at 0.
    numbers = tf.range(-(-size // _BLOCK), dtype=tf.int64)
    counters = [*_words(tf.cast(numbers, tf.uint64)), *(tf.fill(numbers.shape, word) for word in _words(counter[1]))]
    bits = tf.cast(tf.stack(_philox(counters, _words(key[0])), axis=1), tf.uint32)
    in_1_to_2 = tf.bitwise.bitwise_or(
        tf.bitwise.bitwise_and(bits, tf.constant(_FRACTION, tf.uint32)), tf.constant(_ONE, tf.uint32)
    )
    return tf.reshape(tf.reshape(tf.bitcast(in_1_to_2, tf.float32) - 1.0, [-1])[:size], shape)


def _uint64(value):
    return tf.constant(value, tf.uint64)


def _words(value):
    """Returns the lower and the higher 32 bits of a uint64 tensor, each as uint64."""
    return tf.bitwise.bitwise_and(value, _uint64(_WORD)), tf.bitwise.right_shift(value, _uint64(32))


def _philox(words, keys):
    """Returns the four words of random bits for the four words of a counter and the two of a key, all as uint64."""
    xor = tf.bitwise.bitwise_xor
    for _ in range(_ROUNDS):
        # Each as lower and higher word.
        first, second = (_words(word * _uint64(factor)) for word, factor in zip(words[::2], _MULTIPLIERS, strict=True))
        words = [
            xor(xor(second[1], words[1]), keys[0]),
            second[0],
            xor(xor(first[1], words[3]), keys[1]),
            first[0],
        ]
        keys = [_words(key + _uint64(step))[0] for key, step in zip(keys, _INCREMENTS, strict=True)]
    return words
