"""Trains runs one after another, each in its own process, and reports the status of each."""

import os
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from alexnet_tf.experiments import headers
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import machine
from alexnet_tf.utils import messages

# Exit statuses of a training that was interrupted: by SIGHUP, by Ctrl-C, and by SIGTERM.
INTERRUPTED = (129, 130, 143)


class RunStatus(NamedTuple):
    """The status of a run."""

    run: plan.Run
    # "done": its result is there; "trained": its result has not been collected; "started"; "not run"; "failed";
    # "waiting" for the run that provides its initial weights; "busy": another process is training it.
    status: str
    detail: str = ""
    result: dict[str, Any] | None = None
    can_train: bool = False  # whether training can start or resume

    def __str__(self):
        return escaping.one_line(f"{self.status}: {self.detail}" if self.detail else self.status)


def run_all(
    runs: Sequence[plan.Run],
    directories: plan.Directories,
    program: Sequence[str],
    *,
    source: str = "",
    data_dir: str = "",
    log: Callable[[str], None] = print,
) -> list[RunStatus]:
    """Trains the runs one after another and collects their results; skips those that are done.

    Args:
      runs: list of `plan.Run`.
      directories: `plan.Directories`.
      program: the command that trains, without flags.
      source, data_dir: the data of experiments whose flagfile names none.
      log: called with one line before and after each run.

    Returns:
      A list of `RunStatus`; a run follows the one from which it is initialized. If a run fails, its status says why,
      and the other runs continue.
    """
    statuses = []
    for number, run in enumerate(plan.in_dependency_order(runs)):
        label = f"{run.name} ({number + 1} of {len(runs)})"
        data = _data_of(run, source, data_dir)
        try:
            with files.exclusive_lock(directories.run(run, ".lock"), run.name) as lock:
                status = run_status(run, directories)
                if status.status == "trained":
                    status = RunStatus(run, "done", result=results.collect(run, directories))
                elif status.can_train:
                    status = _missing_input(run, directories, data)
                    if not status:
                        log(f"{label}: {run.experiment.header.claim}")
                        status = _train(run, directories, program, data, lock)
        except BlockingIOError:
            status = RunStatus(run, "busy", "another process is training it")
        except (OSError, ValueError) as error:
            status = RunStatus(run, "failed", str(error))
        log(f"{label}: {status}")
        statuses.append(status)
    return statuses


def _data_of(run, source, data_dir):
    """Returns the location of the data for a run whose flagfile names none."""
    return {} if run.config.source or run.config.data_dir else {"source": source, "data_dir": data_dir}


def _missing_input(run, directories, data):
    """Returns the `RunStatus` of a run whose data or initial weights are missing; None if it can start."""
    if not _has_data(run, data):
        return RunStatus(run, "not run", "needs ImageNet")
    if run.initial_run and not os.path.exists(os.path.join(directories.initial_run(run), "train.json")):
        reason = f"for {run.initial_run}, which is missing or unfinished; --initialize_from names another run"
        return RunStatus(run, "waiting", reason)
    return None


def _has_data(run, data):
    """Returns False if an experiment on ImageNet was given data that cannot be ImageNet."""
    if not run.experiment.header.needs_imagenet:
        return True
    location = data or {name: getattr(run.config, name) for name in headers.DATA_FIELDS}
    return bool(location["data_dir"]) or location["source"].removeprefix("tfds:").startswith(headers.IMAGENET)


def _train(run, directories, program, data, lock):
    """Starts or resumes training; returns the run's `RunStatus`."""
    is_new = not os.path.exists(directories.run(run))
    machines = [] if is_new else results.read_state(run, directories).get("machines", [])
    this_machine = machine.describe()
    state = {"machines": machines if this_machine in machines else [*machines, this_machine]}
    files.write_json(directories.run(run, ".state.json"), state)
    # If this process is killed, training continues and holds the lock.
    command = _command(run, directories, program, data)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace", pass_fds=[lock]) as process:
        try:
            last = _forward(process.stderr)
        except BaseException:
            # Training stops too, after saving a checkpoint.
            process.terminate()
            _forward(process.stderr)
            raise
    if process.returncode in INTERRUPTED:
        return RunStatus(run, "started", last, can_train=True)
    if process.returncode:
        reason = last or (f"status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}")
        files.write_json(directories.run(run, ".state.json"), {**state, "failed": reason})
        return RunStatus(run, "failed", reason, can_train=True)
    return RunStatus(run, "done", result=results.collect(run, directories))


def _command(run, directories, program, data):
    """Returns the command line that trains a run."""
    location = [f"--{name}={value}" for name, value in data.items() if value]
    command = [*program, f"--flagfile={run.experiment.path}", *location, *run.flags]
    command += [f"--initialize_from={directories.initial_run(run)}"] if run.initial_run else []
    return [*command, f"--seed={run.seed}", f"--workdir={directories.run(run)}"]


