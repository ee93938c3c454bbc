"""Exports a checkpoint of a run as a SavedModel, an ONNX or a LiteRT file.

alexnet-tf export --workdir=runs/quickstart --export_dir=served/quickstart

TensorFlow Serving, or any program that loads a SavedModel, can run it. Each export is a new
version: --export_dir/1, 2 and so on. Settings and commands for a server are written next to them.

--format=onnx and --format=litert write one file, --export_dir/NAME.onnx or NAME.tflite, which reads
uint8 pixels [n, image_size, image_size, 3]: center crop, mean image and scale are inside. Decoding
of image files, resizing and ten views are not.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path("workdir", "", "directory of a trained run", flag_values=FLAGS)
_EXPORT_DIR = flagfiles.define_path("export_dir", "", "directory of the versions", flag_values=FLAGS)
_FORMAT = flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "onnx", "litert"],
    "saved_model for TensorFlow; onnx or litert for other engines",
    flag_values=FLAGS,
)
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
    "precision",
    "",
    "float32 or bfloat16; defaults to the precision of the run. Of onnx and litert: float32 or float16 for the weights",
    flag_values=FLAGS,
)
_CHECKPOINT = program.define_checkpoint(FLAGS)
_TEMPERATURE = flags.DEFINE_string(
    "temperature",
    "1",
    "divide the logits by this number, which calibrates the probabilities; fitted: the temperature that evaluate "
    "--fit_temperature found for this checkpoint",
    flag_values=FLAGS,
)


def main(argv: Sequence[str]) -> None:
    program.run_plain(_export, argv, __doc__, FLAGS, required=[_WORKDIR, _EXPORT_DIR])


def _export(_):
    if _FORMAT.value != "saved_model":
        _export_file()
        return
    from alexnet_tf.runs import export

    export.export_run(
        _WORKDIR.value,
        _EXPORT_DIR.value,
        name=_NAME.value,
        views=_VIEWS.value,
        top=_TOP.value,
        max_pixels=_MAX_PIXELS.value,
        precision=_PRECISION.value,
        temperature=_temperature(),
        checkpoint=_CHECKPOINT.value,
    )


def _temperature():
    if _TEMPERATURE.value == "fitted":
        return "fitted"
    try:
        return float(_TEMPERATURE.value)
    except ValueError:
        raise program.UsageError(
            f"Expected --temperature to be a positive number or fitted. Received: {_TEMPERATURE.value}"
        ) from None


def _export_file():
    for flag, reason in (
        (_VIEWS, "classifies the center crop"),
        (_TOP, "returns all probabilities"),
        (_MAX_PIXELS, "decodes no image files"),
    ):
        if flag.value != flag.default:
            raise program.UsageError(
                f"Expected no --{flag.name}={flag.value} with --format={_FORMAT.value}, which {reason}"
            )
    from alexnet_tf.runs import export

    export.export_file(
        _WORKDIR.value,
        _EXPORT_DIR.value,
        format=_FORMAT.value,
        name=_NAME.value,
        precision=_PRECISION.value,
        temperature=_temperature(),
        checkpoint=_CHECKPOINT.value,
    )
