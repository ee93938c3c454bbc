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


def confusion_of(*rows):
    """A confusion matrix from pairs of the number of images and of those classified wrongly, as the next class."""
    matrix = np.zeros([len(rows), len(rows)], np.int64)
    for place, (support, wrong) in enumerate(rows):
        matrix[place, place] = support - wrong
        matrix[place, (place + 1) % len(rows)] += wrong
    return matrix


@pytest.mark.parametrize(
    "rows, warned",
    [
        # All images of a rare class are wrong; the smallest class that counts; a large one just above one half.
        ([(90, 5), (10, 10)], "1 of 2 classes are classified wrongly: dog (10 of 10)"),
        ([(95, 0), (5, 3)], "1 of 2 classes are classified wrongly: dog (3 of 5)"),
        ([(1000, 20), (100, 51)], "1 of 2 classes are classified wrongly: dog (51 of 100)"),
        # A class without images is not among those of the split.
        ([(90, 5), (10, 10), (0, 0)], "1 of 2 classes are classified wrongly: dog (10 of 10)"),
        # Worst first, and equal ones in their order.
        (
            [(200, 2), (10, 7), (10, 9), (10, 7)],
            "3 of 4 classes are classified wrongly: fox (9 of 10), dog (7 of 10), gnu",
        ),
        # No mistake, exactly one half, too few images of the class.
        ([(90, 0), (10, 0)], ""),
        ([(90, 0), (10, 5)], ""),
        ([(90, 0), (4, 4)], ""),
        # Of five images, three wrong ones may be chance where a quarter of all is wrong; all five are not.
        ([(95, 22), (5, 3)], ""),
        ([(95, 20), (5, 5)], "dog (5 of 5)"),
        # Less than twice the error of all images; most images of all are wrong.
        ([(500, 150), (500, 260)], ""),
        ([(60, 40), (40, 40)], ""),
        ([(10, 10), (10, 10)], ""),
    ],
)
def test_classes_that_are_mostly_wrong_are_named(rows, warned):
    names = ["cat", "dog", "fox", "gnu"]
    text = diagnostics.classes_mostly_wrong("test", confusion_of(*rows), names, is_balanced=False)
    assert bool(text) == bool(warned)
    assert warned in (text or "") and "\n" not in (text or "")


def test_at_most_three_classes_are_named_and_the_others_counted():
    confusion = confusion_of((1000, 0), *[(10, 8)] * 5)
    text = diagnostics.classes_mostly_wrong("test", confusion, list("abcdef"), is_balanced=False)
    assert text.startswith("the test error is 3.8%, but most images of 5 of 6 classes are classified wrongly: ")
    assert ": b (8 of 10), c (8 of 10), d (8 of 10) and 2 others; " in text and text.endswith(
        "balanced if they have few images"
    )
    assert "class_weights" not in diagnostics.classes_mostly_wrong("test", confusion, list("abcdef"), is_balanced=True)


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
    assert few.endswith(
        "; with 15 images, the lowest of several epochs may be due to chance: compare the epochs on other images"
    )


def test_a_late_epoch_is_named_without_an_exponent():
    errors = [0.5] * 1233 + [0.2] + [0.5] * 3
    assert "after epoch 1234;" in diagnostics.last_error_above_lowest(curve(errors=errors), "test")
    rates = [0.01] * 1234 + [0.001]
    assert "cut after epoch 1234, " in diagnostics.rate_cut_before_loss_fell(curve([CHANCE] * 1235, rates), CHANCE)


def test_a_run_without_the_number_of_images_is_not_judged():
    assert diagnostics.last_error_above_lowest(curve(errors=[0.1, 0.9], examples=None), "test") is None


def test_warnings_that_are_recorded_are_not_new():
    records = [{"kind": "warning", "text": "one"}, {"kind": "train", "text": "two"}]
    assert diagnostics.new_texts(diagnostics.texts("one", None, "two"), records) == ["two"]
