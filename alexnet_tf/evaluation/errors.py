"""Top-1 and top-5 errors of a network, by the center crop or by the mean of several views."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# What tables call `majority_error`.
MAJORITY = "always the most frequent class"
# Keeps the logarithm of a probability that float32 rounded to zero finite.
_MIN_PROBABILITY = 1e-12
# Elements of an array of probabilities that are processed at once: 32 MiB in float64.
_ELEMENTS = 2**22


class Errors(NamedTuple):
    """Errors of a network on a set of images by one set of views, as fractions in [0, 1]."""

    num_examples: int
    loss: float  # mean cross-entropy in nats
    top1_error: float
    top5_error: float | None  # None with five classes or fewer
    confusion: np.ndarray  # confusion matrix, int64 [classes, classes]: true classes in rows, predictions in columns

    def to_dict(self) -> dict[str, int | float | None]:
        """Returns a dict for JSON, without the confusion matrix."""
        return {
            "num_examples": self.num_examples,
            "loss": self.loss,
            "top1_error": self.top1_error,
            "top5_error": self.top5_error,
        }


def cross_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Computes the loss of each example.

    Args:
      probabilities: float of any shape, the predicted probabilities of the true classes.

    Returns:
      Float of the same shape, in nats.
    """
    return -np.log(np.maximum(probabilities, _MIN_PROBABILITY))


class ErrorCounter:
    """Counts errors batch by batch.

    Args:
      num_classes: int.
    """

    def __init__(self, num_classes: int):
        self._confusion = np.zeros([num_classes, num_classes], np.int64)
        self._outside_top5 = 0
        self._loss = 0.0

    def add(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Adds a batch.

        Args:
          probabilities: float ``[batch, num_classes]``.
          labels: int ``[batch]``.

        Raises:
          ValueError: if a probability is NaN. No class ranks above NaN, so it would count as correct.
        """
        probabilities = np.asarray(probabilities, np.float64)
        if np.isnan(probabilities).any():
            raise ValueError(
                "Expected probabilities in [0, 1]. Received: NaN; the training of this network diverged. Start again "
                "with a new --workdir and a tenth of the --learning_rate"
            )
        true = probabilities[np.arange(len(labels)), labels]
        # Of equally probable classes the first ranks highest, as with argmax.
        rank = (probabilities > true[:, None]).sum(axis=1)
        rank += ((probabilities == true[:, None]) & (np.arange(probabilities.shape[1]) < labels[:, None])).sum(axis=1)
        np.add.at(self._confusion, (labels, probabilities.argmax(axis=1)), 1)
        self._outside_top5 += int((rank >= 5).sum())
        self._loss += float(cross_entropy(true).sum())

    def all_reduce(self, reduce_sum: Callable[[list[np.ndarray]], Sequence[np.ndarray]]) -> None:
        """Adds the counts of other processes; `reduce_sum` maps a list of arrays to their sums over all processes."""
        counts = [self._confusion, np.array(self._outside_top5, np.int64), np.array(self._loss)]
        self._confusion, outside_top5, loss = reduce_sum(counts)
        self._outside_top5, self._loss = int(outside_top5), float(loss)

    def result(self) -> Errors:
        """Returns the `Errors` of all batches so far.

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
            self._outside_top5 / examples if len(self._confusion) > 5 else None,
            self._confusion,
        )


