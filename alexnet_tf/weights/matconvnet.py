"""Reads the networks of MatConvNet (``.mat``), such as imagenet-caffe-alex.mat."""

import os

import numpy as np

from alexnet_tf.utils import escaping
from alexnet_tf.weights import checks
from alexnet_tf.weights import contents
from alexnet_tf.weights import hdf5_weights
from alexnet_tf.weights import mat_file

FORMAT = "MatConvNet model"

_KINDS = {
    **{"conv": "convolution", "relu": "relu", "softmax": "softmax", "dropout": "dropout"},
    "bnorm": "batch_normalization",
}


def read(path: str | os.PathLike) -> contents.Contents:
    """Reads a simple network of MatConvNet.

    Arrays are named by layer and number, such as "conv1/0" for the kernel, ``[height, width, in / groups, out]``. Fully
    connected layers are convolutions there. Metadata: "mean" (``[height, width, 3]`` or ``[3]``, RGB), "input_size",
    "class_names" and "class_descriptions", where the file has them. A file of version 7.3, which is HDF5, is read by
    `hdf5_weights`.

    Raises:
      contents.FormatError: if the file is damaged or has another kind of network.
      OSError: if it cannot be read.
    """
    if hdf5_weights.is_hdf5(path):
        return hdf5_weights.read(path)
    variables = mat_file.read(path)
    network = variables.get("net", variables)
    layers = network.get("layers") if isinstance(network, dict) else None
    layers = [layers] if isinstance(layers, dict) else layers
    if not isinstance(layers, list) or not all(isinstance(layer, dict) and "type" in layer for layer in layers):
        raise _error(path, f"the variables {', '.join(variables) or 'none'}")
    if any("block" in layer for layer in layers):
        raise _error(path, "a DagNN")
    reader = _Layers(path)
    for number, layer in enumerate(layers):
        reader.add(number, layer)
    if not reader.arrays:
        raise _error(path, f"{len(layers)} layers without weights")
    meta = network.get("meta", network)
    metadata = _metadata(meta if isinstance(meta, dict) else {})
    checks.check_names(path, "a network of MatConvNet", reader.arrays)
    return contents.Contents(FORMAT, reader.arrays, tuple(reader.operations), metadata)


def _error(path, problem):
    remedy = "convert it with MatConvNet (simplenn), or export ONNX"
    return checks.error("the layers of a network of MatConvNet", path, escaping.one_line(problem)[:300], remedy)


class _Layers:
    """Collects the arrays and operations of a network, layer by layer."""

    def __init__(self, path):
        self.arrays = {}
        self.operations = []
        self._path = path
        # Of the values that the next convolution reads.
        self._channels = 3

    def add(self, number, layer):
        """Adds a layer."""
        kind, name = layer["type"], layer.get("name")
        if not isinstance(kind, str):
            raise _error(self._path, f"layer {number} without a type")
        name = name if isinstance(name, str) and name else f"layer{number}"
        parameters = self._add_arrays(name, layer)
        attributes = {}
        if kind == "conv":
            kernel = self.arrays[parameters[0]] if parameters else np.zeros([0] * 5)
            if kernel.ndim > 4:
                raise _error(self._path, f"a convolution {name} without a kernel of four axes")
            # MATLAB drops axes of length 1 at the end.
            kernel = kernel.reshape(kernel.shape + (1,) * (4 - kernel.ndim))
            self.arrays[parameters[0]] = kernel
            per_group = kernel.shape[2]
            attributes = {"groups": max(self._channels // max(per_group, 1), 1)}
            attributes["kernel_size"] = list(kernel.shape[:2])
            self._channels = kernel.shape[3]
        if kind == "pool":
            attributes["kernel_size"] = self._sides(name, layer.get("pool", 1))
        if kind in ("conv", "pool"):
            attributes["strides"] = self._sides(name, layer.get("stride", 1))
            attributes["padding"] = self._padding(name, layer.get("pad", 0))
        if kind == "dropout" and "rate" in layer:
            attributes["rate"] = self._numbers(name, layer["rate"], (1,))[0]
        if kind in ("normalize", "lrn"):
            size, bias, alpha, beta = self._numbers(name, layer.get("param", []), (4,))
            kind, attributes = "lrn", {"size": int(size), "alpha": alpha, "beta": beta, "bias": bias}
        elif kind == "pool":
            kind = {"max": "max_pool", "avg": "average_pool"}.get(layer.get("method", "max"), "unknown pooling")
        self.operations.append(contents.Operation(_KINDS.get(kind, kind), name, parameters, attributes))

    def _add_arrays(self, name, layer):
        arrays = layer.get("weights", [layer[field] for field in ("filters", "biases") if field in layer])
        names = []
        for number, array in enumerate(arrays if isinstance(arrays, list) else [arrays]):
            if not isinstance(array, np.ndarray):
                raise _error(self._path, f"weights of {name} that are not arrays")
            if not array.size:
                continue
            key = f"{name}/{number}"
            if key in self.arrays:
                raise _error(self._path, f"two layers {name} with weights")
            self.arrays[key] = array
            names.append(key)
        return tuple(names)

    def _numbers(self, name, value, counts):
        values = np.ravel(value).tolist() if isinstance(value, (np.ndarray, int)) else []
        if len(values) not in counts or not np.isfinite(values).all():
            raise _error(self._path, f"constants of {name} that are not {' or '.join(map(str, counts))} numbers")
        return values

    def _sides(self, name, value):
        values = [int(side) for side in self._numbers(name, value, (1, 2))]
        return [values[0], values[-1]]

    def _padding(self, name, value):
        values = [int(side) for side in self._numbers(name, value, (1, 2, 4))]
        # MatConvNet's order is top, bottom, left, right; two numbers are vertical and horizontal.
        top, bottom, left, right = np.repeat(values, 4 // len(values)).tolist()
        return [top, left, bottom, right]


def _metadata(meta):
    metadata = {}
    normalization = meta.get("normalization")
    if isinstance(normalization, dict):
        mean = normalization.get("averageImage")
        if isinstance(mean, np.ndarray) and mean.dtype.kind in "fiu" and np.isfinite(mean).all():
            if mean.size == 3:
                metadata["mean"] = np.float32(mean.ravel())
            elif mean.ndim == 3 and mean.shape[2] == 3:
                metadata["mean"] = np.ascontiguousarray(mean, np.float32)
        size = normalization.get("imageSize")
        if isinstance(size, np.ndarray) and size.size >= 2 and np.isfinite(size).all():
            metadata["input_size"] = [int(side) for side in size.ravel()[:2]]
    classes = meta.get("classes")
    if isinstance(classes, dict):
        for field, key in (("name", "class_names"), ("description", "class_descriptions")):
            names = classes.get(field)
            if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                metadata[key] = names
    return metadata
