"""Keys computed on the device, compared with TensorFlow's, which are computed on the host."""

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.models import random_keys


@pytest.mark.parametrize("seed", [[0, 0], [7, 3], [2**31 - 1 + 5 * 2**32, 123456789], [-1, 2**62]])
def test_keys_and_numbers_are_those_of_tensorflow(seed):
    seed = tf.constant(seed, tf.int64)
    expected = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    key, counter = random_keys.key_and_counter(seed)
    np.testing.assert_array_equal(key, expected.key)
    np.testing.assert_array_equal(counter, expected.counter)
    expected = tf.random.stateless_uniform([3, 5], seed)
    np.testing.assert_array_equal(random_keys.uniform([3, 5], seed), expected)
    np.testing.assert_array_equal(random_keys.compilable_uniform([3, 5], seed), expected)


def test_numbers_are_the_same_within_a_program_of_xla():
    compiled = tf.function(random_keys.compilable_uniform, jit_compile=True, autograph=False)
    seed = tf.constant([7, 3], tf.int64)
    np.testing.assert_array_equal(compiled((101, 33), seed), tf.random.stateless_uniform([101, 33], seed))