def _forward(lines):
    """Copies a process's standard error to this process's; returns the last line that is not blank."""
    last = ""
    for line in lines:
        sys.stderr.write(escaping.for_terminal(line))
        last = line.strip() or last
    return last


def add_training_errors(
    statuses: Sequence[RunStatus],
    directories: plan.Directories,
    program: Sequence[str],
    images: int,
    *,
    source: str = "",
    data_dir: str = "",
    log: Callable[[str], None] = print,
) -> list[RunStatus]:
    """Evaluates the trained networks on training images, and adds the errors to the results that have none.

    Args:
      statuses: list of `RunStatus`; those without a result stay as they are.
      directories: `plan.Directories`.
      program: the command that evaluates a run, without flags.
      images: number of training images to evaluate each network on.
      source, data_dir: the data of experiments whose flagfile names none, if they have moved; empty for the run's own.
      log: called with one line for each run, also if it cannot be evaluated.

    Returns:
      The statuses with the new results.
    """
    added = []
    for status in statuses:
        if status.result and "train" not in status.result["errors"]:
            log(f"{status.run.name}: evaluating on {images} training images")
            try:
                result = _evaluate(status, directories, program, images, _data_of(status.run, source, data_dir))
                status = status._replace(result=result)
            except (OSError, ValueError) as error:
                log(escaping.one_line(f"warning: {status.run.name} has no error on training images: {error}"))
        added.append(status)
    return added


def _evaluate(status, directories, program, images, data):
    """Evaluates a finished run on training images; returns the result with these errors."""
    workdir = directories.run(status.run)
    if not os.path.isdir(workdir):
        raise FileNotFoundError(f"{workdir} does not exist")
    checkpoint = status.result.get("selected", "newest")
    flags = {"workdir": workdir, "split": "train", "images": images, "checkpoint": checkpoint, **data}
    command = [*program, *(f"--{name}={value}" for name, value in flags.items() if value)]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise ValueError((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
    return results.add_training_errors(status.run, directories, status.result)


def run_status(run: plan.Run, directories: plan.Directories) -> RunStatus:
    """Returns the status of a run according to its files.

    Returns:
      A `RunStatus`; "failed" if files are damaged or have a different configuration.
    """
    try:
        result = None
        if os.path.exists(directories.result(run)):
            result = results.read_result(directories.result(run))
        differing = headers.training_differences(results.config_of(result), run.config) if result else []
        if result and not differing:
            return RunStatus(run, "done", result=result)
        if differing and results.overrides(run.config, run.experiment.config):
            # A short trial must not replace the result of a run of days.
            path = directories.result(run)
            raise ValueError(_different_values(path, differing, results.config_of(result), run.config, "results"))
        status = _workdir_status(run, directories)
    except (OSError, ValueError) as error:
        return RunStatus(run, "failed", str(error))
    if differing and status.status == "not run":
        return status._replace(detail=f"the existing result has a different {', '.join(differing)}")
    return status


def _workdir_status(run, directories):
    workdir = directories.run(run)
    if os.path.exists(os.path.join(workdir, "config.flags")):
        run_files = results.read_run(workdir)
        run = run._replace(config=run.config.with_record(run_files.config))
        # More epochs only continue a run, so they are not among the differences.
        if differing := headers.without_paths(run_files.config).differences(headers.without_paths(run.config)):
            raise ValueError(_different_values(workdir, differing, run_files.config, run.config, "workdir"))
        total_steps = run_files.total_steps(run.config)
        if run_files.steps > total_steps:
            raise ValueError(
                f"Expected {run.name} to have at most the {total_steps} steps of epochs={run.config.epochs:g}. "
                f"Received: {run_files.steps}; use a new --workdir"
            )
        if run_files.is_finished(run.config):
            return RunStatus(run, "trained")
    state = results.read_state(run, directories)
    if state.get("failed"):
        return RunStatus(run, "failed", state["failed"], can_train=True)
    if os.path.exists(workdir):
        return RunStatus(run, "started", can_train=True)
    detail = "needs ImageNet" if run.experiment.header.needs_imagenet else ""
    return RunStatus(run, "not run", detail, can_train=True)


def _different_values(path, names, previous, requested, flag):
    values = [vars(headers.without_paths(run_config)) for run_config in (previous, requested)]
    return messages.different_values(f"{path} was trained", names, *values, flag)


def collect_all(runs: Sequence[plan.Run], directories: plan.Directories) -> list[RunStatus]:
    """Collects the results of the runs that have finished, without training any.

    Returns:
      A list of `RunStatus`.
    """
    statuses = []
    for run in runs:
        status = run_status(run, directories)
        if status.status == "trained":
            try:
                status = RunStatus(run, "done", result=results.collect(run, directories))
            except (OSError, ValueError) as error:
                status = RunStatus(run, "failed", str(error))
        statuses.append(status)
    return statuses
