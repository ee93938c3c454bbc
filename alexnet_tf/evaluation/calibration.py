"""How far predicted probabilities can be trusted, and the temperature that corrects them.

References:
  Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks, 2017, https://arxiv.org/abs/1706.04599.
"""

import math
from typing import NamedTuple

import numpy as np

from alexnet_tf.evaluation import errors

# Bins of the confidence, as in the paper.
BINS = 15
# Temperatures that are searched. At a limit, the images do not determine it: with all of them classified correctly, the
# loss falls with the temperature without end.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
# The smallest positive number of float32: its logarithm stands for that of a probability that was rounded to 0.
_MIN_PROBABILITY = float(np.finfo(np.float32).smallest_subnormal)
_MAX_STEPS, _TOLERANCE = 100, 1e-12


class Reliability(NamedTuple):
    """Accuracy by confidence, the probability of the predicted class, in bins of equal width."""

    edges: np.ndarray  # float64 [bins + 1]; a bin includes its upper edge
    counts: np.ndarray  # int64 [bins]
    confidence: np.ndarray  # float64 [bins], the mean of the bin's images; NaN without images
    accuracy: np.ndarray  # float64 [bins], the share of them classified correctly; NaN without images

    @property
    def expected_calibration_error(self) -> float:
        """The mean difference of accuracy and confidence, in [0, 1], weighted by the number of images."""
        differences = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(differences * self.counts) / self.counts.sum())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Compares accuracy and confidence.

    Args:
      probabilities: float ``[examples, classes]``.
      labels: int ``[examples]``.
      bins: number of bins.
    """
    edges = np.linspace(0, 1, bins + 1)
    confidences = probabilities.max(axis=1).astype(np.float64)
    is_correct = probabilities.argmax(axis=1) == labels
    place = np.searchsorted(edges[1:-1], confidences)
    counts = np.bincount(place, minlength=bins)
    mean = lambda values: np.divide(
        np.bincount(place, values, bins), counts, out=np.full(bins, np.nan), where=counts > 0
    )
    return Reliability(edges, counts, mean(confidences), mean(is_correct))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns the probabilities at a temperature: the softmax of their logarithms divided by it.

    For a single view, the result is the softmax of the logits divided by the temperature. For several views, whose
    probabilities are averaged, the mean is what is corrected.

    Args:
      probabilities: float32 ``[examples, classes]``.
      temperature: float above 0; above 1 lowers the highest probability, below 1 raises it. The order of the classes
        stays the same.

    Returns:
      float32 ``[examples, classes]``.
    """
    scaled = np.empty(probabilities.shape, np.float32)
    for chunk in errors.chunks(*probabilities.shape):
        scaled[chunk] = _softmax(_logarithms(probabilities[chunk]) / temperature)
    return scaled


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Finds the temperature with the lowest mean cross-entropy.

    Args:
      probabilities: float32 ``[examples, classes]``, of images that the network was not trained on.
      labels: int ``[examples]``.

    Returns:
      The temperature, from `MIN_TEMPERATURE` to `MAX_TEMPERATURE`.
    """
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    # The loss is convex in the inverse temperature, so its derivative has one root: Newton's method within bounds.
    if _derivatives(probabilities, labels, low)[0] >= 0:
        return MAX_TEMPERATURE
    if _derivatives(probabilities, labels, high)[0] <= 0:
        return MIN_TEMPERATURE
    inverse = 1.0
    for _ in range(_MAX_STEPS):
        first, second = _derivatives(probabilities, labels, inverse)
        low, high = (low, inverse) if first > 0 else (inverse, high)
        proposed = inverse - first / second if second > 0 else math.inf
        proposed = proposed if low < proposed < high else (low + high) / 2
        is_found = abs(proposed - inverse) <= _TOLERANCE * inverse
        inverse = proposed
        if is_found:
            break
    return 1 / inverse


def _derivatives(probabilities, labels, inverse):
    """Returns the first and second derivative of the mean cross-entropy by the inverse temperature."""
    first = second = 0.0
    for chunk in errors.chunks(*probabilities.shape):
        logits = _logarithms(probabilities[chunk])
        weights = _softmax(logits * inverse)
        mean = (weights * logits).sum(axis=1)
        first += float((mean - logits[np.arange(len(logits)), labels[chunk]]).sum())
        second += float((weights * (logits - mean[:, None]) ** 2).sum())
    return first / len(labels), second / len(labels)


def _logarithms(probabilities):
    return np.log(np.maximum(probabilities.astype(np.float64), _MIN_PROBABILITY))


def _softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
