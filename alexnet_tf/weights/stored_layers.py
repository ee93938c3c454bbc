"""Finds the layers in the arrays of a weight file by the conventions of its framework.

Frameworks store the same layer in different ways. Kernels are output-first in Caffe and PyTorch, and output-last in
TensorFlow. Theano turns them by 180 degrees. Caffe reads images in BGR order. fc6 reads maps channel by channel or
position by position.
"""

import re
from typing import NamedTuple

import numpy as np

from alexnet_tf.weights import contents
from alexnet_tf.weights import convert


class Convention(NamedTuple):
    """How a kind of file stores layers."""

    name: str
    kernels: str  # axes of convolution kernels: "OIHW", or "HWIO"
    dense: str  # axes of dense kernels: "OI" or "IO"
    maps: str  # order of fc6's inputs: "CHW" or "HWC"
    channels: str | None  # "RGB" or "BGR"; None if the file does not say
    turned: bool = False  # whether convolution kernels are turned by 180 degrees


CAFFE = Convention("Caffe", "OIHW", "OI", "CHW", "BGR")
TORCHVISION = Convention("torchvision", "OIHW", "OI", "CHW", "RGB")
TENSORFLOW = Convention("TensorFlow", "HWIO", "IO", "HWC", None)
FLAX = Convention("Flax", "HWIO", "IO", "HWC", "RGB")
THEANO = Convention("Theano", "OIHW", "IO", "CHW", "RGB", turned=True)
MATCONVNET = Convention("MatConvNet", "HWIO", "IO", "HWC", "RGB")
ONNX = Convention("ONNX", "OIHW", "OI", "CHW", None)

# Layers by name: of PyTorch's module lists, and of files in which a layer of two groups is two layers.
_THEANO_NAME = re.compile(r"(conv|dense)_(\d)(?:_([12]))?$")
_FLAX_NAME = re.compile(r"(?:(?:params|AlexNet_0)/)*(Conv|Dense)_(\d)$")


def find(found: contents.Contents) -> tuple[Convention, dict[str, convert.Layer]]:
    """Returns the convention of a file, and its layers by name. conv1 still reads the channels in the file's order.

    Raises:
      ValueError: if there are no layers of an AlexNet, or a layer is incomplete or not finite.
    """
    convention, stored = _stored(found)
    return convention, {name: _to_layer(name, parts, convention) for name, parts in stored.items()}


def check_finite(name: str, layer: convert.Layer) -> None:
    """Raises a ValueError if a layer has NaN or infinity."""
    if not all(np.isfinite(values).all() for values in layer):
        raise ValueError(f"Expected finite weights in {name}. Received: NaN or infinity")


def _stored(found):
    """Returns the convention of a file, and from each layer's name to its (kernel, bias) pairs, one per group."""
    for names in (_by_operations, _by_torchvision, _by_theano, _by_flax, _by_layer):
        convention, stored = names(found)
        if stored:
            return convention, stored
    shown = ", ".join(f"{name} {list(array.shape)}" for name, array in list(found.arrays.items())[:4])
    raise ValueError(
        f"Expected the layers conv1 to conv5, and perhaps fc6 to fc8, of an AlexNet. Received: {len(found.arrays)} "
        f"arrays, such as {shown or 'none'}"
    )


def _by_operations(found):
    """The layers of a file that states the order of computation."""
    weighted = [
        operation
        for operation in found.operations
        if operation.kind in ("convolution", "dense") and operation.parameters
    ]
    if not weighted:
        return None, {}
    convention = {"Caffe model": CAFFE, "MatConvNet model": MATCONVNET}.get(found.format, ONNX)
    convolutions = [each for each in weighted if each.kind == "convolution"]
    if len(convolutions) not in (5, 8) or len(weighted) > 8:
        kinds = [each.kind for each in weighted]
        raise ValueError(
            f"Expected five convolutions and at most three fully connected layers. Received: "
            f"{kinds.count('convolution')} and {kinds.count('dense')}"
        )
    stored = {}
    for name, operation in zip(convert.LAYERS, weighted):
        if len(operation.parameters) != 2:
            raise ValueError(f"Expected a kernel and a bias in {operation.name}. Received: {operation.parameters}")
        kernel, bias = (found.arrays[parameter] for parameter in operation.parameters)
        if operation.kind == "dense" and convention.dense == "OI" and not operation.attributes.get("transposed", True):
            kernel = kernel.T
        stored[name] = [(kernel, bias)]
    return convention, stored


