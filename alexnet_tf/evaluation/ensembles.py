"""Several networks asked together: the mean of their probabilities, plain or weighted (paper section 6)."""

from typing import NamedTuple

import numpy as np

from alexnet_tf.evaluation import errors

# A smaller gain in the loss, as a share of it, is rounding.
_LEAST_GAIN = 1e-6
# Examples that weights are tried on at a time.
_PIECE = 64


class Ensemble(NamedTuple):
    """What several networks reach together."""

    mean: errors.Errors  # of the plain mean, on all examples
    weights: np.ndarray  # float64 [members], searched on one part of the examples
    mean_judged: errors.Errors  # of the plain mean, on the other part
    weighted_judged: errors.Errors  # with the weights, there too


def evaluate(probabilities, labels, searched, judged):
    """The errors of the plain mean, and of weights on examples that they were not searched on.

    Args:
      probabilities: float32 ``[members, examples, classes]``.
      labels: int ``[examples]``.
      searched, judged: from `divide`.

    Returns:
      `Ensemble`.
    """
    weights = search_weights(probabilities[:, searched], labels[searched])
    others = probabilities[:, judged]
    return Ensemble(
        errors.of_probabilities(mean_probabilities(probabilities), labels),
        weights,
        errors.of_probabilities(mean_probabilities(others), labels[judged]),
        errors.of_probabilities(mean_probabilities(others, weights), labels[judged]),
    )


def mean_probabilities(probabilities, weights=None):
    """The mean of the members' probabilities: of softmax outputs, never of logits.

    Args:
      probabilities: float32 ``[members, examples, classes]``, in [0, 1].
      weights: float ``[members]``, none negative, of sum 1; None for equal ones.

    Returns:
      float32 ``[examples, classes]``, summed up in float64.

    Raises:
      ValueError: for other shapes or weights.
    """
    if probabilities.ndim != 3 or not len(probabilities):
        raise ValueError(f"Expected probabilities [members, examples, classes]. Received: {list(probabilities.shape)}")
    members, examples, classes = probabilities.shape
    weights = _equal_weights(members) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (members,) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"Expected {members} weights of 0 or more, of sum 1. Received: {weights.tolist()}")
    mean = np.empty([examples, classes], np.float32)
    for part in errors.parts(examples, members * classes):
        mean[part] = _mixed(weights[None], probabilities[:, part])[0]
    return mean


def _equal_weights(members):
    return np.full([members], 1 / members)


def _mixed(weights, probabilities):
    """Several weighted means: of weights ``[means, members]``, float32 ``[means, examples, classes]``."""
    return np.tensordot(weights, probabilities.astype(np.float64), 1).astype(np.float32)


