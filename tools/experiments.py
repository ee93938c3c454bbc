"""Runs experiments with several seeds, keeps what is worth comparing, and makes the table of all.

python tools/experiments.py --flagfiles=flags/cifar10_26.flags,flags/cifar10_18.flags --seeds=0,1,2 \\
    --workdir=runs --results=results --source=folder:DIR

The same command goes on where it was stopped, and does no finished run again. Flags of the configuration that are given
override the flagfiles', and the result says so; --source and --data_dir are for flagfiles that name no data.
"""

import dataclasses
import glob
import os
import signal
import sys

import program
from absl import flags

from alexnet_tf import config as configuration
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables
from alexnet_tf.training import stopping
from alexnet_tf.utils import files

flags.DEFINE_list("flagfiles", [], "experiments, with commas between; * stands for any characters")
flags.DEFINE_list("seeds", ["0"], "of each experiment, with commas between")
flags.DEFINE_string("workdir", "", "where each run has its directory, NAME-SEED")
flags.DEFINE_string("results", "", "where each run's result is kept, NAME-SEED.json")
flags.DEFINE_integer("index", 0, "with several machines: which this is, from 0", lower_bound=0)
flags.DEFINE_integer("count", 1, "of machines among which the runs are spread", lower_bound=1)
flags.DEFINE_string("table", "", "also a file for the table, in Markdown")
flags.DEFINE_string("curves", "", "also a file for the training errors over the epochs, a PNG (needs matplotlib)")
flags.DEFINE_float(
    "threshold",
    0.25,
    "a training error as a share, 0 to 1: when each experiment reaches it is said, and marked in curves",
    lower_bound=0,
    upper_bound=1,
)
flags.DEFINE_boolean("collect", False, "collect the results of finished runs without training, and make the table")
flags.DEFINE_alias("harvest", "collect")
flags.DEFINE_boolean("list", False, "run and keep nothing: say where each run stands")

OWN_FLAGS = [
    "flagfiles",
    "seeds",
    "workdir",
    "results",
    "index",
    "count",
    "table",
    "curves",
    "threshold",
    "collect",
    "list",
]

FLAGS = flags.FLAGS


def main(given):
    """Runs, collects or lists; `given` has each flag of the configuration that was given, as on a command line."""
    patterns = program.require("flagfiles")
    directories = plan.Directories(program.require("workdir"), program.require("results"))
    paths = [path for pattern in patterns for path in sorted(glob.glob(pattern)) or [pattern]]
    if "seed" in given:
        raise ValueError(f"Expected --seeds. Received: {given['seed']}")
    data = {name: getattr(FLAGS, name) for name in ("source", "data_dir")}
    overrides = [flag for name, flag in given.items() if name not in data]
    runs = plan.plan(paths, FLAGS.seeds, overrides)
    own = plan.shard(runs, FLAGS.index, FLAGS.count)
    if FLAGS.list:
        if FLAGS.collect or FLAGS.table or FLAGS.curves:
            raise ValueError(
                "Expected --list alone, which keeps and writes nothing. Received: collect, table or curves"
            )
        for run in own:
            print(f"{run.experiment.name} seed {run.seed}: {runner.run_status(run, directories)}")
        return
    plan.check_writable(directories, table=FLAGS.table, curves=FLAGS.curves)
    if FLAGS.curves:
        # Before hours of training. It loads TensorFlow, so only where it is asked for.
        program.load_tensorflow_quietly()
        from alexnet_tf.reporting import figures

        figures.require_matplotlib("--curves")
    if FLAGS.collect:
        done = runner.collect_all(own, directories)
    else:
        train = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.py")]
        done = runner.run_all(own, directories, train, log=lambda line: print(line, flush=True), **data)
    statuses = {run.name: runner.run_status(run, directories) for run in runs} | {each.run.name: each for each in done}
    text = tables.table(statuses.values(), directories)
    text += tables.threshold_epochs(statuses.values(), FLAGS.threshold)
    print(f"\n{text}", end="")
    if FLAGS.table:
        with files.atomic_write(FLAGS.table) as file:
            file.write(text)
    if FLAGS.curves:
        drawn = figures.training_curves(tables.curves(statuses.values()), threshold=FLAGS.threshold)
        figures.save_figure(drawn, FLAGS.curves)
    written = {"results": directories.results, "table": FLAGS.table, "curves": FLAGS.curves}
    print("", *(f"{what:<8}{path}" for what, path in written.items() if path), sep="\n")
    # What was begun and not asked for here is no mistake.
    bad = ("failed",) if FLAGS.collect else ("failed", "started", "waiting")
    if others := [each.status for each in done if each.status in bad]:
        counts = ", ".join(f"{others.count(status)} {status}" for status in sorted(set(others)))
        raise ValueError(f"Expected all {len(done)} runs to end well. Received: {counts}")


def start():
    """Parses flags and calls `main`. `program.run` would load TensorFlow, and take what is given for a whole run."""
    program.parse(__doc__, OWN_FLAGS)
    names = [field.name for field in dataclasses.fields(configuration.Config)]
    signal.signal(signal.SIGTERM, stopping.Stop().request)
    try:
        main({name: FLAGS[name].serialize() for name in names if FLAGS[name].present})
    except KeyboardInterrupt:
        sys.exit(130)
    except stopping.Stopped:
        program.fail("stopped; the same command resumes", stopping.STATUS)
    except (ValueError, OSError) as error:
        if FLAGS.traceback:
            raise
        program.fail(error, 1)


if __name__ == "__main__":
    start()
