"""Computes features of images: activations of any layers of a run's network.

alexnet-tf features --workdir=runs/mine --layer=fc7,conv5 --images=photographs --out=features.npz
alexnet-tf features --workdir=runs/mine --layer=fc7 --split=test --out=features/

A layer includes the activation function that directly follows it: fc7 is the output of its ReLU,
before dropout. A name stands for both towers, joined along the last axis; conv5_a is a single one.
Unreadable images are listed and skipped, with status 1. An interrupted computation resumes with the
same command.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program
from alexnet_tf.training import stopping

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path("workdir", "", "directory of a trained run, or an export of it", flag_values=FLAGS)
_LAYER = flags.DEFINE_list(
    "layer", ["fc7"], "names of layers, separated by commas; an unknown name lists those that exist", flag_values=FLAGS
)
_IMAGES = flagfiles.define_paths(
    "images",
    [],
    "directories, searched recursively; patterns such as d/*.jpg; text files (*.txt) with a path on each line; or "
    "image files",
    flag_values=FLAGS,
)
_SPLIT = flags.DEFINE_string(
    "split", "", "split of the run's data set, in place of --images: train, validation or test", flag_values=FLAGS
)
_OUT = flagfiles.define_path(
    "out", "", "an .npz file; or a directory, with a memory-mapped .npy file for each layer", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
    stop = stopping.Stop("stopped; nothing half-written remains under a final name, and the same command resumes")
    required = [_WORKDIR, _OUT]
    program.run(_compute, argv, __doc__, FLAGS, fields=program.RUN_FIELDS, required=required, stop=stop)


def _compute(run_config):
    from alexnet_tf.runs import features

    if bool(_IMAGES.value) == bool(_SPLIT.value):
        raise program.UsageError(
            f"Expected either --images or --split. Received: {'both' if _SPLIT.value else 'neither'}"
        )
    if _IMAGES.value and (run_config.source or run_config.data_dir):
        raise program.UsageError(
            "Expected --source and --data_dir only with --split. Received: --images with one of them"
        )
    result = features.compute(
        _WORKDIR.value,
        [name.strip() for name in _LAYER.value if name.strip()],
        _OUT.value,
        images=_IMAGES.value,
        split=_SPLIT.value,
        source=run_config.source,
        data_dir=run_config.data_dir,
        checkpoint=run_config.checkpoint,
    )
    if result.skipped:
        total = len(result.skipped) + next(iter(result.shapes.values()))[0]
        first = result.skipped[0]["reason"]
        raise ValueError(f"{len(result.skipped)} of {total} images could not be read, the first: {first}")
