"""Which runs to make: experiments times seeds, their directories, their order, and their division among machines."""

import dataclasses
import os
import tempfile
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_tf import config
from alexnet_tf.experiments import headers


class Run(NamedTuple):
    """An experiment with a seed."""

    experiment: headers.Experiment
    seed: int
    config: config.Config  # resolved, with the seed and the overrides
    flags: tuple[str, ...] = ()  # overrides of the flagfile, as on a command line
    initial_run: str = ""  # name of the run that provides the initial weights; empty if none, or if a flag sets them

    @property
    def name(self) -> str:
        return f"{self.experiment.name}-{self.seed}"


class Directories(NamedTuple):
    """The directories of the runs and of their results."""

    workdir: str
    results: str

    def run(self, run: Run, suffix: str = "") -> str:
        """Returns the run's work directory, or with a suffix a file next to it."""
        return os.path.join(self.workdir, run.name + suffix)

    def initial_run(self, run: Run) -> str:
        """Returns the work directory of the run that provides the initial weights; empty if there is none."""
        return run.initial_run and os.path.join(self.workdir, run.initial_run)

    def result(self, run: Run) -> str:
        """Returns the path of the run's result."""
        return os.path.join(self.results, f"{run.name}.json")


def plan(flagfiles: Iterable[str | os.PathLike], seeds: Iterable[int | str], flags: Sequence[str] = ()) -> list[Run]:
    """Plans a run for each experiment and seed.

    Args:
      flagfiles: paths.
      seeds: integers, or their text.
      flags: flags of the configuration, as on a command line, that override the flagfiles.

    Returns:
      A list of `Run`, grouped by experiment.

    Raises:
      ValueError: as `headers.read_experiment` and `headers.check_base`; if two experiments have the same name, if
        experiments are initialized from each other, or if a seed is invalid.
    """
    seeds = _parse_seeds(seeds)
    experiments = [headers.read_experiment(path) for path in flagfiles]
    names = [experiment.name for experiment in experiments]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"Expected flagfiles of different names. Received: {repeated[0]} twice")
    configs = [headers.configure(experiment.path, flags) for experiment in experiments]
    for experiment in experiments:
        headers.check_base(experiment)
    initial = [_initial_experiment(experiment, flags) for experiment in experiments]
    _check_initial(dict(zip(names, initial)))
    return [
        Run(experiment, seed, dataclasses.replace(run_config, seed=seed), tuple(flags), start and f"{start}-{seed}")
        for experiment, run_config, start in zip(experiments, configs, initial)
        for seed in seeds
    ]


def _parse_seeds(seeds):
    try:
        numbers = [int(seed) for seed in seeds]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"Expected seeds to be distinct non-negative integers, separated by commas. Received: "
            f"{','.join(map(str, seeds)) or 'none'}"
        )
    return numbers


def _initial_experiment(experiment, flags):
    """Returns the name of the experiment that provides the initial weights; empty if none is in the directory."""
    name = os.path.basename(experiment.config.initialize_from.rstrip("/"))
    has_flagfile = os.path.isfile(os.path.join(os.path.dirname(experiment.path), f"{name}.flags"))
    is_overridden = any(flag.lstrip("-").startswith("initialize_from=") for flag in flags)
    return name if name and has_flagfile and not is_overridden else ""


def _check_initial(initial):
    """Raises ValueError for a cycle; `initial` has for each name that of the experiment it is initialized from."""
    for name in initial:
        chain = [name]
        while (previous := initial.get(chain[-1])) and previous not in chain:
            chain.append(previous)
        if previous:
            raise ValueError(
                f"Expected experiments not to be initialized from each other. Received: {', '.join(chain)}"
            )


def in_dependency_order(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs so that each follows the one from which it is initialized."""
    by_name = {run.name: run for run in runs}

    def depth(run):
        return 1 + depth(by_name[run.initial_run]) if run.initial_run in by_name else 0

    return sorted(runs, key=depth)


def shard(runs: Sequence[Run], index: int, count: int) -> list[Run]:
    """Returns the runs of one of several machines: every `count`-th run, starting at `index`.

    Raises:
      ValueError: if `index` is outside [0, count).
    """
    if not 0 <= index < count:
        raise ValueError(f"Expected index to be 0 to {count - 1}, less than count. Received: {index}")
    return runs[index::count]


def check_writable(directories: Directories, **outputs: str) -> None:
    """Creates the directories, and checks that files can be written to them.

    Args:
      directories: `Directories`.
      **outputs: paths of files by the name of their flag, such as table; "" for none.

    Raises:
      OSError: if a file cannot be written. The message names the flag and the path.
    """
    paths = {name: path for name, path in outputs.items() if path}
    for name, path in paths.items():
        if os.path.isdir(path):
            raise IsADirectoryError(f"Expected --{name} to be a file. Received: {path}, a directory")
    parents = {name: os.path.dirname(os.path.abspath(path)) for name, path in paths.items()}
    for name, directory in {"workdir": directories.workdir, "results": directories.results, **parents}.items():
        try:
            os.makedirs(directory, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise OSError(f"Expected --{name} to be writable. Received: {directory} ({error.strerror})") from None
