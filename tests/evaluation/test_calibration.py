"""Calibration and temperatures, against scikit-learn and by hand."""

import numpy as np
import pytest

from alexnet_tf.evaluation import calibration
from alexnet_tf.evaluation import errors


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def draw(num_classes, seed, count=400, temperature=1.0):
    """Returns logits, and labels that are drawn from their softmax at a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, [count, num_classes])
    return logits, (logits / temperature + generator.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("num_classes, bins", [(2, 10), (7, 15)])
def test_bins_equal_those_of_scikit_learn(num_classes, bins):
    sklearn_calibration = pytest.importorskip("sklearn.calibration")
    logits, labels = draw(num_classes, num_classes)
    probabilities = softmax(logits)
    # Bins include their upper edge.
    probabilities[0] = np.eye(num_classes)[0]
    found = calibration.reliability(probabilities, labels, bins)
    confidences, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = sklearn_calibration.calibration_curve(is_correct, confidences, n_bins=bins)
    has_images = found.counts > 0
    np.testing.assert_allclose(found.accuracy[has_images], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found.confidence[has_images], expected[1], rtol=1e-6)
    assert found.counts.sum() == len(labels) and np.isnan(found.accuracy[~has_images]).all()
    by_hand = (np.abs(expected[0] - expected[1]) * found.counts[has_images]).sum() / len(labels)
    assert found.expected_calibration_error == pytest.approx(by_hand, rel=1e-6)


def test_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], np.float32)
    found = calibration.reliability(probabilities, np.array([0, 1, 1, 1]), bins=2)
    np.testing.assert_array_equal(found.counts, [0, 4])
    assert found.expected_calibration_error == pytest.approx(0.775 - 0.75, abs=1e-6)


@pytest.mark.parametrize("num_classes, temperature", [(2, 2.5), (5, 0.4), (20, 1.0)])
def test_fitted_temperature_equals_that_of_scikit_learn(num_classes, temperature):
    base = pytest.importorskip("sklearn.base")
    from sklearn import calibration as sklearn_calibration
    from sklearn import frozen

    class Network(base.ClassifierMixin, base.BaseEstimator):
        """A network whose features are its logits."""

        def fit(self, features, labels):
            self.classes_ = np.arange(num_classes)
            return self

        def decision_function(self, features):
            return features if num_classes > 2 else features[:, 1] - features[:, 0]

        def predict(self, features):
            return features.argmax(axis=1)

    logits, labels = draw(num_classes, 1, count=1000, temperature=temperature)
    network = frozen.FrozenEstimator(Network().fit(logits, labels))
    reference = sklearn_calibration.CalibratedClassifierCV(network, method="temperature", ensemble=False)
    reference.fit(logits, labels)
    found = calibration.fit_temperature(softmax(logits), labels)
    assert found == pytest.approx(temperature, rel=0.2)
    calibrated = calibration.apply_temperature(softmax(logits), found)
    # The reference ends its search earlier.
    np.testing.assert_allclose(calibrated, reference.predict_proba(logits), atol=1e-4)


def test_fitted_temperature_has_the_lowest_loss():
    logits, labels = draw(6, 3, temperature=1.7)
    probabilities = softmax(logits)
    loss = lambda temperature: errors.from_probabilities(softmax(logits / temperature), labels).loss
    found = calibration.fit_temperature(probabilities, labels)
    assert loss(found) < min(loss(found * 1.02), loss(found / 1.02))
    np.testing.assert_allclose(calibration.apply_temperature(probabilities, found), softmax(logits / found), atol=1e-6)


def test_chunks_make_no_difference(monkeypatch):
    logits, labels = draw(6, 4)
    whole = calibration.fit_temperature(softmax(logits), labels)
    monkeypatch.setattr(errors, "_ELEMENTS", 60)
    assert calibration.fit_temperature(softmax(logits), labels) == pytest.approx(whole, rel=1e-9)
    assert calibration.apply_temperature(softmax(logits), 1.0) == pytest.approx(softmax(logits), rel=1e-6)


def test_images_that_do_not_determine_the_temperature_give_a_limit():
    logits, _ = draw(3, 5)
    probabilities = softmax(logits)
    assert calibration.fit_temperature(probabilities, logits.argmax(axis=1)) == calibration.MIN_TEMPERATURE
    assert calibration.fit_temperature(probabilities, logits.argmin(axis=1)) == calibration.MAX_TEMPERATURE


def test_probabilities_that_were_rounded_to_zero_stay_finite():
    probabilities = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
    temperature = calibration.fit_temperature(probabilities, np.array([0, 2]))
    calibrated = calibration.apply_temperature(probabilities, temperature)
    assert 1 < temperature <= calibration.MAX_TEMPERATURE and np.isfinite(calibrated).all() and calibrated.min() > 0
