"""Training steps on a GPU in the settings that matter, each in its own process (row gpu, with P14).

Steps are queued as in training, where results are read only at reports (`measuring.queued`). Processes run one after
the other, the most important settings first, until the time is over; what was not measured by then is listed. A process
that fails, or runs out of memory, leaves a note and what it has measured.
"""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.benchmarks import measuring
from alexnet_tf.utils import schema

BATCHES = (128, 256, 512, 1024)
QUICK_BATCHES = (8,)
PRECISIONS = ("bfloat16", "float32")
DESCRIPTION = "training steps queued as in training; XLA compiles the entire step, or islands within it"
# What XLA compiles.
MODES = ("step", "islands")
# Steps of a call of the device in the settings that differ in it.
STEPS_PER_CALL = 8
# Images per second to reach (P14), and the share of it from prepared data.
TARGETS = {"float32": 25_000.0, "bfloat16": 35_000.0}
DATA_TARGET = 0.9
# Limits of everything and of one process, so that the command takes less than eight minutes with its start and end.
SECONDS, PROCESS_SECONDS = 430.0, 75.0
# No process is started for less.
_MIN_SECONDS = 15.0
_PACKAGE_PARENT = str(pathlib.Path(__file__).resolve().parents[2])
# Last on the path, so that modules are those of the Python that has torch.
_TORCH_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from alexnet_tf.benchmarks import torch_alexnet; "
    "torch_alexnet.main(sys.argv[2])"
)


class Options(NamedTuple):
    """What the row gpu measures."""

    batches: Sequence[int] = BATCHES  # batch sizes, ascending
    data_dirs: Sequence[str] = ()  # prepared data sets; the first one is compared with synthetic images
    torch_python: str = ""  # a Python that has torch; empty for this one


class Setting(NamedTuple):
    """The settings of one process, fields of the configuration: how each step is compiled and called."""

    precision: str
    compile: str  # of `MODES`
    deterministic: bool = False
    steps_per_call: int = 1

    @property
    def name(self) -> str:
        parts = [self.precision, self.compile]
        parts += ["deterministic"] if self.deterministic else []
        parts += [f"{self.steps_per_call} steps a call"] if self.steps_per_call > 1 else []
        return ", ".join(parts)

    @property
    def flags(self) -> list[str]:
        return [f"--{field}={flagfiles.format_value(value)}" for field, value in self._asdict().items()]


def setting_of(run_config: config.Config) -> Setting:
    """Returns the setting of a process from its configuration."""
    return Setting(*(getattr(run_config, field) for field in Setting._fields))


def side(setting: Setting, batch_size: int) -> str:
    """Returns the name of a setting at a batch size, under which its rates are reported."""
    return f"{setting.name}, batch {batch_size}"


def missing() -> str:
    """Returns why there is no GPU to measure; empty if there is one."""
    import tensorflow as tf

    from alexnet_tf.runs import devices

    if tf.config.list_physical_devices("GPU"):
        return ""
    _, *warnings = devices.describe(config.Config(devices=()).resolved())
    return "; ".join(
        ["there is no GPU that TensorFlow can use", *(line.removeprefix("warning: ") for line in warnings)]
    )


def measure_in_processes(
    command: Sequence[str],
    scratch: str | pathlib.Path,
    options: Options,
    log: Callable[[str], None] = lambda line: print(line, flush=True),
) -> dict[str, Any]:
    """Measures the row gpu.

    Args:
      command: starts the benchmark in another process, with the flags of this one.
      scratch: a directory for the results of the processes.
      options: what to measure.
      log: called with a line after each process.

    Returns:
      A dict for JSON, as `rows.measure_here` returns.
    """
    if reason := missing():
        return {"not_run": reason}
    processes = _Processes(command, pathlib.Path(scratch), log)
    # The ends first, and then from the largest, in case the time is over.
    ends = list(dict.fromkeys([options.batches[0], options.batches[-1]]))
    batches = [*ends, *reversed(options.batches[1:-1])]
    plain = [Setting(precision, mode) for mode in MODES for precision in PRECISIONS]
    for setting in plain:
        processes.measure(setting, batches)
    if options.data_dirs:
        processes.compare_with_data(options.data_dirs[0], plain, batches)
    # The largest first: each one takes long to compile.
    processes.measure_torch(options.torch_python, options.batches[::-1])
    for mode in MODES:
        for change in ({"deterministic": True}, {"steps_per_call": STEPS_PER_CALL}):
            for precision in PRECISIONS:
                processes.measure(Setting(precision, mode, **change), ends)
    return summarize(processes.rows)


