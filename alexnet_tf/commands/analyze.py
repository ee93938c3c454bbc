"""Measures what activation functions and poolings do to a network.

alexnet-tf analyze --analysis=gradients --network=vgg_a --compare=vgg_e --activations=relu,sigmoid \\
    --source=folder:photographs --image_size=64 --crop_size=64 --figure=gradients.png
alexnet-tf analyze --analysis=translation --workdir=runs/a,runs/b --figure=translation.png

gradients: the norm of the gradient in each layer of initialized networks, for training photographs.
translation: how much features of trained runs move when images shift, relative to the distance
between different images, and how often the most probable class stays the same.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_ANALYSIS = flags.DEFINE_enum("analysis", None, ["gradients", "translation"], "what to measure", flag_values=FLAGS)
_COMPARE = flags.DEFINE_list(
    "compare", [], "gradients: networks to compare with --network, such as vgg_b,vgg_e", flag_values=FLAGS
)
_ACTIVATIONS = flags.DEFINE_list(
    "activations", [], "gradients: functions to compare, such as relu,tanh; defaults to --activation", flag_values=FLAGS
)
_WORKDIR = flagfiles.define_paths(
    "workdir", [], "translation: directory of a trained run, or of several, separated by commas", flag_values=FLAGS
)
_SPLIT = flags.DEFINE_string(
    "split", "", "translation: split of the images; defaults to test, or validation", flag_values=FLAGS
)
_LAYERS = flags.DEFINE_list(
    "layers",
    [],
    "translation: layers, such as pool5,fc7; defaults to those that pool or are fully connected",
    flag_values=FLAGS,
)
_POOLINGS = flags.DEFINE_list(
    "poolings",
    [],
    "translation: poolings to compare with the same weights, overlapping,nonoverlapping; defaults to a run's own",
    flag_values=FLAGS,
)
_LARGEST_SHIFT = flags.DEFINE_integer(
    "largest_shift", 8, "translation: pixels, at most image_size - crop_size", lower_bound=1, flag_values=FLAGS
)
_IMAGES = flags.DEFINE_integer(
    "images", 128, "number of images, at regular intervals", lower_bound=2, flag_values=FLAGS
)
_FIGURE = flagfiles.define_path("figure", "", "PNG of the figure; needs matplotlib", flag_values=FLAGS)
_JSON = flagfiles.define_path("json", "", "file for the result as JSON", flag_values=FLAGS)

FIELDS = (
    *("network", "recipe", "activation", "normalization", "pooling", "towers", "communication", "initialization"),
    *("conv1_stddev", "width", "validation_fraction", "split_seed", "split_rule", "image_size", "crop_size"),
    *("input_scale", *program.RUN_FIELDS),
)


def main(argv: Sequence[str]) -> None:
    program.run(_analyze, argv, __doc__, FLAGS, fields=FIELDS, required=[_ANALYSIS])


def _analyze(run_config):
    from alexnet_tf.runs import analysis

    outputs = {"figure_path": _FIGURE.value, "json_path": _JSON.value}
    if _ANALYSIS.value == "gradients":
        program.report_unused([_WORKDIR, _SPLIT, _LAYERS, _POOLINGS, _LARGEST_SHIFT], "with --analysis=gradients")
        analysis.gradients(
            run_config, others=_COMPARE.value, activations=_ACTIVATIONS.value, images=_IMAGES.value, **outputs
        )
        return
    program.report_unused([_COMPARE, _ACTIVATIONS], "with --analysis=translation")
    analysis.translations(
        program.require(_WORKDIR),
        split=_SPLIT.value,
        images=_IMAGES.value,
        largest_shift=_LARGEST_SHIFT.value,
        layers=_LAYERS.value,
        poolings=_POOLINGS.value,
        source=run_config.source,
        data_dir=run_config.data_dir,
        checkpoint=run_config.checkpoint,
        **outputs,
    )
