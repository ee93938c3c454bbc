"""Measures ours against others, side by side, and says what was to be reached.

python tools/benchmark.py --rows=P9,P10 --data_dir=prepared,prepared_raw --json=benchmark.json

Without a prepared data set, --photographs=DIR (train/CLASS/*) is prepared for the time of the measurement. A row that
is measured on one core runs in a process of its own, which is held to that core.
"""

import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import program
from absl import flags

flags.DEFINE_list("rows", [], "what to measure, such as P9,P10; empty for everything")
flags.DEFINE_string("photographs", "", "a folder train/CLASS/* that is prepared first, where no data_dir is given")
flags.DEFINE_string("json", "", "a file for every figure")
flags.DEFINE_boolean("quick", False, "fewer and shorter rounds: to see that it works")

# Rows that compare what one core can do, against pipelines whose random operations `--deterministic` would take apart.
ONE_CORE = ("P9",)


def rows():
    """What can be measured: functions from a `feeding.Request` to a `feeding.Result`, by the name of the row."""
    from alexnet_tf.benchmarks import feeding

    return {"P9": feeding.ready_batches, "P10": feeding.training}


def main(config):
    table = rows()
    wanted = flags.FLAGS.rows or list(table)
    if unknown := [name for name in wanted if name not in table]:
        raise ValueError(f"Expected rows among {', '.join(table)}. Received: {', '.join(unknown)}")
    path = pathlib.Path(program.require("json"))
    if not path.absolute().parent.is_dir():
        # Before minutes of measuring.
        raise FileNotFoundError(f"Expected --json in a directory that is there. Received: {path}")
    with tempfile.TemporaryDirectory(prefix="alexnet_benchmark_") as scratch:
        data_dirs = tuple(part.strip() for part in config.data_dir.split(",") if part.strip())
        if not data_dirs and flags.FLAGS.photographs:
            data_dirs = _prepare(config, flags.FLAGS.photographs, scratch)
        found = {}
        for name in wanted:
            if name in ONE_CORE and (_cores() != 1 or config.deterministic):
                found[name] = _measure_on_one_core(name, data_dirs, scratch)
            else:
                found[name] = _measure(table[name], config, data_dirs)
            print(*_lines(name, found[name]), sep="\n", flush=True)
    _write(path, found)
    print(f"figures in {path}")


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _prepare(config, photographs, scratch):
    """Writes photographs as JPEG and as raw records; where."""
    import rich.console

    from alexnet_tf import dataset
    from alexnet_tf.data import prepare

    written = []
    for storage in prepare.STORAGES:
        directory = os.path.join(scratch, storage)
        request = dataclasses.replace(config, source=f"folder:{photographs}", data_dir=directory)
        dataset.prepare(request, prepare.Options(storage), rich.console.Console(quiet=True))
        written.append(directory)
    return tuple(written)


def _measure(row, config, data_dirs):
    """A row's figures, or why there are none: a dict."""
    from alexnet_tf.benchmarks import feeding

    request = feeding.Request(config, data_dirs)
    if flags.FLAGS.quick:
        request = request._replace(rounds=2, seconds=0.3)
    try:
        return {**feeding.as_dict(row(request)), "cores": _cores()}
    except feeding.NotRunError as error:
        return {"not_run": str(error)}


def _measure_on_one_core(name, data_dirs, scratch):
    """`_measure` in another process, as TensorFlow counts the cores once and for all."""
    if not hasattr(os, "sched_setaffinity"):
        return {"not_run": "this system cannot hold a process to one core"}
    path = os.path.join(scratch, f"{name}.json")
    # Of a flag that is given twice, the last counts.
    own = [
        f"--rows={name}",
        f"--json={path}",
        f"--data_dir={','.join(data_dirs)}",
        "--photographs=",
        "--nodeterministic",
    ]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        done = subprocess.run([sys.executable, *sys.argv, *own], stdout=subprocess.DEVNULL)
    finally:
        os.sched_setaffinity(0, cores)
    if done.returncode:
        # It has said why.
        sys.exit(done.returncode)
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["rows"][name]


def _lines(name, row):
    """What is printed of a row: a line for each ratio, then each side's median."""
    if "not_run" in row:
        return [f"{name}: not run: {row['not_run']}"]
    lines = []
    for ratio in row["ratios"]:
        spread = f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
        reach = "" if ratio["reach"] is None else f", reach {ratio['reach']:g}"
        lines.append(f"{name}: {ratio['above']} / {ratio['below']}: {spread}{reach}")
    medians = ", ".join(f"{side} {median:.0f}" for side, median in row["medians"].items())
    lines.append(f"{name}: {row['what']}: {medians} {row['unit']}")
    return lines + [f"{name}: {note}" for note in row["notes"]]


def _write(path, found):
    import keras
    import numpy as np
    import tensorflow as tf

    from alexnet_tf import files

    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": _cores(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    files.write_json(path, {"machine": machine, "rows": found})


if __name__ == "__main__":
    program.run(main, __doc__, ["rows", "photographs", "json", "quick"])
