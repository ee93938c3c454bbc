"""Errors, compared with a literal count, and the average over views."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.evaluation import errors


def random_batches(sizes, num_classes, seed=0, levels=None):
    """Yields probabilities and labels in batches of the given sizes; with few `levels`, ties are common."""
    generator = np.random.default_rng(seed)
    for size in sizes:
        values = generator.random([size, num_classes])
        if levels:
            values = np.floor(values * levels) + 1
        values /= values.sum(axis=1, keepdims=True)
        yield values.astype(np.float32), generator.integers(0, num_classes, size)


def count_by_hand(batches, num_classes):
    """Counts example by example: sorts the classes, ties in their order, and finds the rank of the true class."""
    examples = wrong = outside_five = 0
    loss = 0.0
    confusion = [[0] * num_classes for _ in range(num_classes)]
    for probabilities, labels in batches:
        for row, label in zip(probabilities.tolist(), labels.tolist()):
            order = sorted(range(num_classes), key=lambda name: (-row[name], name))
            examples += 1
            wrong += order[0] != label
            outside_five += label not in order[:5]
            loss -= math.log(row[label])
            confusion[label][order[0]] += 1
    return examples, loss / examples, wrong / examples, outside_five / examples, confusion


def counted(batches, num_classes):
    count = errors.ErrorCounter(num_classes)
    for probabilities, labels in batches:
        count.add(probabilities, labels)
    return count.result()


@pytest.mark.parametrize("levels", [None, 3, 1], ids=["no_ties", "ties", "all_equal"])
@pytest.mark.parametrize("num_classes", [2, 5, 6, 20])
def test_counter_equals_a_count_by_hand(num_classes, levels):
    # A partial batch at the end, and one of a single example.
    batches = list(random_batches([16, 16, 1, 7], num_classes, seed=num_classes, levels=levels))
    result = counted(batches, num_classes)
    examples, loss, top1_error, top5_error, confusion = count_by_hand(batches, num_classes)
    assert result.num_examples == examples == 40
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert result.top1_error == top1_error
    assert result.top5_error == (top5_error if num_classes > 5 else None)
    assert result.confusion.dtype == np.int64
    assert result.confusion.tolist() == confusion


def test_result_does_not_depend_on_the_batch_sizes():
    probabilities, labels = next(random_batches([40], 8, levels=4))
    at_once = counted([(probabilities, labels)], 8)
    split = counted([(probabilities[:3], labels[:3]), (probabilities[3:], labels[3:])], 8)
    assert split.to_dict() == pytest.approx(at_once.to_dict(), rel=1e-12)
    np.testing.assert_array_equal(split.confusion, at_once.confusion)


def test_errors_are_exact_fractions():
    # 1 - 9/10 would be 0.09999999999999998.
    result = counted([(np.eye(2, dtype=np.float32)[[0] * 10], np.array([0] * 9 + [1]))], 2)
    assert result.top1_error == 0.1
    assert errors.majority_error(np.array([0] * 9 + [1])) == 0.1


def test_certain_mistake_has_a_finite_loss():
    result = counted([(np.array([[1.0, 0.0]], np.float32), np.array([1]))], 2)
    assert result.loss == pytest.approx(-math.log(1e-12))


def test_nan_probabilities_are_rejected():
    with pytest.raises(ValueError, match=r"Expected probabilities in \[0, 1\]\. Received: NaN"):
        counted([(np.full([4, 6], np.nan, np.float32), np.zeros(4, np.int64))], 6)


def test_no_examples_are_an_error():
    with pytest.raises(ValueError, match=r"Expected at least one image to evaluate\. Received: none"):
        errors.ErrorCounter(3).result()


def test_errors_can_be_written_as_json():
    result = counted(random_batches([9], 7), 7)
    assert json.loads(json.dumps(result.to_dict())) == {
        "num_examples": 9,
        "loss": result.loss,
        "top1_error": result.top1_error,
        "top5_error": result.top5_error,
    }


def as_batches(images, labels, size):
    return tf.data.Dataset.from_tensor_slices((images, tf.constant(labels, tf.int64))).batch(size)


def views_of_logits(images):
    """Returns the rows of images that are stacks of logits, one row per view."""
    return [images[:, view] for view in range(images.shape[1])]


def identity(images, training):
    assert training is False
    return images


def test_softmax_outputs_are_averaged_and_not_logits():
    # The first view is certain of class 0; the second excludes it, with a large logit.
    logits = np.array([[[6.0, 0.0, 0.0], [-20.0, 1.0, 1.0]]], np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert logits.mean(axis=1).argmax() == 1
    assert softmax.mean(axis=1).argmax() == 0
    results = errors.evaluate(
        errors.probability_function(identity, views_of_logits),
        as_batches(logits, [0], 1),
        views={"both": [0, 1], "second": [1]},
        num_classes=3,
        num_examples=1,
    )
    assert results["both"].top1_error == 0
    assert results["both"].loss == pytest.approx(-math.log(softmax[0, :, 0].mean()), rel=1e-6)
    assert results["second"].top1_error == 1


def test_each_set_of_views_is_averaged():
    generator = np.random.default_rng(4)
    logits = generator.normal(0, 2, [23, 4, 7]).astype(np.float32)
    labels = generator.integers(0, 7, 23)
    views = {"first": [0], "last two": [2, 3], "all": [0, 1, 2, 3]}
    seen = []
    results = errors.evaluate(
        errors.probability_function(identity, views_of_logits),
        as_batches(logits, labels, 5),
        views=views,
        num_classes=7,
        num_examples=23,
        progress=seen.append,
    )
    assert seen == [5, 10, 15, 20, 23]
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(axis=-1, keepdims=True)
    assert list(results) == list(views)
    for name, indices in views.items():
        averaged = softmax[:, indices].mean(axis=1)
        examples, loss, top1_error, top5_error, confusion = count_by_hand([(averaged, labels)], 7)
        assert results[name].num_examples == examples
        assert results[name].loss == pytest.approx(loss, rel=1e-6)
        assert (results[name].top1_error, results[name].top5_error) == (top1_error, top5_error)
        assert results[name].confusion.tolist() == confusion


@pytest.mark.parametrize("expected", [9, 11])
def test_evaluation_of_another_number_of_examples_is_an_error(expected):
    with pytest.raises(ValueError, match=rf"Expected to evaluate {expected} examples\. Received: 10"):
        errors.evaluate(
            errors.probability_function(identity, views_of_logits),
            as_batches(np.zeros([10, 1, 3], np.float32), [0] * 10, 4),
            views={"only": [0]},
            num_classes=3,
            num_examples=expected,
        )


def test_collected_probabilities_have_the_evaluated_errors():
    generator = np.random.default_rng(6)
    logits = generator.normal(0, 2, [23, 4, 7]).astype(np.float32)
    labels = generator.integers(0, 7, 23)
    probabilities = errors.probability_function(identity, views_of_logits)
    options = {"views": {"second": [1], "all": [0, 1, 2, 3]}, "num_classes": 7, "num_examples": 23}
    kept, kept_labels = errors.collect(probabilities, as_batches(logits, labels, 5), **options)
    np.testing.assert_array_equal(kept_labels, labels)
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(axis=-1, keepdims=True)
    for name, indices in options["views"].items():
        assert kept[name].dtype == np.float32
        np.testing.assert_allclose(kept[name], softmax[:, indices].mean(axis=1), rtol=1e-5)
    evaluated = errors.evaluate(probabilities, as_batches(logits, labels, 5), **options)
    for name, result in evaluated.items():
        found = errors.from_probabilities(kept[name], labels)
        assert found.to_dict() == pytest.approx(result.to_dict(), rel=1e-12)
        np.testing.assert_array_equal(found.confusion, result.confusion)


@pytest.mark.parametrize("expected", [7, 8, 9, 11, 20])
def test_collecting_another_number_of_examples_is_an_error(expected):
    with pytest.raises(ValueError, match=rf"Expected to evaluate {expected} examples\. Received: 10"):
        errors.collect(
            errors.probability_function(identity, views_of_logits),
            as_batches(np.zeros([10, 1, 3], np.float32), [0] * 10, 4),
            views={"only": [0]},
            num_classes=3,
            num_examples=expected,
        )


@pytest.mark.parametrize("elements", [1, 21, 40, 1000])
def test_errors_of_an_array_do_not_depend_on_the_chunks(monkeypatch, elements):
    # 1, 3, 5 and all 17 examples at a time.
    monkeypatch.setattr(errors, "_ELEMENTS", elements)
    probabilities, labels = next(random_batches([17], 7, levels=4))
    result = errors.from_probabilities(probabilities, labels)
    examples, loss, top1_error, top5_error, confusion = count_by_hand([(probabilities, labels)], 7)
    assert (result.num_examples, result.top1_error, result.top5_error) == (examples, top1_error, top5_error)
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert result.confusion.tolist() == confusion


def test_ten_views_at_once_equal_ten_single_calls():
    generator = np.random.default_rng(5)
    weights = tf.constant(generator.normal(0, 0.05, [4 * 4 * 3, 6]), tf.float32)
    mean_image = tf.constant(generator.random([256, 256, 3]) * 255, tf.float32)

    def toy(images, training):
        coarse = tf.nn.avg_pool2d(images, 56, 56, "VALID")
        return tf.reshape(coarse, [-1, 4 * 4 * 3]) @ weights

    def cut(images):
        return augmentation.ten_views(images, mean_image, mean_crop="aligned")

    probabilities = errors.probability_function(toy, cut)
    # The second batch is smaller.
    for size in (3, 2):
        images = tf.constant(generator.integers(0, 256, [size, 256, 256, 3]), tf.uint8)
        at_once = probabilities(images)
        assert at_once.shape == (10, size, 6)
        for view, single in enumerate(cut(images)):
            expected = tf.nn.softmax(toy(single, training=False))
            np.testing.assert_allclose(at_once[view], expected, rtol=1e-6, atol=1e-7, err_msg=f"view {view}")
    assert np.unique(np.round(at_once[:, 0], 6), axis=0).shape[0] == 10


def test_majority_error_is_the_error_of_predicting_the_most_frequent_class():
    assert errors.majority_error(np.array([2, 0, 2, 2, 1, 0, 2, 1])) == 0.5
    assert errors.majority_error(np.array([3, 3])) == 0


def test_worst_confusions_are_sorted_with_their_fraction_of_the_true_class():
    confusion = np.array([[90, 3, 7], [5, 10, 5], [0, 0, 40]])
    names = ["whole", "cracked", "dirty"]
    expected = [
        ("whole", "dirty", 7, 0.07),
        ("cracked", "whole", 5, 0.25),
        ("cracked", "dirty", 5, 0.25),
        ("whole", "cracked", 3, 0.03),
    ]
    assert errors.worst_confusions(confusion, names) == expected
    assert errors.worst_confusions(confusion, names, limit=2) == expected[:2]
    assert errors.worst_confusions(np.diag([3, 4, 5]), names) == []
    # The matrix itself is not changed.
    assert confusion[0, 0] == 90


def test_table_shows_errors_in_percent():
    confusion = np.zeros([1, 1], np.int64)
    results = {
        "center crop": errors.Errors(8, 1.25, 0.390247, 0.182953, confusion),
        "ten views": errors.Errors(8, 0.75, 0.374727, None, confusion),
    }
    assert errors.table(results, 0.999).splitlines() == [
        "                                   top-1 error  top-5 error     loss",
        "  center crop                           39.02%       18.30%   1.2500",
        "  ten views                             37.47%            -   0.7500",
        "  always the most frequent class        99.90%",
    ]


def test_table_has_no_column_of_top5_errors_that_there_are_not():
    results = {"center crop": errors.Errors(8, 1.25, 0.390247, None, np.zeros([5, 5], np.int64))}
    assert errors.table(results, 0.999).splitlines() == [
        "                                   top-1 error     loss",
        "  center crop                           39.02%   1.2500",
        "  always the most frequent class        99.90%",
    ]
