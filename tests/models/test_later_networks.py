"""Compares VGG, GoogLeNet and the residual networks with forward passes in NumPy, written from the papers' tables."""

import math

import keras
import numpy as np
import numpy_layers
import pytest
import symbolic_networks

from alexnet_tf.models import cifar10_resnet
from alexnet_tf.models import googlenet
from alexnet_tf.models import layers
from alexnet_tf.models import resnet
from alexnet_tf.models import vgg

# Keras and NumPy 2 cause it whenever a variable is saved.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

relu = numpy_layers.relu


def photographs(size, count=2, seed=0):
    return np.random.default_rng(seed).uniform(-128, 128, [count, size, size, 3]).astype(np.float32)


def assert_near(received, expected, tolerance=1e-4):
    """Compares logits relative to the largest of each example."""
    received = np.asarray(received)
    assert received.dtype == np.float32 and received.shape == expected.shape
    assert np.abs(expected).max() > 1e-3
    error = np.abs(received - expected).max(axis=-1) / np.abs(expected).max(axis=-1)
    assert (error < tolerance).all(), error


def trained(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


class Weights(dict):
    """The weights of a network by path, applied as layers."""

    def convolution(self, name, x, **options):
        return numpy_layers.convolution(x, self[f"{name}/kernel"], self.get(f"{name}/bias", 0.0), **options)

    def normalized(self, place, x, **options):
        x = self.convolution(f"conv{place}", x, **options)
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        return numpy_layers.batch_normalization(x, *(self[f"norm{place}/{name}"] for name in names))

    def dense(self, name, x):
        return x @ self[f"{name}/kernel"] + self[f"{name}/bias"]


def vgg_logits(weights, images, stages, *, normalization, keep=0.5):
    x = images.astype(np.float64)
    for stage, convolutions in enumerate(stages, start=1):
        for layer in range(1, convolutions + 1):
            x = relu(weights.convolution(f"conv{stage}_{layer}", x, pad=1))
        if normalization and stage == 1:
            x = numpy_layers.response_normalization(x)
        x = numpy_layers.max_pooling(x, 2, 2)
    x = x.reshape(len(x), -1)
    x = keep * relu(weights.dense("fc6", x))
    x = keep * relu(weights.dense("fc7", x))
    return weights.dense("fc8", x)


@pytest.mark.parametrize(
    "layout, stages, normalization",
    [
        ("A", (1, 1, 2, 2, 2), False),
        ("A-LRN", (1, 1, 2, 2, 2), True),
        ("B", (2, 2, 2, 2, 2), False),
        ("D", (2, 2, 3, 3, 3), False),
        ("E", (2, 2, 4, 4, 4), False),
    ],
)
def test_vgg_follows_the_papers_table(layout, stages, normalization):
    network = vgg.VGG(layout, 7, width=1 / 16, image_size=64, jit_compile=False)
    weights, images = Weights(numpy_layers.large_weights(network)), photographs(64)
    assert_near(network(images), vgg_logits(weights, images, stages, normalization=normalization))
    if normalization:
        without = vgg_logits(weights, images, stages, normalization=False)
        assert np.abs(without - network(images)).max() > 0.01 * np.abs(without).max()


def block(weights, place, strides, x, *, shortcuts, residual=True):
    """A block whose convolutions have the given strides; those of 1 x 1 have no zeros around the maps."""
    maps = x
    for number, stride in enumerate(strides, start=1):
        pad = weights[f"conv{place}_{number}/kernel"].shape[0] // 2
        maps = weights.normalized(f"{place}_{number}", maps, stride=stride, pad=pad)
        maps = relu(maps) if number < len(strides) else maps
    if not residual:
        return relu(maps)
    stride = max(strides)
    if shortcuts == "C" or (shortcuts == "B" and x.shape != maps.shape):
        return relu(maps + weights.normalized(f"{place}_shortcut", x, stride=stride))
    shortcut = np.zeros_like(maps)
    shortcut[..., : x.shape[-1]] = x[:, ::stride, ::stride]
    return relu(maps + shortcut)


def resnet_logits(weights, images, blocks, *, shortcuts, strided, residual=True):
    """`strided` is the place of the convolution with the stride in a block, and the length of a block."""
    x = relu(weights.normalized("1", images.astype(np.float64), stride=2, pad=3))
    x = numpy_layers.max_pooling(x, 3, 2, before=1, after=1)
    for stage, count in enumerate(blocks, start=2):
        for number in range(1, count + 1):
            strides = [1] * strided[1]
            strides[strided[0]] = 2 if stage > 2 and number == 1 else 1
            x = block(weights, f"{stage}_{number}", strides, x, shortcuts=shortcuts, residual=residual)
    return weights.dense("fc", x.mean(axis=(1, 2)))


@pytest.mark.parametrize(
    "depth, options, blocks, expected",
    [
        (18, {"residual": False}, (2, 2, 2, 2), {"shortcuts": "", "strided": (0, 2), "residual": False}),
        (18, {}, (2, 2, 2, 2), {"shortcuts": "A", "strided": (0, 2)}),
        (18, {"shortcuts": "B"}, (2, 2, 2, 2), {"shortcuts": "B", "strided": (0, 2)}),
        pytest.param(34, {}, (3, 4, 6, 3), {"shortcuts": "A", "strided": (0, 2)}, marks=pytest.mark.slow),
        pytest.param(50, {}, (3, 4, 6, 3), {"shortcuts": "B", "strided": (0, 3)}, marks=pytest.mark.slow),
        (50, {"strided": "3x3"}, (3, 4, 6, 3), {"shortcuts": "B", "strided": (1, 3)}),
    ],
    ids=["plain", "A", "B", "34", "50", "50-3x3"],
)
def test_residual_networks_follow_the_papers_table(depth, options, blocks, expected):
    network = resnet.ResNet(depth, 7, width=1 / 16, image_size=64, **options)
    weights, images = Weights(numpy_layers.large_weights(network)), photographs(64)
    assert_near(network(images), resnet_logits(weights, images, blocks, **expected))


@pytest.mark.parametrize(
    "depth, options, size",
    [(8, {"residual": False}, 32), (14, {}, 24), (8, {"shortcuts": "B"}, 32), (8, {"shortcuts": "C"}, 8)],
)
def test_networks_for_cifar10_follow_section_4_2(depth, options, size):
    network = cifar10_resnet.Cifar10ResNet(depth, image_size=size, **options)
    weights, images = Weights(numpy_layers.large_weights(network)), photographs(size)
    x = relu(weights.normalized("1", images.astype(np.float64), pad=1))
    for stage in (2, 3, 4):
        for number in range(1, depth // 6 + 1):
            strides = (2 if stage > 2 and number == 1 else 1, 1)
            x = block(weights, f"{stage}_{number}", strides, x, **{"shortcuts": "A"} | options)
    assert x.shape[1:] == (size // 4, size // 4, 64)
    assert_near(network(images), weights.dense("fc", x.mean(axis=(1, 2))))


def inception(weights, name, x):
    apply = lambda place, x, pad=0: relu(weights.convolution(f"conv{name}_{place}", x, pad=pad))
    pooled = numpy_layers.max_pooling(x, 3, 1, before=1, after=1)
    return np.concatenate(
        [
            apply("1x1", x),
            apply("3x3", apply("3x3_reduce", x), pad=1),
            apply("5x5", apply("5x5_reduce", x), pad=2),
            apply("projection", pooled),
        ],
        axis=-1,
    )


def googlenet_logits(weights, images):
    """Returns the logits, and the maps that the auxiliary heads read."""
    halve = lambda x: numpy_layers.max_pooling(x, 3, 2, after=1)
    x = relu(weights.convolution("conv1", images.astype(np.float64), stride=2, pad=3))
    x = numpy_layers.response_normalization(halve(x))
    x = relu(weights.convolution("conv2", relu(weights.convolution("conv2_reduce", x)), pad=1))
    x = halve(numpy_layers.response_normalization(x))
    maps = {}
    for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        x = maps[name] = inception(weights, name, x)
        x = halve(x) if name in ("3b", "4e") else x
    return weights.dense("fc", 0.6 * x.mean(axis=(1, 2))), maps


def auxiliary_logits(weights, name, x, window):
    side = (x.shape[1] - window) // 3 + 1
    windows = [
        [x[:, 3 * row : 3 * row + window, 3 * column : 3 * column + window].mean(axis=(1, 2)) for column in range(side)]
        for row in range(side)
    ]
    pooled = np.stack([np.stack(row, axis=1) for row in windows], axis=1)
    x = relu(weights.convolution(f"conv_auxiliary{name}", pooled)).reshape(len(x), -1)
    x = 0.3 * relu(weights.dense(f"fc_auxiliary{name}_hidden", x))
    return weights.dense(f"fc_auxiliary{name}", x)


@pytest.mark.parametrize("size, window", [(96, 5), pytest.param(64, 4, marks=pytest.mark.slow)])
def test_googlenet_follows_the_papers_table(size, window):
    network = googlenet.GoogLeNet(7, auxiliary_heads=True, width=1 / 16, image_size=size, jit_compile=False)
    weights, images = Weights(numpy_layers.large_weights(network)), photographs(size)
    expected, maps = googlenet_logits(weights, images)
    assert_near(network(images), expected)
    # The heads without dropout, whose draws are random in training.
    outputs = network._with_heads(images, training=False)
    assert len(outputs) == 3
    for received, name in zip(outputs[1:], ("4a", "4d")):
        assert_near(received, auxiliary_logits(weights, name, maps[name], window))


@pytest.fixture(scope="module")
def googlenet_with_heads():
    return googlenet.GoogLeNet(3, auxiliary_heads=True, width=1 / 16, image_size=32, jit_compile=False, seed=1)


def test_auxiliary_heads_are_there_in_training_only(googlenet_with_heads):
    images = photographs(32)
    outputs = googlenet_with_heads(images, training=True)
    assert [tuple(output.shape) for output in outputs] == [(2, 3)] * 3
    assert googlenet_with_heads(images).shape == (2, 3)
    assert googlenet_with_heads.output_shape == (None, 3)
    assert not [layer.name for layer in googlenet_with_heads.layers if "auxiliary" in layer.name]
    heads = [variable.path for variable in googlenet_with_heads.trainable_variables if "auxiliary" in variable.path]
    # A convolution and two fully connected layers in each head.
    assert len(heads) == len(set(heads)) == 2 * 3 * 2
    without = googlenet.GoogLeNet(3, width=1 / 16, image_size=32, jit_compile=False, seed=1)
    assert tuple(without(images, training=True).shape) == (2, 3)
    # The layers in use have the same initial weights with and without heads.
    np.testing.assert_array_equal(without(images), googlenet_with_heads(images))


def test_auxiliary_heads_are_saved_with_the_network(googlenet_with_heads, tmp_path):
    path = str(tmp_path / "network.keras")
    googlenet_with_heads.save(path)
    loaded = keras.models.load_model(path)
    by_path = {variable.path: variable.numpy() for variable in loaded.variables}
    assert by_path.keys() == {variable.path for variable in googlenet_with_heads.variables}
    for variable in googlenet_with_heads.trainable_variables:
        np.testing.assert_array_equal(by_path[variable.path], variable.numpy())


def test_parameters_of_googlenet_with_its_heads():
    assert trained(symbolic_networks.build(googlenet.GoogLeNet, auxiliary_heads=True)) == 13_378_280


@pytest.mark.parametrize(
    "depth, shortcuts, parameters", [(18, "B", 11_689_512), (34, "A", 21_623_848), (34, "B", 21_797_672)]
)
def test_parameters_by_shortcuts(depth, shortcuts, parameters):
    assert trained(symbolic_networks.build(resnet.ResNet, depth, shortcuts=shortcuts)) == parameters


@pytest.mark.parametrize(
    "depth, parameters",
    [
        (32, 464_154),
        (44, 658_586),
        pytest.param(110, 1_727_962, marks=pytest.mark.slow),
    ],
)
def test_parameters_of_other_depths_for_cifar10(depth, parameters):
    network = symbolic_networks.build(cifar10_resnet.Cifar10ResNet, depth)
    assert trained(network) == parameters and symbolic_networks.depth(network) == depth


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: vgg.VGG("A-LRN", 3, width=1 / 32, image_size=32, **options),
        lambda **options: resnet.ResNet(18, 3, width=1 / 32, image_size=32, shortcuts="A", **options),
        lambda **options: cifar10_resnet.Cifar10ResNet(8, 3, image_size=8, **options),
    ],
    ids=["vgg", "resnet", "cifar10_resnet"],
)
def test_network_loads_as_it_was_saved(make, tmp_path):
    network = make(seed=3, dtype="mixed_bfloat16")
    np.testing.assert_array_equal(network.weights[0], make(seed=3).weights[0])
    assert np.any(network.weights[0].numpy() != make(seed=4).weights[0].numpy())
    path = str(tmp_path / "network.keras")
    network.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.get_config() == network.get_config()
    assert loaded.output.dtype == "float32"
    images = photographs(network.input_shape[1])
    np.testing.assert_array_equal(loaded(images), network(images))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: vgg.VGG("C"), "Expected layout to be one of A, A-LRN, B, D, E. Received: 'C'"),
        (
            lambda: vgg.VGG(image_size=63),
            "Expected image_size to be a multiple of 32 from 32 to 256. Received: image_size=63",
        ),
        (lambda: vgg.VGG(num_classes=1), "Expected num_classes to be an int of at least 2. Received: num_classes=1"),
        (lambda: vgg.VGG(width=0), "Expected width to be above 0 and at most 16. Received: width=0"),
        (lambda: resnet.ResNet(19), "Expected depth to be one of 18, 34, 50. Received: depth=19"),
        (lambda: resnet.ResNet(18, shortcuts="D"), "Expected shortcuts to be one of A, B, C. Received: 'D'"),
        (lambda: resnet.ResNet(50, strided="5x5"), "Expected strided to be one of 1x1, 3x3. Received: '5x5'"),
        (
            lambda: cifar10_resnet.Cifar10ResNet(21),
            "Expected depth to be 6n + 2 for an n of at least 1. Received: depth=21",
        ),
        (
            lambda: googlenet.GoogLeNet(initialization="xavier"),
            "Expected initialization to be one of recipe, he, zeros. Received: 'xavier'",
        ),
        (
            lambda: layers.IdentityShortcut(0),
            "Expected channels and strides to be ints of at least 1. Received: channels=0, strides=1",
        ),
        (lambda: layers.IdentityShortcut(4)(np.zeros([1, 2, 2, 5])), "Expected at most 4 maps. Received: 5"),
    ],
)
def test_arguments_outside_their_range(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message
