"""Ensembles: the mean of several networks' probabilities, with equal or searched weights (paper section 6)."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_tf.evaluation import errors

# A smaller relative decrease of the loss is treated as rounding.
_MIN_DECREASE = 1e-6
# Examples whose classes are reduced together in the search for weights.
_CHUNK = 64


class Ensemble(NamedTuple):
    """Errors of an ensemble."""

    mean: errors.Errors  # of equal weights, on all examples
    weights: np.ndarray  # float64 [members], searched on the search part of the examples
    mean_held_out: errors.Errors  # of equal weights, on the held-out part
    weighted_held_out: errors.Errors  # of the searched weights, on the held-out part


def evaluate(probabilities: np.ndarray, labels: np.ndarray, search: np.ndarray, held_out: np.ndarray) -> Ensemble:
    """Evaluates equal weights, and weights that are searched on one part of the examples and tested on the other.

    Args:
      probabilities: float32 ``[members, examples, classes]``.
      labels: int ``[examples]``.
      search, held_out: indices of the two parts, from `divide`.

    Returns:
      `Ensemble`.
    """
    weights = search_weights(probabilities[:, search], labels[search])
    others = probabilities[:, held_out]
    return Ensemble(
        errors.from_probabilities(mean_probabilities(probabilities), labels),
        weights,
        errors.from_probabilities(mean_probabilities(others), labels[held_out]),
        errors.from_probabilities(mean_probabilities(others, weights), labels[held_out]),
    )


def mean_probabilities(probabilities: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """Computes the mean of the members' probabilities (softmax outputs, not logits).

    Args:
      probabilities: float32 ``[members, examples, classes]``, in [0, 1].
      weights: float ``[members]``, not negative, with sum 1; None for equal weights.

    Returns:
      float32 ``[examples, classes]``, accumulated in float64.

    Raises:
      ValueError: for other shapes or weights.
    """
    if probabilities.ndim != 3 or not len(probabilities):
        raise ValueError(f"Expected probabilities [members, examples, classes]. Received: {list(probabilities.shape)}")
    members, examples, classes = probabilities.shape
    weights = _equal_weights(members) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (members,) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"Expected {members} non-negative weights with sum 1. Received: {weights.tolist()}")
    mean = np.empty([examples, classes], np.float32)
    for chunk in errors.chunks(examples, members * classes):
        mean[chunk] = _weighted_means(weights[None], probabilities[:, chunk])[0]
    return mean


def _equal_weights(members):
    return np.full([members], 1 / members)


def _weighted_means(weights, probabilities):
    """Computes several weighted means, float32 ``[means, examples, classes]``, for weights ``[means, members]``."""
    return np.tensordot(weights, probabilities.astype(np.float64), 1).astype(np.float32)


def divide(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples at random into a search part and a held-out part, class by class.

    Args:
      labels: int ``[examples]``.
      fraction: float in (0, 1), the fraction of each class in the search part (rounded to the nearest count).
      seed: int, at least 0.

    Returns:
      Two int64 arrays of increasing indices: the search part and the held-out part.

    Raises:
      ValueError: for another fraction, or if a part would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"Expected the fraction of images for the weight search to be between 0 and 1. Received: {fraction}"
        )
    generator = np.random.default_rng(seed)
    chosen = np.zeros([len(labels)], bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen[members[: round(len(members) * fraction)]] = True
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"Expected enough images to search weights on a fraction of {fraction} of each class and test them on the "
            f"rest. Received: {len(labels)} images of {len(np.unique(labels))} classes"
        )
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def search_weights(probabilities: np.ndarray, labels: np.ndarray, *, steps: int = 100) -> np.ndarray:
    """Searches the members' weights with the fewest top-1 errors; ties are broken by the smaller loss.

    Coordinate search from equal weights. Each round tries the weights 0, 1 / `steps`, ... 1 for every member, with the
    other members in their current proportions, and takes the best of all; the search ends when none is better. On the
    examples of the search, the weights are therefore never worse than equal weights or any single member, and the order
    of the members does not matter. With two members the search is exhaustive; with more it may end in a local minimum.

    Args:
      probabilities: float32 ``[members, examples, classes]``.
      labels: int ``[examples]``.
      steps: int.

    Returns:
      float64 ``[members]``, not negative, with sum 1.
    """
    members = len(probabilities)
    reduced = _reduce_classes(probabilities, labels)
    best = _equal_weights(members)
    ((wrong, loss),) = _score(reduced, best[None])
    while members > 1:
        lines = [_line(best, member, steps) for member in range(members)]
        scores = [score for line in lines for score in _score(reduced, line)]
        place = min(range(len(scores)), key=scores.__getitem__)
        if scores[place] >= (wrong, loss * (1 - _MIN_DECREASE)):
            break
        best, (wrong, loss) = np.concatenate(lines)[place], scores[place]
    return best


def _reduce_classes(probabilities, labels):
    """Keeps the true class and those that some weights could predict: usually a few of a thousand.

    No weights predict a class if some member's prediction ranks above it for every member: it is more probable, or
    equally probable and has a lower index, as ties go to the first class.

    Returns:
      A list with a pair for each chunk of examples: float32 ``[members, chunk, kept]``, classes in their order, and the
      index of the true class among them, int64 ``[chunk]``.
    """
    reduced = []
    for first in range(0, len(labels), _CHUNK):
        values, true = probabilities[:, first : first + _CHUNK], labels[first : first + _CHUNK, None]
        is_candidate = np.ones(values.shape[1:], bool)
        for prediction in values.argmax(axis=2):
            leading = np.take_along_axis(values, prediction[None, :, None], axis=2)
            before = prediction[:, None] < np.arange(values.shape[2])
            is_candidate &= ~((leading > values) | ((leading == values) & before)).all(axis=0)
        np.put_along_axis(is_candidate, true, True, axis=1)
        # An example with fewer candidates than others of its chunk is padded with other classes, which is harmless.
        kept = np.argsort(~is_candidate, axis=1, kind="stable")[:, : is_candidate.sum(axis=1).max()]
        reduced.append((np.take_along_axis(values, kept[None], axis=2), (kept == true).argmax(axis=1)))
    return reduced


def _line(weights, member, steps):
    """Returns weights with one member's weight varying from 0 to 1: float64 ``[steps + 1, members]``."""
    others = weights.copy()
    others[member] = 0
    if not others.any():
        others[:] = 1
        others[member] = 0
    shares = np.linspace(0, 1, steps + 1)[:, None]
    line = (1 - shares) * others / others.sum()
    line[:, member] = shares[:, 0]
    return line


