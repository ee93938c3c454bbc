"""Draws in TensorFlow operations against those of NumPy's generator."""

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.data import draws
from alexnet_tf.data import graph_draws


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1001])
def test_order_equals_that_of_numpy(count):
    for seed, epoch in [(0, 0), (0, 1), (11, 3), (2**40, 10**6), (2**63, 90)]:
        found = graph_draws.order(count, seed, tf.constant(epoch, tf.int64))
        assert found.dtype == tf.int64
        np.testing.assert_array_equal(found, draws.order(count, seed, epoch))


def test_order_of_imagenets_size_equals_that_of_numpy():
    found = graph_draws.order(1_281_167, 3, tf.constant(89, tf.int64))
    np.testing.assert_array_equal(found, draws.order(1_281_167, 3, 89))


@pytest.mark.parametrize("margin, pad", [(0, 4), (31, 1)])
def test_padded_draws_equal_those_of_numpy(margin, pad):
    found = graph_draws.draw(3, tf.constant(1, tf.int64), tf.constant(5, tf.int64), 200, margin=margin, pad=pad)
    expected = draws.draw(3, 1, range(5, 205), margin=margin, pad=pad)
    assert found.offsets.dtype == expected.offsets.dtype and expected.offsets.min() == -pad
    np.testing.assert_array_equal(found.offsets, expected.offsets)


@pytest.mark.parametrize("images_per_draw", [1, 3])
@pytest.mark.parametrize("side", [32, 256])
def test_areas_and_shapes_equal_those_of_numpy(side, images_per_draw):
    options = {"side": side, "images_per_draw": images_per_draw}
    found = graph_draws.areas(3, tf.constant(1, tf.int64), tf.constant(5, tf.int64), 2000, **options)
    expected = draws.areas(3, 1, range(5, 2005), **options)
    for name in expected._fields:
        assert getattr(found, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("images_per_draw", [1, 3, 32])
@pytest.mark.parametrize("flips", list(draws.FLIPS))
@pytest.mark.parametrize("crops", ["random", "center"])
def test_draws_equal_those_of_numpy(crops, flips, images_per_draw):
    options = {"crops": crops, "flips": flips, "images_per_draw": images_per_draw}
    for seed, epoch, first, margin in [(0, 0, 0, 32), (5, 1, 31, 31), (2**63, 90, 64, 0), (7, 10**6, 2**33 + 5, 1)]:
        where = tf.constant(epoch, tf.int64), tf.constant(first, tf.int64)
        found = graph_draws.draw(seed, *where, 70, margin=margin, **options)
        expected = draws.draw(seed, epoch, range(first, first + 70), margin=margin, **options)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        np.testing.assert_array_equal(found.flips, expected.flips)
        np.testing.assert_allclose(found.noise, expected.noise, rtol=1e-6, atol=1e-7)


def test_draws_in_a_graph_equal_those_of_numpy():
    options = {"margin": 32, "flips": "both"}
    where = tf.constant(3, tf.int64), tf.constant(11, tf.int64)
    drawn = tf.function(lambda epoch, first: graph_draws.draw(5, epoch, first, 40, **options))
    for one, other in zip(drawn(*where), draws.draw(5, 3, range(11, 51), **options), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_draws_do_not_depend_on_the_first_position():
    """Not even the last bits of the noise do: resumed runs and parallel workers get the batches of one run."""
    options = {"margin": 32, "flips": "both", "images_per_draw": 32}
    epoch = tf.constant(2, tf.int64)
    whole = graph_draws.draw(9, epoch, tf.constant(0, tf.int64), 130, **options)
    for first, count in [(0, 1), (31, 2), (33, 30), (64, 1), (30, 97)]:
        part = graph_draws.draw(9, epoch, tf.constant(first, tf.int64), count, **options)
        for one, other in zip(part, whole, strict=True):
            np.testing.assert_array_equal(one, other[first : first + count])


def test_all_bits_of_seed_and_position_matter():
    """Seeds and positions with random bits, for carries in the products of halves."""
    generator = np.random.default_rng(0)
    for seed in generator.integers(0, 2**63, 10).tolist():
        epoch, first = generator.integers(0, 2**62, 2).tolist()
        found = graph_draws.draw(seed, tf.constant(epoch), tf.constant(first), 50, margin=2**20, flips="both")
        expected = draws.draw(seed, epoch, range(first, first + 50), margin=2**20, flips="both")
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        np.testing.assert_array_equal(found.flips, expected.flips)
