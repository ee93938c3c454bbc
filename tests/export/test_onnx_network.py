"""ONNX graphs return what the network returns, for every layer that the networks have."""

import json

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf

from alexnet_tf.export import onnx_network
from alexnet_tf.export import parity
from alexnet_tf.models import alexnet
from alexnet_tf.models import alexnet_owt
from alexnet_tf.models import cifar10
from alexnet_tf.models import cifar10_resnet
from alexnet_tf.models import googlenet
from alexnet_tf.models import normalizations
from alexnet_tf.models import resnet
from alexnet_tf.models import vgg

pytest.importorskip("onnxruntime")

SMALL = {
    "paper": {},
    "original": {"recipe": "original"},
    "caffe": {"recipe": "caffe"},
    "caffenet": {"recipe": "caffenet"},
    "one tower": {"towers": "one", "dropout": 0.25},
    "half": {"towers": "half", "dropout": 0.0},
    "apart": {"communication": "fc8"},
    "tanh": {"activation": "tanh", "removed_layer": "conv4"},
    "no overlap": {"pooling": "nonoverlapping", "sixth_convolution": True, "bottleneck": 8},
    "batch": {"normalization": "batch"},
    "group": {"normalization": "group"},
    "layer": {"normalization": "layer"},
    "first": {"normalization": "first", "removed_layer": "conv5"},
}


def with_large_activations(network, seed=0):
    """Replaces the weights so that response normalization and biases matter, and batch statistics are not 0 and 1."""
    generator = np.random.default_rng(seed)
    for variable in network.weights:
        if "seed_generator" in variable.path:
            continue
        value = generator.normal(size=variable.shape)
        if variable.path.endswith("kernel"):
            value *= 1.5 * np.sqrt(2 / np.prod(variable.shape[:-1]))
        elif variable.path.endswith(("variance", "gamma")):
            value = 1 + np.abs(value)
        variable.assign(value.astype(np.float32))
    return network


def inputs_of(network, count=4):
    return np.random.default_rng(9).normal(0, 60, [count, *network.input_shape[1:]]).astype(np.float32)


def difference(network, **options):
    model = onnx_network.to_onnx(network, **options).SerializeToString()
    images = inputs_of(network)
    found = onnx_network.run(model, images)
    logits = network(images, training=False).numpy()
    np.testing.assert_allclose(found["probabilities"], tf.nn.softmax(found["logits"]), atol=1e-6)
    assert logits.std() > 0.1
    return parity.relative_difference(found["logits"], logits)


@pytest.mark.parametrize("arguments", SMALL.values(), ids=SMALL)
def test_small_alexnet(arguments):
    network = alexnet.AlexNet(5, image_size=32, jit_compile=False, **arguments)
    assert difference(with_large_activations(network)) < 1e-5


@pytest.mark.parametrize("name", cifar10.LAYOUTS)
@pytest.mark.parametrize("pooling", ["overlapping", "nonoverlapping"])
def test_networks_for_cifar10(name, pooling):
    network = cifar10.Cifar10Net(name, image_size=24, pooling=pooling, jit_compile=False)
    assert difference(with_large_activations(network)) < 1e-5


def test_torchvision_order(monkeypatch):
    monkeypatch.setattr(alexnet_owt, "KERNELS", (4, 6, 8, 6, 5))
    monkeypatch.setattr(alexnet_owt, "UNITS", 16)
    assert difference(with_large_activations(alexnet_owt.AlexNetOWT(7))) < 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda: vgg.VGG("A-LRN", 5, width=1 / 16, image_size=32, jit_compile=False),
        lambda: googlenet.GoogLeNet(5, auxiliary_heads=True, width=1 / 16, image_size=64, jit_compile=False),
        lambda: resnet.ResNet(50, 5, width=1 / 16, image_size=32),
        lambda: cifar10_resnet.Cifar10ResNet(14, 5, image_size=16),
    ],
    ids=["vgg", "googlenet", "resnet", "cifar10_resnet"],
)
def test_later_networks(make):
    assert difference(with_large_activations(make())) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["paper", "original", "caffe", "caffenet"])
def test_full_size_alexnet(recipe):
    size = 227 if recipe.startswith("caffe") else 224
    network = alexnet.AlexNet(1000, recipe, image_size=size, jit_compile=False)
    assert difference(with_large_activations(network)) < 1e-5


def test_response_normalization_matters_in_these_tests():
    network = with_large_activations(alexnet.AlexNet(5, image_size=32, jit_compile=False))
    other = with_large_activations(alexnet.AlexNet(5, "original", image_size=32, jit_compile=False))
    images = inputs_of(network)
    assert parity.relative_difference(network(images).numpy(), other(images).numpy()) > 0.05


