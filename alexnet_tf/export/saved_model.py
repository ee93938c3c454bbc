"""Writes a trained network as a versioned SavedModel that TensorFlow Serving loads without changes."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.data import image_headers
from alexnet_tf.export import deployment
from alexnet_tf.export import signatures
from alexnet_tf.serving import protocol
from alexnet_tf.utils import checksums
from alexnet_tf.utils import files

# The name is part of paths and of REST URLs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TEMPORARY = ".writing-"


class Options(NamedTuple):
    """How a network is served."""

    name: str = "alexnet"
    views: str = "center"  # or "ten"
    top: int = 5
    max_pixels: int = signatures.MAX_PIXELS
    # Batch sizes of the requests that a server runs before it answers any.
    warmup_batch_sizes: tuple[int, ...] = (1, 8, 32)
    temperature: float = 1.0  # as of `signatures.Signatures`


def export(
    network: keras.Model,
    preprocessing: signatures.Preprocessing,
    class_names: Sequence[str],
    card: Mapping[str, Any],
    export_dir: str | os.PathLike,
    options: Options | None = None,
    float32_network: keras.Model | None = None,
) -> str:
    """Writes the next version of a served model, and the deployment files next to the versions.

    The version is written to a temporary directory and renamed at the end, so an interrupted export never leaves a
    partial version.

    Args:
      network: a functional model from float32 ``[batch, crop_size, crop_size, 3]`` to logits, built with
        ``jit_compile=False`` and without device placement.
      preprocessing: how images were preprocessed during training.
      class_names: names of the classes, in the order of the logits.
      card: metadata of the network for the model card; values must be JSON-serializable.
      export_dir: directory of the versions; created if missing.
      options: how the network is served; None for the defaults.
      float32_network: as of `signatures.Signatures`, a functional model from the images to logits. Its own weights do
        not matter.

    Returns:
      The path of the version, such as ``export_dir/1``.

    Raises:
      ValueError: if an option is out of range, the number of classes is not the network's, or the mean image or a
        weight has values that training cannot give, such as NaN.
      OSError: if the directory cannot be written, the disk is full, or another process is exporting to `export_dir`.
    """
    options = options or Options()
    check_name(options.name)
    if len(class_names) != network.output_shape[-1]:
        raise ValueError(f"Expected {network.output_shape[-1]} class_names. Received: {len(class_names)}")
    check_numbers(network, preprocessing.mean_image)
    with _served(network, preprocessing, class_names, options, float32_network) as served:
        return _write(served, _metadata(served, preprocessing, class_names, options) | card, export_dir, options)


def check_name(name: str) -> None:
    """Checks the name of a model, which is part of paths and URLs.

    Raises:
      ValueError: if it has characters other than letters, digits, ".", "_" and "-", or begins with one of these.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "Expected name to consist of letters, digits, '.', '_' and '-', and to begin with a letter or digit. "
            f"Received: {name=}"
        )


def check_numbers(network: keras.Model, mean_image: np.ndarray) -> None:
    """Checks for values that would make every answer of an export wrong, although finite.

    Raises:
      ValueError: if the mean image or a weight has values that training cannot give, such as NaN.
    """
    # Comparisons with NaN are false.
    if not (0 <= mean_image.min() and 0 < mean_image.max() <= 255):
        raise ValueError(
            f"Expected a mean image in [0, 255], with values other than 0. Received: values from {mean_image.min()} to "
            f"{mean_image.max()}; copy statistics.npz from a backup, or train again"
        )
    for variable in network.variables:
        if variable.dtype != "bool" and not np.isfinite(np.asarray(variable, np.float32)).all():
            raise ValueError(
                f"Expected finite weights. Received: NaN or infinity in {variable.path}; its training diverged: train "
                "again with a lower --learning_rate"
            )


@contextlib.contextmanager
def _served(network, preprocessing, class_names, options, float32_network):
    """Yields the signatures. Their file of class names exists until the end, when it has been copied to the export."""
    with tempfile.TemporaryDirectory() as folder:
        labels = os.path.join(folder, "labels.txt")
        with files.named_if_full(labels), open(labels, "w", encoding="utf-8") as file:
            file.writelines(f"{' '.join(name.split())}\n" for name in class_names)
        yield signatures.Signatures(
            signatures.with_features(network),
            preprocessing,
            labels,
            views=options.views,
            top=options.top,
            max_pixels=options.max_pixels,
            temperature=options.temperature,
            float32_network=float32_network and signatures.with_features(float32_network),
        )


