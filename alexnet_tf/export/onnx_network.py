"""Writes a network as an ONNX graph, node by node, and runs it."""

import importlib.util
import json
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import onnx

from alexnet_tf.data import augmentation
from alexnet_tf.export import onnx_layers

# The largest message that protobuf can hold.
_MAX_BYTES = 2**31 - 1


class ImageInput(NamedTuple):
    """The preprocessing within a graph that reads pixels: crop, mean subtraction and scale."""

    mean_image: np.ndarray  # float32 [image_size, image_size, 3]
    crop_size: int
    scale: float


def to_onnx(
    network: keras.Model,
    *,
    pixels: ImageInput | None = None,
    weights_dtype: str = "float32",
    metadata: Mapping[str, Any] | None = None,
    temperature: float = 1.0,
) -> onnx.ModelProto:
    """Converts a network to an ONNX model.

    The input is ``images``: float32 ``[batch, height, width, 3]``, RGB, mean subtracted and scaled, as the network's
    own; or with `pixels`, uint8 ``[batch, image_size, image_size, 3]``, of which the graph reads the center crop. The
    outputs are ``logits`` and ``probabilities``, float32 ``[batch, num_classes]``. Dropout layers scale as in
    inference. Nodes have the names of layers, and weights those of variables, such as ``conv1_a/kernel``.

    Args:
      network: a functional model of one input and one output, computing in float32.
      pixels: the preprocessing to include; None for the network alone.
      weights_dtype: as of `onnx_layers.Graph`.
      metadata: stored in the model: strings, and other values as JSON.
      temperature: what the logits are divided by.

    Raises:
      ValueError: if the network has a layer that ONNX cannot express, or is too large for an ONNX file.
    """
    graph = onnx_layers.Graph(weights_dtype)
    size = sum(int(np.prod(variable.shape)) for variable in network.weights) * (4 if weights_dtype == "float32" else 2)
    if size > _MAX_BYTES:
        raise ValueError(f"Expected at most 2 GiB of weights for ONNX. Received: {size / 2**30:.1f} GiB")
    images = _add_input(graph, pixels)
    logits = _add_layers(graph, network, images)
    if temperature != 1:
        logits = graph.add("Div", [logits, graph.constant("temperature", np.float32(temperature))], "tempered")
    graph.nodes.append(onnx.helper.make_node("Identity", [logits], ["logits"], name="output"))
    graph.nodes.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1))
    if pixels:
        sides, kind = pixels.mean_image.shape[:2], onnx.TensorProto.UINT8
    else:
        sides, kind = network.input_shape[1:3], onnx.TensorProto.FLOAT
    value = onnx.helper.make_tensor_value_info
    outputs = ["batch", network.output_shape[-1]]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            network.name,
            [value("images", kind, ["batch", *sides, 3])],
            [value(name, onnx.TensorProto.FLOAT, outputs) for name in ("logits", "probabilities")],
            graph.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", onnx_layers.OPSET)],
        ir_version=onnx_layers.IR_VERSION,
        producer_name="alexnet_tf",
    )
    texts = {
        name: each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
        for name, each in (metadata or {}).items()
    }
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    return model


def _add_input(graph, pixels):
    """Adds the preprocessing; returns the images in ONNX's order of axes."""
    x = "images"
    if pixels:
        margin = pixels.mean_image.shape[0] - pixels.crop_size
        mean = np.asarray(augmentation.central_crop(pixels.mean_image, pixels.crop_size))
        places = {"starts": margin // 2, "ends": margin // 2 + pixels.crop_size}
        ends = [graph.constant(f"crop/{name}", np.array([place] * 2, np.int64)) for name, place in places.items()]
        x = graph.add("Slice", [x, *ends, graph.constant("crop/axes", np.array([1, 2], np.int64))], "crop")
        x = graph.add("Cast", [x], "crop_float", to=onnx.TensorProto.FLOAT)
        x = graph.add("Sub", [x, graph.constant("mean_image", mean.astype(np.float32))], "mean_subtracted")
        x = graph.add("Mul", [x, graph.constant("scale", np.float32(pixels.scale))], "scaled")
    return graph.add("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])


def _add_layers(graph, network, images):
    """Adds all layers in their order; returns the name of the network's output."""
    (first,), (last,) = network.inputs, network.outputs
    names = {id(first): images}
    for layer in network.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        inputs = keras.tree.flatten(layer.input)
        # Of a layer that is called twice, Keras shows the first call only.
        if any(id(tensor) not in names for tensor in inputs):
            raise ValueError(
                f"Expected a network of one input whose layers are called once. Received: another before {layer.name}"
            )
        outputs = onnx_layers.add_layer(graph, layer, [names[id(tensor)] for tensor in inputs])
        names |= dict(zip(map(id, keras.tree.flatten(layer.output)), outputs, strict=True))
    return names[id(last)]


def run(model: bytes, images: np.ndarray) -> dict[str, np.ndarray] | None:
    """Runs a model with onnxruntime on a CPU.

    Args:
      model: the contents of its file.
      images: its input.

    Returns:
      Its outputs by name; None if onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images})))
