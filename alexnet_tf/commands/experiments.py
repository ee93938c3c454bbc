"""Trains experiments with several seeds, and makes a table of their results.

alexnet-tf experiments --flagfiles=cifar10_26,cifar10_18 --seeds=0,1,2 --source=folder:DIR \\
    --workdir=runs --results=results

If it is interrupted, the same command resumes; it skips finished runs. Flags of the configuration
override those of every flagfile, and the results name them. --source and --data_dir apply to
flagfiles that name no data.
"""

import glob
import os
from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables
from alexnet_tf.training import stopping
from alexnet_tf.utils import files

FLAGS = flags.FlagValues()
_FLAGFILES = flagfiles.define_paths(
    "flagfiles", [], "experiments: flagfiles or their names, separated by commas; may contain *", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of each experiment, separated by commas", flag_values=FLAGS)
_WORKDIR = flagfiles.define_path("workdir", "", "directory of the runs, each in NAME-SEED", flag_values=FLAGS)
_RESULTS = flagfiles.define_path("results", "", "directory of the results, each in NAME-SEED.json", flag_values=FLAGS)
_INDEX = flags.DEFINE_integer(
    "index", 0, "index of this machine, from 0, if there are several", lower_bound=0, flag_values=FLAGS
)
_COUNT = flags.DEFINE_integer("count", 1, "number of machines that share the runs", lower_bound=1, flag_values=FLAGS)
_TABLE = flagfiles.define_path("table", "", "file for the table as Markdown", flag_values=FLAGS)
_CURVES = flagfiles.define_path(
    "curves", "", "PNG file for a plot of the training errors; needs matplotlib", flag_values=FLAGS
)
_THRESHOLD = flags.DEFINE_float(
    "threshold",
    0.25,
    "training error, 0 to 1: the table says when each experiment reaches it, and the plot marks it",
    lower_bound=0,
    upper_bound=1,
    flag_values=FLAGS,
)
_COLLECT = flags.DEFINE_boolean(
    "collect", False, "collect the results of finished runs without training, and make the table", flag_values=FLAGS
)
_LIST = flags.DEFINE_boolean("list", False, "only print the status of each run", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    # Not `program.run`: TensorFlow is loaded by the runs, and flags of the configuration override those of flagfiles.
    parsed = program.parse(argv, __doc__, FLAGS, fields=program.ALL_FIELDS)
    program.call(parsed, lambda: _run_or_list(parsed.flag_values), stopping.Stop("stopped; the same command resumes"))


def _run_or_list(flag_values):
    patterns = program.require(_FLAGFILES)
    directories = plan.Directories(program.require(_WORKDIR), program.require(_RESULTS))
    paths = [path for pattern in patterns for path in _find_flagfiles(pattern)]
    overrides = {name: flag_values[name].serialize() for name in program.ALL_FIELDS if flag_values[name].present}
    if "seed" in overrides:
        raise ValueError(f"Expected --seeds. Received: {overrides['seed']}")
    data = {name: flag_values[name].value for name in ("source", "data_dir")}
    runs = plan.plan(paths, _SEEDS.value, [flag for name, flag in overrides.items() if name not in data])
    own_runs = plan.shard(runs, _INDEX.value, _COUNT.value)
    if _LIST.value:
        _print_statuses(own_runs, directories)
    else:
        _run(runs, own_runs, directories, data)


def _find_flagfiles(pattern):
    """Returns the paths of the flagfiles with a name, or with names that match a pattern."""
    if os.path.isfile(pattern):
        return [pattern]
    return sorted(glob.glob(pattern)) or [flagfiles.find_flagfile(pattern)]


def _print_statuses(runs, directories):
    if _COLLECT.value or _TABLE.value or _CURVES.value:
        raise ValueError("Expected --list alone, as it writes nothing. Received: collect, table or curves")
    for run in runs:
        print(f"{run.experiment.name} seed {run.seed}: {runner.run_status(run, directories)}")


def _run(runs, own_runs, directories, data):
    """Trains or collects the runs of this machine; writes the table of all."""
    plan.check_writable(directories, table=_TABLE.value, curves=_CURVES.value)
    if _CURVES.value:
        # Checked now rather than after hours of training. It imports TensorFlow.
        program.load_tensorflow()
        from alexnet_tf.reporting import figures

        figures.require_matplotlib("--curves")
    if _COLLECT.value:
        done = runner.collect_all(own_runs, directories)
    else:
        done = _train(own_runs, directories, data)
    statuses = {run.name: runner.run_status(run, directories) for run in runs}
    statuses |= {status.run.name: status for status in done}
    text = tables.table(statuses.values(), directories)
    text += tables.threshold_epochs(statuses.values(), _THRESHOLD.value)
    print(f"\n{text}", end="")
    if _TABLE.value:
        with files.atomic_write(_TABLE.value) as file:
            file.write(text)
    if _CURVES.value:
        drawn = figures.training_curves(tables.curves(statuses.values()), threshold=_THRESHOLD.value)
        figures.save_figure(drawn, _CURVES.value)
    written = {"results": directories.results, "table": _TABLE.value, "curves": _CURVES.value}
    print("", *(f"{name:<8}{path}" for name, path in written.items() if path), sep="\n")
    _check_all_finished(done)


def _train(runs, directories, data):
    log = lambda line: print(line, flush=True)
    return runner.run_all(runs, directories, program.command("train"), log=log, **data)


def _check_all_finished(done):
    # With --collect, an unfinished run is not an error.
    unfinished = ("failed",) if _COLLECT.value else ("failed", "started", "waiting")
    if statuses := [each.status for each in done if each.status in unfinished]:
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
        raise ValueError(f"Expected all {len(done)} runs to finish. Received: {counts}")
