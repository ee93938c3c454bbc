"""How each Keras layer of our networks is written as ONNX nodes.

Keras's tensors are ``[batch, height, width, channels]``; ONNX's operators read ``[batch, channels, height, width]``. So
the images are transposed at the beginning of the graph, and the maps again where they are flattened.
"""

import re
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
import onnx

# Supported by onnxruntime 1.12, OpenCV 4.10 and everything newer.
OPSET = 17
IR_VERSION = 8

_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "linear": None}
# Position of each axis of Keras's tensors in ONNX's.
_AXES = {4: (0, 2, 3, 1), 2: (0, 1)}
_PLACED = re.compile(r"alexnet_tf>Placed\((.+)\)")


class Graph:
    """The nodes and weights of an ONNX graph, in the order in which they are added.

    Args:
      weights_dtype: "float32", or "float16" to store kernels in half the size; the graph casts them to float32.

    Attributes:
      nodes: the nodes.
      initializers: the weights and other constants.
    """

    def __init__(self, weights_dtype: str = "float32"):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._weights_dtype = weights_dtype

    def add(self, operator: str, inputs: Sequence[str], name: str, **attributes) -> str:
        """Adds a node and returns the name of its output, which is that of the node."""
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant and returns its name."""
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def kernel(self, variable: keras.Variable, order: Sequence[int] | None = None) -> str:
        """Adds the kernel of a layer with its axes in another order, and returns its name."""
        value = np.asarray(variable.value, np.float32)
        value = value if order is None else value.transpose(order)
        if self._weights_dtype == "float32":
            return self.constant(variable.path, value)
        with np.errstate(over="ignore"):
            narrow = value.astype(np.float16)
        if not np.isfinite(narrow).all():
            raise ValueError(
                f"Expected weights within float16's range. Received: {np.abs(value).max()} in {variable.path}; use "
                "--precision=float32"
            )
        stored = self.constant(f"{variable.path}/float16", narrow)
        return self.add("Cast", [stored], variable.path, to=onnx.TensorProto.FLOAT)

    def bias(self, variable: keras.Variable) -> str:
        """Adds a vector of a layer, always in float32, and returns its name."""
        return self.constant(variable.path, np.asarray(variable.value, np.float32))


def kind(layer: keras.layers.Layer) -> str:
    """Returns the name under which Keras registered the class of a layer, whether or not it has a device."""
    name = keras.saving.get_registered_name(type(layer))
    placed = _PLACED.fullmatch(name)
    return placed[1] if placed else name


def add_layer(graph: Graph, layer: keras.layers.Layer, inputs: Sequence[str]) -> list[str]:
    """Adds the nodes of a layer in inference.

    Args:
      graph: the nodes are added to it.
      layer: a layer of a functional model.
      inputs: names of its inputs.

    Returns:
      The names of its outputs.

    Raises:
      ValueError: if ONNX cannot express the layer, or this module does not know it.
    """
    own = kind(layer)
    if own not in _LAYERS:
        known = ", ".join(sorted(name.rpartition(">")[2] for name in _LAYERS))
        raise ValueError(f"Expected layers that can be written to ONNX: {known}. Received: {own} {layer.name}")
    if getattr(layer, "quantization_mode", None):
        raise _unsupported(layer, f"weights quantized to {layer.quantization_mode}")
    if layer.compute_dtype != "float32":
        raise _unsupported(layer, f"computation in {layer.compute_dtype}")
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise _unsupported(layer, f"data_format={layer.data_format}")
    return _LAYERS[own](graph, layer, list(inputs))


def _unsupported(layer, received):
    return ValueError(f"Expected a float32 channels_last layer for ONNX. Received: {received} in {layer.name}")


def _rank(layer):
    rank = len(keras.tree.flatten(layer.input)[0].shape)
    if rank not in _AXES:
        raise ValueError(f"Expected inputs of 2 or 4 axes for ONNX. Received: {rank} axes of {layer.name}")
    return rank


def _activation(graph, layer, x):
    """Adds the activation of a convolution, a dense layer or an Activation layer."""
    name = keras.activations.serialize(layer.activation)
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ValueError(f"Expected an activation among {known} for ONNX. Received: {name} in {layer.name}")
    operator = _ACTIVATIONS[name]
    return (
        x if operator is None else graph.add(operator, [x], f"{layer.name}/{name}" if x == layer.name else layer.name)
    )


def _window_padding(layer, size, strides, dilation=(1, 1)):
    """Returns ONNX's pads, ``[top, left, bottom, right]``, of a window over the layer's input."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    before, after = [], []
    for length, window, stride, spread in zip(layer.input.shape[1:3], size, strides, dilation):
        reach = (-(-length // stride) - 1) * stride + (window - 1) * spread + 1
        total = max(reach - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before + after


def _convolution(graph, layer, inputs):
    parameters = [graph.kernel(layer.kernel, (3, 2, 0, 1))]
    parameters += [graph.bias(layer.bias)] if layer.use_bias else []
    x = graph.add(
        "Conv",
        inputs + parameters,
        layer.name,
        kernel_shape=layer.kernel_size,
        strides=layer.strides,
        dilations=layer.dilation_rate,
        group=layer.groups,
        pads=_window_padding(layer, layer.kernel_size, layer.strides, layer.dilation_rate),
    )
    return [_activation(graph, layer, x)]


def _dense(graph, layer, inputs):
    if _rank(layer) != 2:
        raise ValueError(f"Expected dense layers after a Flatten layer for ONNX. Received: 4 axes of {layer.name}")
    parameters = [graph.kernel(layer.kernel)]
    parameters += [graph.bias(layer.bias)] if layer.use_bias else []
    return [_activation(graph, layer, graph.add("Gemm", inputs + parameters, layer.name))]


def _activation_layer(graph, layer, inputs):
    return [_activation(graph, layer, *inputs)]


def _pooling(operator, **attributes):
    def add(graph, layer, inputs):
        pads = _window_padding(layer, layer.pool_size, layer.strides)
        shape = {"kernel_shape": layer.pool_size, "strides": layer.strides, "pads": pads}
        return [graph.add(operator, inputs, layer.name, **shape, **attributes)]

    return add


def _global_average(graph, layer, inputs):
    if layer.keepdims:
        raise ValueError(f"Expected global pooling without keepdims for ONNX. Received: keepdims of {layer.name}")
    x = graph.add("GlobalAveragePool", inputs, f"{layer.name}/mean")
    return [graph.add("Flatten", [x], layer.name, axis=1)]


def _zero_padding(graph, layer, inputs):
    (top, bottom), (left, right) = layer.padding
    pads = graph.constant(f"{layer.name}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return [graph.add("Pad", [*inputs, pads], layer.name)]


def _flatten(graph, layer, inputs):
    if _rank(layer) == 4:
        # Dense layers read positions first, then channels.
        inputs = [graph.add("Transpose", inputs, f"{layer.name}/transpose", perm=[0, 2, 3, 1])]
    return [graph.add("Flatten", inputs, layer.name, axis=1)]


def _concatenate(graph, layer, inputs):
    return [graph.add("Concat", inputs, layer.name, axis=_AXES[_rank(layer)][layer.axis])]


def _add(graph, layer, inputs):
    # ONNX's Sum takes any number of tensors, and Add two.
    return [graph.add("Sum", inputs, layer.name)]


def _identity_shortcut(graph, layer, inputs):
    if layer.strides > 1:
        # A window of one position.
        strides = [layer.strides] * 2
        inputs = [graph.add("MaxPool", inputs, f"{layer.name}/subsampled", kernel_shape=[1, 1], strides=strides)]
    added = layer.channels - layer.input.shape[-1]
    pads = graph.constant(f"{layer.name}/pads", np.array([0, 0, 0, 0, 0, added, 0, 0], np.int64))
    return [graph.add("Pad", [*inputs, pads], layer.name)]


def _fan_out(graph, layer, inputs):
    return inputs * layer.readers


def _channel_range(graph, layer, inputs):
    first, *_, last = range(layer.input.shape[-1])[layer.start : layer.stop or None]
    places = {"starts": first, "ends": last + 1, "axes": 1}
    constants = [graph.constant(f"{layer.name}/{name}", np.array([place], np.int64)) for name, place in places.items()]
    return [graph.add("Slice", [*inputs, *constants], layer.name)]


def _across_channels(graph, layer, inputs):
    if _rank(layer) != 4:
        raise ValueError(f"Expected response normalization of 4 axes for ONNX. Received: 2 axes of {layer.name}")
    # ONNX divides alpha by the size of the window, and clips the window at the first and the last channel as we do.
    size = 2 * layer.depth_radius + 1
    constants = {"alpha": layer.alpha * size, "beta": layer.beta, "bias": layer.bias}
    return [graph.add("LRN", inputs, layer.name, size=size, **constants)]


def _across_positions(graph, layer, inputs):
    radius, area = layer.size // 2, layer.size**2
    name = lambda part: f"{layer.name}/{part}"
    constant = lambda part, value: graph.constant(name(part), np.float32(value))
    x = graph.add("Mul", inputs * 2, name("square"))
    window = {"kernel_shape": [layer.size] * 2, "strides": [1, 1], "pads": [radius] * 4}
    # With the zeros of the padding counted, the mean is the clipped sum divided by the area.
    x = graph.add("AveragePool", [x], name("mean"), **window, count_include_pad=1)
    x = graph.add("Mul", [x, constant("alpha", layer.alpha * area)], name("scaled"))
    x = graph.add("Add", [x, constant("bias", layer.bias)], name("sum"))
    x = graph.add("Pow", [x, constant("beta", layer.beta)], name("power"))
    return [graph.add("Div", [*inputs, x], layer.name)]


def _batch_normalization(graph, layer, inputs):
    channels = layer.input.shape[-1]
    if layer.axis not in (-1, len(layer.input.shape) - 1):
        raise ValueError(f"Expected batch normalization of the last axis. Received: axis={layer.axis} of {layer.name}")
    gamma = graph.bias(layer.gamma) if layer.scale else graph.constant(f"{layer.name}/ones", np.ones(channels, "f"))
    beta = graph.bias(layer.beta) if layer.center else graph.constant(f"{layer.name}/zeros", np.zeros(channels, "f"))
    statistics = [graph.bias(layer.moving_mean), graph.bias(layer.moving_variance)]
    return [
        graph.add("BatchNormalization", [*inputs, gamma, beta, *statistics], layer.name, epsilon=float(layer.epsilon))
    ]


def _group_normalization(graph, layer, inputs):
    name = lambda part: f"{layer.name}/{part}"
    _, height, width, channels = layer.input.shape
    ones, zeros = np.ones(layer.groups, np.float32), np.zeros(layer.groups, np.float32)
    # An instance of three axes per group: [batch, group, channels of the group and positions].
    shape = graph.constant(name("groups"), np.array([0, layer.groups, -1], np.int64))
    x = graph.add("Reshape", [*inputs, shape], name("grouped"))
    parameters = [graph.constant(name("ones"), ones), graph.constant(name("zeros"), zeros)]
    x = graph.add("InstanceNormalization", [x, *parameters], name("instance"), epsilon=float(layer.epsilon))
    shape = graph.constant(name("shape"), np.array([0, channels, height, width], np.int64))
    x = graph.add("Reshape", [x, shape], layer.name)
    for operator, variable in (("Mul", layer.gamma), ("Add", layer.beta)):
        if variable is not None:
            value = np.asarray(variable.value, np.float32)[:, None, None]
            x = graph.add(operator, [x, graph.constant(variable.path, value)], name(operator.lower()))
    return [x]


def _dropout(graph, layer, inputs):
    """The paper's dropout scales its outputs in inference."""
    if not layer.rate:
        return inputs
    # Not folded into the next kernel, so that the file has the weights to the bit.
    scale = graph.constant(f"{layer.name}/scale", np.float32(1 - layer.rate))
    return [graph.add("Mul", [*inputs, scale], layer.name)]


def _unchanged(graph, layer, inputs):
    return inputs


_Adder = Callable[[Graph, keras.layers.Layer, list[str]], list[str]]
# Layers by the names under which Keras registers their classes.
_LAYERS: dict[str, _Adder] = {
    "Conv2D": _convolution,
    "Dense": _dense,
    "Activation": _activation_layer,
    "MaxPooling2D": _pooling("MaxPool"),
    "AveragePooling2D": _pooling("AveragePool", count_include_pad=0),
    "GlobalAveragePooling2D": _global_average,
    "ZeroPadding2D": _zero_padding,
    "Flatten": _flatten,
    "Concatenate": _concatenate,
    "Add": _add,
    "BatchNormalization": _batch_normalization,
    "Dropout": _unchanged,
    "alexnet_tf>ChannelRange": _channel_range,
    "alexnet_tf>Dropout": _dropout,
    "alexnet_tf>FanOut": _fan_out,
    "alexnet_tf>IdentityShortcut": _identity_shortcut,
    "alexnet_tf>GroupNormalization": _group_normalization,
    "alexnet_tf>LocalResponseNormalization": _across_channels,
    "alexnet_tf>MaxPooling2D": _pooling("MaxPool"),
    "alexnet_tf>SameMapNormalization": _across_positions,
}
