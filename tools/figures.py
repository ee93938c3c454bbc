"""Draws the figures of a run and writes its report: report.html, report.md and figures/ in its directory.

python tools/figures.py --workdir=runs/quickstart

Training does that at its end; this does it again, or for a run that goes on, from the newest checkpoint. The run's own
configuration counts; of the flags below only --source and --data_dir, where the data set has moved.
"""

import program
from absl import flags

flags.DEFINE_string("workdir", "", "the directory in which tools/train.py ran")


def main(config):
    from alexnet_tf.runs import report

    report.make(program.require("workdir"), source=config.source, data_dir=config.data_dir)


if __name__ == "__main__":
    program.run(main, __doc__, ["workdir"])
