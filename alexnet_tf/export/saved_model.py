"""Writes a trained network as a versioned SavedModel that TensorFlow Serving loads as it is."""

import contextlib
import os
import re
import shutil
import tempfile
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.export import deployment
from alexnet_tf.export import signatures
from alexnet_tf.serving import protocol
from alexnet_tf.utils import files

# How a server's address spells a model; it stands in paths and in REST's addresses.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ASIDE = ".writing-"


class Options(NamedTuple):
    """How a network is served."""

    name: str = "alexnet"
    views: str = "center"  # or "ten"
    top: int = 5
    max_pixels: int = signatures.MAX_PIXELS
    # Requests that a server plays to itself before it answers any.
    warmup_batch_sizes: tuple = (1, 8, 32)


def export(network, preparation, class_names, card, export_dir, options=None):
    """Writes the next version of a served model, and what is needed to serve it beside the versions.

    Args:
      network: a functional ``keras.Model`` from float32 ``[batch, crop_size, crop_size, 3]`` to logits, made with
        ``jit_compile=False`` and for no device.
      preparation: `signatures.Preparation`.
      class_names: list of strings, of the logits in their order.
      card: dict of what is known of the network, for the model's card.
      export_dir: where the versions are; made if it is not there.
      options: `Options`.

    Returns:
      The path of the version, such as ``export_dir/1``. It is written aside and renamed at last, so one that was
      interrupted is never a version.

    Raises:
      ValueError: for an option outside its range, or a number of classes that is not the network's.
      OSError: for a directory that cannot be written, a full disk, or another export at work there.
    """
    options = options or Options()
    if not _NAME.fullmatch(options.name):
        raise ValueError(f"Expected name to be letters, digits, ., _ and -. Received: {options.name!r}")
    if len(class_names) != network.output_shape[-1]:
        raise ValueError(f"Expected {network.output_shape[-1]} class_names. Received: {len(class_names)}")
    with tempfile.TemporaryDirectory() as folder:
        labels = os.path.join(folder, "labels.txt")
        with open(labels, "w", encoding="utf-8") as file:
            file.writelines(f"{' '.join(name.split())}\n" for name in class_names)
        served = signatures.Signatures(
            signatures.with_features(network),
            preparation,
            labels,
            views=options.views,
            top=options.top,
            max_pixels=options.max_pixels,
        )
        return _write(served, _facts(served, preparation, class_names, options) | card, export_dir, options)


def _write(served, card, export_dir, options):
    """Writes a version aside and gives it its number; returns its path."""
    if os.path.exists(export_dir) and not os.path.isdir(export_dir):
        raise NotADirectoryError(f"Expected export_dir to be a directory. Received: the file {export_dir}")
    os.makedirs(export_dir, exist_ok=True)
    with files.exclusive_lock(os.path.join(export_dir, ".lock"), export_dir), _aside(export_dir) as aside:
        _write_saved_model(served, aside)
        deployment.write_card(card, aside)
        _write_warmup(served, options, os.path.join(aside, "assets.extra"))
        version = os.path.join(export_dir, str(1 + max(versions(export_dir), default=0)))
        # Others than this user may run the server.
        os.chmod(aside, 0o755)
        os.rename(aside, version)
        deployment.write(export_dir, options.name)
    return version


def versions(export_dir):
    """The numbers of the versions in a directory, in ascending order."""
    names = (entry.name for entry in os.scandir(export_dir) if entry.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


@contextlib.contextmanager
def _aside(export_dir):
    """A directory that is gone at the end unless it was renamed; what killed exports left goes too."""
    for entry in os.scandir(export_dir):
        if entry.name.startswith(_ASIDE):
            shutil.rmtree(entry.path)
    path = tempfile.mkdtemp(prefix=_ASIDE, dir=export_dir)
    try:
        yield path
    except tf.errors.OpError as error:
        raise OSError(f"Expected room for an export in {export_dir}. Received: {error.message}") from None
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write_saved_model(served, directory):
    archive = keras.export.ExportArchive()
    # It finds the variables that its functions use; a network that is tracked too would be written twice.
    archive.track(served.class_names)
    for name, (function, spec) in served.endpoints().items():
        archive.add_endpoint(name, function, [spec])
    archive.write_out(directory, verbose=False)


def _facts(served, preparation, class_names, options):
    """What a model's card says of the export itself."""
    return {
        "name": options.name,
        "preprocessing": {
            "photographs": "JPEG or PNG; turned as EXIF asks, central square, scaled by area averages or bicubically",
            "image_size": preparation.image_size,
            "crop_size": preparation.crop_size,
            "views": options.views,
            "mean": [round(float(value), 4) for value in np.mean(preparation.mean_image, axis=(0, 1))],
            "mean_crop": preparation.mean_crop,
            "scale": preparation.scale,
            "max_pixels": options.max_pixels,
        },
        "signatures": {name: _describe(spec) for name, (_, spec) in served.endpoints().items()},
        "classes": list(class_names),
    }


def _describe(spec):
    """A specification of a tensor as text, such as ``images: uint8 [batch, 256, 256, 3]``."""
    sizes = ["batch", *spec.shape.as_list()[1:]]
    if sizes[1:3] == [None, None]:
        sizes[1:3] = ["height", "width"]
    return f"{spec.name}: {spec.dtype.name} [{', '.join(map(str, sizes))}]"


def _write_warmup(served, options, directory):
    """Writes the requests that TensorFlow Serving plays to a version before it answers others."""
    os.makedirs(directory)
    photograph = _made_up_photograph()
    with tf.io.TFRecordWriter(os.path.join(directory, "tf_serving_warmup_requests")) as writer:
        for name, (_, spec) in served.endpoints().items():
            for count in options.warmup_batch_sizes:
                shape = [count, *(size or 256 for size in spec.shape.as_list()[1:])]
                # Of pixels, one value stands for all.
                value = [photograph] * count if spec.dtype == tf.string else 0
                request = protocol.predict_request(options.name, name, {})
                tensor = tf.make_tensor_proto(value, spec.dtype, shape)
                request.inputs[spec.name].MergeFromString(tensor.SerializeToString())
                writer.write(protocol.warmup_record(request))


def _made_up_photograph():
    """A JPEG of 500 x 375 pixels, as large as photographs usually are."""
    rows, columns = np.mgrid[0:375, 0:500]
    waves = np.sin(rows / 7) * np.cos(columns / 11)
    noise = np.random.default_rng(0).integers(-5, 6, [375, 500, 3])
    pixels = 127 + 80 * waves[..., None] + noise
    return tf.io.encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8)).numpy()
