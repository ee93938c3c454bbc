"""The table of rows, each measured in a process with the settings that it needs, and what is written of them."""

import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import feeding
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import retrieval
from alexnet_tf.benchmarks import serving
from alexnet_tf.benchmarks import showing
from alexnet_tf.benchmarks import steps
from alexnet_tf.benchmarks import workers
from alexnet_tf.reporting import figures
from alexnet_tf.utils import files
from alexnet_tf.utils import machine

# Batch sizes at which a step's time and memory are measured.
GROWTH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
QUICK_GROWTH = (1, 16)


class Row(NamedTuple):
    """How a row is measured."""

    measure: object  # from a `measuring.Request` to a `measuring.Result`
    flags: tuple = ()  # of its process
    cores: int = 0  # that its process has; 0 for all


def rows():
    """The `Row` of each name, in the order of the table; P1 and P2 share their sides, so they are one row."""
    return {
        "machine": Row(steps.machine),
        "P1": Row(steps.textbooks),
        "P3": Row(steps.normalization_share),
        "P4": Row(steps.normalization),
        "P6": Row(steps.utilization),
        "P7": Row(steps.precisions),
        "P8": Row(steps.two_devices, ("--devices=" + ",".join(_two_devices()),)),
        # Pipelines whose random operations `--deterministic` would take apart.
        "P9": Row(feeding.ready_batches, ("--nodeterministic",), cores=1),
        "P10": Row(feeding.training),
        "P11": Row(steps.update),
        # With the threads that TensorFlow Serving has by default.
        "P12": Row(serving.answers, _all_cores()),
        "P13": Row(steps.traces),
        "workers": Row(workers.two_workers, cores=workers.COUNT),
        "summaries": Row(showing.summaries),
        "forward": Row(steps.forward),
        "load": Row(serving.load),
        "neighbours": Row(retrieval.nearest_images),
        "growth": Row(steps.growth),
    }


def choose(names):
    """The rows that are asked for, in the order of the table; all of them if none is.

    Raises:
      ValueError: for a name that is none.
    """
    table = list(rows())
    # P2 is the other ratio of P1.
    wanted = {"P1" if name == "P2" else name for name in names}
    if unknown := [name for name in names if name not in [*table, "P2"]]:
        raise ValueError(f"Expected rows among {', '.join(table)}. Received: {', '.join(unknown)}")
    return [name for name in table if not names or name in wanted]


def _all_cores():
    cores = machine.available_cores()
    return f"--intra_op_threads={cores}", f"--inter_op_threads={cores}"


def _two_devices():
    return ("/GPU:0", "/GPU:1") if len(tf.config.list_physical_devices("GPU")) >= 2 else ("/CPU:0", "/CPU:1")


def measure_here(name, request):
    """A row's figures, or why there are none: a dict for machines."""
    try:
        return {**measuring.as_dict(rows()[name].measure(request)), "cores": machine.available_cores()}
    except measuring.NotRunError as error:
        return {"not_run": str(error)}


def measure_apart(names, scratch, options=(), quick=False):
    """Measures rows in processes of their own: those with the same settings in one, each batch size of "growth" in one.

    Args:
      names: of `rows`.
      scratch: a directory for what the processes write.
      options: flags for all of them, behind those of this process.
      quick: whether "growth" is to be measured at few sizes only.

    Yields:
      A row's name and its dict for machines.

    Raises:
      SystemExit: if a process failed, with its status, as it has said why.
    """
    table = rows()
    groups = {}
    for name in names:
        if name != "growth":
            groups.setdefault(table[name][1:], []).append(name)
    for (own, cores), group in groups.items():
        found = _run(group, (*options, *own), cores, scratch)
        yield from ((name, found[name]) for name in group)
    if "growth" in names:
        sizes = QUICK_GROWTH if quick else GROWTH
        alone = [_run(["growth"], (*options, f"--batch_size={size}"), 0, scratch)["growth"] for size in sizes]
        yield "growth", merge(alone)