def _score(reduced, candidates):
    """Returns a pair for each row of weights: the number of top-1 errors and the sum of the losses."""
    wrong = np.zeros([len(candidates)], np.int64)
    loss = np.zeros([len(candidates)])
    for values, true in reduced:
        means = _weighted_means(candidates, values)
        wrong += (means.argmax(axis=2) != true).sum(axis=1)
        loss += errors.cross_entropy(means[:, np.arange(len(true)), true].astype(np.float64)).sum(axis=1)
    return list(zip(wrong.tolist(), loss.tolist()))


def gain(members: Sequence[errors.Errors], ensemble: errors.Errors) -> dict[str, float | None]:
    """Returns how much lower the errors of an ensemble are than the average of its members'.

    Args:
      members: the errors of each member, on the same images as those of the ensemble.
      ensemble: the errors of their mean.

    Returns:
      A dict with "top1_error" and "top5_error", differences in [-1, 1]; None for a top-5 error that there is not.
    """
    gains = {"top5_error": None}
    for key in ("top1_error", "top5_error"):
        if getattr(ensemble, key) is not None:
            gains[key] = sum(getattr(member, key) for member in members) / len(members) - getattr(ensemble, key)
    return gains


def table(
    rows: Sequence[tuple[str, Mapping[str, errors.Errors]]],
    *,
    majority: float | None = None,
    weights: Sequence[tuple[str, Mapping[str, float]]] | None = None,
) -> str:
    """Formats the errors of members and ensembles as a table, with columns for each set of views.

    Top-5 errors have no column if there are none.

    Args:
      rows: list of pairs of a name and a dict from the name of a set of views to `errors.Errors`; all dicts have the
        same keys.
      majority: float, from `errors.majority_error`, for a last row; None for no such row.
      weights: list of pairs of a member's name and a dict from the name of a set of views to its weight, for rows after
        the errors; None for no such rows.

    Returns:
      Lines of text; errors in percent.
    """
    views = list(rows[0][1])
    has_top5 = errors.have_top5(results[view] for _, results in rows for view in views)
    kinds = {"top-1": "top1_error", "top-5": "top5_error"} if has_top5 else {"top-1": "top1_error"}
    column = 12 if has_top5 else 14
    names = [name for name, _ in [*rows, *(weights or [])]]
    width = max(len(name) for name in [*names, errors.MAJORITY])
    lines = [
        f"  {'':<{width}}" + "".join(f"{name:>{column * len(kinds)}}" for name in views),
        f"  {'':<{width}}" + "".join(f"{kind:>{column}}" for kind in kinds) * len(views),
    ]
    for name, results in rows:
        cells = [errors.percent(getattr(results[view], key)) for view in views for key in kinds.values()]
        lines.append(f"  {name:<{width}}" + "".join(f"{cell:>{column}}" for cell in cells))
    for name, shares in weights or []:
        # Two columns stay free for the percent sign.
        cells = [f"{shares[view]:>{column - 2}.4f}".ljust(column * len(kinds)) for view in views]
        lines.append(f"  {name:<{width}}" + "".join(cells).rstrip())
    if majority is not None:
        lines.append(f"  {errors.MAJORITY:<{width}}{errors.percent(majority):>{column}}")
    return "\n".join(lines)
