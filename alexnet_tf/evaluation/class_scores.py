"""Precision, recall and F1 of each class, and their means, from a confusion matrix."""

from typing import NamedTuple

import numpy as np


class ClassScores(NamedTuple):
    """Scores of each class, float64 ``[classes]`` in [0, 1]; NaN where one is undefined."""

    precision: np.ndarray  # of the images predicted as the class, those of it; NaN if there are none
    recall: np.ndarray  # of the images of the class, those predicted as it; NaN if there are none
    f1: np.ndarray  # harmonic mean of both, 2 TP / (2 TP + FP + FN); NaN if the class is neither true nor predicted
    support: np.ndarray  # int64, the number of images of the class

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        return float(np.nanmean(self.recall))

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have one."""
        return float(np.nanmean(self.f1))

    def lowest(self, count: int) -> np.ndarray:
        """Returns the indices of the classes with the lowest F1, lowest first; classes without F1 are omitted."""
        order = np.argsort(self.f1, kind="stable")
        return order[: min(count, int(np.isfinite(self.f1).sum()))]


def from_confusion(confusion: np.ndarray) -> ClassScores:
    """Computes the scores of each class.

    Args:
      confusion: confusion matrix, int ``[classes, classes]``: true classes in rows, predicted classes in columns.
    """
    confusion = np.asarray(confusion, np.int64)
    correct, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(
        _ratio(correct, predicted), _ratio(correct, support), _ratio(2 * correct, support + predicted), support
    )


def _ratio(numerator, denominator):
    """Returns the quotient, NaN for a denominator of 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
