"""Prints what each device does in a training step, and what crosses between the two.

python tools/placement.py --devices=/CPU:0,/CPU:1

The account is taken from the graphs that TensorFlow executed, in one step on made-up images.
"""

import program
from absl import flags

flags.DEFINE_integer("num_classes", 1000, "of the network")
flags.DEFINE_string("json", "", "also write the account to this file")


def main(config):
    from alexnet_tf.runs import placement

    print(placement.placement_account(config, flags.FLAGS.num_classes, flags.FLAGS.json))


if __name__ == "__main__":
    program.run(main, __doc__, ["num_classes", "json"])
