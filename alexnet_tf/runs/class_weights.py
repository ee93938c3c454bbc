"""The weights of the classes in the loss of a run."""

import csv
import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_tf import config
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import schema
from alexnet_tf.utils import text_files

# In the work directory of a run with weights.
RECORD = "class_weights.json"
_WHAT = "the weights of classes"
_REMEDY = "copy it from a backup, or use a new --workdir"
_WEIGHTS = schema.Map(schema.Number(positive=True))
_STRUCTURE = schema.Object({"given": schema.Nullable(_WEIGHTS), "weights": _WEIGHTS})


class ClassWeights(NamedTuple):
    """The weights of the classes, as given and as used."""

    given: dict[str, float] | None  # of a file; None for "balanced"
    weights: dict[str, float]  # factors of the loss, by class; their mean over the images drawn is 1

    def factors(self, class_names: Sequence[str]) -> np.ndarray:
        """Returns the weights in the order of the classes, float32 ``[classes]``."""
        return np.array([self.weights[name] for name in class_names], np.float32)


def resolve(
    run_config: config.Config, class_names: Sequence[str], labels: np.ndarray, workdir: str
) -> ClassWeights | None:
    """Returns the weights of the classes of a run, or None without any.

    A run keeps to the weights that it was started with: if its work directory has a record, that is returned.

    Args:
      run_config: the configuration.
      class_names: names of the classes.
      labels: int ``[images]``, of the training images.
      workdir: the run's directory; it need not exist.

    Raises:
      OSError: if a file cannot be read.
      ValueError: for a damaged file, or one that lacks a class, has others, or differs from that at the start.
    """
    if run_config.class_weights == "none":
        return None
    path = os.path.join(workdir, RECORD)
    record = _read_record(path, class_names) if os.path.exists(path) else None
    given = None
    if run_config.class_weights != "balanced":
        if record and not os.path.exists(run_config.class_weights):
            return record
        given = read(run_config.class_weights, class_names)
    if record and record.given != given:
        raise ValueError(
            f"Expected the weights in {run_config.class_weights} that {workdir} was trained with. "
            f"Received: different weights; restore the file from {path}, or use a new --workdir"
        )
    counts = np.bincount(labels, minlength=len(class_names))
    return record or ClassWeights(given, _normalized(given, class_names, counts, run_config.sampling))


def _normalized(given, class_names, counts, sampling):
    """Returns the weights by class, scaled to a mean of 1 over the images drawn."""
    # A class without training images has no effect; its weight is that of a class with one.
    weights = 1 / np.maximum(counts, 1) if given is None else np.array([given[name] for name in class_names])
    drawn = counts > 0 if sampling == "balanced" else counts
    mean = np.average(weights, weights=drawn)
    return dict(zip(class_names, (weights / mean).tolist()))


def read(path: str, class_names: Sequence[str]) -> dict[str, float]:
    """Reads a file of weights: JSON of an object from class names to weights, or CSV of ``class,weight`` lines.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is neither, or does not have a weight above 0 for each class and no other.
    """
    remedy = "write a line CLASS,WEIGHT for each class, or a JSON object"
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected class_weights to be none, balanced or a file. Received: {path}")
    if path.lower().endswith(".json"):
        weights = schema.read_json(path, _WEIGHTS, _WHAT, remedy)
    else:
        weights = _read_csv(path, remedy)
        schema.check(weights, _WEIGHTS, _WHAT, path, remedy)
    _check_classes(weights, class_names, path)
    return {name: float(weights[name]) for name in class_names}


def _read_csv(path, remedy):
    weights = {}
    lines = text_files.read(path, _WHAT).split("\n")
    for number, row in enumerate(csv.reader(lines), start=1):
        if not any(cell.strip() for cell in row):
            continue
        try:
            name, text = (cell.strip() for cell in row)
            weight = float(text)
        except ValueError:
            if number == 1 and len(row) == 2:
                continue  # The names of the columns.
            raise schema.error(_WHAT, path, f"{','.join(row)!r} on line {number}", remedy) from None
        if name in weights:
            raise schema.error(_WHAT, path, f"two lines for {name!r}", remedy)
        weights[name] = weight
    return weights


def _check_classes(weights, class_names, path):
    missing = [name for name in class_names if name not in weights]
    unknown = sorted(set(weights) - set(class_names))
    if missing or unknown:
        raise ValueError(
            f"Expected {path} to have a weight for each of the {len(class_names)} classes. Received: "
            + (f"none for {missing[0]!r}" if missing else f"one for {unknown[0]!r}, which is not a class")
        )


def _read_record(path, class_names):
    record = schema.read_json(path, _STRUCTURE, _WHAT, _REMEDY)
    schema.check_seal(record, _WHAT, path, _REMEDY)
    _check_classes(record["weights"], class_names, path)
    return ClassWeights(record["given"], record["weights"])


def write(workdir: str, found: ClassWeights) -> None:
    """Records the weights of a run in its work directory, unless it has a record."""
    path = os.path.join(workdir, RECORD)
    if not os.path.exists(path):
        files.write_json(path, schema.sealed(found._asdict()))


def describe(found: ClassWeights | None, run_config: config.Config, labels: np.ndarray, length: int) -> list[str]:
    """Returns lines about how a run treats classes of different sizes.

    Args:
      found: from `resolve`.
      run_config: the configuration.
      labels: int ``[images]``, of the training images.
      length: the number of images of an epoch.
    """
    lines = []
    if found:
        lines.append(f"class weights in the loss: {_range(found.weights)}; errors and printed losses are unweighted")
    if run_config.sampling == "balanced":
        counts = np.unique(labels, return_counts=True)[1]
        lines.append(
            f"an epoch draws {length} images, {length // len(counts)} or one more of each class: "
            f"{messages.significant(length / len(counts) / counts.min())} times the smallest class, "
            f"{messages.significant(length / len(counts) / counts.max())} times the largest"
        )
    return lines


def _range(weights: Mapping[str, float]):
    low, high = min(weights, key=weights.get), max(weights, key=weights.get)
    return f"{messages.significant(weights[low])} ({low}) to {messages.significant(weights[high])} ({high})"
