"""Exports a run's newest checkpoint for TensorFlow Serving, and for any program that loads a SavedModel.

python tools/export.py --workdir=runs/quickstart --export_dir=served/quickstart

Each export is a version, --export_dir/1, 2 and so on; beside them are settings and commands for a server.
"""

import program
from absl import flags

flags.DEFINE_string("workdir", "", "the directory in which tools/train.py ran")
flags.DEFINE_string("export_dir", "", "where the versions are")
flags.DEFINE_string("name", "alexnet", "what the server calls the model")
flags.DEFINE_string("views", "center", "center: the central crop; ten: the mean of ten views, ten times the work")
flags.DEFINE_integer("top", 5, "classes that an answer names")
flags.DEFINE_integer("max_pixels", 100_000_000, "photographs that declare more are refused before they are decoded")
flags.DEFINE_string("precision", "", "float32 or bfloat16; empty for the run's own")

OPTIONS = ["name", "views", "top", "max_pixels", "precision"]


def main(_):
    from alexnet_tf.runs import export

    workdir, export_dir = program.require("workdir"), program.require("export_dir")
    export.export_run(workdir, export_dir, **{name: getattr(flags.FLAGS, name) for name in OPTIONS})


if __name__ == "__main__":
    program.run_plain(main, __doc__, ["workdir", "export_dir", *OPTIONS])
