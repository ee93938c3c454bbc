"""A run's ``metrics.jsonl``: written during training, and read for reports and experiments."""

import json
import math
import os
import pathlib
from typing import Any

from alexnet_tf.utils import files


class Writer:
    """Writes records to a file of JSON lines; as an action, a record of each report.

    Args:
      path: of the file.
      first_step: records of later steps, left by a killed run, are removed.
    """

    def __init__(self, path: str, first_step: int):
        self._path = path
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                kept = [line for line in file if _step_of(line) <= first_step]
            with files.atomic_write(path) as file:
                file.writelines(kept)

    def write(self, **record: Any) -> None:
        """Appends a record."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def __call__(self, progress) -> None:
        self.write(kind="train", **progress._asdict())


def _step_of(line):
    if not line.endswith("\n"):
        return math.inf  # Truncated by a kill; the next record would continue on the same line.
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
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
    records = []
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines):
        if not line.endswith("\n"):
            continue
        try:
            record = json.loads(line)
            if not (record["step"] > 0 and record["epoch"] > 0 and record["kind"]):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"Expected a record of a run. Received: {path}, line {number + 1}") from None
        records.append(record)
    return records


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
