"""Top-1 and top-5 errors, of the central crop and of ten views."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Keeps the logarithm of a probability that float32 rounded to zero finite.
_SMALLEST = 1e-12
# Elements of an array of probabilities that are counted at a time: 32 MiB in float64.
_ELEMENTS = 2**22


class Errors(NamedTuple):
    """What one way of looking at a set of images reached. Errors are shares in [0, 1]."""

    num_examples: int
    loss: float  # mean of -ln of the right class's probability, in nats
    top1_error: float
    top5_error: float | None  # None with five classes or fewer
    confusion: np.ndarray  # int64 [classes, classes]: right class in rows, most probable one in columns

    def to_dict(self):
        """The figures for JSON, without the confusion matrix."""
        return {
            "num_examples": self.num_examples,
            "loss": self.loss,
            "top1_error": self.top1_error,
            "top5_error": self.top5_error,
        }


def losses(right):
    """The loss of each example, in nats.

    Args:
      right: float, of any shape: the right class's probabilities.

    Returns:
      Float of the same shape.
    """
    return -np.log(np.maximum(right, _SMALLEST))


class Count:
    """Counts errors batch by batch.

    Args:
      num_classes: int.
    """

    def __init__(self, num_classes):
        self._confusion = np.zeros([num_classes, num_classes], np.int64)
        self._outside_five = 0
        self._loss = 0.0

    def add(self, probabilities, labels):
        """Counts in a batch.

        Args:
          probabilities: float ``[batch, num_classes]``.
          labels: int ``[batch]``.

        Raises:
          ValueError: for a probability that is not a number: nothing is ahead of it, so it would count as right.
        """
        probabilities = np.asarray(probabilities, np.float64)
        if np.isnan(probabilities).any():
            raise ValueError("Expected probabilities. Received: not a number, as of a network whose learning diverged")
        right = probabilities[np.arange(len(labels)), labels]
        # Of equally probable classes the first counts, as with argmax.
        ahead = (probabilities > right[:, None]).sum(axis=1)
        ahead += ((probabilities == right[:, None]) & (np.arange(probabilities.shape[1]) < labels[:, None])).sum(axis=1)
        np.add.at(self._confusion, (labels, probabilities.argmax(axis=1)), 1)
        self._outside_five += int((ahead >= 5).sum())
        self._loss += float(losses(right).sum())

    def total(self, total):
        """Takes together what several processes counted; `total` maps a list of arrays to their sums over all."""
        counts = [self._confusion, np.array(self._outside_five, np.int64), np.array(self._loss)]
        self._confusion, outside_five, loss = total(counts)
        self._outside_five, self._loss = int(outside_five), float(loss)

    def result(self):
        """The `Errors` so far.

        Raises:
          ValueError: if there were no examples.
        """
        examples = int(self._confusion.sum())
        if not examples:
            raise ValueError("Expected at least one image to evaluate. Received: none")
        return Errors(
            examples,
            self._loss / examples,
            (examples - int(np.trace(self._confusion))) / examples,
            self._outside_five / examples if len(self._confusion) > 5 else None,
            self._confusion,
        )


def probability_function(model, cut):
    """A compiled function from uint8 images to the probabilities of each view.

    Args:
      model: callable, ``model(images, training=False)`` returns logits.
      cut: maps uint8 ``[batch, 256, 256, 3]`` to a list of views, float32 ``[batch, 224, 224, 3]``.

    Returns:
      A function from the images to float32 ``[views, batch, num_classes]``.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def probabilities(images):
        views = cut(images)
        outputs = tf.nn.softmax(model(tf.concat(views, axis=0), training=False))
        return tf.reshape(outputs, [len(views), -1, outputs.shape[-1]])

    return probabilities


def evaluate(probabilities, batches, *, ways, num_classes, num_examples, progress=None, total=None):
    """Looks at every example once.

    Args:
      probabilities: from `probability_function`.
      batches: iterable of (uint8 images, int64 labels).
      ways: dict from a name to the indices of the views whose softmax outputs are averaged (paper section 4.1: the
        outputs, not the logits).
      num_classes: int.
      num_examples: int, how many there are.
      progress: called with the number of examples seen so far.
      total: where several processes look at a part each: maps a list of int64 and float64 arrays to their sums.

    Returns:
      A dict from the names of `ways` to `Errors`.

    Raises:
      ValueError: if the batches do not hold just `num_examples`.
    """
    counts = {name: Count(num_classes) for name in ways}
    for outputs, labels in _averaged(probabilities, batches, ways, progress):
        for name in ways:
            counts[name].add(outputs[name], labels)
    if total:
        for count in counts.values():
            count.total(total)
    results = {name: count.result() for name, count in counts.items()}
    for result in results.values():
        _check_seen(result.num_examples, num_examples)
    return results


