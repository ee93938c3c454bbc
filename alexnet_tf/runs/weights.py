"""Writes the network of a run to a file that other programs read."""

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Callable
from collections.abc import Mapping

import keras
import numpy as np

from alexnet_tf import flagfiles
from alexnet_tf.export import parity
from alexnet_tf.export import saved_model
from alexnet_tf.models import layers
from alexnet_tf.runs import export
from alexnet_tf.runs import restore
from alexnet_tf.utils import checksums
from alexnet_tf.utils import files
from alexnet_tf.utils import output
from alexnet_tf.weights import convert
from alexnet_tf.weights import layouts
from alexnet_tf.weights import writers

NAMES = ("ours", "torchvision")
# Files that have arrays only, and may name them in different ways.
_ARRAY_SUFFIXES = (".safetensors", ".npz")
_CHECKED_IMAGES = 8


def export_weights(
    workdir: str | os.PathLike, file: str | os.PathLike, *, names: str = "ours", checkpoint: str = "auto"
) -> str:
    """Writes a checkpoint of a run as a network or as weights, without the preprocessing of images.

    What the network expects of images is written next to the file, to ``FILE.json``, and the mean image of the training
    set to ``FILE.mean.npy``. Weights are float32, whatever the precision of the run.

    Args:
      workdir: the directory of a run. Its data set is not needed.
      file: the path; its suffix is the format: ".onnx", ".keras", ".safetensors" or ".npz". Its directory is created.
      names: of the weights in .safetensors and .npz: "ours" for the paths of variables, such as ``conv1_a/kernel``, in
        TensorFlow's layout; "torchvision" for ``features.0.weight`` in PyTorch's layout, for network alexnet_owt.
      checkpoint: "best", "newest" or "auto", as in `selection.select`.

    Returns:
      The path.

    Raises:
      ValueError: if an argument is out of its range, or the run is damaged; or if onnxruntime returns other logits for
        the ONNX file than the network. In that case, nothing is written.
      OSError: if a file is missing or cannot be written.
    """
    file, suffix = os.fspath(file), os.path.splitext(file)[1].lower()
    write = _check_arguments(file, suffix, names)
    run_config = dataclasses.replace(restore.read_config(workdir), precision="float32")
    # A saved Keras model keeps the setting.
    run = restore.open_run(workdir, run_config, checkpoint=checkpoint, jit_compile=suffix == ".keras")
    saved_model.check_numbers(run.model, run.image_statistics.mean_image)
    description = _describe(run, file, names)
    os.makedirs(os.path.dirname(file) or os.curdir, exist_ok=True)
    checked = write(run, file, description, names)
    _write_preprocessing(run, file, description)
    size = os.path.getsize(file) / 1e6
    output.Console().print(
        f"weights {file}: {size:.1f} MB, {run_config.network} of {run.checkpoint} "
        f"({run.chosen.describe()}); {checked}; preprocessing in {file}.json"
    )
    return file


def _check_arguments(file, suffix, names):
    """Returns the function that writes a file of a suffix."""
    if suffix not in _WRITERS:
        raise ValueError(f"Expected a file name that ends with {', '.join(_WRITERS)}. Received: {file}")
    if os.path.isdir(file):
        raise IsADirectoryError(f"Expected the name of a file. Received: the directory {file}")
    if names not in NAMES:
        raise ValueError(f"Expected names to be one of {', '.join(NAMES)}. Received: {names}")
    if names != "ours" and suffix not in _ARRAY_SUFFIXES:
        raise ValueError(f"Expected names=ours for {suffix}. Received: {names}; use {' or '.join(_ARRAY_SUFFIXES)}")
    return _WRITERS[suffix]


def _describe(run, file, names):
    """Returns what a user of the file has to know, for JSON."""
    run_config, mean_image = run.config, run.image_statistics.mean_image
    network = {"name": run_config.network, "recipe": run_config.recipe, "parameters": run.model.count_params()}
    return {
        "file": os.path.basename(file),
        "network": network,
        "names": names,
        "input": {
            "shape": ["batch", *run.model.input_shape[1:]],
            "dtype": "float32",
            "axes": "batch, row, column, channel",
            "channels": "RGB",
        },
        "preprocessing": {
            "formula": "(center crop of the pixels - center crop of the mean image) * scale",
            "image_size": int(mean_image.shape[0]),
            "crop": "center",
            "crop_size": run_config.crop_size,
            "pixels": "RGB in [0, 255]",
            "mean_image": f"{os.path.basename(file)}.mean.npy",
            "mean_color": [float(value) for value in mean_image.mean(axis=(0, 1))],
            "scale": run_config.input_scale,
        },
        "classes": list(run.class_names),
        "source": {
            "run": os.path.abspath(run.workdir),
            "checkpoint": os.path.basename(run.checkpoint),
            "step": run.step,
            **run.chosen.to_json(),
            "configuration": flagfiles.to_text(run_config),
        },
    }


