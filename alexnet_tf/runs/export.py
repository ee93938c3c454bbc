"""From a run to a served model."""

import dataclasses
import os

import rich.console
import tensorflow as tf

from alexnet_tf import flagfiles
from alexnet_tf.export import saved_model
from alexnet_tf.export import signatures
from alexnet_tf.runs import builders
from alexnet_tf.runs import restore
from alexnet_tf.utils import files

# Where evaluations of a run are kept, the newest first.
_EVALUATIONS = ("evaluation.json", "train.json")


def export_run(workdir, export_dir, *, precision="", **options):
    """Exports the newest checkpoint of a run as the next version of a served model, and says what was written.

    Args:
      workdir: a directory in which `train.train` ran; its data set is not needed.
      export_dir: where the versions are; made if it is not there.
      precision: "float32", or "bfloat16" for weights of half the size; empty for the run's own.
      **options: of `saved_model.Options`.

    Returns:
      The path of the version.

    Raises:
      ValueError, OSError: for what is not there or cannot be written, or an option outside its range.
    """
    console = rich.console.Console(soft_wrap=True, highlight=False)
    if precision not in ("", *builders.PRECISIONS):
        raise ValueError(f"Expected precision to be one of {', '.join(builders.PRECISIONS)}. Received: {precision}")
    config = restore.read_config(workdir)
    if precision:
        config = dataclasses.replace(config, precision=precision)
    class_names = restore.read_class_names(workdir)
    run = restore.open_run(workdir, config, class_names, jit_compile=False)
    preprocessing = signatures.Preprocessing(
        run.image_statistics.mean_image, config.crop_size, mean_crop=config.mean_crop, scale=config.input_scale
    )
    model = run.model
    if config.precision == "bfloat16":
        model = _narrow(config, class_names, model)
    card = {
        "run": os.path.abspath(workdir),
        "checkpoint": os.path.basename(run.checkpoint),
        "step": run.step,
        "network": config.network,
        "recipe": config.recipe,
        "precision": config.precision,
        "tensorflow": tf.__version__,
        "data": {"source": config.source or config.data_dir, "training_images": run.image_statistics.num_examples},
        "errors": _read_errors(workdir, run.step),
        "configuration": flagfiles.to_text(config),
    }
    version = saved_model.export(model, preprocessing, class_names, card, export_dir, saved_model.Options(**options))
    console.print(
        f"export {version}\n  from        {run.checkpoint}, step {run.step}, {config.precision}\n"
        f"  size        {_size(version) / 1e6:.1f} MB\n"
        f"  try it      python tools/predict.py --saved_model={export_dir} IMAGE\n"
        f"  serve it    sh {os.path.join(export_dir, 'serve.sh')}",
        markup=False,
    )
    return version


def _narrow(config, class_names, model):
    """The network with bfloat16 weights in place of float32 ones that are cast in every call."""
    narrow = builders.build_model(config, len(class_names), devices=None, jit_compile=False, dtype="bfloat16")
    for target, variable in zip(narrow.variables, model.variables, strict=True):
        target.assign(tf.cast(variable.value, target.dtype))
    return narrow


def _read_errors(workdir, step):
    """What is recorded of a run's errors at a step; empty if it was not evaluated there."""
    for name in _EVALUATIONS:
        path = os.path.join(workdir, name)
        if not os.path.exists(path):
            continue
        found = files.read_json(path)
        if found.get("step") == step:
            return {
                split: {name: value for name, value in errors.items() if name != "confusions"}
                for split, errors in found["evaluation"].items()
            }
    return {}


def _size(directory):
    """Bytes of all files below a directory."""
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(directory) for name in names)
