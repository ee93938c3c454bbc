"""Packs a run into one small file, and unpacks it into a run that the other programs can use."""

import dataclasses
import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import statistics
from alexnet_tf.runs import builders
from alexnet_tf.runs import data_record
from alexnet_tf.runs import export
from alexnet_tf.runs import restore
from alexnet_tf.training import parameter_groups
from alexnet_tf.utils import checksums
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import output
from alexnet_tf.utils import schema
from alexnet_tf.weights import packed

# Fields that name places on the machine that trained the run.
_PLACES = ("source", "data_dir", "initialize_from", "data_service", "class_weights", "devices")
# Averages of weights are packed as the weights themselves.
_AVERAGING = ("averaging", "averaging_steps")


def pack(
    workdir: str | os.PathLike,
    file: str | os.PathLike,
    *,
    layers: Sequence[str] = (),
    dtype: str = "float16",
    card: Mapping[str, Any] | None = None,
    checkpoint: str = "auto",
) -> str:
    """Writes a run as one file: configuration, weights, class names, mean image and recorded errors.

    `unpack` turns it into a run again. What only training needs, such as velocities and logs, is not packed.

    Args:
      workdir: the directory of a run. Its data set is not needed.
      file: the path, which ends with .safetensors. Its directory is created.
      layers: the layers to pack, such as conv1; empty for all. A file of some layers has no classes, and the mean color
        in place of the mean image; its run serves only to initialize others.
      dtype: of the weights, "float16" or "float32".
      card: further entries of the file's card.
      checkpoint: "best", "newest" or "auto", as in `selection.select`.

    Returns:
      The path.

    Raises:
      ValueError: if an argument is out of its range, or the run is damaged.
      OSError: if a file is missing or cannot be written.
    """
    file = os.fspath(file)
    if not file.endswith(".safetensors"):
        raise ValueError(f"Expected a file name that ends with .safetensors. Received: {file}")
    run = restore.open_available(workdir, checkpoint=checkpoint, jit_compile=False)
    weights = _weights(run, layers)
    is_complete = len(weights) == len(run.model.weights)
    image_statistics = run.image_statistics._asdict()
    num_examples = image_statistics.pop("num_examples")
    if not is_complete:
        # Runs that start from the file subtract the mean image of their own data by default.
        image_statistics["mean_image"] = run.image_statistics.mean_color[None, None]
    contents = packed.Packed(
        configuration=_portable(run.config),
        classes=list(run.class_names) if is_complete else [],
        class_words=restore.read_class_words(workdir) if is_complete else {},
        step=run.step,
        num_examples=num_examples,
        card=_card(run, num_examples) | dict(card or {}),
        weights=weights,
        statistics=image_statistics,
    )
    os.makedirs(os.path.dirname(file) or os.curdir, exist_ok=True)
    packed.write(file, contents, dtype)
    which = "all layers" if is_complete else ", ".join(dict.fromkeys(map(parameter_groups.layer_of, weights)))
    output.Console().print(
        f"packed {file}: {os.path.getsize(file) / 1e6:.1f} MB, {run.config.network} of {run.checkpoint} "
        f"({run.chosen.describe()}), {which} in {dtype}",
        markup=False,
    )
    return file


def _weights(run, layers):
    """Returns the weights of the layers, or of all layers that have some, by path."""
    builders.check_layers("layers", layers, run.model)
    missing = set(map(parameter_groups.layer_of, run.missing_layers))
    if absent := [name for name in layers if name in missing]:
        raise ValueError(f"Expected layers with weights in {run.checkpoint}. Received: {absent[0]}")
    of_layer = {variable.path: parameter_groups.layer_of(variable.path) for variable in run.model.weights}
    return {
        variable.path: variable.numpy().astype(np.float32)
        for variable in run.model.weights
        if of_layer[variable.path] not in missing and (not layers or of_layer[variable.path] in layers)
    }


