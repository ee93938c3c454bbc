"""Exports a run as a served model."""

import dataclasses
import os
from typing import Any

import tensorflow as tf

from alexnet_tf import flagfiles
from alexnet_tf.export import saved_model
from alexnet_tf.export import signatures
from alexnet_tf.runs import builders
from alexnet_tf.runs import restore
from alexnet_tf.training import metrics
from alexnet_tf.utils import messages
from alexnet_tf.utils import output

# Files with the errors of a run, in the order of preference.
_EVALUATIONS = ("evaluation.json", "train.json")


def export_run(
    workdir: str | os.PathLike, export_dir: str | os.PathLike, *, precision: str = "", **options: Any
) -> str:
    """Exports the newest checkpoint of a run as the next version of a served model.

    Args:
      workdir: a directory in which `train.train` ran. Its data set is not needed.
      export_dir: directory of the versions, created if it does not exist.
      precision: "float32", or "bfloat16" for weights of half the size; empty for the run's own.
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
    run = restore.open_run(workdir, run_config, jit_compile=False)
    preprocessing = signatures.Preprocessing(
        run.image_statistics.mean_image,
        run_config.crop_size,
        mean_crop=run_config.mean_crop,
        scale=run_config.input_scale,
    )
    model = _to_bfloat16(run) if run_config.precision == "bfloat16" else run.model
    version = saved_model.export(
        model, preprocessing, run.class_names, _model_card(run), export_dir, saved_model.Options(**options)
    )
    console.print(
        f"export {version}\n  from        {run.checkpoint}, step {run.step}, {run_config.precision}\n"
        f"  size        {_size(version) / 1e6:.1f} MB\n"
        f"  try it      {messages.program('predict')} --saved_model={export_dir} IMAGE\n"
        f"  serve it    sh {os.path.join(export_dir, 'serve.sh')}",
        markup=False,
    )
    return version


def _model_card(run):
    """Returns the metadata of an export, for JSON."""
    run_config = run.config
    return {
        "run": os.path.abspath(run.workdir),
        "checkpoint": os.path.basename(run.checkpoint),
        "step": run.step,
        "network": run_config.network,
        "recipe": run_config.recipe,
        "precision": run_config.precision,
        "tensorflow": tf.__version__,
        "data": {
            "source": run_config.source or run_config.data_dir,
            "training_images": run.image_statistics.num_examples,
        },
        "errors": _read_errors(run.workdir, run.step),
        "configuration": flagfiles.to_text(run_config),
    }


def _to_bfloat16(run):
    """Returns the network with weights stored in bfloat16, instead of float32 weights that are cast in every call."""
    narrow = builders.build_model(run.config, len(run.class_names), devices=None, jit_compile=False, dtype="bfloat16")
    for target, variable in zip(narrow.variables, run.model.variables, strict=True):
        target.assign(tf.cast(variable.value, target.dtype))
    return narrow


def _read_errors(workdir, step):
    """Returns the recorded errors of a run at a step, empty if it was not evaluated at that step."""
    for name in _EVALUATIONS:
        path = os.path.join(workdir, name)
        if not os.path.exists(path):
            continue
        written = metrics.read_evaluation(path)
        if written["step"] == step:
            return {
                split: {name: value for name, value in errors.items() if name != "confusions"}
                for split, errors in written["evaluation"].items()
            }
    return {}


def _size(directory):
    """Returns the number of bytes of all files below a directory."""
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(directory) for name in names)
