"""The rules about runs that failed to learn, on synthetic curves."""

import math

import numpy as np
import pytest

from alexnet_tf.training import diagnostics

CHANCE = math.log(3)


def curve(losses=(), rates=None, errors=None, examples=100):
    count = len(errors if errors is not None else losses)
    return {
        "epoch": [float(epoch) for epoch in range(1, count + 1)],
        "train_loss": list(losses) or [1.0] * count,
        "learning_rate": list(rates) if rates is not None else [0.01] * count,
        "watched_error": list(errors) if errors is not None else [0.5] * count,
        "watched_examples": [examples] * count,
    }


def test_label_entropy_is_the_loss_of_constant_predictions():
    assert diagnostics.label_entropy(np.array([0, 1, 2] * 5)) == pytest.approx(CHANCE)
    assert diagnostics.label_entropy(np.array([1] * 9 + [3])) == pytest.approx(
        -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    )
    assert diagnostics.label_entropy(np.array([4, 4])) == 0


@pytest.mark.parametrize(
    "error, majority, warned",
    [(0.737, 0.474, True), (0.474, 0.474, True), (0.4, 0.474, False), (0.0, 0.474, False), (0.5, 0.0, False)],
)
def test_an_error_not_below_the_majority_class_is_reported(error, majority, warned):
    text = diagnostics.not_better_than_majority("test", error, majority, suits_few_images=False)
    assert bool(text) == warned
    if warned:
        assert f"the test error of {100 * error:.1f}% is not below the 47.4%" in text
        assert "flags/own_pictures.flags" in text and "\n" not in text


def test_options_that_a_run_has_are_not_recommended_to_it():
    text = diagnostics.not_better_than_majority("test", 0.5, 0.4, suits_few_images=True)
    assert "own_pictures" not in text and text.endswith("or try another --learning_rate")


@pytest.mark.parametrize(
    "has_own_weights, recipe, advice, absent",
    [
        (True, "paper", "use --recipe=original (0.03 in conv3 to conv5)", "--initialization"),
        (True, "original", "use --initialization=he and --input_scale=0.02", "--recipe"),
        (True, "caffe", "use --initialization=he and --input_scale=0.02", "--recipe"),
        (True, None, "use --initialization=he and --input_scale=0.02", "--recipe"),
        (False, "paper", "another --learning_rate", "--initialization"),
        (False, "original", "another --learning_rate", "--recipe"),
    ],
)
def test_flat_loss_is_explained_by_what_the_run_has(has_own_weights, recipe, advice, absent):
    text = diagnostics.flat_loss(CHANCE, has_own_weights=has_own_weights, recipe=recipe)
    assert text.startswith("the loss stays at ln(classes) = 1.099, as if the network guessed. ")
    assert advice in text and "learning" in text and absent not in text


@pytest.mark.parametrize(
    "confusion, warned",
    [
        ([[0, 5, 0], [0, 3, 0], [0, 4, 0]], True),
        ([[0, 5, 0], [0, 3, 0], [0, 0, 0]], True),
        ([[0, 5, 0], [1, 3, 0], [0, 4, 0]], False),
        # A split of one class, all of it correct or all of it wrong, does not show it.
        ([[0, 0, 0], [0, 3, 0], [0, 0, 0]], False),
        ([[0, 3, 0], [0, 0, 0], [0, 0, 0]], False),
    ],
)
def test_one_class_for_all_images_is_reported(confusion, warned):
    text = diagnostics.one_class_predicted("validation", np.array(confusion), ["cat", "dog", "bird"])
    assert bool(text) == warned
    if warned:
        assert text.startswith(f"all {np.sum(confusion)} validation images are classified as dog: ")
        assert "another --learning_rate" in text


@pytest.mark.parametrize(
    "losses, rates, warned",
    [
        # The plateau rule of a small set: the rate is gone before anything was learned.
        ([1.12, 1.10, 1.10, 1.09, 1.09], [0.01, 0.01, 0.01, 0.001, 0.0001], True),
        # A large loss that falls to that of guessing is not learning.
        ([9.0, 2.0, 1.1, 1.1], [0.01, 0.01, 0.01, 0.005], True),
        ([1.1, 1.1, 0.9, 1.1], [0.01, 0.01, 0.01, 0.001], False),
        # What happens after the cut does not count.
        ([1.1, 1.1, 0.5], [0.01, 0.001, 0.001], True),
        ([1.1, 1.1, 1.1], [0.01, 0.01, 0.01], False),
        # A schedule that decreases slowly has no cut, and a rate may rise.
        ([1.1, 1.1, 1.1], [0.01, 0.009, 0.008], False),
        ([1.1, 1.1, 1.1], [0.001, 0.01, 0.01], False),
        ([1.1, 1.1, 1.1], [None, 0.01, None], False),
        ([], [], False),
    ],
)
def test_a_rate_that_was_cut_before_the_loss_fell_is_reported(losses, rates, warned):
    text = diagnostics.rate_cut_before_loss_fell(curve(losses, rates), CHANCE)
    assert bool(text) == warned
    if warned:
        assert "a network that ignores the images has 1.0986" in text and "--schedule=linear" in text


def test_the_epoch_of_the_cut_and_the_lowest_loss_are_named():
    text = diagnostics.rate_cut_before_loss_fell(curve([1.2, 1.08, 1.3, 1.0], [0.01, 0.01, 0.01, 0.001]), CHANCE)
    assert "cut after epoch 3, " in text and "its lowest was 1.0800" in text


@pytest.mark.parametrize(
    "errors, examples, warned",
    [
        # The standard error of 20% of 100 images is 4 points.
        ([0.5, 0.2, 0.3], 100, True),
        ([0.5, 0.2, 0.27], 100, False),
        ([0.5, 0.2, 0.27], 1000, True),
        ([0.2, 0.5, 0.2], 100, False),
        ([0.5, 0.4, 0.3], 10_000, False),
        # One mistake in 16 images is no sign after none.
        ([0.3, 0.0, 1 / 16], 16, False),
        ([0.3, 0.0, 3 / 16], 16, True),
        ([1.0, 1.0], 16, False),
        ([0.1, None, 0.9, None], 100, True),
        ([None, None], 100, False),
        ([], 100, False),
    ],
)
def test_a_last_error_clearly_above_the_lowest_is_reported(errors, examples, warned):
    text = diagnostics.last_error_above_lowest(curve(errors=errors, examples=examples), "validation")
    assert bool(text) == warned


def test_the_best_epoch_is_named():
    text = diagnostics.last_error_above_lowest(curve(errors=[0.5, 0.2, 0.25, 0.4]), "test")
    assert text.startswith(
        "the last checkpoint's test error of 40.0% is more than two standard errors above the 20.0% "
    )
    assert "after epoch 2;" in text
    kept = diagnostics.last_error_above_lowest(curve(errors=[0.5, 0.2, 0.25, 0.4]), "test", best_is_kept=True)
    assert "after epoch 2, whose checkpoint is kept as the best; start again" in kept
    few = diagnostics.last_error_above_lowest(curve(errors=[0.3, 1 / 15, 3 / 15], examples=15), "validation")
    assert few.endswith("; with 15 images, the lowest of several epochs may be chance: compare them on other images")


def test_a_run_without_the_number_of_images_is_not_judged():
    assert diagnostics.last_error_above_lowest(curve(errors=[0.1, 0.9], examples=None), "test") is None


def test_warnings_that_are_recorded_are_not_new():
    records = [{"kind": "warning", "text": "one"}, {"kind": "train", "text": "two"}]
    assert diagnostics.new_texts(diagnostics.texts("one", None, "two"), records) == ["two"]
