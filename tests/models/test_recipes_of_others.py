"""Caffe's two networks and torchvision's, next to onnxruntime with the same weights and large activations."""

import grappler
import keras
import numpy as np
import onnx_alexnet
import pytest
import tensorflow as tf

from alexnet_tf.models import alexnet
from alexnet_tf.models import alexnet_owt
from alexnet_tf.profiling import placement_report
from alexnet_tf.training import optimizer
from alexnet_tf.training import trainer
from alexnet_tf.weights import convert
from alexnet_tf.weights import layouts

CLASSES = 7


def shapes(network, towers="two"):
    """The shapes of a network's kernels by layer."""
    kernels = next(each.kernels for each in layouts.SHAPES if (each.network, each.towers) == (network, towers))
    return dict(zip(convert.LAYERS, (*kernels[:-1], (4096, CLASSES))))


def assign(model, variables):
    """Assigns values to the variables of a model; all of its weights must be among them."""
    paths = {variable.path: variable for variable in model.trainable_variables}
    assert set(paths) == set(variables)
    for path, value in variables.items():
        paths[path].assign(value)


def difference(ours, theirs):
    """Returns the largest difference, relative to the standard deviation of the logits."""
    return np.abs(ours - theirs).max() / theirs.std()


@pytest.mark.parametrize(
    "recipe, order", [("caffe", "before"), pytest.param("caffenet", "after", marks=pytest.mark.slow)]
)
def test_caffe_networks_equal_onnxruntime(recipe, order):
    layers = onnx_alexnet.random_layers(shapes("alexnet"), seed=1)
    images = np.random.default_rng(2).normal(0, 70, [2, 227, 227, 3]).astype(np.float32)
    expected = onnx_alexnet.logits(
        layers, images, groups={2: 2, 4: 2, 5: 2}, pads=[0, 0, 0, 0], normalization=(1.0, 2e-5), order=order
    )
    own = {name: convert.Layer(*layer) for name, layer in layers.items()}
    own["fc6"] = convert.Layer(convert.channels_last(own["fc6"].kernel), own["fc6"].bias)
    model = alexnet.AlexNet(CLASSES, recipe, jit_compile=False)
    assign(model, convert.to_variables(own, towers="two", dropout_readers=("fc7", "fc8")))
    assert difference(model(images).numpy(), expected) < 1e-4
    # The other recipe's order shows.
    other = {"caffe": "after", "caffenet": "before"}[recipe]
    reordered = onnx_alexnet.logits(
        layers, images, groups={2: 2, 4: 2, 5: 2}, pads=[0, 0, 0, 0], normalization=(1.0, 2e-5), order=other
    )
    assert difference(model(images).numpy(), reordered) > 1e-2


def test_torchvision_network_equals_onnxruntime():
    layers = onnx_alexnet.random_layers(shapes("alexnet_owt", "one"), seed=3)
    images = np.random.default_rng(4).normal(0, 1, [2, 224, 224, 3]).astype(np.float32)
    expected = onnx_alexnet.logits(layers, images, groups={}, pads=[2, 2, 2, 2])
    own = {name: convert.Layer(*layer) for name, layer in layers.items()}
    own["fc6"] = convert.Layer(convert.channels_last(own["fc6"].kernel), own["fc6"].bias)
    model = alexnet_owt.AlexNetOWT(CLASSES)
    assign(model, convert.to_variables(own, towers="one", dropout_readers=("fc6", "fc7")))
    assert difference(model(images).numpy(), expected) < 1e-4


@pytest.mark.parametrize("recipe", ["caffe", "caffenet"])
def test_small_networks_are_the_same_on_one_device_and_on_two(recipe):
    images = np.random.default_rng(5).normal(0, 50, [2, 32, 32, 3]).astype(np.float32)
    options = {"image_size": 32, "jit_compile": False, "seed": 1, "initialization": "he"}
    results = []
    for devices in (None, ("/CPU:0", "/CPU:1")):
        model = alexnet.AlexNet(5, recipe, devices, **options)
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(model(images, training=False) ** 2)
        results.append([value, *tape.gradient(value, [each.value for each in model.trainable_variables])])
    for one, two in zip(*results):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def test_normalization_across_the_border_equals_that_of_one_tower():
    """Normalizes the maps of both towers, joined, and compares with what the towers compute."""
    options = {"image_size": 32, "jit_compile": False, "seed": 1, "initialization": "he"}
    model = alexnet.AlexNet(5, "caffe", **options)
    images = np.random.default_rng(6).normal(0, 50, [2, 32, 32, 3]).astype(np.float32)
    names = ["relu1_a", "relu1_b", "inner1_a", "inner1_b"]
    before_a, before_b, after_a, after_b = (
        each.numpy() for each in keras.Model(model.input, [model.get_layer(name).output for name in names])(images)
    )
    expected = tf.nn.local_response_normalization(np.concatenate([before_a, before_b], -1), 2, 1.0, 2e-5, 0.75)
    np.testing.assert_allclose(np.concatenate([after_a, after_b], -1), expected, rtol=1e-5, atol=1e-6)
    # At the border, windows that end there have other sums.
    alone = tf.nn.local_response_normalization(before_a, 2, 1.0, 2e-5, 0.75).numpy()
    assert np.abs(alone - after_a)[..., -2:].max() > 1e-3 and np.abs(alone - after_a)[..., :-2].max() < 1e-3


def test_two_maps_cross_the_border_each_way_per_normalization():
    model = alexnet.AlexNet(5, "caffe", ("/CPU:0", "/CPU:1"), image_size=32, seed=1)
    variables = [variable.value for variable in model.trainable_variables]
    rules = [optimizer.Rule(group=0, weight_decay=0.0)] * len(variables)
    preprocess = lambda batch: (tf.cast(batch[0], tf.float32) - 120.0, batch[1])
    own = trainer.Trainer(model, optimizer.MomentumSGD(variables, rules), preprocess)
    batch = tf.zeros([2, 32, 32, 3], tf.uint8), tf.zeros([2], tf.int64)
    with grappler.enabled():
        report = placement_report.placement_report(own.step, batch, tf.constant([0.01]))
    borders = [(each.source, each.shape) for each in report.transfers if each.shape[-1:] == (2,)]
    # Two maps of 32 x 32 and of 15 x 15, and as many gradients, each way.
    expected = [(device, (2, side, side, 2)) for device in ("CPU:0", "CPU:1") for side in (32, 32, 15, 15)]
    assert sorted(borders) == sorted(expected)


def test_images_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="^Expected image_size to be 227, 56 or 32 for recipe='caffe'. Received: 224$"):
        alexnet.AlexNet(5, "caffe", image_size=224)
    assert alexnet.AlexNet(5, "caffenet").input_shape == (None, 227, 227, 3)
