"""The flagfile of a small network, a program that stands in for its training, and the files of a run."""

import json
import pathlib

from alexnet_tf import flagfiles
from alexnet_tf.experiments import runner

ROOT = pathlib.Path(__file__).resolve().parents[2]

HEADER = """\
# Claim: a small net
#   learns.
# Command: python tools/train.py --flagfile=flags/small.flags --source=folder:DIR --workdir=DIR
# Expected: 30 / 10
# Band: 5 / 2
# Data: pictures
# Views: center
# Cost: a second.
"""
FLAGS = """\
--network=cifar10_26
--recipe=original
--image_size=32
--crop_size=32
--schedule=linear
--batch_size=10
--epochs=4
"""

# Writes the files that tools/train.py would, at once. Seed 6 is interrupted, 7 fails, 8 is killed, 9 hangs.
TRAINER = """
import json, os, pathlib, signal, sys, time
from absl import flags
sys.path[:0] = [ROOT, ROOT + "/tests/helpers"]
from alexnet_tf import flagfiles
import small_experiments
flagfiles.define_flags(flags.FLAGS)
flags.DEFINE_string("workdir", "", "")
flags.FLAGS(sys.argv)
config = flagfiles.from_flags(flags.FLAGS)
with open(LOG, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if config.seed == 6:
    os.mkdir(flags.FLAGS.workdir)
    print("train.py: stopped at step 5", file=sys.stderr)
    sys.exit(143)
if config.seed == 7:
    sys.exit("a first line\\ntrain.py: Expected luck. Received: none")
if config.seed == 8:
    os.kill(os.getpid(), signal.SIGKILL)
if config.seed == 9:
    print(os.getpid(), flush=True)
    time.sleep(60)
small_experiments.leave_run(pathlib.Path(flags.FLAGS.workdir), config)
"""

# Writes the file that tools/evaluate.py would, at once. Seed 7 fails.
EVALUATOR = """
import json, pathlib, sys
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
with open(LOG, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
workdir = pathlib.Path(flags["workdir"])
if workdir.name.endswith("-7"):
    sys.exit("a first line\\nevaluate.py: Expected luck. Received: none")
views = {"num_examples": int(flags["images"]), "loss": 1.0, "top1_error": 0.1, "top5_error": 0.05}
section = {"majority_error": 0.9, "center_crop": views, "ten_views": views, "confusions": [["cat", "dog", 3, 0.5]]}
step = json.loads((workdir / "train.json").read_text())["step"]
written = {"step": step, "selected": "newest", "evaluation": {flags["split"]: section}}
(workdir / "evaluation.json").write_text(json.dumps(written))
print("a line of the evaluation")
"""


def leave_run(workdir, config, *, top1=0.25, top5=0.1, epochs=None, tested=20):
    """Writes the files of a run on 100 training images: two reports per epoch; the error falls by 0.1 per epoch."""
    config = config.resolved()
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.flags").write_text(flagfiles.to_text(config))
    steps_per_epoch = 100 // config.batch_size
    done = round(config.epochs if epochs is None else epochs)
    with open(workdir / "metrics.jsonl", "w") as file:
        for epoch in range(1, done + 1):
            step = epoch * steps_per_epoch
            # 80 images at 100 a second, 20 at 10 a second; the mean error is 0.9 - 0.1 * epoch.
            for examples, speed, at, error in (80, 100.0, step - 2, -0.02), (20, 10.0, step, 0.08):
                record = {
                    "kind": "train",
                    "step": at,
                    "epoch": at / steps_per_epoch,
                    "train_loss": 2 - 0.1 * epoch + error,
                    "train_error": max(0, 0.9 - 0.1 * epoch + error),
                    "examples": examples,
                    "images_per_second": speed,
                    "epoch_ended": at == step,
                }
                file.write(json.dumps(record) + "\n")
            record = {"kind": "validation", "step": step, "epoch": epoch, "num_examples": 20, "top1_error": 1 / epoch}
            file.write(json.dumps(record) + "\n")
    views = {"num_examples": tested, "loss": 1.0, "top1_error": top1, "top5_error": top5}
    section = {
        "majority_error": 0.9,
        "center_crop": views,
        "ten_views": {**views, "top1_error": top1 - 0.05},
        "confusions": [["cat", "dog", 3, 0.5]],
    }
    if done == config.epochs:
        figures = {"step": done * steps_per_epoch, "checkpoint": f"{workdir}/ckpt", "evaluation": {"test": section}}
        (workdir / "train.json").write_text(json.dumps(figures))


def write_variant(path, flagfile, **options):
    """Writes the flagfile of a variant of another experiment; returns its path."""
    header = HEADER.replace("# Data", f"# Base: small\n# Changes: {', '.join(options)}\n# Data")
    flags = "".join(f"--{name}={value}\n" for name, value in options.items())
    path.write_text(f"{header}--flagfile={flagfile}\n{flags}")
    return path


def calls(tmp_path):
    """Returns the command lines with which the trainer was called."""
    path = tmp_path / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def status_lines(statuses):
    return [str(each) for each in statuses]


def run_quietly(runs, directories, trainer, **options):
    return runner.run_all(runs, directories, trainer, log=lambda line: None, **options)


def leave_results(directories, runs, errors):
    """Writes runs with these top-1 and top-5 errors, and collects their results."""
    for run, (top1, top5) in zip(runs, errors):
        leave_run(pathlib.Path(directories.run(run)), run.config, top1=top1, top5=top5)
    return runner.collect_all(runs, directories)


def cells(table, name):
    """Returns the row of an experiment, by column."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:1] == "|"]
    (row,) = [row for row in rows if row[0] == name]
    return dict(zip(rows[0], row))
