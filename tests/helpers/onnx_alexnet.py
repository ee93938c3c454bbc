"""AlexNets of other frameworks as ONNX graphs, written by hand, for an engine that is not ours to run."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnx import numpy_helper


class _Graph:
    def __init__(self):
        self.nodes, self.weights, self.last, self.rest = [], [], "images", [None, None, None]

    def add(self, kind, *weights, **attributes):
        names = []
        for value in weights:
            names.append(f"w{len(self.weights)}")
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), names[-1]))
        output = f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *names], [output], **attributes))
        self.last = output
        if kind == "Flatten":
            self.rest = [None]

    def run(self, images):
        shape = list(images.shape)
        graph = helper.make_graph(
            self.nodes,
            "alexnet",
            [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.last, onnx.TensorProto.FLOAT, [shape[0], *self.rest])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"images": images})[0]


def random_layers(shapes, seed):
    """Returns kernels and biases by layer, in the layout of `convert.Layer`, that keep activations large."""
    generator = np.random.default_rng(seed)
    layers = {}
    for name, shape in shapes.items():
        kernel = generator.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)
        layers[name] = (kernel, generator.normal(0, 1, shape[-1]).astype(np.float32))
    return layers


def logits(layers, images, *, groups, pads, normalization=None, order="before", convolutions_alone=False):
    """Computes logits with onnxruntime.

    Args:
      layers: from `random_layers`; fc6 reads [channel, row, column].
      images: float32 [batch, height, width, 3].
      groups: dict from the number of a convolution to its groups, if there are several.
      pads: [top, left, bottom, right] of conv1.
      normalization: (k, alpha) of LRN after layers 1 and 2; alpha is the factor of the sum.
      order: whether LRN comes "before" or "after" pooling.
      convolutions_alone: returns the maps after the last pooling, [batch, channel, row, column].
    """
    graph = _Graph()

    def normalize():
        bias, alpha = normalization
        graph.add("LRN", size=5, bias=float(bias), alpha=float(5 * alpha), beta=0.75)

    for number in (1, 2, 3, 4, 5):
        kernel, bias = layers[f"conv{number}"]
        size = kernel.shape[0]
        options = {"pads": pads, "strides": [4, 4]} if number == 1 else {"pads": [size // 2] * 4}
        graph.add("Conv", kernel.transpose(3, 2, 0, 1), bias, group=groups.get(number, 1), **options)
        graph.add("Relu")
        has_normalization = normalization is not None and number < 3
        if has_normalization and order == "before":
            normalize()
        if number in (1, 2, 5):
            graph.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2])
        if has_normalization and order == "after":
            normalize()
    if convolutions_alone:
        return graph.run(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    graph.add("Flatten")
    for name in ("fc6", "fc7", "fc8"):
        graph.add("Gemm", *layers[name])
        if name != "fc8":
            graph.add("Relu")
    return graph.run(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