def _paired(found, rename):
    """Collects the kernels and biases whose names `rename` maps to (layer, group, is_bias)."""
    stored = {}
    for name, array in found.arrays.items():
        if place := rename(name):
            layer, group, is_bias = place
            stored.setdefault(layer, {}).setdefault(group, {})[is_bias] = array
    complete = {}
    for layer in convert.LAYERS:
        groups = stored.get(layer, {})
        if groups and all(len(parts) == 2 for parts in groups.values()):
            complete[layer] = [(groups[group][False], groups[group][True]) for group in sorted(groups)]
    return complete


def _by_torchvision(found):
    def rename(name):
        layer, _, kind = name.rpartition(".")
        return (convert.TORCHVISION_NAMES[layer], 0, kind == "bias") if layer in convert.TORCHVISION_NAMES else None

    return TORCHVISION, _paired(found, rename)


def _by_theano(found):
    """Files of Keras 1 with Theano's kernels: conv_2_1/conv_2_1_W."""

    def rename(name):
        layer, _, parameter = name.rpartition("/")
        match = _THEANO_NAME.search(layer)
        if not match or not re.search(r"_[Wb](:0)?$", parameter):
            return None
        kind, number, group = match.groups()
        own = f"conv{number}" if kind == "conv" else f"fc{5 + int(number)}"
        return own, int(group or 0), bool(re.search(r"_b(:0)?$", parameter))

    return THEANO, _paired(found, rename)


def _by_flax(found):
    def rename(name):
        layer, _, parameter = name.rpartition("/")
        match = _FLAX_NAME.match(layer)
        if not match or parameter not in ("kernel", "bias"):
            return None
        number = int(match[2])
        own = convert.CONVOLUTIONS if match[1] == "Conv" else convert.DENSE
        return (own[number], 0, parameter == "bias") if number < len(own) else None

    return FLAX, _paired(found, rename)


def _by_layer(found):
    """Files whose names begin with the layers': conv1/0 and conv1/1, or conv1/kernel and conv1/bias."""

    def rename(name):
        layer, _, parameter = name.replace(".", "/").rpartition("/")
        layer = layer.rpartition("/")[2].lower()
        if layer not in convert.LAYERS:
            return None
        return layer, 0, parameter.lower() in ("1", "bias", "biases", "b", "bias:0")

    stored = _paired(found, rename)
    kernel = stored["conv1"][0][0] if "conv1" in stored else np.zeros([0])
    is_output_last = kernel.ndim == 4 and kernel.shape[2] == 3
    return TENSORFLOW if is_output_last or not stored else CAFFE._replace(name="Caffe's layout", channels=None), stored


def _to_layer(name, parts, convention):
    """Converts the (kernel, bias) pairs of a layer, one per group."""
    kernels = [_kernel(name, np.asarray(kernel), convention) for kernel, _ in parts]
    bias = np.concatenate([np.reshape(bias, [-1]) for _, bias in parts])
    kernel = np.concatenate(kernels, -1) if len(kernels) > 1 else kernels[0]
    if kernel.shape[-1] != bias.size:
        raise ValueError(
            f"Expected as many biases as kernels in {name}. Received: {bias.size} biases, {kernel.shape[-1]} kernels"
        )
    layer = convert.Layer(kernel, bias)
    check_finite(name, layer)
    return layer


def _kernel(name, kernel, convention):
    if name in convert.CONVOLUTIONS:
        if kernel.ndim != 4:
            raise ValueError(f"Expected a kernel of four axes in {name}. Received: shape {list(kernel.shape)}")
        if convention.kernels == "OIHW":
            kernel = kernel.transpose(2, 3, 1, 0)
        return kernel[::-1, ::-1] if convention.turned else kernel
    if convention.kernels == "HWIO" and kernel.ndim == 4:  # fully connected layers as convolutions
        kernel = kernel.reshape(-1, kernel.shape[-1])
    # Caffe's older files have four axes everywhere.
    kernel = kernel.reshape(kernel.shape[-2:]) if kernel.ndim == 4 and kernel.shape[:2] == (1, 1) else kernel
    kernel = kernel.reshape(kernel.shape[0], -1) if kernel.ndim == 4 else kernel
    if kernel.ndim != 2:
        raise ValueError(f"Expected a kernel of two axes in {name}. Received: shape {list(kernel.shape)}")
    kernel = kernel.T if convention.dense == "OI" else kernel
    if name == "fc6" and convention.maps == "CHW":
        kernel = convert.channels_last(kernel)
    return kernel