def probability_function(
    model: Callable[..., tf.Tensor], cut: Callable[[tf.Tensor], Sequence[tf.Tensor]]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compiles a function from uint8 images to the probabilities of each view.

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


def evaluate(
    probabilities: Callable[[tf.Tensor], tf.Tensor],
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    *,
    views: Mapping[str, Sequence[int]],
    num_classes: int,
    num_examples: int,
    progress: Callable[[int], None] | None = None,
    reduce_sum: Callable[[list[np.ndarray]], Sequence[np.ndarray]] | None = None,
) -> dict[str, Errors]:
    """Evaluates every example once.

    Args:
      probabilities: from `probability_function`.
      batches: iterable of (uint8 images, int64 labels).
      views: dict from the name of each view set to the indices of its views, whose softmax outputs (not logits) are
        averaged (paper section 4.1).
      num_classes: int.
      num_examples: int, the number of examples, of all processes together.
      progress: called with the number of examples evaluated so far.
      reduce_sum: for several processes that evaluate a part each: maps a list of int64 and float64 arrays to their sums
        over all processes.

    Returns:
      A dict from the names of `views` to `Errors`.

    Raises:
      ValueError: if the batches do not hold exactly `num_examples`.
    """
    counters = {name: ErrorCounter(num_classes) for name in views}
    for outputs, labels in _averaged(probabilities, batches, views, progress):
        for name in views:
            counters[name].add(outputs[name], labels)
    if reduce_sum:
        for counter in counters.values():
            counter.all_reduce(reduce_sum)
    results = {name: counter.result() for name, counter in counters.items()}
    for result in results.values():
        _check_count(result.num_examples, num_examples)
    return results


def collect(
    probabilities: Callable[[tf.Tensor], tf.Tensor],
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    *,
    views: Mapping[str, Sequence[int]],
    num_classes: int,
    num_examples: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Computes the probabilities of every example.

    Args:
      probabilities, batches, views, num_classes, num_examples, progress: as in `evaluate`.

    Returns:
      A dict from the names of `views` to float32 ``[num_examples, num_classes]``, and the labels, int64
      ``[num_examples]``, both in the order of the batches.

    Raises:
      ValueError: if the batches do not hold exactly `num_examples`.
    """
    kept = {name: np.empty([num_examples, num_classes], np.float32) for name in views}
    kept_labels = np.empty([num_examples], np.int64)
    first = 0
    for outputs, labels in _averaged(probabilities, batches, views, progress):
        # Examples beyond `num_examples` are dropped here and reported as an error at the end.
        places = slice(first, first + len(labels))
        room = max(0, num_examples - first)
        kept_labels[places] = labels[:room]
        for name in views:
            kept[name][places] = outputs[name][:room]
        first += len(labels)
    _check_count(first, num_examples)
    return kept, kept_labels


def _check_count(found, num_examples):
    if found != num_examples:
        raise ValueError(f"Expected to evaluate {num_examples} examples. Received: {found}")


def _averaged(probabilities, batches, views, progress):
    """Yields a dict of float32 ``[batch, classes]``, the mean over each set of views, and the labels of each batch."""
    done = 0
    for images, labels in batches:
        outputs = probabilities(images).numpy()
        yield {name: outputs[list(indices)].mean(axis=0) for name, indices in views.items()}, labels.numpy()
        done += len(labels)
        if progress:
            progress(done)


def from_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> Errors:
    """Computes the `Errors` of given probabilities.

    Args:
      probabilities: float ``[examples, classes]``.
      labels: int ``[examples]``.

    Raises:
      ValueError: as `ErrorCounter`.
    """
    counter = ErrorCounter(probabilities.shape[1])
    for chunk in chunks(*probabilities.shape):
        counter.add(probabilities[chunk], labels[chunk])
    return counter.result()


def chunks(num_examples: int, elements: int) -> Iterator[slice]:
    """Yields slices of the examples that take at most about 32 MiB each in float64.

    Args:
      num_examples: int.
      elements: int, the number of elements of one example.
    """
    size = max(1, _ELEMENTS // elements)
    for first in range(0, num_examples, size):
        yield slice(first, first + size)


def majority_error(labels: np.ndarray) -> float:
    """Returns the error, in [0, 1), of always predicting the most frequent class.

    Args:
      labels: int ``[examples]``.
    """
    return (len(labels) - int(np.bincount(labels).max())) / len(labels)


def worst_confusions(
    confusion: np.ndarray, class_names: Sequence[str], limit: int = 5
) -> list[tuple[str, str, int, float]]:
    """Returns the most frequent mistakes.

    Args:
      confusion: confusion matrix from `Errors`.
      class_names: names of its rows.
      limit: int, the largest number of mistakes to return.

    Returns:
      A list of (true class, predicted class, count, fraction of the true class's examples), most frequent first.
    """
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:limit]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, mistakes.shape)):
        count = int(mistakes[true, predicted])
        if count:
            fraction = count / int(confusion[true].sum())
            rows.append((class_names[true], class_names[predicted], count, fraction))
    return rows


def percent(fraction: float | None) -> str:
    """Formats a fraction in [0, 1] as a percentage, None as a dash."""
    return "-" if fraction is None else f"{100 * fraction:.2f}%"


def have_top5(found: Iterable[Errors]) -> bool:
    """Returns whether any of several errors has a top-5 error, so that a table of them needs the column."""
    return any(each.top5_error is not None for each in found)


def table(results: Mapping[str, Errors], majority: float) -> str:
    """Formats errors as a table, one row for each set of views; without top-5 errors if there are none.

    Args:
      results: dict from the name of a set of views to `Errors`.
      majority: float, from `majority_error`.

    Returns:
      Lines of text; errors in percent.
    """
    has_top5 = have_top5(results.values())
    column = lambda text: f"{text:>13}" if has_top5 else ""
    width = len(MAJORITY) + 2
    lines = [f"  {'':<{width}}{'top-1 error':>12}{column('top-5 error')}{'loss':>9}"]
    for name, errors in results.items():
        lines.append(
            f"  {name:<{width}}{percent(errors.top1_error):>12}{column(percent(errors.top5_error))}{errors.loss:>9.4f}"
        )
    lines.append(f"  {MAJORITY:<{width}}{percent(majority):>12}")
    return "\n".join(lines)
