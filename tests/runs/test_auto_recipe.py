"""Batch size, epochs and learning rate that follow from the number of training images."""

import pytest

from alexnet_tf import config
from alexnet_tf.runs import auto_recipe

SIZES = sorted({*range(5, 200), *range(200, 100_001, 97), 1_281_167})
AUTO = {"freeze": ("auto",), "batch_size": "auto", "epochs": "auto", "learning_rate": "auto", "schedule": "linear"}


def chosen(num_images, **changes):
    return auto_recipe.resolve(config.Config(**{**AUTO, "initialize_from": "runs/before", **changes}), num_images)[0]


@pytest.mark.parametrize("start", ["", "runs/before"])
def test_batches_and_steps_are_bounded_and_grow_with_the_set(start):
    previous = None
    for size in SIZES:
        found = chosen(size, initialize_from=start)
        assert found.auto_fields() == [] and 16 <= found.batch_size <= 128
        assert found.batch_size & (found.batch_size - 1) == 0
        assert 1 <= found.epochs <= 60 and 0.0005 < found.learning_rate <= 0.01
        assert min(3_200, 60 * size) <= found.epochs * size <= 2_700_000
        if previous:
            assert found.batch_size >= previous.batch_size and found.epochs <= previous.epochs
            assert found.learning_rate >= previous.learning_rate
        previous = found


@pytest.mark.parametrize(
    "num_images, batch_size, epochs, learning_rate",
    [
        (5, 16, 60, 0.005),
        (45, 16, 60, 0.005),
        (135, 16, 24, 0.005),
        (450, 16, 10, 0.005),
        (1_968, 32, 10, 0.01),
        (3_068, 32, 10, 0.01),
        (100_000, 128, 10, 0.01),
    ],
)
def test_stated_values(num_images, batch_size, epochs, learning_rate):
    found = chosen(num_images)
    assert (found.batch_size, found.epochs, found.learning_rate) == (batch_size, epochs, learning_rate)


def test_random_weights_get_a_lower_rate_and_more_epochs():
    found = chosen(450, initialize_from="")
    assert found.freeze == ()
    assert (found.batch_size, found.epochs, found.learning_rate) == (16, 60, 0.001)


def test_few_images_do_not_change_trained_convolutions():
    assert [len(chosen(size).freeze) for size in (5, 45, 99, 100, 3_068)] == [5, 5, 5, 1, 1]
    assert chosen(99).freeze == ("conv1", "conv2", "conv3", "conv4", "conv5") and chosen(100).freeze == ("conv1",)


def test_given_values_are_kept_and_the_others_follow_them():
    found = chosen(45, batch_size=9)
    assert (found.batch_size, found.epochs, found.learning_rate) == (9, 60, 0.0028)
    found = chosen(3_068, epochs=3.0, learning_rate=0.5)
    assert (found.batch_size, found.epochs, found.learning_rate) == (32, 3, 0.5)
    plain = config.Config()
    assert auto_recipe.resolve(plain, 45) == (plain, "")


@pytest.mark.parametrize(
    "num_images, start, line",
    [
        (
            45,
            "runs/before",
            "auto: freeze=conv1,conv2,conv3,conv4,conv5; "
            "batch_size=16; epochs=60 (at most 60 passes); learning_rate=0.005; for 45 training images and the "
            "weights of runs/before",
        ),
        (
            135,
            "runs/before",
            "auto: freeze=conv1; "
            "batch_size=16; epochs=24 (about 3,200 images seen); learning_rate=0.005; for "
            "135 training images and the weights of runs/before",
        ),
        (
            3_068,
            "",
            "auto: freeze=none; "
            "batch_size=32; epochs=20 (at least 20 passes); learning_rate=0.002; for 3,068 training images and "
            "random weights",
        ),
        (
            1_281_167,
            "",
            "auto: freeze=none; "
            "batch_size=128; epochs=2 (about 2,560,000 images seen); learning_rate=0.008; for "
            "1,281,167 training images and random weights",
        ),
    ],
)
def test_one_line_has_the_values_and_the_reasons(num_images, start, line):
    assert auto_recipe.resolve(config.Config(**AUTO, initialize_from=start), num_images)[1] == line
    only_rate = config.Config(learning_rate="auto", initialize_from=start)
    assert "learning_rate=" in (found := auto_recipe.resolve(only_rate, num_images)[1]) and "epochs" not in found