class _Processes:
    """Runs processes one after the other until the time is over, and collects what they have measured."""

    def __init__(self, command, scratch, log):
        self.rows = []
        self._command = command
        self._scratch = scratch
        self._log = log
        self._deadline = time.monotonic() + SECONDS

    @property
    def medians(self):
        return {name: median for row in self.rows for name, median in row["medians"].items()}

    def measure(self, setting, batches):
        self._measure(setting.name, setting, batches, ["--data_dir="])

    def _measure(self, name, setting, batches, flags):
        path = self._scratch / "gpu.json"
        path.unlink(missing_ok=True)
        flags = [f"--batches={','.join(map(str, batches))}", *setting.flags, *flags]
        # The last value of a repeated flag counts.
        flags = ["--rows=gpu", f"--json={path}", "--markdown=", "--plot=", "--photographs=", "--here", *flags]
        problem = self._run(name, [*self._command, *flags])
        self._add(name, _read_row(path), problem, [side(setting, size) for size in batches])

    def compare_with_data(self, data_dir, settings, batches):
        """Measures training from prepared data in the fastest setting."""
        sides = {side(setting, size): (setting, size) for setting in settings for size in batches}
        medians = {name: median for name, median in self.medians.items() if name in sides}
        if medians:
            setting, size = sides[max(medians, key=medians.get)]
            self._measure(f"prepared data, {setting.name}", setting, [size], [f"--data_dir={data_dir}"])

    def measure_torch(self, python, batches):
        if not python and importlib.util.find_spec("torch") is None:
            self.rows.append(_row(notes=["torch: not installed; --torch_python names a Python that has it"]))
            return
        path = self._scratch / "torch.txt"
        request = json.dumps({"batches": batches, "precisions": PRECISIONS})
        command = [python or sys.executable, "-P", "-c", _TORCH_PROGRAM, _PACKAGE_PARENT, request]
        problem = self._run("torch", command, path)
        found = _read_lines(path)
        rates = {each["side"]: each["rates"] for each in found if "rates" in each}
        row = _row(rates, [f"{each['side']}: {each['problem']}" for each in found if "problem" in each])
        sides = [torch_side(precision, size) for precision in PRECISIONS for size in batches]
        self._add("torch", row, problem, sides)

    def _run(self, name, command, output=None):
        """Runs a process; returns what went wrong, empty if nothing did."""
        seconds = min(PROCESS_SECONDS, self._deadline - time.monotonic())
        if seconds < _MIN_SECONDS:
            return "no time left"
        begun = time.monotonic()
        problem = run(command, output or os.devnull, self._scratch / "errors.txt", seconds)
        self._log(f"gpu: {name}: {problem or 'measured'} ({time.monotonic() - begun:.0f} s)")
        return problem

    def _add(self, name, row, problem, sides):
        if row is None or "not_run" in row:
            problem = problem or (row or {}).get("not_run", "no result")
            row = _row()
        if problem:
            explained = [each for each in sides if any(note.startswith(f"{each}: ") for note in row["notes"])]
            left = [each for each in sides if each not in (*row["rates"], *explained)] if row["rates"] else []
            row["notes"] = [*row["notes"], f"{name}: {problem}", *(f"{each}: not measured" for each in left)]
        self.rows.append(row)


def torch_side(precision: str, batch_size: int) -> str:
    """Returns the name of torch's side."""
    return f"torch, {precision}, batch {batch_size}"


def run(command: Sequence[str], output: str | pathlib.Path, errors: str | pathlib.Path, seconds: float) -> str:
    """Runs a process, and ends it with its children when the time is over.

    Args:
      command: the command.
      output, errors: files for its standard output and its standard error.
      seconds: its time.

    Returns:
      What went wrong; empty if nothing did.
    """
    with open(output, "w", encoding="utf-8") as out, open(errors, "w", encoding="utf-8") as err:
        # In a new process group, because torch compiles in child processes.
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if not status:
        return ""
    text = pathlib.Path(errors).read_text(encoding="utf-8", errors="replace").strip()
    return f"exit status {status}: {text.splitlines()[-1][:300] if text else 'no message'}"


def _read_row(path):
    """Returns the row of a process, which may have ended before it measured everything; None if it wrote nothing."""
    if not path.exists():
        return None
    return schema.read_json(path, schema.Object({"rows": schema.Map(schema.Map())}), "measured rows")["rows"]["gpu"]


def _read_lines(path):
    """Returns the objects of a file of JSON lines, without those that were not written to the end."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [each for each in found if isinstance(each, dict) and "side" in each]


def _row(rates=None, notes=()):
    return measuring.Result(DESCRIPTION, "images/s", rates or {}, [], list(notes)).to_dict()


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merges the rows of all processes, and adds the fastest setting of each precision (P14), and torch's.

    Args:
      rows: dicts for JSON; sides are named by `side` and `torch_side`.

    Returns:
      A dict for JSON.
    """
    merged = measuring.merge(rows)
    values = []
    for precision in reversed(PRECISIONS):
        ours, theirs = (_fastest(merged["medians"], prefix) for prefix in (f"{precision}, ", f"torch, {precision}, "))
        if not ours:
            continue
        rate = merged["medians"][ours]
        values.append(measuring.Value(f"P14: fastest: {ours}", rate, "images/s", TARGETS[precision]))
        if theirs:
            ratio = rate / merged["medians"][theirs]
            values.append(measuring.Value(f"the same / torch's fastest: {theirs}", ratio, ""))
    summary = measuring.Result("", "", {}, [], values=values).to_dict()
    return {**merged, "values": [*summary["values"], *merged["values"]]}


def _fastest(medians, prefix):
    return max((name for name in medians if name.startswith(prefix)), key=medians.get, default=None)
