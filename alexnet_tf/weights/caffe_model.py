"""Reads Caffe's files: models (``.caffemodel``) of any age, and mean images (``.binaryproto``).

The numbers of the fields are those of https://github.com/BVLC/caffe/blob/master/src/caffe/proto/caffe.proto. Layers
have had three forms: V0 (within a V1 layer), V1 (``layers``) and today's (``layer``).
"""

import math
import os
from typing import NamedTuple

import numpy as np

from alexnet_tf.weights import checks
from alexnet_tf.weights import contents
from alexnet_tf.weights import wire_format

FORMAT = "Caffe model"


class _Form(NamedTuple):
    """Field numbers of a layer."""

    name: int
    type: int
    blobs: int
    convolution: int
    dropout: int
    dense: int
    lrn: int
    pooling: int
    transform: int


_V1 = _Form(name=4, type=5, blobs=6, convolution=10, dropout=12, dense=17, lrn=18, pooling=19, transform=36)
_TODAY = _Form(name=1, type=2, blobs=7, convolution=106, dropout=108, dense=117, lrn=118, pooling=121, transform=100)

# V1 types that have a kind; others are called by their number.
_V1_TYPES = {
    **{4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten", 12: "ImageData", 14: "InnerProduct", 15: "LRN"},
    **{17: "Pooling", 18: "ReLU", 20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split", 1: "Accuracy", 3: "Concat"},
}
_V0_TYPES = {
    **{"conv": "Convolution", "dropout": "Dropout", "innerproduct": "InnerProduct", "lrn": "LRN", "pool": "Pooling"},
    **{"relu": "ReLU", "softmax": "Softmax", "softmax_loss": "SoftmaxWithLoss", "data": "Data", "flatten": "Flatten"},
}
_KINDS = {
    **{"Convolution": "convolution", "InnerProduct": "dense", "ReLU": "relu", "LRN": "lrn", "Dropout": "dropout"},
    **{"BatchNorm": "batch_normalization", "Softmax": "softmax"},
}
_POOLINGS = {0: "max_pool", 1: "average_pool", 2: "stochastic_pool"}


def read(path: str | os.PathLike) -> contents.Contents:
    """Reads a Caffe model.

    Arrays are named by layer and number, such as "conv1/0" for the kernel and "conv1/1" for the bias, in Caffe's axes:
    kernels ``[out, in / groups, height, width]``, dense kernels ``[out, in]``. Older files have four axes everywhere.
    Metadata: "network_name", "input_size" (``[height, width]``) and "mean" (``[3]``, BGR), where the file has them.

    Raises:
      contents.FormatError: if the file is damaged or has no weights.
      OSError: if it cannot be read.
    """
    arrays, operations, metadata = {}, [], {}
    with wire_format.open_message(path, "a Caffe model") as network:
        if name := network.text(1):
            metadata["network_name"] = name
        if len(sides := network.integers(4)) == 4:
            metadata["input_size"] = sides[2:]
        for shape in network.messages(8):
            if len(sides := shape.integers(1)) == 4:
                metadata["input_size"] = sides[2:]
        layers = [(_V1, layer) for layer in network.messages(2)] + [(_TODAY, layer) for layer in network.messages(100)]
        for form, layer in layers:
            operations.append(_read_layer(layer, form, arrays, metadata))
        if not arrays:
            raise network.error(f"a network description of {len(layers)} layers without weights")
    checks.check_names(path, "a Caffe model", arrays)
    return contents.Contents(FORMAT, arrays, tuple(operations), metadata)


def read_mean(path: str | os.PathLike) -> np.ndarray:
    """Reads a mean image of Caffe.

    Returns:
      float32 ``[height, width, 3]``, BGR, as Caffe reads images.

    Raises:
      contents.FormatError: if the file is damaged or not a mean image.
      OSError: if it cannot be read.
    """
    with wire_format.open_message(path, "a mean image of Caffe (.binaryproto)") as blob:
        image = _read_blob(blob, "the mean image")
        if image.ndim == 4 and len(image) == 1:
            image = image[0]
        if image.ndim != 3 or len(image) != 3:
            raise blob.error(f"an array of shape {list(image.shape)}, not [3, height, width]")
        if not np.isfinite(image).all():
            raise blob.error("pixels that are NaN or infinite")
    return np.ascontiguousarray(image.transpose(1, 2, 0), np.float32)


def _read_blob(blob, what):
    """Returns the array of a BlobProto."""
    values = blob.array(8, "<f8") if blob.has(8) and not blob.has(5) else blob.array(5, "<f4")
    legacy = [blob.integer(number) for number in range(1, 5)]
    shape = legacy if any(blob.has(number) for number in range(1, 5)) else blob.message(7).integers(1)
    if len(shape) > 8 or min(shape, default=1) < 1 or math.prod(shape) != values.size:
        shown = ", ".join(map(str, shape[:8]))
        raise blob.error(f"{values.size:,} values of shape [{shown}] in {what}")
    return values.reshape(shape)


def _read_layer(layer, form, arrays, metadata):
    is_v0 = form is _V1 and layer.has(1)
    if is_v0:
        layer = layer.message(1)
        name, kind, blobs = layer.text(1), layer.text(2), 50
        kind = _V0_TYPES.get(kind, kind)
    else:
        name, blobs = layer.text(form.name), form.blobs
        kind = _V1_TYPES.get(layer.integer(form.type), "") if form is _V1 else layer.text(form.type)
        kind = kind or f"V1 type {layer.integer(form.type)}" if form is _V1 else kind
    names = []
    for number, blob in enumerate(layer.messages(blobs)):
        key = f"{name}/{number}"
        if key in arrays:
            raise layer.error(f"two layers {name} with weights")
        arrays[key] = _read_blob(blob, key)
        names.append(key)
    if is_v0:
        own, attributes = _v0_attributes(layer, kind)
    else:
        own, attributes = _attributes(layer, form, kind)
        _read_transform(layer.message(form.transform), metadata)
    return contents.Operation(own, name, tuple(names), attributes)


def _read_transform(transform, metadata):
    """Reads the preprocessing of a data layer."""
    if side := transform.integer(3):
        metadata["input_size"] = [side, side]
    if transform.has(5):
        mean = transform.array(5, "<f4")
        if mean.size == 3:
            metadata["mean"] = mean


def _attributes(layer, form, kind):
    """Returns the kind of an operation and its attributes."""
    if kind == "Convolution":
        message = layer.message(form.convolution)
        attributes = {
            "groups": message.integer(5, 1),
            "kernel_size": _pair(message, 4, (11, 12), 0),
            "strides": _pair(message, 6, (13, 14), 1),
            "padding": _pair(message, 3, (9, 10), 0) * 2,
        }
        if any(dilation != 1 for dilation in message.integers(18)):
            attributes["dilations"] = _pair(message, 18, (), 1)
        return "convolution", attributes
    if kind == "Pooling":
        message = layer.message(form.pooling)
        attributes = {
            "kernel_size": _pair(message, 2, (5, 6), 0),
            "strides": _pair(message, 3, (7, 8), 1),
            "padding": _pair(message, 4, (9, 10), 0) * 2,
        }
        return _POOLINGS.get(message.integer(1), "unknown pooling"), attributes
    if kind == "LRN":
        message = layer.message(form.lrn)
        own = "LRN within channels" if message.integer(4) else "lrn"
        values = (message.integer(1, 5), message.floating(2, 1.0), message.floating(3, 0.75), message.floating(5, 1.0))
        return own, _normalization(layer, *values)
    if kind == "Dropout":
        return "dropout", {"rate": layer.message(form.dropout).floating(1, 0.5)}
    if kind == "InnerProduct" and layer.message(form.dense).integer(6):
        return "dense", {"transposed": False}
    return _KINDS.get(kind, kind), {}


def _v0_attributes(layer, kind):
    kernel_size, strides, padding = (
        [layer.integer(number, default)] * 2 for number, default in ((8, 0), (10, 1), (7, 0))
    )
    if kind == "Convolution":
        attributes = {"kernel_size": kernel_size, "strides": strides, "padding": padding * 2}
        return "convolution", {"groups": layer.integer(9, 1), **attributes}
    if kind == "Pooling":
        attributes = {"kernel_size": kernel_size, "strides": strides, "padding": padding * 2}
        return _POOLINGS.get(layer.integer(11), "unknown pooling"), attributes
    if kind == "LRN":
        values = (layer.integer(13, 5), layer.floating(14, 1.0), layer.floating(15, 0.75), layer.floating(22, 1.0))
        return "lrn", _normalization(layer, *values)
    if kind == "Dropout":
        return "dropout", {"rate": layer.floating(12, 0.5)}
    if kind == "padding":
        return "padding", {"padding": padding * 2}
    return _KINDS.get(kind, kind), {}


def _normalization(layer, size, alpha, beta, bias):
    """Caffe divides alpha by the size of the window."""
    if not 1 <= size <= 1024:
        raise layer.error(f"response normalization over {size} channels")
    return {"size": size, "alpha": alpha / size, "beta": beta, "bias": bias}


def _pair(message, number, sides, default):
    """Returns ``[vertical, horizontal]`` of a field that is one number, one a direction, or two fields `sides`."""
    if any(message.has(side) for side in sides):
        return [message.integer(side, default) for side in sides]
    values = message.integers(number) or [default]
    return [values[0], values[-1]]
