"""Runs one after another, each a process of its own, and where each stands."""

import os
import subprocess
import sys
from typing import NamedTuple

from alexnet_tf.experiments import headers
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results
from alexnet_tf.utils import files
from alexnet_tf.utils import machine

# What a training that was asked to stop ends with: by Ctrl-C, and by SIGTERM.
STOPPED = (130, 143)


class Standing(NamedTuple):
    """Where a run stands."""

    run: plan.Run
    # "done": there is a result; "finished": it has only to be harvested; "begun"; "not run"; "failed"; "waits" for the
    # run that it begins with; "left": another process is at it
    status: str
    detail: str = ""
    result: dict | None = None
    is_open: bool = False  # whether training can take it from here

    def __str__(self):
        return f"{self.status}: {self.detail}" if self.detail else self.status


def run_all(runs, places, program, *, source="", data_dir="", tell=print):
    """Trains each run in a process of its own, one after another, and harvests it; finished ones are left alone.

    Args:
      runs: list of `plan.Run`.
      places: `plan.Places`.
      program: the beginning of the command line that trains, as a list.
      source, data_dir: the data of experiments whose flagfile names none.
      tell: called with a line before and after each run.

    Returns:
      A list of `Standing`, a run behind the one that it begins with. What goes wrong in a run is in its status; the
      others go on.
    """
    standings = []
    for number, run in enumerate(plan.in_order(runs)):
        label = f"{run.name} ({number + 1} of {len(runs)})"
        data = {} if run.config.source or run.config.data_dir else {"source": source, "data_dir": data_dir}
        try:
            with files.exclusive_lock(places.of_run(run, ".lock"), run.name) as lock:
                standing = look(run, places)
                if standing.status == "finished":
                    standing = Standing(run, "done", result=results.harvest(run, places))
                elif standing.is_open:
                    standing = _wanting(run, places, data)
                    if not standing:
                        tell(f"{label}: {run.experiment.header.claim}")
                        standing = _train(run, places, program, data, lock)
        except BlockingIOError:
            standing = Standing(run, "left", "another process is at it")
        except (OSError, ValueError) as error:
            standing = Standing(run, "failed", str(error))
        tell(f"{label}: {standing}")
        standings.append(standing)
    return standings


def _wanting(run, places, data):
    """The `Standing` of a run that cannot begin, for want of data or of the run that it begins with; None if it can."""
    if not _has_data(run, data):
        return Standing(run, "not run", "needs ImageNet")
    if run.start and not os.path.exists(os.path.join(places.of_start(run), "train.json")):
        why = f"for {run.start}, which is not there or not finished; --initialize_from begins with another"
        return Standing(run, "waits", why)
    return None


def _has_data(run, data):
    """Whether an experiment on ImageNet has been given what may be that."""
    if not run.experiment.header.needs_imagenet:
        return True
    places = data or {name: getattr(run.config, name) for name in headers.PLACES}
    return bool(places["data_dir"]) or places["source"].removeprefix("tfds:").startswith(headers.IMAGENET)


def _train(run, places, program, data, lock):
    """Trains a run, or the rest of it; its `Standing`."""
    is_new = not os.path.exists(places.of_run(run))
    machines = [] if is_new else results.read_state(run, places).get("machines", [])
    facts = machine.facts()
    # Each that it was trained on, in their order.
    state = {"machines": machines if facts in machines else [*machines, facts]}
    files.write_json(places.of_run(run, ".state.json"), state)
    given = [f"--{name}={value}" for name, value in data.items() if value]
    command = [*program, f"--flagfile={run.experiment.path}", *given, *run.flags]
    command += [f"--initialize_from={places.of_start(run)}"] if run.start else []
    command += [f"--seed={run.seed}", f"--workdir={places.of_run(run)}"]
    # Should this process be killed, training goes on and keeps the lock.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace", pass_fds=[lock]) as process:
        try:
            last = _pass_on(process.stderr)
        except BaseException:
            # Who stops this process means the training, which saves where it stands.
            process.terminate()
            _pass_on(process.stderr)
            raise
    if process.returncode in STOPPED:
        return Standing(run, "begun", last, is_open=True)
    if process.returncode:
        ended = f"status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        files.write_json(places.of_run(run, ".state.json"), {**state, "failed": last or ended})
        return Standing(run, "failed", last or ended, is_open=True)
    return Standing(run, "done", result=results.harvest(run, places))


def _pass_on(lines):
    """Writes what a process says on standard error there; returns its last line, empty without."""
    last = ""
    for line in lines:
        sys.stderr.write(line)
        last = line.strip() or last
    return last


def look(run, places):
    """Where a run stands, by what is there.

    Returns:
      A `Standing`; "failed" with what is wrong, where files are not whole or of another configuration.
    """
    try:
        result = results.read_result(places.result(run)) if os.path.exists(places.result(run)) else None
        differing = headers.learns_differently(results.config_of(result), run.config) if result else []
        if result and not differing:
            return Standing(run, "done", result=result)
        if differing and results.overrides(run.config, run.experiment.config):
            # A short run, say, does not take the place of one that took days.
            raise ValueError(
                f"Expected --results without {run.name}.json of another configuration. Received: one with another "
                + ", ".join(differing)
            )
        standing = _look_at_workdir(run, places)
    except (OSError, ValueError) as error:
        return Standing(run, "failed", str(error))
    if differing and standing.status == "not run":
        return standing._replace(detail=f"the result there is of another {', '.join(differing)}")
    return standing


def _look_at_workdir(run, places):
    workdir = places.of_run(run)
    if os.path.exists(os.path.join(workdir, "config.flags")):
        left = results.read_run(workdir)
        # More epochs only go on with a run.
        if differing := headers.published(left.config).differences(headers.published(run.config)):
            raise ValueError(
                f"Expected --workdir without {run.name} of another configuration. Received: one with another "
                + ", ".join(differing)
            )
        if left.steps > left.steps_of(run.config):
            raise ValueError(
                f"Expected {run.name} to have taken at most the {left.steps_of(run.config)} steps of "
                f"epochs={run.config.epochs:g}. Received: {left.steps}; take another --workdir"
            )
        if left.is_finished(run.config):
            return Standing(run, "finished")
    state = results.read_state(run, places)
    if state.get("failed"):
        return Standing(run, "failed", state["failed"], is_open=True)
    if os.path.exists(workdir):
        return Standing(run, "begun", is_open=True)
    return Standing(run, "not run", "needs ImageNet" if run.experiment.header.needs_imagenet else "", is_open=True)


def harvest_all(runs, places):
    """Harvests what has finished since; runs nothing.

    Returns:
      A list of `Standing`.
    """
    standings = []
    for run in runs:
        standing = look(run, places)
        if standing.status == "finished":
            try:
                standing = Standing(run, "done", result=results.harvest(run, places))
            except (OSError, ValueError) as error:
                standing = Standing(run, "failed", str(error))
        standings.append(standing)
    return standings
