"""Exports the newest checkpoint of a run as a SavedModel.

alexnet-tf export --workdir=runs/quickstart --export_dir=served/quickstart

TensorFlow Serving, or any program that loads a SavedModel, can run it. Each export is a new
version: --export_dir/1, 2 and so on. Settings and commands for a server are written next to them.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path("workdir", "", "directory of a trained run", flag_values=FLAGS)
_EXPORT_DIR = flagfiles.define_path("export_dir", "", "directory of the versions", flag_values=FLAGS)
_NAME = flags.DEFINE_string("name", "alexnet", "name of the model on a server", flag_values=FLAGS)
_VIEWS = flags.DEFINE_string(
    "views",
    "center",
    "center: the center crop; ten: the mean of ten views, for ten times the computation",
    flag_values=FLAGS,
)
_TOP = flags.DEFINE_integer("top", 5, "number of classes in an answer", flag_values=FLAGS)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 100_000_000, "images that declare more pixels are rejected before decoding", flag_values=FLAGS
)
_PRECISION = flags.DEFINE_string(
    "precision", "", "float32 or bfloat16; defaults to the precision of the run", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
    program.run_plain(_export, argv, __doc__, FLAGS, required=[_WORKDIR, _EXPORT_DIR])


def _export(_):
    from alexnet_tf.runs import export

    export.export_run(
        _WORKDIR.value,
        _EXPORT_DIR.value,
        name=_NAME.value,
        views=_VIEWS.value,
        top=_TOP.value,
        max_pixels=_MAX_PIXELS.value,
        precision=_PRECISION.value,
    )
