"""Prints where the time of profiled training steps went, and what to improve first.

alexnet-tf train --flagfile=quickstart --workdir=runs/quickstart --profile_steps=10,20
alexnet-tf profile_report --workdir=runs/quickstart

To see the same profile in a browser, run tensorboard --logdir=runs/quickstart/tensorboard and open
the page Profile. Both need pip install 'alexnet-tf[profile]'.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path(
    "workdir", "", "directory of a run, whose newest profile is read; or a file *.xplane.pb", flag_values=FLAGS
)
_JSON = flagfiles.define_path("json", "", "file for the measurements as JSON", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    program.run_plain(_report, argv, __doc__, FLAGS, required=[_WORKDIR])


def _report(_):
    from alexnet_tf.profiling import bottlenecks
    from alexnet_tf.profiling import trace
    from alexnet_tf.utils import files

    measured = bottlenecks.measure(trace.read(trace.newest(_WORKDIR.value)))
    if _JSON.value:
        files.write_json(_JSON.value, measured)
    print(bottlenecks.to_text(measured))
