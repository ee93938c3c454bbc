"""A small network and image files for tests of exports."""

import io
import pathlib
import struct
import tempfile
import zlib

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from alexnet_tf.export import signatures

CLASS_NAMES = ["tench", "great white shark", "Bläßhuhn"]
IMAGE_SIZE = 40
CROP_SIZE = 32


def network(seed=0, num_classes=3):
    """Returns a classifier of 32 x 32 crops that depends on position and color."""
    start = lambda number: keras.initializers.GlorotUniform(seed=10 * seed + number)
    images = keras.Input([CROP_SIZE, CROP_SIZE, 3], name="images")
    x = keras.layers.Conv2D(4, 5, strides=4, activation="relu", kernel_initializer=start(0), name="conv")(images)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(6, activation="relu", kernel_initializer=start(1), name="hidden")(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer=start(2), name="last")(x)
    return keras.Model(images, keras.layers.Activation("linear", dtype="float32")(logits))


def preprocessing(**changes):
    """Returns the preprocessing of the network's images."""
    mean_image = np.random.default_rng(7).uniform(90, 140, [IMAGE_SIZE, IMAGE_SIZE, 3]).astype(np.float32)
    return signatures.Preprocessing(mean_image, CROP_SIZE, scale=0.02)._replace(**changes)


def pixels(height=50, width=70, seed=0, channels=3):
    """Returns a smooth uint8 image, which JPEG compresses with little error."""
    rows, columns = np.mgrid[0:height, 0:width][..., None]
    waves = np.random.default_rng(seed).uniform(0.05, 0.3, [3, channels])
    picture = 127 + 60 * np.sin(rows * waves[0] + waves[2] * 20) + 60 * np.cos(columns * waves[1])
    return np.clip(picture, 0, 255).astype(np.uint8)


def encoded(image, kind="JPEG", **options):
    """Encodes an image as a file."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, kind, **options)
    return file.getvalue()


def jpeg_declaring(height, width):
    """Returns a JPEG whose header declares another size."""
    whole = encoded(pixels())
    frame = whole.index(b"\xff\xc0")
    return whole[: frame + 5] + struct.pack(">HH", height, width) + whole[frame + 9 :]


def png_declaring(height, width):
    """Returns a PNG whose header, with a valid checksum, declares another size."""
    whole = encoded(pixels(), "PNG")
    head = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]


def damaged(kind="JPEG"):
    """Returns the first half of a file."""
    whole = encoded(pixels(), kind)
    return whole[: len(whole) // 2]


def served(model=None, preprocessed_as=None, **options):
    """Returns `signatures.Signatures` of the small network, or of another one."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as labels:
        labels.writelines(f"{name}\n" for name in CLASS_NAMES)
        labels.flush()
        network_and_features = signatures.with_features(model or network())
        return signatures.Signatures(network_and_features, preprocessed_as or preprocessing(), labels.name, **options)


def strings(tensor):
    """Converts a tensor of strings to a list of str."""
    return [value.decode() for value in tf.reshape(tensor, [-1]).numpy()]


def read_saved_model(directory):
    """Reads the ``MetaGraphDef`` of a SavedModel."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((pathlib.Path(directory) / "saved_model.pb").read_bytes())
    return saved_model.meta_graphs[0]


def requirements(meta_graph):
    """Lists what a SavedModel requires in addition to a CPU and TensorFlow's operations."""
    graph = meta_graph.graph_def
    found = set()
    for function in [None, *graph.library.function]:
        name = function.signature.name if function else ""
        # TensorFlow places its own functions that save and restore variables, and their constants, on the CPU.
        own = {"", "/device:CPU:0", "/device:CPU:*"} if function is None or "_traced_" in name else {""}
        parts = function.node_def if function else graph.node
        found |= {f"{name} {node.name} on {node.device}" for node in parts if node.device not in own}
        found |= {f"{name} {node.op}" for node in parts if "PyFunc" in node.op or "Xla" in node.op}
        for part in [*parts, *([function] if function else [])]:
            on = {key for key, value in part.attr.items() if value.s or value.b}
            found |= {f"{name} {key}" for key in on & {"_XlaMustCompile", "_xla_compile_id"}}
    return sorted(found)
