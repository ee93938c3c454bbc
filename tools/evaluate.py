"""Evaluates a run: top-1 and top-5 error of the central crop and of ten views.

python tools/evaluate.py --workdir=runs/quickstart
"""

import program
from absl import flags

flags.DEFINE_string("workdir", "", "a directory in which tools/train.py ran")
flags.DEFINE_string("split", "validation", "validation, test or train")


def main(config):
    from alexnet_tf import run

    # The run's own configuration counts; of the flags only where the data are, if that is given.
    run.evaluate(program.require("workdir"), flags.FLAGS.split, source=config.source, data_dir=config.data_dir)


if __name__ == "__main__":
    program.run(main, __doc__, ["workdir", "split"])
