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
from alexnet_tf.experiments import training_sizes
from alexnet_tf.reporting import analysis_figures
from alexnet_tf.reporting import figures
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
_SIZE_FIGURE = flagfiles.define_path(
    "size_figure",
    "",
    "PNG file for a plot of the errors by number of training images, of experiments that differ in training_images; "
    "needs matplotlib",
    flag_values=FLAGS,
)
_GAP_IMAGES = flags.DEFINE_integer(
    "gap_images",
    0,
    "number of training images to evaluate each finished run on, without dropout and augmentation; the table then has "
    "the gap between training and validation errors; 0: none",
    lower_bound=0,
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
    if given := [flag.name for flag in (_COLLECT, _TABLE, _CURVES, _SIZE_FIGURE, _GAP_IMAGES) if flag.value]:
        raise ValueError(
            f"Expected --list without flags that write something, as it only prints. Received: {', '.join(given)}"
        )
    for run in runs:
        print(f"{run.experiment.name} seed {run.seed}: {runner.run_status(run, directories)}")


def _run(runs, own_runs, directories, data):
    """Trains or collects the runs of this machine; writes the table of all."""
    outputs = {"table": _TABLE.value, "curves": _CURVES.value, "size_figure": _SIZE_FIGURE.value}
    # Checked now rather than after hours of training.
    if _SIZE_FIGURE.value:
        training_sizes.check_plan(runs)
    for name in ("curves", "size_figure"):
        if outputs[name]:
            figures.require_matplotlib(f"--{name}")
    plan.check_writable(directories, **outputs)
    done = runner.collect_all(own_runs, directories) if _COLLECT.value else _train(own_runs, directories, data)
    if _GAP_IMAGES.value:
        evaluation = program.command("evaluate"), _GAP_IMAGES.value
        done = runner.add_training_errors(done, directories, *evaluation, log=_log, **data)
    statuses = {run.name: runner.run_status(run, directories) for run in runs}
    statuses |= {status.run.name: status for status in done}
    _write(statuses.values(), directories)
    written = {"results": directories.results, **outputs}
    print("", *(f"{name:<12}{path}" for name, path in written.items() if path), sep="\n")
    _check_all_finished(done)


def _write(statuses, directories):
    """Prints the tables, and writes them and the figures to their files."""
    text = tables.table(statuses, directories)
    text += tables.gaps(statuses, directories)
    text += tables.threshold_epochs(statuses, _THRESHOLD.value)
    print(f"\n{text}", end="")
    if _TABLE.value:
        with files.atomic_write(_TABLE.value) as file:
            file.write(text)
    if _CURVES.value:
        drawn = figures.training_curves(tables.curves(statuses), threshold=_THRESHOLD.value)
        figures.save_figure(drawn, _CURVES.value)
    if _SIZE_FIGURE.value:
        found = training_sizes.collect(statuses)
        drawn = analysis_figures.errors_by_size(training_sizes.labeled(found), training_sizes.references(found))
        figures.save_figure(drawn, _SIZE_FIGURE.value)


def _log(line):
    print(line, flush=True)


def _train(runs, directories, data):
    return runner.run_all(runs, directories, program.command("train"), log=_log, **data)


def _check_all_finished(done):
    # With --collect, an unfinished run is not an error.
    unfinished = ("failed",) if _COLLECT.value else ("failed", "started", "waiting")
    if statuses := [each.status for each in done if each.status in unfinished]:
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
        raise ValueError(f"Expected all {len(done)} runs to finish. Received: {counts}")