def divide(labels, fraction, seed):
    """Divides examples in two, class by class, by a seeded draw.

    Args:
      labels: int ``[examples]``.
      fraction: float in (0, 1), the share of each class that the first part gets (rounded to the nearest).
      seed: int, 0 or more.

    Returns:
      Two int64 arrays of indices, rising: for the search of weights, and for judging them.

    Raises:
      ValueError: if a part would have no example, or for another fraction.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"Expected the share of examples to search weights on between 0 and 1. Received: {fraction}")
    generator = np.random.default_rng(seed)
    chosen = np.zeros([len(labels)], bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen[members[: round(len(members) * fraction)]] = True
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"Expected enough images to search weights on a share of {fraction} of each class and judge them on the "
            f"others. Received: {len(labels)} images of {len(np.unique(labels))} classes"
        )
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def search_weights(probabilities, labels, *, steps=100):
    """Weights of the members by coordinate search: the fewest top-1 errors, among equals the smallest loss.

    Begins with equal weights. Each round tries for every member the shares 0, 1 / `steps`, ... 1, the other members
    keeping their proportions, and takes the best of all; it ends when none is better. So the weights are never worse
    than equal ones, nor than one member alone, on the examples that they were searched on, and the order of the
    members does not matter. Of two members it tries every share; of more it may end in a local minimum.

    Args:
      probabilities: float32 ``[members, examples, classes]``.
      labels: int ``[examples]``.
      steps: int.

    Returns:
      float64 ``[members]``, none negative, of sum 1.
    """
    members = len(probabilities)
    pieces = _contenders(probabilities, labels)
    best = _equal_weights(members)
    ((wrong, loss),) = _judge(pieces, best[None])
    while members > 1:
        lines = [_line(best, member, steps) for member in range(members)]
        judged = [pair for line in lines for pair in _judge(pieces, line)]
        place = min(range(len(judged)), key=judged.__getitem__)
        if judged[place] >= (wrong, loss * (1 - _LEAST_GAIN)):
            break
        best, (wrong, loss) = np.concatenate(lines)[place], judged[place]
    return best


def _contenders(probabilities, labels):
    """The classes that some weights could make the answer, and the right one: of a thousand, most times a few.

    A class is none if another, the answer of some member, is ahead of it for every member: more probable, or as
    probable and before it, as of equals the first is the answer.

    Returns:
      A list of pieces of the examples: float32 ``[members, piece, kept]``, classes in their order, and the place of the
      right class among them, int64 ``[piece]``.
    """
    pieces = []
    for first in range(0, len(labels), _PIECE):
        values, right = probabilities[:, first : first + _PIECE], labels[first : first + _PIECE, None]
        contends = np.ones(values.shape[1:], bool)
        for answer in values.argmax(axis=2):
            leading = np.take_along_axis(values, answer[None, :, None], axis=2)
            before = answer[:, None] < np.arange(values.shape[2])
            contends &= ~((leading > values) | ((leading == values) & before)).all(axis=0)
        np.put_along_axis(contends, right, True, axis=1)
        # Where an example has fewer than others of its piece, some of the rest come behind and change nothing.
        kept = np.argsort(~contends, axis=1, kind="stable")[:, : contends.sum(axis=1).max()]
        pieces.append((np.take_along_axis(values, kept[None], axis=2), (kept == right).argmax(axis=1)))
    return pieces


def _line(weights, member, steps):
    """Weights with one member's share from 0 to 1: float64 ``[steps + 1, members]``."""
    others = weights.copy()
    others[member] = 0
    if not others.any():
        others[:] = 1
        others[member] = 0
    shares = np.linspace(0, 1, steps + 1)[:, None]
    line = (1 - shares) * others / others.sum()
    line[:, member] = shares[:, 0]
    return line


def _judge(pieces, candidates):
    """The number of top-1 errors and the sum of the losses for each row of weights: a list of pairs."""
    wrong = np.zeros([len(candidates)], np.int64)
    loss = np.zeros([len(candidates)])
    for values, right in pieces:
        mixed = _mixed(candidates, values)
        wrong += (mixed.argmax(axis=2) != right).sum(axis=1)
        loss += errors.losses(mixed[:, np.arange(len(right)), right].astype(np.float64)).sum(axis=1)
    return list(zip(wrong.tolist(), loss.tolist()))


def table(rows, *, majority=None, weights=None):
    """The errors of members and ensembles by several ways of looking, as text.

    Args:
      rows: list of pairs of a name and a dict from a way to `errors.Errors`; the same ways in each.
      majority: float, from `errors.majority_error`, for a last row; None for none.
      weights: list of pairs of a member's name and a dict from a way to its weight, for last rows; None for none.

    Returns:
      Lines of text; errors in percent.
    """
    ways = list(rows[0][1])
    names = [name for name, _ in [*rows, *(weights or [])]]
    width = max(len(name) for name in [*names, "always the largest class"])
    lines = [
        f"  {'':<{width}}" + "".join(f"{way:>24}" for way in ways),
        f"  {'':<{width}}" + f"{'top-1':>12}{'top-5':>12}" * len(ways),
    ]
    for name, results in rows:
        cells = [errors.percent(error) for way in ways for error in (results[way].top1_error, results[way].top5_error)]
        lines.append(f"  {name:<{width}}" + "".join(f"{cell:>12}" for cell in cells))
    for name, shares in weights or []:
        # The percent sign's room stays free.
        lines.append(f"  {name:<{width}}" + "".join(f"{shares[way]:>10.4f}{'':14}" for way in ways).rstrip())
    if majority is not None:
        lines.append(f"  {'always the largest class':<{width}}{errors.percent(majority):>12}")
    return "\n".join(lines)