def test_weights_are_those_of_the_network_to_the_bit():
    network = alexnet.AlexNet(5, image_size=32, jit_compile=False, dropout=0.3)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in onnx_network.to_onnx(network).graph.initializer}
    for variable in network.weights:
        value = arrays[variable.path]
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        np.testing.assert_array_equal(value, variable.numpy())


def test_float16_weights_halve_the_file():
    network = with_large_activations(alexnet.AlexNet(5, image_size=32, jit_compile=False))
    wide = onnx_network.to_onnx(network).ByteSize()
    assert 1e-6 < difference(network, weights_dtype="float16") < 0.01
    assert onnx_network.to_onnx(network, weights_dtype="float16").ByteSize() < 0.55 * wide
    network.get_layer("fc8").kernel.assign(np.full([512, 5], 1e6, np.float32))
    with pytest.raises(ValueError, match="^Expected weights within float16's range. Received: 1000000.0 in fc8/kernel"):
        onnx_network.to_onnx(network, weights_dtype="float16")


def test_temperature_divides_the_logits():
    network = cifar10.Cifar10Net("cifar10_26")
    images = inputs_of(network)
    logits, tempered = (
        onnx_network.run(onnx_network.to_onnx(network, temperature=each).SerializeToString(), images)["logits"]
        for each in (1.0, 4.0)
    )
    np.testing.assert_array_equal(tempered, logits / 4)


def test_interface_and_metadata():
    network = cifar10.Cifar10Net("cifar10_26")
    model = onnx_network.to_onnx(network, metadata={"step": 7, "classes": ["Bläßhuhn", "b\nc"], "run": "a"})
    (images,) = model.graph.input
    assert images.name == "images" and images.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [each.dim_param or each.dim_value for each in images.type.tensor_type.shape.dim] == ["batch", 32, 32, 3]
    assert [output.name for output in model.graph.output] == ["logits", "probabilities"]
    found = {each.key: each.value for each in model.metadata_props}
    assert found["run"] == "a" and json.loads(found["step"]) == 7
    assert json.loads(found["classes"]) == ["Bläßhuhn", "b\nc"]


@pytest.mark.parametrize("size, crop", [(36, 32), (37, 32), (32, 32)])
def test_pixels_are_cropped_centered_and_scaled(size, crop):
    network = with_large_activations(cifar10.Cifar10Net("cifar10_26", image_size=crop))
    generator = np.random.default_rng(1)
    mean_image = generator.uniform(60, 140, [size, size, 3]).astype(np.float32)
    pixels = onnx_network.ImageInput(mean_image, crop, 0.02)
    images = generator.integers(0, 256, [3, size, size, 3], dtype=np.uint8)
    first = (size - crop) // 2
    part = slice(first, first + crop)
    expected = network((images[:, part, part] - mean_image[part, part]) * np.float32(0.02)).numpy()
    found = onnx_network.run(onnx_network.to_onnx(network, pixels=pixels).SerializeToString(), images)
    assert parity.relative_difference(found["logits"], expected) < 1e-5


def small_model(*own, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape, name="images"), *own])


@pytest.mark.parametrize(
    "own, message",
    [
        ([keras.layers.UpSampling2D, {"name": "up"}], "Received: UpSampling2D up$"),
        ([keras.layers.Dense, {"units": 3, "name": "fc"}], "Received: 4 axes of fc$"),
        ([keras.layers.Conv2D, {"filters": 2, "kernel_size": 3, "activation": "gelu", "name": "c"}], "gelu in c$"),
        ([keras.layers.MaxPooling2D, {"dtype": "bfloat16", "name": "p"}], "Received: computation in bfloat16 in p$"),
        ([normalizations.LocalResponseNormalization, {"dtype": "mixed_bfloat16", "name": "n"}], "bfloat16 in n$"),
    ],
)
def test_other_layers_are_refused(own, message):
    layer_class, options = own
    with pytest.raises(ValueError, match=message) as caught:
        onnx_network.to_onnx(small_model(layer_class(**options)))
    assert "\n" not in str(caught.value)


def test_layer_that_is_called_twice_is_refused():
    images = keras.Input([4, 4, 3])
    layer = keras.layers.Conv2D(3, 3, padding="same", name="twice")
    network = keras.Model(images, keras.layers.Activation("relu", name="r")(layer(layer(images))))
    with pytest.raises(
        ValueError, match="^Expected a network of one input whose layers are called once. Received: another before r$"
    ):
        onnx_network.to_onnx(network)


def test_layers_of_keras():
    network = small_model(
        keras.layers.Conv2D(4, 3, strides=2, padding="same", groups=1, activation="relu", use_bias=False),
        keras.layers.Conv2D(4, (3, 2), dilation_rate=2, groups=2, padding="same"),
        keras.layers.BatchNormalization(scale=False, center=False),
        keras.layers.Dropout(0.5),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation="sigmoid", use_bias=False),
        shape=(9, 10, 3),
    )
    assert difference(with_large_activations(network)) < 1e-5
