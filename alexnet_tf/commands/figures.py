"""Draws the figures of a run and writes its report.

alexnet-tf figures --workdir=runs/quickstart

The report is report.html, report.md and figures/ in its directory. Training writes it when it ends;
use this program to write it again, for another --checkpoint, or while a run is training. Set
--source or --data_dir only if the run's data set has moved.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path("workdir", "", "directory of a run", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    program.run(_write_report, argv, __doc__, FLAGS, fields=program.RUN_FIELDS, required=[_WORKDIR])


def _write_report(run_config):
    from alexnet_tf.runs import report

    report.make(
        _WORKDIR.value, source=run_config.source, data_dir=run_config.data_dir, checkpoint=run_config.checkpoint
    )
