"""How long the programs take to start (row P16)."""

import dataclasses
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import psutil

from alexnet_tf import flagfiles
from alexnet_tf.benchmarks import measuring

PROGRAMS = [sys.executable, "-m", "alexnet_tf.commands"]
# Limits in seconds.
FIRST_STEP, HELP, IMPORT = 12.0, 1.0, 0.2
_TIMEOUT = 300.0


def start(request: measuring.Request) -> measuring.Result:
    """P16: time from the command to the end of the first training step, of ``--help`` and of ``import alexnet_tf``.

    The data set is as large as users' are, but its files may be in the system's cache. A step of the full network takes
    seconds on a CPU; it is part of the time.

    Args:
      request: `measuring.Request`; the first data set is used. The number of rounds is at most three.

    Returns:
      `measuring.Result`, without rates.

    Raises:
      NotRunError: without a data set.
      ChildProcessError: if training fails or takes longer than five minutes to start.
    """
    if not request.data_dirs:
        raise measuring.NotRunError("needs --data_dir, a prepared data set")
    run_config = dataclasses.replace(request.config, data_dir=str(request.data_dirs[0]), source="", report_steps=1)
    rounds = range(min(3, request.rounds))
    with tempfile.TemporaryDirectory(prefix="alexnet_start_") as scratch:
        flagfile = pathlib.Path(scratch, "config.flags")
        flagfile.write_text(flagfiles.to_text(run_config), encoding="utf-8")
        first_steps = []
        for number in rounds:
            workdir = pathlib.Path(scratch, str(number))
            command = [*PROGRAMS, "train", f"--flagfile={flagfile}", f"--workdir={workdir}"]
            first_steps.append(until_written(command, workdir / "metrics.jsonl"))
    help_seconds = [_seconds([*PROGRAMS, "train", "--help"]) for _ in rounds]
    # Less the time of an empty program.
    imports = [_seconds([sys.executable, "-c", "import alexnet_tf"]) for _ in rounds]
    nothing = [_seconds([sys.executable, "-c", ""]) for _ in rounds]
    wall, processor = (statistics.median(column) for column in zip(*first_steps))
    values = [
        measuring.Value("to the end of the first step", wall, "s", FIRST_STEP, measuring.AT_MOST),
        measuring.Value("processor time of that", processor, "s"),
        measuring.Value("train --help", statistics.median(help_seconds), "s", HELP, measuring.AT_MOST),
        measuring.Value("import alexnet_tf", statistics.median(imports) - min(nothing), "s", IMPORT, measuring.AT_MOST),
    ]
    return measuring.Result(f"starts, batches of {run_config.batch_size}", "s", {}, [], values=values)


def until_written(command: Sequence[str], path: pathlib.Path, timeout: float = _TIMEOUT) -> tuple[float, float]:
    """Runs a command until it has written to a file, and kills it then.

    Args:
      command: the command.
      path: the file, which does not exist yet.
      timeout: seconds after which the command has failed.

    Returns:
      The seconds, and those of processor time.

    Raises:
      ChildProcessError: if the command ends or the time is over before it has written.
    """
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (path.exists() and path.stat().st_size):
                if process.poll() is not None:
                    raise ChildProcessError(f"The program did not start: {process.stderr.read().strip()[-200:]}")
                if time.perf_counter() - begun > timeout:
                    raise ChildProcessError(f"Expected a start in {timeout:g} s. Received: none")
                time.sleep(0.01)
            seconds = time.perf_counter() - begun
            times = psutil.Process(process.pid).cpu_times()
            return seconds, times.user + times.system
        finally:
            process.kill()


def _seconds(command):
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun
