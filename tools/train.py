"""Trains AlexNet, and goes on where a work directory stands.

python tools/train.py --flagfile=flags/quickstart.flags --workdir=runs/quickstart
"""

import program
from absl import flags

flags.DEFINE_string("workdir", "", "the run's directory: configuration, checkpoints, logs, figures")
flags.DEFINE_list(
    "profile_steps",
    [],
    "profile these steps, the first and the last, such as 10,20, counted from 1 at the start of the run, also in a run "
    "that is resumed; for TensorBoard and tools/profile_report.py",
)


def main(config):
    from alexnet_tf import run

    run.train(config, program.require("workdir"), _numbers(flags.FLAGS.profile_steps))


def _numbers(texts):
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        raise ValueError(f"Expected profile_steps such as 10,20. Received: {','.join(texts)}") from None


if __name__ == "__main__":
    program.run(main, __doc__, ["workdir", "profile_steps"])
