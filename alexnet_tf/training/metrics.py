"""What a run wrote of itself, ``metrics.jsonl``: read again, and as a curve."""

import json
import os
import pathlib


def read(path):
    """The records of a run.

    Args:
      path: of the file; its last line may be half-written, as by a run that was killed.

    Returns:
      A list of dicts in the order in which they were written; empty without the file.

    Raises:
      ValueError: for a line that is none, naming it.
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


def curve(records):
    """How a run went, an entry for each epoch.

    Args:
      records: from `read`.

    Returns:
      A dict of lists of one length: "epoch", rising; "train_error" in [0, 1] and "train_loss" in nats, means over the
      epoch's images; "watched_error" and "watched_loss" at its end, None where nothing was watched.
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
            watched = validated.get(record["step"], {})
            rows.append((record["epoch"], error, loss, watched.get("top1_error"), watched.get("loss")))
            pending = []
    names = ("epoch", "train_error", "train_loss", "watched_error", "watched_loss")
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def images_per_second(records):
    """A run's speed in training: all its images by all the time that they took; None for a run without a report."""
    trained = [record for record in records if record["kind"] == "train"]
    seconds = sum(record["examples"] / record["images_per_second"] for record in trained)
    return sum(record["examples"] for record in trained) / seconds if trained else None
