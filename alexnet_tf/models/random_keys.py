"""Keys of random numbers, computed on the device that draws them.

TensorFlow turns a seed into the key and the counter of its generator in host memory: on a GPU, each draw by a seed that
a variable holds waits for a copy to the host and one back (``StatelessRandomGetKeyCounter`` registers ``seed``, ``key``
and ``counter`` as ``HostMemory`` in tensorflow/core/kernels/stateless_random_ops_v2.cc). The draw itself reads both on
the device. So the same arithmetic is done there, as one program of XLA.
"""

import tensorflow as tf

# Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011): multipliers, and the increments
# of the key after each round.
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
# The key with which TensorFlow scrambles a seed.
_SEED_KEY = 0x3EC8F720, 0x02461E29
_WORD = 0xFFFFFFFF


@tf.function(jit_compile=True, autograph=False)
def key_and_counter(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes what ``tf.raw_ops.StatelessRandomGetKeyCounter`` does, without host memory.

    Args:
      seed: int64 ``[2]``.

    Returns:
      A pair: the key, uint64 ``[1]``, and the counter, uint64 ``[2]``, of Philox.
    """
    seed = tf.cast(seed, tf.uint64)
    word = lambda value: tf.bitwise.bitwise_and(value, tf.constant(_WORD, tf.uint64))
    high = lambda value: tf.bitwise.right_shift(value, tf.constant(32, tf.uint64))
    xor = tf.bitwise.bitwise_xor
    words = [word(seed[0]), high(seed[0]), word(seed[1]), high(seed[1])]
    for number in range(_ROUNDS):
        first, second = (
            part * tf.constant(factor, tf.uint64) for part, factor in zip(words[::2], _MULTIPLIERS, strict=True)
        )
        keys = [
            tf.constant((key + number * increment) & _WORD, tf.uint64)
            for key, increment in zip(_SEED_KEY, _INCREMENTS, strict=True)
        ]
        words = [
            xor(xor(high(second), words[1]), keys[0]),
            word(second),
            xor(xor(high(first), words[3]), keys[1]),
            word(first),
        ]
    pack = lambda low, above: low + above * tf.constant(1 << 32, tf.uint64)
    return pack(*words[:2])[None], tf.stack([tf.zeros([], tf.uint64), pack(*words[2:])])


def uniform(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns the numbers of ``tf.random.stateless_uniform(shape, seed)``, float32, without host memory."""
    key, counter = key_and_counter(seed)
    philox = tf.random.Algorithm.PHILOX.value
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=key, counter=counter, alg=philox, dtype=tf.float32)
