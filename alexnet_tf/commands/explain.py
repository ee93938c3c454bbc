"""Shows which parts of images a run's predictions depend on (Grad-CAM, occlusion).

alexnet-tf explain --workdir=runs/mine cat.jpg dog.png
alexnet-tf explain --workdir=runs/mine --method=occlusion --class=dog --values photographs

An IMAGE is an image file, a folder, a pattern or a list, as for predict. For each image, a PNG file
shows the part that the network sees, and next to it the same part with the map over it. Unreadable
images are listed, and the program then exits with status 1.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program
from alexnet_tf.utils import pathnames

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path(
    "workdir", "", "directory of a trained run, or of an export of it; or pretrained:NAME", flag_values=FLAGS
)
_CHECKPOINT = program.define_checkpoint(FLAGS)
_METHOD = flags.DEFINE_enum(
    "method",
    "grad_cam",
    ["grad_cam", "occlusion"],
    "grad_cam: where the maps of a layer support the class (Selvaraju et al. 2017); occlusion: how much covering a "
    "part of the image with a square lowers the probability of the class (Zeiler and Fergus 2013)",
    flag_values=FLAGS,
)
_CLASS = flags.DEFINE_string(
    "class", "", "the class to explain, by its name or number; defaults to the most probable one", flag_values=FLAGS
)
_LAYER = flags.DEFINE_string(
    "layer",
    "",
    "layer of grad_cam; defaults to the last one with positions before the last pooling, such as conv5",
    flag_values=FLAGS,
)
_PATCH_SIZE = flags.DEFINE_integer(
    "patch_size",
    0,
    "side of the occluding square, in pixels of the crop; 0 for a quarter of the crop's side",
    lower_bound=0,
    flag_values=FLAGS,
)
_POSITIONS = flags.DEFINE_integer(
    "positions", 16, "number of positions of the occluding square, per side", lower_bound=1, flag_values=FLAGS
)
_OUT = flagfiles.define_path("out", "explanations", "directory of the results", flag_values=FLAGS)
_VALUES = flags.DEFINE_boolean("values", False, "write the values of each map to an .npz file, too", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    program.run_plain(_explain, argv, __doc__, FLAGS, arguments="IMAGE...", required=[_WORKDIR])


def _explain(images):
    from alexnet_tf.runs import explain
    from alexnet_tf.runs import explanations

    if _METHOD.value == "grad_cam":
        program.report_unused([_PATCH_SIZE, _POSITIONS], "without --method=occlusion")
    else:
        program.report_unused([_LAYER], "with --method=occlusion")
    result = explain.explain_files(
        _WORKDIR.value,
        [pathnames.expand(image) for image in images],
        _OUT.value,
        method=explanations.Method(_METHOD.value, _LAYER.value, _PATCH_SIZE.value, _POSITIONS.value),
        class_name=_CLASS.value,
        values=_VALUES.value,
        checkpoint=_CHECKPOINT.value,
    )
    if result.failures:
        total = len(result.failures) + len(result.paths)
        raise ValueError(f"{len(result.failures)} of {total} images could not be read, the first: {result.failures[0]}")
