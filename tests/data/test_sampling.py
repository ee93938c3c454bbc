"""Sampling options: their checks, and the position of each batch in its epoch."""

import dataclasses

import pytest
import tensorflow as tf

from alexnet_tf.data import sampling


def sampling_of(**options):
    return sampling.Sampling(**{"batch_size": 12, "seed": 0, "first_step": 0, "steps": 8, **options})


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"batch_size": 4, "worker": (0, 3)},
            "Expected batch_size to be a multiple of the 3 workers. Received: batch_size=4",
        ),
        ({"crops": "centre"}, "Expected crops to be one of random, center, area. Received: crops='centre'"),
        ({"flips": "vertical"}, "Expected flips to be one of none, horizontal, both. Received: flips='vertical'"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError) as caught:
        sampling_of(**options)
    assert str(caught.value) == message
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(sampling_of(), **options)
    assert str(caught.value) == message


def test_options_are_immutable_and_equal_by_value():
    options = sampling_of()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 1
    assert options == sampling_of() != sampling_of(first_step=1)


@pytest.mark.parametrize("reshuffle", [True, False])
def test_positions_of_workers_tile_every_batch(reshuffle):
    """Seven steps an epoch of 90 images; the third epoch starts with step 14."""
    for part in range(3):
        options = sampling_of(reshuffle=reshuffle, worker=(part, 3))
        assert options.images_per_worker == 4
        expected = (2, 12 + 4 * part, *((2, 12 + 4 * part) if reshuffle else (0, 15 * 12 + 4 * part)))
        assert options.position(15, 7) == expected
        of_tensor = options.position(tf.constant(15, tf.int64), 7)
        assert all(value.dtype == tf.int64 for value in of_tensor)
        assert tuple(value.numpy() for value in of_tensor) == expected


def test_noise_stops_at_the_given_epoch():
    assert [sampling_of(noise_epochs=1.5).has_noise(step, 4) for step in (0, 5, 6, 7)] == [True, True, False, False]
    assert sampling_of(noise_epochs=1.5).has_noise(tf.constant(5, tf.int64), 4)
    assert not sampling_of(noise_epochs=1.5).has_noise(tf.constant(6, tf.int64), 4)
    assert sampling_of().has_noise(10**9, 4)


def test_batches_per_epoch_are_full():
    assert sampling.batches_per_epoch(12, 12) == 1
    assert sampling.batches_per_epoch(35, 12) == 2
    with pytest.raises(ValueError) as caught:
        sampling.batches_per_epoch(11, 12)
    assert str(caught.value) == "Expected batch_size to be at most the 11 training images. Received: batch_size=12"
