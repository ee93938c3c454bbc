"""Area under ROC and thresholds, against scikit-learn."""

import numpy as np
import pytest

from alexnet_tf.evaluation import roc


def draw(count, seed, decimals):
    """Returns scores with ties, float32, and which images are positive."""
    generator = np.random.default_rng(seed)
    is_positive = generator.random(count) < 0.3
    scores = np.clip(generator.normal(0.45 + 0.2 * is_positive, 0.2), 0, 1)
    return scores.round(decimals).astype(np.float32), is_positive


@pytest.mark.parametrize("count, seed, decimals", [(20, 0, 1), (500, 1, 2), (500, 2, 7)])
def test_curve_and_area_equal_those_of_scikit_learn(count, seed, decimals):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, is_positive = draw(count, seed, decimals)
    false_rates, true_rates, thresholds = metrics.roc_curve(is_positive, scores, drop_intermediate=False)
    found = roc.curve(scores, is_positive)
    # The first threshold of scikit-learn is infinity.
    np.testing.assert_array_equal(found.thresholds, thresholds[1:])
    np.testing.assert_allclose(found.true_positives / is_positive.sum(), true_rates[1:], rtol=1e-14)
    np.testing.assert_allclose(found.false_positives / (~is_positive).sum(), false_rates[1:], rtol=1e-14)
    assert roc.area(scores, is_positive) == pytest.approx(metrics.roc_auc_score(is_positive, scores), rel=1e-14)


def test_area_counts_pairs():
    scores, is_positive = draw(60, 3, 1)
    pairs = scores[is_positive][:, None], scores[~is_positive][None]
    wins = (pairs[0] > pairs[1]).sum() + 0.5 * (pairs[0] == pairs[1]).sum()
    assert roc.area(scores, is_positive) == pytest.approx(wins / (is_positive.sum() * (~is_positive).sum()), rel=1e-14)
    assert roc.area(scores, np.ones(60, bool)) is None and roc.area(scores, np.zeros(60, bool)) is None
    assert roc.area(np.array([0.1, 0.9]), np.array([False, True])) == 1.0
    assert roc.area(np.array([0.9, 0.1]), np.array([False, True])) == 0.0


@pytest.mark.parametrize("sensitivity", [0.01, 0.5, 0.95, 1.0])
def test_threshold_is_the_highest_with_the_sensitivity(sensitivity):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, is_positive = draw(400, 5, 2)
    threshold = roc.threshold_for(sensitivity, scores, is_positive)
    found = roc.operating_point(threshold, scores, is_positive)
    predicted = scores >= threshold
    assert found.threshold == threshold
    assert found.sensitivity == pytest.approx(metrics.recall_score(is_positive, predicted), rel=1e-14)
    assert found.specificity == pytest.approx(metrics.recall_score(~is_positive, ~predicted), rel=1e-14)
    assert found.precision == pytest.approx(metrics.precision_score(is_positive, predicted), rel=1e-14)
    assert found.sensitivity >= sensitivity
    higher = scores[scores > threshold].min() if (scores > threshold).any() else 2
    assert roc.operating_point(float(higher), scores, is_positive).sensitivity < sensitivity


def test_images_that_do_not_define_a_threshold_are_named():
    scores = np.array([0.2, 0.4], np.float32)
    with pytest.raises(ValueError, match="Expected images of the positive class to choose a threshold. Received: none"):
        roc.threshold_for(0.9, scores, np.zeros(2, bool))
    for sensitivity in (0.0, 1.5, float("nan")):
        with pytest.raises(
            ValueError, match="^Expected sensitivity to be above 0 and at most 1. Received: sensitivity="
        ):
            roc.threshold_for(sensitivity, scores, np.ones(2, bool))
    assert roc.operating_point(0.9, scores, np.ones(2, bool)) == (0.9, 0.0, None, None)
