"""Reads ONNX models: weights, and the operations in the order of the graph.

The numbers of the fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Weights in other files
are refused: a model could name any file.
"""

import math
import os

import numpy as np

from alexnet_tf.weights import checks
from alexnet_tf.weights import contents
from alexnet_tf.weights import wire_format

FORMAT = "ONNX model"

# Fields of ModelProto, GraphProto, NodeProto, AttributeProto and TensorProto.
_PRODUCER, _GRAPH, _OPSETS = 2, 7, 8
_NODES, _INITIALIZERS, _INPUTS, _SPARSE = 1, 5, 11, 15
_NODE_INPUTS, _NODE_OUTPUTS, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTES = 1, 2, 3, 4, 5
_DIMS, _DATA_TYPE, _FLOATS, _INT32S, _INT64S = 1, 2, 4, 5, 7
_TENSOR_NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 8, 9, 10, 13, 14

# Dtype by number of TensorProto.DataType, and the field of its values where they are not raw bytes.
_DTYPES = {
    **{1: ("<f4", _FLOATS), 11: ("<f8", _DOUBLES), 10: ("<f2", None), 7: ("<i8", _INT64S), 6: ("<i4", _INT32S)},
    **{2: ("u1", _INT32S), 3: ("i1", _INT32S), 4: ("<u2", _INT32S), 5: ("<i2", _INT32S), 9: ("?", _INT32S)},
}
_KINDS = {
    **{"Conv": "convolution", "Relu": "relu", "MaxPool": "max_pool", "AveragePool": "average_pool"},
    **{"LRN": "lrn", "Dropout": "dropout", "BatchNormalization": "batch_normalization", "Softmax": "softmax"},
}


def read(path: str | os.PathLike) -> contents.Contents:
    """Reads an ONNX model.

    Arrays are the graph's initializers and constants, under their names: of convolutions
    ``[out, in / groups, height, width]``, of dense layers ``[out, in]`` where "transposed" is true. A product followed
    by the addition of a constant is one dense operation. Metadata: "producer", "opset", and "input_size"
    (``[height, width]``) where the file has it.

    Raises:
      contents.FormatError: if the file is damaged, has no weights or has them in another file.
      OSError: if it cannot be read.
    """
    with wire_format.open_message(path, "an ONNX model") as model:
        metadata = {}
        if producer := model.text(_PRODUCER):
            metadata["producer"] = producer
        for opset in model.messages(_OPSETS):
            if opset.text(1) in ("", "ai.onnx"):
                metadata["opset"] = opset.integer(2)
        graph = model.message(_GRAPH)
        if graph.has(_SPARSE):
            raise model.error("sparse weights")
        arrays = {}
        for tensor in graph.messages(_INITIALIZERS):
            _add(arrays, tensor.text(_TENSOR_NAME), tensor)
        if size := _input_size(graph, arrays):
            metadata["input_size"] = size
        operations = _Operations(arrays)
        for node in graph.messages(_NODES):
            operations.add(node)
        if not arrays:
            raise model.error("a graph without weights")
    checks.check_names(path, "an ONNX model", arrays)
    return contents.Contents(FORMAT, arrays, tuple(operations.found), metadata)


def _add(arrays, name, tensor):
    if name in arrays:
        raise tensor.error(f"two arrays {name}")
    arrays[name] = _read_tensor(tensor, name)


def _read_tensor(tensor, name):
    if tensor.has(_EXTERNAL) or tensor.integer(_LOCATION):
        raise contents.FormatError(
            f"{tensor.error(f'the weights {name} in another file')} (save the model as one file: "
            "onnx.save with save_as_external_data=False)"
        )
    dtype, field = _DTYPES.get(tensor.integer(_DATA_TYPE), (None, None))
    if dtype is None:
        raise tensor.error(f"{name} of data type {tensor.integer(_DATA_TYPE)}, not of numbers (float32, for example)")
    if tensor.has(_RAW) or field is None:
        values = tensor.array(_RAW, dtype)
    elif field in (_INT32S, _INT64S):
        numbers, limits = tensor.integers(field), np.iinfo(np.uint8 if dtype == "?" else dtype)
        if not all(limits.min <= number <= limits.max for number in numbers):
            raise tensor.error(f"integers in {name} that are too large for {np.dtype(dtype)}")
        values = np.array(numbers, dtype)
    else:
        values = tensor.array(field, dtype)
    shape = tensor.integers(_DIMS)
    if len(shape) > 8 or min(shape, default=1) < 0 or math.prod(shape) != values.size:
        raise tensor.error(f"{values.size:,} values of shape [{', '.join(map(str, shape[:8]))}] in {name}")
    return values.reshape(shape)


