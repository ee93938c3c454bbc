"""Scores of classes, against scikit-learn."""

import numpy as np
import pytest

from alexnet_tf.evaluation import class_scores


def draw(num_classes, count, seed):
    """Returns labels and predictions, of which some classes have none."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, max(1, num_classes - 1), count)
    predicted = np.where(generator.random(count) < 0.6, labels, generator.integers(1, num_classes, count))
    return labels, predicted


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("num_classes, count, seed", [(2, 50, 0), (3, 7, 1), (10, 300, 2), (40, 60, 3), (200, 2000, 4)])
def test_scores_equal_those_of_scikit_learn(num_classes, count, seed):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predicted = draw(num_classes, count, seed)
    confusion = metrics.confusion_matrix(labels, predicted, labels=range(num_classes))
    found = class_scores.from_confusion(confusion)
    options = {"labels": range(num_classes), "zero_division": np.nan}
    for own, expected in zip(found, metrics.precision_recall_fscore_support(labels, predicted, **options), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-14)
    assert found.support.dtype == np.int64
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted), rel=1e-14)
    expected = metrics.f1_score(labels, predicted, average="macro", **options)
    assert found.macro_f1 == pytest.approx(expected, rel=1e-14)


def test_scores_by_hand():
    found = class_scores.from_confusion([[3, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(found.precision, [0.75, 0, 1, np.nan])
    np.testing.assert_allclose(found.recall, [0.75, np.nan, 0.5, np.nan])
    np.testing.assert_allclose(found.f1, [0.75, 0, 2 / 3, np.nan])
    assert found.support.tolist() == [4, 0, 2, 0]
    assert found.balanced_accuracy == 0.625
    assert found.lowest(2).tolist() == [1, 2] and found.lowest(9).tolist() == [1, 2, 0]