def _write(served, card, export_dir, options):
    """Writes a version to a temporary directory and renames it; returns its path."""
    if os.path.exists(export_dir) and not os.path.isdir(export_dir):
        raise NotADirectoryError(f"Expected export_dir to be a directory. Received: the file {export_dir}")
    os.makedirs(export_dir, exist_ok=True)
    lock = files.exclusive_lock(os.path.join(export_dir, ".lock"), export_dir)
    with lock, _temporary_directory(export_dir) as directory:
        _write_saved_model(served, directory)
        deployment.write_card(card, directory)
        _write_warmup(served, options, os.path.join(directory, protocol.WARMUP_REQUESTS))
        version = os.path.join(export_dir, str(1 + max(protocol.versions(export_dir), default=0)))
        # The server may run as another user.
        os.chmod(directory, 0o755)
        # A power cut must not leave empty files under the final name.
        files.sync([directory])
        os.rename(directory, version)
        files.sync_directory(export_dir)
        deployment.write(export_dir, options.name)
    return version


@contextlib.contextmanager
def _temporary_directory(export_dir):
    """Creates a directory, removed at the end unless it was renamed. Removes those of killed exports, too."""
    for entry in os.scandir(export_dir):
        if entry.name.startswith(_TEMPORARY) and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
    path = tempfile.mkdtemp(prefix=_TEMPORARY, dir=export_dir)
    try:
        yield path
    except tf.errors.OpError as error:
        raise OSError(f"Cannot write the export to {export_dir}: {error.message}") from None
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write_saved_model(served, directory):
    archive = keras.export.ExportArchive()
    # The archive finds the variables that the functions use; tracking the network would write them twice.
    archive.track(served.class_names)
    for name, (function, spec) in served.endpoints().items():
        archive.add_endpoint(name, function, [spec])
    archive.write_out(directory, verbose=False)
    # The mean image and the class names. TensorFlow has checksums of the variables.
    names = ["saved_model.pb", *(f"assets/{name}" for name in sorted(os.listdir(os.path.join(directory, "assets"))))]
    checksums.write(directory, names)


def _metadata(served, preprocessing, class_names, options):
    """Returns what the model card says about the export itself."""
    return {
        "name": options.name,
        "preprocessing": {
            "photographs": (
                f"{image_headers.FORMATS}; rotated as EXIF specifies, cropped to the central square, resized by area "
                "averaging or bicubic interpolation"
            ),
            "image_size": preprocessing.image_size,
            "crop_size": preprocessing.crop_size,
            "views": served.views,
            "mean": [round(float(value), 4) for value in np.mean(preprocessing.mean_image, axis=(0, 1))],
            "mean_crop": preprocessing.mean_crop,
            "scale": preprocessing.scale,
            "max_pixels": options.max_pixels,
        },
        "signatures": {name: _describe(spec) for name, (_, spec) in served.endpoints().items()},
        "classes": list(class_names),
    }


def _describe(spec):
    """Returns a tensor specification as text, such as ``images: uint8 [batch, 256, 256, 3]``."""
    sizes = ["batch", *spec.shape.as_list()[1:]]
    if sizes[1:3] == [None, None]:
        sizes[1:3] = ["height", "width"]
    return f"{spec.name}: {spec.dtype.name} [{', '.join(map(str, sizes))}]"


def _write_warmup(served, options, path):
    """Writes the requests that TensorFlow Serving runs on a version before it answers any."""
    os.makedirs(os.path.dirname(path))
    image = _synthetic_image()
    with tf.io.TFRecordWriter(path) as writer:
        for name, (_, spec) in served.endpoints().items():
            for count in options.warmup_batch_sizes:
                shape = [count, *(size or 256 for size in spec.shape.as_list()[1:])]
                # A single value fills a tensor of pixels.
                value = [image] * count if spec.dtype == tf.string else 0
                request = protocol.predict_request(options.name, name, {})
                tensor = tf.make_tensor_proto(value, spec.dtype, shape)
                request.inputs[spec.name].MergeFromString(tensor.SerializeToString())
                writer.write(protocol.warmup_record(request))


def _synthetic_image():
    """Returns a JPEG of 500 x 375 pixels, a typical size of photographs."""
    rows, columns = np.mgrid[0:375, 0:500]
    waves = np.sin(rows / 7) * np.cos(columns / 11)
    noise = np.random.default_rng(0).integers(-5, 6, [375, 500, 3])
    pixels = 127 + 80 * waves[..., None] + noise
    return tf.io.encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8)).numpy()