def _write_preprocessing(run, file, description):
    """Writes the files next to the weights."""
    with files.atomic_write(f"{file}.mean.npy", "wb") as mean:
        np.save(mean, run.image_statistics.mean_image)
    files.write_json(f"{file}.json", {**description, "sha256": checksums.of_file(file)})


def _write_onnx(run, file, description, names):
    onnx_network = export.import_onnx_network()
    model = onnx_network.to_onnx(run.model, metadata=description).SerializeToString()
    shape = [_CHECKED_IMAGES, *run.model.input_shape[1:]]
    images = (np.random.default_rng(0).normal(0, 60, shape) * run.config.input_scale).astype(np.float32)
    outputs = onnx_network.run(model, images)
    checked = parity.check("onnxruntime", outputs and outputs["logits"], run.model(images, training=False).numpy())
    with files.atomic_write(file, "wb") as opened:
        opened.write(model)
    height, width = run.model.input_shape[1:3]
    return f"{checked}; run it with images: float32 [n, {height}, {width}, 3]"


def _write_keras(run, file, description, names):
    # Keras needs a path with its suffix.
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=os.path.dirname(file) or os.curdir) as folder:
        path = os.path.join(folder, "network.keras")
        run.model.save(path)
        loaded = keras.saving.load_model(path)
        files.sync([path])
        os.replace(path, file)
        files.sync_directory(os.path.dirname(file))
    checked = _compare(_arrays(run.model), _arrays(loaded))
    return f"{checked}; open it with import alexnet_tf, keras; keras.saving.load_model"


def _write_arrays(run, file, description, names, *, write, read):
    arrays = to_torchvision(run.model) if names == "torchvision" else _arrays(run.model)
    write(file, arrays, {"description": json.dumps(description, ensure_ascii=False)})
    return _compare(arrays, read(file))


def _arrays(network):
    return {variable.path: variable.numpy() for variable in network.weights}


def _compare(arrays, found):
    """Returns that the arrays of a file, read again, are those that were written."""
    if found.keys() != arrays.keys() or not all(np.array_equal(found[name], arrays[name]) for name in arrays):
        raise ValueError("Expected to read the arrays that were written. Received: other values; check the disk")
    return f"{len(arrays)} arrays, read back to the bit"


def to_torchvision(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns the weights of a network under torchvision's names, in its layout and with its scale of dropout.

    torchvision's dropout scales in training, and ours in inference, by ``1 - rate``. So kernels that read outputs of
    dropout are multiplied by that, which is exact for a rate of 0.5.

    Raises:
      ValueError: if the network is not torchvision's.
    """
    (shapes,) = (each for each in layouts.SHAPES if each.network == "alexnet_owt")
    weighted = {layer.name: layer for layer in network.layers if layer.weights}
    activations = {
        keras.activations.serialize(each.activation) for each in network.layers if hasattr(each, "activation")
    }
    same = tuple(weighted) == convert.LAYERS and activations <= {"relu", "linear"}
    if not same or any(weighted[name].kernel.shape[: len(own)] != own for name, own in zip(weighted, shapes.kernels)):
        raise ValueError(f"Expected the network alexnet_owt for torchvision's names. Received: {network.name}")
    readers = layouts.DROPOUT_READERS["alexnet_owt"]
    dropout = next(layer.rate for layer in network.layers if isinstance(layer, layers.Dropout))
    return convert.to_torchvision(
        convert.from_variables(_arrays(network), towers="one", dropout_readers=readers, dropout=dropout)
    )


_Writer = Callable[[restore.OpenedRun, str, Mapping[str, object], str], str]
_WRITERS: dict[str, _Writer] = {
    ".onnx": _write_onnx,
    ".safetensors": functools.partial(
        _write_arrays, write=writers.write_safetensors, read=writers.read_back_safetensors
    ),
    ".keras": _write_keras,
    ".npz": functools.partial(_write_arrays, write=writers.write_npz, read=writers.read_back_npz),
}