def _portable(run_config):
    """Returns the values of a configuration that differ from the defaults, without the places of a machine."""
    values = {}
    for field in dataclasses.fields(config.Config):
        value = getattr(run_config, field.name)
        if field.name not in (*_PLACES, *_AVERAGING) and value is not None and value != field.default:
            values[field.name] = flagfiles.format_value(value)
    return values


def _card(run, num_examples):
    record = data_record.read(run.workdir)
    return {
        "network": run.config.network,
        "recipe": run.config.recipe,
        # The kind of a source may be followed by a path.
        "data": record.source.partition(":")[0] if record else "unknown",
        "training_images": num_examples,
        "step": run.step,
        **run.chosen.to_json(),
        "errors": export.read_errors(run.workdir, run.step),
        "tensorflow": tf.__version__,
    }


def unpack(file: str | os.PathLike, workdir: str | os.PathLike) -> str:
    """Writes the run of a packed file.

    Args:
      file: of `pack`.
      workdir: an existing directory, which is empty.

    Returns:
      What was unpacked, in one line.

    Raises:
      OSError: if the file is missing, or a file of the run cannot be written.
      ValueError: if the file is damaged.
    """
    run = packed.read(file)
    run_config = dataclasses.replace(flagfiles.from_values(run.configuration, file), split_rule="hash").resolved()
    escaping.check_names(run.classes, "class")
    if len(set(run.classes)) != len(run.classes):
        raise packed.error(file, "two classes of the same name")
    image_statistics = _image_statistics(run, run_config, file)
    model = builders.build_model(
        run_config, max(2, len(run.classes)), initialization="zeros", devices=None, jit_compile=False
    )
    own = {variable.path: variable.value for variable in model.weights}
    _check_weights(run, own, file)
    for path, value in run.weights.items():
        own[path].assign(value)
    statistics.save(image_statistics, os.path.join(workdir, "statistics.npz"))
    record = {
        "file": os.path.basename(file),
        "size": os.path.getsize(file),
        "sha256": checksums.of_file(file),
        "card": run.card,
        "class_words": run.class_words,
    }
    files.write_json(os.path.join(workdir, restore.IMPORT_RECORD), schema.sealed(record))
    with files.atomic_write(os.path.join(workdir, "config.flags")) as written:
        written.write(flagfiles.to_text(run_config))
    only = None if run.weights.keys() == own.keys() else set(run.weights)
    schedule = builders.build_schedule(run_config)
    builders.build_checkpoints(run_config, model, None, schedule, run.classes, workdir, only).save(run.step)
    classes = f"{len(run.classes)} classes" if run.classes else "no classes"
    layers = ", ".join(dict.fromkeys(map(parameter_groups.layer_of, run.weights)))
    return f"{run_config.network}, {layers}, {classes}"


def _image_statistics(run, run_config, file):
    size, arrays = run_config.image_size, dict(run.statistics)
    if not run.classes and arrays.get("mean_image", np.empty(0)).shape == (1, 1, 3):
        arrays["mean_image"] = np.tile(arrays["mean_image"], [size, size, 1])
    expected = {"mean_image": (size, size, 3), "directions": (3, 3), "standard_deviations": (3,)}
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected:
        raise packed.error(file, f"statistics of shapes {shapes}, not {expected}")
    found = statistics.Statistics(**arrays, num_examples=run.num_examples)
    if found.mean_image.min() < 0 or found.mean_image.max() > 255 or not statistics.is_possible(found):
        raise packed.error(file, "statistics that no images have")
    return found


def _check_weights(run, own, file):
    """Raises a ValueError unless a file has the weights of entire layers, of the network's shapes."""
    for path, value in run.weights.items():
        if path not in own or own[path].shape != value.shape:
            expected = f"not {list(own[path].shape)}" if path in own else "which the network lacks"
            raise packed.error(file, f"{path} of {list(value.shape)}, {expected}")
    layers = {parameter_groups.layer_of(path) for path in run.weights}
    needed = [path for path in own if parameter_groups.layer_of(path) in layers] if layers else list(own)
    if run.classes:
        needed = list(own)
    if missing := [path for path in needed if path not in run.weights]:
        raise packed.error(file, f"no {missing[0]}")
