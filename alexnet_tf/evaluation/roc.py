"""The receiver operating characteristic of two classes: the area under it, and thresholds of the probability."""

from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """What each threshold finds: an image is positive if its score is at least the threshold."""

    thresholds: np.ndarray  # the distinct scores, descending
    true_positives: np.ndarray  # int64 [thresholds]
    false_positives: np.ndarray  # int64 [thresholds]


class OperatingPoint(NamedTuple):
    """A threshold, and what it achieves on a set of images; None where the images do not define it."""

    threshold: float
    sensitivity: float | None  # recall of the positive class
    specificity: float | None  # recall of the negative class
    precision: float | None  # of the images found positive, those that are


def curve(scores: np.ndarray, is_positive: np.ndarray) -> Curve:
    """Counts what each threshold finds.

    Args:
      scores: float ``[images]``, such as the probabilities of the positive class.
      is_positive: bool ``[images]``.
    """
    order = np.argsort(-scores, kind="stable")
    scores, is_positive = scores[order], np.asarray(is_positive, bool)[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true_positives = np.cumsum(is_positive, dtype=np.int64)[last]
    return Curve(scores[last], true_positives, last + 1 - true_positives)


def area(scores: np.ndarray, is_positive: np.ndarray) -> float | None:
    """Returns the area under the curve, by the trapezoidal rule; None unless there are images of both classes.

    It is the probability that a positive image has a higher score than a negative one, a tie counted as half.

    Args:
      scores, is_positive: as in `curve`.
    """
    _, true_positives, false_positives = curve(scores, is_positive)
    positives, negatives = int(true_positives[-1]), int(false_positives[-1])
    if not positives or not negatives:
        return None
    found = np.insert(true_positives, 0, 0)
    # In integers, so exact: twice the number of pairs in the right order.
    twice = int(((found[1:] + found[:-1]) * np.diff(false_positives, prepend=0)).sum())
    return twice / (2 * positives * negatives)


def threshold_for(sensitivity: float, scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Returns the highest threshold that finds a share of the positive images.

    Args:
      sensitivity: float in (0, 1], the share to find.
      scores, is_positive: as in `curve`.

    Raises:
      ValueError: if the share is out of range, or there are no positive images.
    """
    if not 0 < sensitivity <= 1:
        raise ValueError(f"Expected sensitivity to be above 0 and at most 1. Received: {sensitivity=:g}")
    thresholds, true_positives, _ = curve(scores, is_positive)
    if not true_positives[-1]:
        raise ValueError("Expected images of the positive class to choose a threshold. Received: none")
    return float(thresholds[np.argmax(true_positives / true_positives[-1] >= sensitivity)])


def operating_point(threshold: float, scores: np.ndarray, is_positive: np.ndarray) -> OperatingPoint:
    """Computes what a threshold achieves on images, which may be others than those that it was chosen on.

    Args:
      threshold: an image is positive if its score is at least this.
      scores, is_positive: as in `curve`.
    """
    is_positive = np.asarray(is_positive, bool)
    is_found = np.asarray(scores, np.float64) >= threshold
    return OperatingPoint(
        threshold, _share(is_found[is_positive]), _share(~is_found[~is_positive]), _share(is_positive[is_found])
    )


def _share(selected):
    return float(selected.mean()) if len(selected) else None
