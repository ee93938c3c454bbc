"""Exports a run as a served model, or as a single file for other engines."""

import dataclasses
import os
import types
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf import flagfiles
from alexnet_tf.data import augmentation
from alexnet_tf.export import litert
from alexnet_tf.export import parity
from alexnet_tf.export import saved_model
from alexnet_tf.export import signatures
from alexnet_tf.runs import builders
from alexnet_tf.runs import fitted_temperature
from alexnet_tf.runs import restore
from alexnet_tf.training import metrics
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import output

# Formats of `export_file`, with the suffix of each.
FILE_FORMATS = {"onnx": ".onnx", "litert": ".tflite"}
_CHECKED_IMAGES = 8
# Files with the errors of a run, which may be of different splits; of the same split, those of the last file count.
_EVALUATIONS = ("train.json", "evaluation.json")


def export_run(
    workdir: str | os.PathLike,
    export_dir: str | os.PathLike,
    *,
    precision: str = "",
    temperature: float | str = 1.0,
    checkpoint: str = "auto",
    **options: Any,
) -> str:
    """Exports a checkpoint of a run as the next version of a served model.

    Args:
      workdir: a directory in which `train.train` ran. Its data set is not needed.
      export_dir: directory of the versions, created if it does not exist.
      precision: "float32", or "bfloat16" for weights of half the size; empty for the run's own.
      temperature: what the logits are divided by; "fitted" for the temperature that `evaluate.evaluate` fitted for this
        checkpoint and these views.
      checkpoint: "best", "newest" or "auto", as in `selection.select`.
      **options: of `saved_model.Options`.

    Returns:
      The path of the version.

    Raises:
      ValueError, OSError: if a file is missing or cannot be written, or an option is out of its range.
    """
    console = output.Console()
    if precision not in ("", *builders.PRECISIONS):
        raise ValueError(f"Expected precision to be one of {', '.join(builders.PRECISIONS)}. Received: {precision}")
    run_config = restore.read_config(workdir)
    if precision:
        run_config = dataclasses.replace(run_config, precision=precision)
    run = restore.open_run(workdir, run_config, checkpoint=checkpoint, jit_compile=False)
    preprocessing = preprocessing_of(run)
    views = "ten views" if options.get("views") == "ten" else "center crop"
    chosen = _choose_temperature(run, temperature, views)
    model, float32_model = run.model, None
    if run_config.precision == "bfloat16":
        model = _to_bfloat16(run)
        float32_model = _build(run, dtype="float32", initialization="zeros")
    options = saved_model.Options(**options, temperature=chosen.value)
    card = _model_card(run) | chosen.card()
    version = saved_model.export(model, preprocessing, run.class_names, card, export_dir, options, float32_model)
    console.print(
        f"export {version}\n  from        {run.checkpoint}, step {run.step}, {run_config.precision} "
        f"({run.chosen.describe()})\n"
        + chosen.text("  temperature ", "\n")
        + f"  size        {_size(version) / 1e6:.1f} MB\n"
        f"  try it      {messages.program('predict')} --saved_model={export_dir} IMAGE\n"
        f"  serve it    sh {os.path.join(export_dir, 'serve.sh')}",
        markup=False,
    )
    return version


def preprocessing_of(run: restore.OpenedRun) -> signatures.Preprocessing:
    """Returns how a run preprocesses images."""
    return signatures.Preprocessing(
        run.image_statistics.mean_image,
        run.config.crop_size,
        mean_crop=run.config.mean_crop,
        scale=run.config.input_scale,
    )


def export_file(
    workdir: str | os.PathLike,
    export_dir: str | os.PathLike,
    *,
    format: str,
    name: str = "alexnet",
    precision: str = "",
    temperature: float | str = 1.0,
    checkpoint: str = "auto",
) -> str:
    """Exports a checkpoint of a run as a single file from pixels to probabilities.

    The file reads ``images``, uint8 ``[n, image_size, image_size, 3]``, RGB, crops their center, subtracts the mean
    image, scales, and returns ``logits`` and ``probabilities``, float32 ``[n, num_classes]``. An ONNX file has the
    class names and the model card in its metadata. Next to a LiteRT file, they are in ``labels.txt`` and ``NAME.json``.

    Args:
      workdir: a directory in which `train.train` ran. Its data set is not needed.
      export_dir: the directory of the file, created if it does not exist.
      format: a key of `FILE_FORMATS`.
      name: of the file, without the suffix.
      precision: "float32", or "float16" for weights of half the size; empty for float32.
      temperature: as in `export_run`, for the center crop.
      checkpoint: as in `export_run`.

    Returns:
      The path of the file.

    Raises:
      ValueError: if an argument is out of its range, a file of the run is damaged, or the file returns other
        probabilities than the network. In that case, nothing is written.
      OSError: if a file is missing or cannot be written.
    """
    if format not in FILE_FORMATS:
        raise ValueError(f"Expected format to be one of {', '.join(FILE_FORMATS)}. Received: {format}")
    if precision not in ("", *parity.LIMITS):
        raise ValueError(
            f"Expected precision to be one of {', '.join(parity.LIMITS)} for {format}. Received: {precision}"
        )
    saved_model.check_name(name)
    if os.path.exists(export_dir) and not os.path.isdir(export_dir):
        raise NotADirectoryError(f"Expected export_dir to be a directory. Received: the file {export_dir}")
    run_config = dataclasses.replace(restore.read_config(workdir), precision="float32")
    run = restore.open_run(workdir, run_config, checkpoint=checkpoint, jit_compile=False)
    saved_model.check_numbers(run.model, run.image_statistics.mean_image)
    chosen = _choose_temperature(run, temperature, "center crop")
    card = _file_card(run, name, precision or "float32") | chosen.card()
    contents, checked = _convert(run, format, precision or "float32", card, chosen.value)
    os.makedirs(export_dir, exist_ok=True)
    path = os.path.join(export_dir, name + FILE_FORMATS[format])
    if format == "litert":
        files.write_json(os.path.join(export_dir, f"{name}.json"), card)
        with files.atomic_write(os.path.join(export_dir, "labels.txt")) as labels:
            labels.writelines(f"{' '.join(each.split())}\n" for each in run.class_names)
    with files.atomic_write(path, "wb") as file:
        file.write(contents)
    size = run.config.image_size
    output.Console().print(
        f"export {path}: {len(contents) / 1e6:.1f} MB, {run.checkpoint} ({run.chosen.describe()}); "
        f"{chosen.text('temperature ', '; ')}{checked}; "
        f"run it with images: uint8 [n, {size}, {size}, 3]"
    )
    return path


