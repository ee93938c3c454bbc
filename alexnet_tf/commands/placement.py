"""Prints what each device computes in a training step, and what is transferred.

alexnet-tf placement --devices=/CPU:0,/CPU:1

The report is taken from the graphs that TensorFlow executed in one step on synthetic images.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 1000, "number of classes", flag_values=FLAGS)
_JSON = flagfiles.define_path("json", "", "file for the report as JSON", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    program.run(_report, argv, __doc__, FLAGS)


def _report(run_config):
    from alexnet_tf.runs import placement

    print(placement.placement_account(run_config, _NUM_CLASSES.value, _JSON.value))
