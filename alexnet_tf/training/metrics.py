"""The recorded numbers of a run: ``metrics.jsonl``, written during training, ``train.json`` and ``evaluation.json``."""

import contextlib
import json
import math
import os
from collections.abc import Iterable
from typing import Any

from alexnet_tf.utils import files
from alexnet_tf.utils import schema

_FRACTION = schema.Number(low=0, high=1)
_POSITIVE = schema.Number(positive=True)
_STEP = schema.Number(low=1, integer=True)
_RECORD = {"kind": schema.Text(), "step": _STEP, "epoch": _POSITIVE}
# What the readers of records need of each kind; other kinds are ignored.
_KINDS = {
    "train": schema.Object(
        {
            **_RECORD,
            "examples": schema.Number(low=1, integer=True),
            "images_per_second": _POSITIVE,
            "train_error": _FRACTION,
            "train_loss": schema.Number(),
            "epoch_ended": schema.Truth(),
        }
    ),
    "validation": schema.Object(_RECORD, {"top1_error": _FRACTION, "loss": schema.Number()}),
    "warning": schema.Object({**_RECORD, "text": schema.Text()}),
    "kernels": schema.Object({**_RECORD, "color_share": schema.Map(_FRACTION)}),
}

_ERRORS = schema.Object(
    {},
    {
        "num_examples": schema.Number(low=1, integer=True),
        "loss": schema.Number(),
        "top1_error": _FRACTION,
        "top5_error": schema.Nullable(_FRACTION),
    },
)
# The errors on a split with each set of views, in the spelling of version 0.1 too.
SECTION = schema.Object(
    {},
    {
        **dict.fromkeys(("center_crop", "centre_crop", "ten_views"), _ERRORS),
        "majority_error": _FRACTION,
        "confusions": schema.List(schema.List()),
    },
)
_EVALUATION = schema.Object(
    {"step": schema.Number(low=0, integer=True), "evaluation": schema.Map(SECTION)},
    {
        "checkpoint": schema.Nullable(schema.Text()),
        "selected": schema.Text(),
        # Of the best checkpoint, whose step may be before that of the run.
        "selection": schema.Object(
            {"step": schema.Number(low=0, integer=True)}, {"epoch": _POSITIVE, "split": schema.Text()}
        ),
    },
)


class Writer:
    """Writes records to a file of JSON lines; as an action, a record of each report.

    Args:
      path: of the file.
      first_step: records of later steps, left by a killed run, are removed.
    """

    def __init__(self, path: str, first_step: int):
        self._path = path
        if os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                kept = [line for line in file if _step_of(line) <= first_step]
            with files.atomic_write(path) as file:
                file.writelines(kept)

    def write(self, **record: Any) -> None:
        """Appends a record."""
        with files.named_if_full(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def __call__(self, progress) -> None:
        self.write(kind="train", **progress._asdict())


def _step_of(line):
    if not line.endswith("\n"):
        return math.inf  # Truncated by a kill; the next record would continue on the same line.
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


def read(path: str) -> list[dict[str, Any]]:
    """Reads the records of a run, in the order in which they were written.

    Args:
      path: of the file. An incomplete last line, as a killed run may leave, is ignored.

    Returns:
      A list of dicts; empty if there is no file.

    Raises:
      ValueError: naming a line that is not a record.
    """
    if not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def epochs_without_improvement(errors: Iterable[float]) -> int:
    """Returns the number of epochs since the lowest error was first reached. NaN is not lower than anything."""
    lowest, epochs = math.inf, 0
    for error in errors:
        is_lower = error < lowest
        lowest, epochs = (error, 0) if is_lower else (lowest, epochs + 1)
    return epochs


def validations(path: str, last_step: int) -> list[dict[str, Any]]:
    """Returns the records of the monitored split up to a step, without those that are damaged."""
    found = []
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if _step_of(line) <= last_step:
                    with contextlib.suppress(ValueError):
                        found.append(_parse(line, path))
    return [each for each in found if each["kind"] == "validation" and {"top1_error", "loss"} <= each.keys()]


def _parse(line, where):
    """Returns the record on a line."""
    what, remedy = "a record of a run", "delete this line, or copy the file from a backup"
    record = schema.parse(line, schema.Object(_RECORD), what, where, remedy)
    schema.check(record, _KINDS.get(record["kind"], schema.Anything()), what, where, remedy)
    return record


def read_evaluation(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the errors of a run: ``train.json``, which training writes at its end, or ``evaluation.json``.

    Returns:
      A dict with "step" and "evaluation", which maps each split to its errors by views.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is damaged.
    """
    return schema.read_json(path, _EVALUATION, "the errors of a run", "delete it, and evaluate the run again")


def curve(records: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Summarizes a run by epoch.

    Args:
      records: from `read`.

    Returns:
      A dict of lists of equal length: "epoch", ascending; "train_error" in [0, 1] and "train_loss" in nats, means over
      the epoch's images; "learning_rate" of the weights in its last step; "watched_error" and "watched_loss", of the
      monitored split at the end of the epoch, and "watched_examples", the number of its images. None where they are not
      recorded. (Results of experiments store some of these keys.)
    """
    validated = {record["step"]: record for record in records if record["kind"] == "validation"}
    rows, pending = [], []
    trained = [record for record in records if record["kind"] == "train"]
    for place, record in enumerate(trained):
        pending.append(record)
        if record["epoch_ended"] or place == len(trained) - 1:
            images = sum(each["examples"] for each in pending)
            error, loss = (
                sum(each["examples"] * each[name] for each in pending) / images
                for name in ("train_error", "train_loss")
            )
            monitored = validated.get(record["step"], {})
            of_monitored = [monitored.get(name) for name in ("top1_error", "loss", "num_examples")]
            rows.append((record["epoch"], error, loss, record.get("learning_rate"), *of_monitored))
            pending = []
    names = (
        "epoch",
        "train_error",
        "train_loss",
        "learning_rate",
        "watched_error",
        "watched_loss",
        "watched_examples",
    )
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def images_per_second(records: list[dict[str, Any]]) -> float | None:
    """Returns a run's training speed, all its images divided by their total time; None for a run without a report."""
    trained = [record for record in records if record["kind"] == "train"]
    seconds = sum(record["examples"] / record["images_per_second"] for record in trained)
    return sum(record["examples"] for record in trained) / seconds if trained else None