class _Temperature(NamedTuple):
    """What logits are divided by, and where it comes from."""

    value: float
    source: str = ""  # empty if it was given

    def card(self):
        """Returns the entry of the model card; none for 1."""
        if self.value == 1:
            return {}
        return {
            "temperature": {
                "value": self.value,
                "source": self.source or "given",
                "applied_to": "logits; losses on this card are without it",
            }
        }

    def text(self, before, after):
        """Returns the temperature in words, empty for 1."""
        if self.value == 1:
            return ""
        return f"{before}{self.value:.4g}, {self.source or 'as given'}{after}"


def _choose_temperature(run, requested, views):
    if requested != "fitted":
        signatures.check_temperature(requested)
        return _Temperature(float(requested))
    found = fitted_temperature.require(run.workdir, run.step)
    return _Temperature(found[views], f"fitted on {found['num_examples']} {found['split']} images, {views}")


def _convert(run, format, precision, card, temperature):
    """Returns the contents of a file, and how much its logits differ from the network's."""
    run_config, mean_image = run.config, run.image_statistics.mean_image
    pixels_shape = [_CHECKED_IMAGES, *mean_image.shape]
    pixels = np.random.default_rng(0).integers(0, 256, pixels_shape, dtype=np.uint8)

    def classify(images):
        view = augmentation.central_view(images, mean_image, size=run_config.crop_size, scale=run_config.input_scale)
        logits = run.model(view, training=False)
        logits = logits if temperature == 1 else logits / temperature
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    if format == "onnx":
        onnx_network = import_onnx_network()
        image_input = onnx_network.ImageInput(mean_image, run_config.crop_size, run_config.input_scale)
        options = {"weights_dtype": precision, "metadata": card, "temperature": temperature}
        model = onnx_network.to_onnx(run.model, pixels=image_input, **options)
        contents = model.SerializeToString()
        program, outputs = "onnxruntime", onnx_network.run(contents, pixels)
    else:
        contents = litert.convert(classify, run_config.image_size, weights_dtype=precision)
        program, outputs = "LiteRT", litert.run(contents, pixels)
    expected = classify(tf.constant(pixels))["logits"].numpy()
    return contents, parity.check(program, outputs and outputs["logits"], expected, precision)


def import_onnx_network() -> types.ModuleType:
    """Imports `onnx_network`, whose library only ONNX files need.

    Raises:
      ModuleNotFoundError: if the library is not installed.
    """
    try:
        from alexnet_tf.export import onnx_network
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ModuleNotFoundError("Expected the package onnx for ONNX files; pip install onnx") from None
    return onnx_network


def _file_card(run, name, precision):
    """Returns the model card of a single file."""
    mean_image = run.image_statistics.mean_image
    return {
        "name": name,
        **_model_card(run),
        "precision": precision,
        "preprocessing": {
            "photographs": "not included: decode, crop to the central square and resize to image_size",
            "image_size": run.config.image_size,
            "crop_size": run.config.crop_size,
            "views": "center",
            "mean": [round(float(value), 4) for value in np.mean(mean_image, axis=(0, 1))],
            "scale": run.config.input_scale,
        },
        "class_names": list(run.class_names),
    }


def _model_card(run):
    """Returns the metadata of an export, for JSON."""
    run_config = run.config
    return {
        "run": os.path.abspath(run.workdir),
        "checkpoint": os.path.basename(run.checkpoint),
        "step": run.step,
        **run.chosen.to_json(),
        "network": run_config.network,
        "recipe": run_config.recipe,
        "precision": run_config.precision,
        "tensorflow": tf.__version__,
        "data": {
            "source": run_config.source or run_config.data_dir,
            "training_images": run.image_statistics.num_examples,
        },
        "errors": read_errors(run.workdir, run.step),
        "configuration": flagfiles.to_text(run_config),
    }


def _build(run, **changes):
    return builders.build_model(run.config, len(run.class_names), devices=None, jit_compile=False, **changes)


def _to_bfloat16(run):
    """Returns the network with weights stored in bfloat16, instead of float32 weights that are cast in every call."""
    narrow = _build(run, dtype="bfloat16")
    for target, variable in zip(narrow.variables, run.model.variables, strict=True):
        target.assign(tf.cast(variable.value, target.dtype))
    return narrow


def read_errors(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """Returns the recorded errors of a run at a step by split, empty if it was not evaluated at that step."""
    errors = {}
    for name in _EVALUATIONS:
        path = os.path.join(workdir, name)
        if not os.path.exists(path):
            continue
        written = metrics.read_evaluation(path)
        if written.get("selection", written)["step"] == step:
            errors |= {
                split: {name: value for name, value in section.items() if name != "confusions"}
                for split, section in written["evaluation"].items()
            }
    return errors


def _size(directory):
    """Returns the number of bytes of all files below a directory."""
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(directory) for name in names)