def _input_size(graph, arrays):
    """Returns the size of the images in the first input that is not an array; None if it is not constant."""
    for value in graph.messages(_INPUTS):
        if value.text(1) in arrays:
            continue
        # Type, tensor type, shape, dimensions.
        shape = value.message(2).message(1).message(2)
        sides = [dimension.integer(1) for dimension in shape.messages(1)]
        return sides[2:] if len(sides) == 4 and min(sides[2:]) > 0 else None
    return None


class _Operations:
    """Collects the operations of a graph, node by node."""

    def __init__(self, arrays):
        self.found = []
        self._arrays = arrays
        # Name of an array by that of a tensor that is equal to it.
        self._aliases = {}
        # The position in `found` of a product without a bias, by the name of its result.
        self._products = {}

    def add(self, node):
        """Adds a node: an operation, a constant, or the bias of the product before it."""
        inputs = [self._aliases.get(name, name) for name in node.texts(_NODE_INPUTS)]
        outputs = node.texts(_NODE_OUTPUTS) or [""]
        kind = node.text(_NODE_TYPE)
        attributes = {attribute.text(1): attribute for attribute in node.messages(_NODE_ATTRIBUTES)}
        if kind == "Constant":
            if "value" in attributes:
                _add(self._arrays, outputs[0], attributes["value"].message(5))
            return
        if kind == "Identity" and inputs and inputs[0] in self._arrays:
            self._aliases[outputs[0]] = inputs[0]
            return
        if kind == "Add" and self._add_bias(inputs):
            return
        name = node.text(_NODE_NAME) or outputs[0]
        parameters = tuple(each for each in inputs[1:] if each in self._arrays)
        own, values = self._convert(kind, attributes, inputs, parameters, node)
        if own == "dense" and len(parameters) == 1:
            self._products[outputs[0]] = len(self.found)
        # The shape of a Reshape and the ratio of a Dropout are not weights.
        parameters = parameters if own in ("convolution", "dense", "batch_normalization") else ()
        self.found.append(contents.Operation(own, name, parameters, values))

    def _add_bias(self, inputs):
        for product, bias in (inputs, inputs[::-1]) if len(inputs) == 2 else ():
            if product in self._products and bias in self._arrays:
                place = self._products.pop(product)
                operation = self.found[place]
                self.found[place] = contents.Operation(
                    "dense", operation.name, (*operation.parameters, bias), operation.attributes
                )
                return True
        return False

    def _convert(self, kind, attributes, inputs, parameters, node):
        """Returns the kind of an operation and its attributes."""
        integers = {name: attribute.integers(8) for name, attribute in attributes.items() if attribute.has(8)}
        if kind in ("Conv", "MaxPool", "AveragePool"):
            values = {"groups": attributes["group"].integer(3)} if "group" in attributes else {}
            values = {"groups": 1, **values} if kind == "Conv" else values
            shape = self._arrays[parameters[0]].shape[2:] if kind == "Conv" and parameters else ()
            values["kernel_size"] = integers.get("kernel_shape", list(shape))
            values["strides"] = integers.get("strides", [1, 1])
            values["padding"] = integers.get("pads", [0, 0, 0, 0])
            if "auto_pad" in attributes and attributes["auto_pad"].text(4) != "NOTSET":
                values["auto_pad"] = attributes["auto_pad"].text(4)
            if any(dilation != 1 for dilation in integers.get("dilations", ())):
                values["dilations"] = integers["dilations"]
            return _KINDS[kind], values
        if kind == "LRN":
            # ONNX divides alpha by the size of the window.
            size = attributes["size"].integer(3) if "size" in attributes else 0
            if not 1 <= size <= 1024:
                raise node.error(f"response normalization over {size} channels")
            alpha, beta, bias = (
                attributes[name].floating(2) if name in attributes else default
                for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
            )
            return "lrn", {"size": size, "alpha": alpha / size, "beta": beta, "bias": bias}
        if kind == "Dropout":
            rate = attributes["ratio"].floating(2) if "ratio" in attributes else 0.5
            if parameters and self._arrays[parameters[0]].size == 1:
                rate = float(self._arrays[parameters[0]].item())
            return "dropout", {"rate": rate}
        if kind in ("Gemm", "MatMul") and len(inputs) > 1 and inputs[1] in self._arrays:
            transposed = kind == "Gemm" and "transB" in attributes and bool(attributes["transB"].integer(3))
            scales = {name: attributes[name].floating(2) for name in ("alpha", "beta") if name in attributes}
            # A scale other than 1 is kept, so that nobody takes the kernel for the layer's.
            return "dense", {"transposed": transposed, **{name: scale for name, scale in scales.items() if scale != 1}}
        return _KINDS.get(kind, kind), {}