def _run(names, own, cores, scratch):
    """The figures of rows that were measured in a process of their own, with some of the cores."""
    if cores and not hasattr(os, "sched_setaffinity"):
        return {name: {"not_run": "this system cannot hold a process to a core"} for name in names}
    path = pathlib.Path(scratch) / "rows.json"
    # Of a flag that is given twice, the last counts.
    command = [sys.executable, *sys.argv, f"--rows={','.join(names)}", f"--json={path}", "--markdown=", "--plot="]
    command += ["--here", *own]
    allowed = os.sched_getaffinity(0) if cores else None
    if cores:
        os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
    finally:
        if cores:
            os.sched_setaffinity(0, allowed)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def merge(found):
    """Puts together dicts for machines of one row at different sizes.

    Args:
      found: list of dicts, whose sides and figures have different names.

    Returns:
      A dict for machines.
    """
    whole = dict(found[0])
    for row in found[1:]:
        for key in ("medians", "rates"):
            whole[key] = {**whole[key], **row[key]}
        for key in ("ratios", "figures", "notes"):
            whole[key] = [*whole[key], *(each for each in row[key] if each not in whole[key])]
    return whole


def check_plot(path, names):
    """Says before minutes of measuring that "growth" could not be drawn.

    Args:
      path: str, where the diagram is to be.
      names: of the rows that are to be measured.

    Raises:
      ValueError: if "growth" is not among the rows, or the path is no PNG's.
      ModuleNotFoundError: without matplotlib.
    """
    if "growth" not in names:
        raise ValueError(f"Expected growth among --rows, for --plot. Received: {','.join(names)}")
    if not path.endswith(".png"):
        raise ValueError(f"Expected --plot=FILE.png. Received: {path}")
    figures.require_matplotlib("--plot")


def plot(row, path):
    """Draws the dict of row "growth" as PNG."""
    values = {each["what"]: each["value"] for each in row["figures"]}
    seconds, megabytes = ([values[f"{what}, {side}"] for side in row["medians"]] for what in ("step", "peak memory"))
    sizes = [int(side.removeprefix("batch ")) for side in row["medians"]]
    figures.save_figure(figures.growth(sizes, seconds, [1e6 * each for each in megabytes]), path)


def lines(name, row):
    """What is printed of a row: a line for each ratio and figure, then each side's median, then the notes."""
    if "not_run" in row:
        return [f"{name}: not run: {row['not_run']}"]
    found = []
    for what, value, reach in _entries(row):
        found.append(f"{name}: {what}: {value}{', reach ' * bool(reach)}{reach}")
    found.append(f"{name}: {': '.join(part for part in (row['what'], _medians(row)) if part)}")
    return found + [f"{name}: {note}" for note in row["notes"]]


def _entries(row):
    """(what, value, reach) of a row's ratios and figures, as text."""
    found = []
    for ratio in row["ratios"]:
        value = f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
        found.append((f"{ratio['above']} / {ratio['below']}", value, _reach(ratio)))
    for figure in row["figures"]:
        found.append((figure["what"], f"{_short(figure['value'])} {figure['unit']}".strip(), _reach(figure)))
    return found


def _reach(entry):
    if entry["reach"] is None:
        return ""
    bound = "" if entry["bound"] == measuring.AT_LEAST else f"{entry['bound']} "
    return f"{bound}{entry['reach']:g}"


def _medians(row):
    return (
        ", ".join(f"{side} {_short(median)}" for side, median in row["medians"].items()) + f" {row['unit']}"
    ).strip()


def _short(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(found, facts):
    """The whole table in Markdown.

    Args:
      found: dict by name of dicts for machines.
      facts: of `machine_facts`.

    Returns:
      A string.
    """
    text = [f"Measured on: {', '.join(f'{name} {_plain(value)}' for name, value in facts.items())}.", ""]
    text += [
        "| row | what | median (least to most) | reach | medians of the sides |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in found.items():
        if "not_run" in row:
            text.append(f"| {name} | not run: {row['not_run']} | | | |")
            continue
        medians = "; ".join(part for part in (f"{row['what']}: {_medians(row)}".removesuffix(": "), *row["notes"]))
        for what, value, reach in _entries(row):
            text.append(f"| {name} | {what} | {value} | {reach} | {medians} |")
            medians = ""
    return "\n".join(text) + "\n"


def _plain(value):
    return _short(value) if isinstance(value, float) else value


def machine_facts(found):
    """What was measured on: processor, cores, load, versions, and how fast they are where that was measured; a dict."""
    measured = found.get("machine", {}).get("figures", ())
    return {
        "processor": machine.processor(),
        "cores": machine.available_cores(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        **{f"{each['what']} in {each['unit']}": each["value"] for each in measured},
    }


def write(found, json_path, markdown_path=""):
    """Writes figures for machines, and for people where a path is given."""
    facts = machine_facts(found)
    files.write_json(str(json_path), {"machine": facts, "rows": found})
    if markdown_path:
        with files.atomic_write(str(markdown_path)) as file:
            file.write(markdown(found, facts))