def collect(probabilities, batches, *, ways, num_classes, num_examples, progress=None):
    """Looks at every example once and keeps the probabilities.

    Args:
      probabilities, batches, ways, num_classes, num_examples, progress: as in `evaluate`.

    Returns:
      A dict from the names of `ways` to float32 ``[num_examples, num_classes]``, and the labels, int64
      ``[num_examples]``, both in the order of the batches.

    Raises:
      ValueError: if the batches do not hold just `num_examples`.
    """
    kept = {name: np.empty([num_examples, num_classes], np.float32) for name in ways}
    kept_labels = np.empty([num_examples], np.int64)
    first = 0
    for outputs, labels in _averaged(probabilities, batches, ways, progress):
        # Cut where there are too many; that is an error at the end.
        places = slice(first, first + len(labels))
        room = max(0, num_examples - first)
        kept_labels[places] = labels[:room]
        for name in ways:
            kept[name][places] = outputs[name][:room]
        first += len(labels)
    _check_seen(first, num_examples)
    return kept, kept_labels


def _check_seen(seen, num_examples):
    if seen != num_examples:
        raise ValueError(f"Expected to evaluate {num_examples} examples. Received: {seen}")


def _averaged(probabilities, batches, ways, progress):
    """Yields for each batch a dict of float32 ``[batch, classes]``, averaged over a way's views, and the labels."""
    seen = 0
    for images, labels in batches:
        outputs = probabilities(images).numpy()
        yield {name: outputs[list(views)].mean(axis=0) for name, views in ways.items()}, labels.numpy()
        seen += len(labels)
        if progress:
            progress(seen)


def of_probabilities(probabilities, labels):
    """The `Errors` of probabilities that are there.

    Args:
      probabilities: float ``[examples, classes]``.
      labels: int ``[examples]``.

    Raises:
      ValueError: as `Count`.
    """
    count = Count(probabilities.shape[1])
    for part in parts(*probabilities.shape):
        count.add(probabilities[part], labels[part])
    return count.result()


def parts(num_examples, elements):
    """Yields slices of the examples, so that a part of them is no more than some 32 MiB in float64.

    Args:
      num_examples: int.
      elements: int, how many there are for one example.
    """
    size = max(1, _ELEMENTS // elements)
    for first in range(0, num_examples, size):
        yield slice(first, first + size)


def majority_error(labels):
    """The error of always answering the most frequent class.

    Args:
      labels: int ``[examples]``.

    Returns:
      Float in [0, 1).
    """
    return (len(labels) - int(np.bincount(labels).max())) / len(labels)


def worst_confusions(confusion, class_names, most=5):
    """The most frequent mistakes.

    Args:
      confusion: from `Errors`.
      class_names: names of its rows.
      most: int, how many at most.

    Returns:
      A list of (right class, answered class, times, share of the right class's examples), most frequent first.
    """
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    rows = []
    for right, answered in zip(*np.unravel_index(order, mistakes.shape)):
        times = int(mistakes[right, answered])
        if times:
            share = times / int(confusion[right].sum())
            rows.append((class_names[right], class_names[answered], times, share))
    return rows


def percent(share):
    """A share in [0, 1] as text; None, where there is none, as a dash."""
    return "-" if share is None else f"{100 * share:.2f} %"


def table(results, majority):
    """The errors of several ways of looking side by side, as text.

    Args:
      results: dict from a name to `Errors`.
      majority: float, from `majority_error`.

    Returns:
      Lines of text; errors in percent.
    """
    lines = [f"  {'':<24}{'top-1 error':>12}{'top-5 error':>13}{'loss':>9}"]
    for name, errors in results.items():
        top1, top5 = percent(errors.top1_error), percent(errors.top5_error)
        lines.append(f"  {name:<24}{top1:>12}{top5:>13}{errors.loss:>9.4f}")
    lines.append(f"  {'always the largest class':<24}{percent(majority):>12}")
    return "\n".join(lines)
