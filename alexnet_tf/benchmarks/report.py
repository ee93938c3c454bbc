"""Reports measured rows: printed lines, a table in Markdown, JSON, and a plot of the row growth."""

import os
import pathlib
import platform
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from alexnet_tf.benchmarks import measuring
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import machine

# Rows with more sides get a line for each of them.
MAX_SIDES_IN_A_LINE = 12


def check_plot(path: str, names: Sequence[str]) -> None:
    """Checks that growth can be plotted, before minutes of measuring.

    Args:
      path: str, the file to write.
      names: the rows to measure.

    Raises:
      ValueError: if growth is not among the rows, or the path does not end in .png.
      ModuleNotFoundError: without matplotlib.
    """
    from alexnet_tf.reporting import figures

    if "growth" not in names:
        raise ValueError(f"Expected growth among --rows, for --plot. Received: {','.join(names)}")
    if not path.endswith(".png"):
        raise ValueError(f"Expected --plot=FILE.png. Received: {path}")
    figures.require_matplotlib("--plot")


def plot(row: Mapping[str, Any], path: str | pathlib.Path) -> None:
    """Plots the dict of the row growth as PNG."""
    from alexnet_tf.reporting import figures

    values = {each["name"]: each["value"] for each in row["values"]}
    seconds, megabytes = ([values[f"{what}, {side}"] for side in row["medians"]] for what in ("step", "peak memory"))
    sizes = [int(side.removeprefix("batch ")) for side in row["medians"]]
    figures.save_figure(figures.growth(sizes, seconds, [1e6 * each for each in megabytes]), path)


def lines(name: str, row: Mapping[str, Any]) -> list[str]:
    """Returns what is printed about a row: a line for each ratio and value, one for the medians, and the notes."""
    if "not_run" in row:
        return [f"{name}: not run: {row['not_run']}"]
    found = []
    for what, value, target in _entries(row):
        found.append(f"{name}: {what}: {value}{', target ' * bool(target)}{target}")
    found.append(f"{name}: {': '.join(part for part in (row['description'], _medians(row)) if part)}")
    return found + [f"{name}: {note}" for note in row["notes"]]


def _entries(row):
    """Returns (name, value, target) of a row's ratios and values, and of its sides if they are many, as text."""
    found = []
    for ratio in row["ratios"]:
        value = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        found.append((f"{ratio['numerator']} / {ratio['denominator']}", value, _target(ratio)))
    if len(row["medians"]) > MAX_SIDES_IN_A_LINE:
        found += [(side, f"{_short(median)} {row['unit']}", "") for side, median in row["medians"].items()]
    for each in row["values"]:
        found.append((each["name"], f"{_short(each['value'])} {each['unit']}".strip(), _target(each)))
    return found


def _target(entry):
    if entry["target"] is None:
        return ""
    bound = "" if entry["bound"] == measuring.AT_LEAST else f"{entry['bound']} "
    return f"{bound}{entry['target']:g}"


def _medians(row):
    if len(row["medians"]) > MAX_SIDES_IN_A_LINE:
        return ""
    return (
        ", ".join(f"{side} {_short(median)}" for side, median in row["medians"].items()) + f" {row['unit']}"
    ).strip()


def _short(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(rows: Mapping[str, Mapping[str, Any]], machine_details: Mapping[str, Any]) -> str:
    """Returns the table of all rows in Markdown.

    Args:
      rows: dict by name of dicts for JSON.
      machine_details: from `describe_machine`.
    """
    details = escaping.for_markdown(", ".join(f"{name} {_plain(value)}" for name, value in machine_details.items()))
    text = [
        f"Measured on: {details}.",
        "",
        "| row | measurement | median (min to max) | target | medians of the sides |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        if "not_run" in row:
            reason = escaping.for_markdown_cell(f"not run: {row['not_run']}")
            text.append(f"| {escaping.for_markdown_cell(name)} | {reason} | | | |")
            continue
        medians = "; ".join((f"{row['description']}: {_medians(row)}".removesuffix(": "), *row["notes"]))
        for what, value, target in _entries(row):
            cells = map(escaping.for_markdown_cell, (name, what, value, target, medians))
            text.append(f"| {' | '.join(cells)} |")
            medians = ""
    return "\n".join(text) + "\n"


def _plain(value):
    return _short(value) if isinstance(value, float) else value


def describe_machine(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns processor, cores, load, versions, and the values of the row machine if it was measured."""
    import keras
    import numpy as np
    import tensorflow as tf

    measured = rows.get("machine", {}).get("values", ())
    return {
        "processor": machine.processor(),
        "cores": machine.available_cores(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        **{f"{each['name']} in {each['unit']}": each["value"] for each in measured},
    }


def write(
    rows: Mapping[str, Mapping[str, Any]], json_path: str | pathlib.Path, markdown_path: str | pathlib.Path = ""
) -> None:
    """Writes rows as JSON, and as Markdown if a path is given."""
    details = describe_machine(rows)
    files.write_json(str(json_path), {"machine": details, "rows": rows})
    if markdown_path:
        with files.atomic_write(str(markdown_path)) as file:
            file.write(markdown(rows, details))
