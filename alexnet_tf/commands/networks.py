"""Prints the networks: year, layers, parameters, arithmetic, error and what was new.

alexnet-tf networks
alexnet-tf networks --figure=networks.png

The tables are in Markdown. The figure shows error against arithmetic.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_FIGURE = flagfiles.define_path("figure", "", "PNG file for a figure of error against arithmetic", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    program.run_plain(_print, argv, __doc__, FLAGS)


def _print(arguments):
    del arguments
    from alexnet_tf.runs import networks

    for title, num_classes in (("ImageNet, 224 x 224", 1000), ("CIFAR-10, 32 x 32", 10)):
        print(f"{title}:\n\n{networks.table(num_classes)}")
    if _FIGURE.value:
        networks.draw(_FIGURE.value)
        print(f"figure {_FIGURE.value}")
