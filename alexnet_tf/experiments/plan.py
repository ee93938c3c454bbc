"""Runs that are to be made: experiments and seeds, where each has its place, and who makes which."""

import dataclasses
import os
import tempfile
from typing import NamedTuple

from alexnet_tf import config as configuration
from alexnet_tf.experiments import headers


class Run(NamedTuple):
    """An experiment with a seed."""

    experiment: headers.Experiment
    seed: int
    config: configuration.Config  # resolved, with the seed and what overrides the flagfile
    flags: tuple = ()  # what overrides the flagfile, as on a command line
    start: str = ""  # name of the run whose weights it begins with; empty without, or where a flag says which

    @property
    def name(self):
        return f"{self.experiment.name}-{self.seed}"


class Places(NamedTuple):
    """Where the runs and their results are."""

    workdir: str
    results: str

    def of_run(self, run, suffix=""):
        """The run's work directory, or the file with a suffix beside it."""
        return os.path.join(self.workdir, run.name + suffix)

    def of_start(self, run):
        """The work directory of the run that a run begins with; empty without."""
        return run.start and os.path.join(self.workdir, run.start)

    def result(self, run):
        return os.path.join(self.results, f"{run.name}.json")


def plan(flagfiles, seeds, flags=()):
    """Every experiment with every seed.

    Args:
      flagfiles: paths.
      seeds: integers, or their text.
      flags: of the configuration, as on a command line, to override what is in the flagfiles.

    Returns:
      A list of `Run`, one experiment after another.

    Raises:
      ValueError: as `headers.read_experiment` and `headers.check_base`; for two experiments of one name, those that
        begin with each other, or seeds that are none.
    """
    seeds = _whole_numbers(seeds)
    experiments = [headers.read_experiment(path) for path in flagfiles]
    names = [experiment.name for experiment in experiments]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"Expected flagfiles of different names. Received: {twice[0]} twice")
    configs = [headers.configure(experiment.path, flags) for experiment in experiments]
    for experiment in experiments:
        headers.check_base(experiment)
    starts = [_start(experiment, flags) for experiment in experiments]
    _check_starts(dict(zip(names, starts)))
    return [
        Run(experiment, seed, dataclasses.replace(config, seed=seed), tuple(flags), start and f"{start}-{seed}")
        for experiment, config, start in zip(experiments, configs, starts)
        for seed in seeds
    ]


def _whole_numbers(seeds):
    try:
        numbers = [int(seed) for seed in seeds]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"Expected seeds to be different whole numbers from 0, with commas between. Received: "
            f"{','.join(map(str, seeds)) or 'none'}"
        )
    return numbers


def _start(experiment, flags):
    """The name of the experiment that one begins with: one with a flagfile beside, named as the directory it reads."""
    name = os.path.basename(experiment.config.initialize_from.rstrip("/"))
    is_beside = os.path.isfile(os.path.join(os.path.dirname(experiment.path), f"{name}.flags"))
    is_given = any(flag.lstrip("-").startswith("initialize_from=") for flag in flags)
    return name if name and is_beside and not is_given else ""


def _check_starts(starts):
    """Raises for experiments that begin with each other; `starts` has for each name that of another, or nothing."""
    for name in starts:
        chain = [name]
        while (start := starts.get(chain[-1])) and start not in chain:
            chain.append(start)
        if start:
            raise ValueError(f"Expected experiments not to begin with each other. Received: {', '.join(chain)}")


def in_order(runs):
    """The same runs, each behind the one that it begins with."""
    by_name = {run.name: run for run in runs}

    def before(run):
        return 1 + before(by_name[run.start]) if run.start in by_name else 0

    return sorted(runs, key=before)


def share(runs, index, count):
    """What one of several machines runs: every `count`-th run, from the one at `index`.

    Raises:
      ValueError: for an index outside [0, count).
    """
    if not 0 <= index < count:
        raise ValueError(f"Expected index to be 0 to {count - 1}, below count. Received: {index}")
    return runs[index::count]


def check_places(places, **outputs):
    """Makes the directories and checks that files can be written where they will be.

    Args:
      places: `Places`.
      **outputs: paths of files by the flag that names each, such as table; "" for none.

    Raises:
      OSError: naming the directory or file.
    """
    written = {name: path for name, path in outputs.items() if path}
    for name, path in written.items():
        if os.path.isdir(path):
            raise IsADirectoryError(f"Expected --{name} to be a file. Received: {path}, a directory")
    beside = {name: os.path.dirname(os.path.abspath(path)) for name, path in written.items()}
    for what, directory in {"workdir": places.workdir, "results": places.results, **beside}.items():
        try:
            os.makedirs(directory, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise OSError(
                f"Expected --{what} to be where files can be written. Received: {directory} ({error.strerror})"
            ) from None
