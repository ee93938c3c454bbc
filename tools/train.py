"""Trains AlexNet, and goes on where a work directory stands.

python tools/train.py --flagfile=flags/quickstart.flags --workdir=runs/quickstart
"""

import program
from absl import flags

flags.DEFINE_string("workdir", "", "the run's directory: configuration, checkpoints, logs, figures")


def main(config):
    from alexnet_tf import run

    run.train(config, program.require("workdir"))


if __name__ == "__main__":
    program.run(main, __doc__, ["workdir"])
