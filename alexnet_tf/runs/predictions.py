"""Predictions as CSV files: of an evaluated split, and of image files by an exported network."""

import itertools
import os
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_tf.evaluation import errors
from alexnet_tf.runs import dataset
from alexnet_tf.runs import split_results
from alexnet_tf.serving import classify
from alexnet_tf.utils import csv_files
from alexnet_tf.utils import escaping
from alexnet_tf.utils import output

# Unreadable images that are printed.
_MAX_PRINTED = 10
# Requests in progress: while the network computes one, the images of the next are decoded.
_REQUESTS = 2


class Failures(NamedTuple):
    """The images that could not be classified."""

    count: int
    first: str  # name and reason of the first; empty if there is none


def _columns(top):
    """Returns the header of the most probable classes."""
    return [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "probability")]


def write_evaluated(
    path: str | os.PathLike, result: split_results.SplitResult, data: dataset.Data, top: int = 5
) -> None:
    """Writes what a network predicts for each image of a split, by the headline's view set.

    Args:
      path: of the CSV file. Its columns are file, true_class, class_1, probability_1, class_2 and so on.
      result: of the split.
      data: the data set, whose class names are written.
      top: number of classes per image; all of them if there are fewer.
    """
    class_names, name_of = data.source.class_names, dataset.example_names(data, result.split)
    probabilities, top = result.probabilities[result.headline], min(top, len(class_names))
    with csv_files.open_table(path, ["file", "true_class", *_columns(top)]) as write:
        for chunk in errors.chunks(*probabilities.shape):
            # Of equally probable classes the first ranks highest, as in the errors.
            order = np.argsort(-probabilities[chunk], axis=1, kind="stable")[:, :top]
            for place, best in enumerate(order, start=chunk.start):
                pairs = ((class_names[each], probabilities[place, each]) for each in best)
                write([name_of(place), class_names[result.labels[place]], *itertools.chain(*pairs)])


def write_classified(
    path: str | os.PathLike, backend: classify.Backend, images: Sequence[str], *, top: int = 5, batch_size: int = 32
) -> Failures:
    """Classifies image files and writes a row for each, in their order; memory does not grow with their number.

    The file gets its name at the end. Its columns are file, class_1, probability_1, class_2 and so on, and error, which
    is empty for an image that was classified.

    Args:
      path: of the CSV file.
      backend: the network to query, from several threads.
      images: paths of image files.
      top: number of classes per image, at most; an export may return fewer.
      batch_size: maximum number of images per request.

    Returns:
      What failed, which is also printed.

    Raises:
      ValueError, OSError: as `classify.classify_files`, or if the file cannot be written.
    """
    console, failed, first = output.Console(), 0, ""
    predictions = _with_progress(
        classify.classify_files(backend, images, batch_size, requests=_REQUESTS), len(images), console
    )
    top, predictions = _available(top, predictions)
    with csv_files.open_table(path, ["file", *_columns(top), "error"]) as write:
        for prediction in predictions:
            pairs = list(zip(prediction.classes, prediction.scores))[:top] or [(None, None)] * top
            write([prediction.path, *itertools.chain(*pairs), prediction.error])
            if prediction.error:
                failed += 1
                first = first or f"{prediction.path}: {prediction.error}"
                if failed <= _MAX_PRINTED:
                    console.print(escaping.one_line(f"warning: {prediction.path}: {prediction.error}"))
    if failed > _MAX_PRINTED:
        console.print(f"warning: {failed - _MAX_PRINTED} more errors are in the column error of {path}")
    console.print(f"predictions {path}: {len(images) - failed} of {len(images)} images classified")
    return Failures(failed, first)


def _available(top, predictions):
    """Returns how many of `top` classes the first prediction has, and all predictions."""
    until_first = []
    for prediction in predictions:
        until_first.append(prediction)
        if not prediction.error:
            top = min(top, len(prediction.classes))
            break
    return top, itertools.chain(until_first, predictions)


def _with_progress(predictions, total, console) -> Iterator[classify.Prediction]:
    """Yields predictions while a progress bar shows how many there were."""
    with dataset.progress_bar(console) as bar:
        task = bar.add_task(f"classifying {total} images", total=total)
        for done, prediction in enumerate(predictions, start=1):
            yield prediction
            bar.update(task, completed=done)
