"""Saliency maps: equal to a computation by hand, and pointing at what decides the class."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import alexnet_tf
from alexnet_tf.evaluation import activations
from alexnet_tf.evaluation import saliency
from alexnet_tf.models import cifar10
from alexnet_tf.models import mlp
from alexnet_tf.models import registry

SIDE = 24
PATCH = 5
COLORS = np.array([[230, 30, 30], [30, 30, 230]], np.float32)
OTHER_COLOR = np.array([30, 230, 30], np.float32)


def planted(count, seed):
    """Noise with a square of one of two colors, which is the class, and two squares of a third color, which is not.

    Returns images, labels and the corners of the squares that decide.
    """
    generator = np.random.default_rng(seed)
    images = generator.uniform(80, 170, [count, SIDE, SIDE, 3]).astype(np.float32)
    labels = generator.integers(0, 2, count)
    corners = generator.integers(0, SIDE - PATCH + 1, [count, 3, 2])
    for image, label, places in zip(images, labels, corners):
        for color, (top, left) in zip((OTHER_COLOR, OTHER_COLOR, COLORS[label]), places):
            image[top : top + PATCH, left : left + PATCH] = color
    return (images - 125) / 50, labels, corners[:, 2]


@pytest.fixture(scope="module")
def networks():
    """A network that was trained on planted squares, and one with random weights."""
    build = lambda: cifar10.Cifar10Net(
        "cifar10_18", 2, image_size=SIDE, normalization="none", initialization="he", seed=2, jit_compile=False
    )
    trained = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
    images, labels, _ = planted(480, seed=0)
    trained.fit(images, labels, batch_size=32, epochs=5, verbose=0)
    return {"trained": trained, "random": build()}


def shares_found(function):
    """Returns the share of images whose map has its maximum within a pixel of the square, and their accuracy."""
    images, labels, corners = planted(40, seed=5)
    maps = function(tf.constant(images), tf.constant(labels))
    values = saliency.scale(maps.grids, SIDE)
    found = []
    for each, corner in zip(values, corners):
        place = np.array(np.unravel_index(each.argmax(), each.shape))
        found.append((place >= corner - 1).all() and (place < corner + PATCH + 1).all() and each.max() > 0)
    return np.mean(found), np.mean(maps.probabilities > 0.5)


@pytest.mark.parametrize("method", ["grad_cam", "occlusion"])
def test_maps_find_the_square_that_decides_the_class_and_only_after_training(networks, method):
    results = {}
    for name, model in networks.items():
        if method == "grad_cam":
            function = saliency.grad_cam(model, "relu2")
        else:
            function = saliency.occlusion(model, patch_size=PATCH, positions=8)
        results[name] = shares_found(function)
    (found, accuracy), (by_chance, _) = results["trained"], results["random"]
    assert accuracy > 0.95
    assert found > 0.9
    assert by_chance < 0.4


def dense(x, layer):
    return x @ layer.kernel.value + layer.bias.value


def logits_of_towers(model, maps, activate=tf.identity):
    """Layers 6 to 8 in plain TensorFlow, from the maps of the two towers."""
    pooled = [activate(tf.nn.max_pool2d(each, 3, 2, "VALID")) for each in maps]
    both = tf.concat([tf.reshape(each, [len(each), -1]) for each in pooled], axis=1)
    for number in (6, 7):
        layers = [model.get_layer(f"fc{number}_{tower}") for tower in "ab"]
        both = tf.concat([0.5 * tf.nn.relu(dense(both, layer)) for layer in layers], axis=1)
    return dense(both, model.get_layer("fc8"))


def logits_of_cifar10(model, maps):
    pooled = tf.nn.avg_pool2d(maps[0], 3, 2, "SAME")
    return dense(tf.reshape(pooled, [len(pooled), -1]), model.get_layer("fc10"))


def grad_cam_by_hand(model, names, tail, images, classes, cut_off=tf.identity):
    """The equations of the paper, one image, tower and map after the other."""
    maps = keras.Model(model.inputs, [model.get_layer(name).output for name in names])(images, training=False)
    maps = list(map(tf.constant, tf.nest.flatten(maps)))
    grids = []
    for place, label in enumerate(classes):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            score = tail(model, maps)[place, label]
        grid = 0.0
        for own, gradient in zip(maps, tape.gradient(score, maps)):
            own, gradient = cut_off(own[place]).numpy(), gradient[place].numpy()
            for channel in range(own.shape[-1]):
                grid = grid + gradient[:, :, channel].mean() * own[:, :, channel]
        grids.append(np.maximum(grid, 0))
    return np.stack(grids)


@pytest.fixture(scope="module")
def towers():
    return alexnet_tf.AlexNet(3, image_size=32, initialization="he", seed=2, jit_compile=False)


@pytest.fixture(scope="module")
def images():
    return tf.constant(np.random.default_rng(3).normal(0, 1, [3, 32, 32, 3]).astype(np.float32))


@pytest.mark.parametrize("layer", ["relu5", "conv5"])
def test_grad_cam_of_two_towers_equals_a_computation_by_hand(towers, images, layer):
    found = saliency.grad_cam(towers, layer)(images, tf.constant([2, 0, 1], tf.int64))
    expected = grad_cam_by_hand(towers, ["relu5_a", "relu5_b"], logits_of_towers, images, [2, 0, 1])
    assert found.grids.dtype == np.float32 and expected.max() > 0
    np.testing.assert_allclose(found.grids, expected, rtol=1e-4, atol=1e-6 * expected.max())
    of_class = tf.nn.softmax(towers(images)).numpy()[[0, 1, 2], [2, 0, 1]]
    np.testing.assert_allclose(found.probabilities, of_class, rtol=1e-5)
    assert found.classes.tolist() == [2, 0, 1]


def test_grad_cam_of_one_tower_equals_a_computation_by_hand(images):
    model = cifar10.Cifar10Net("cifar10_18", 4, initialization="he", seed=2, jit_compile=False)
    assert saliency.default_layer(model) == "conv3"
    found = saliency.grad_cam(model, "relu3")(images, tf.constant([-1, 3, -1], tf.int64))
    predicted = model(images).numpy().argmax(axis=1)
    assert found.classes.tolist() == [predicted[0], 3, predicted[2]]
    expected = grad_cam_by_hand(model, ["relu3"], logits_of_cifar10, images, found.classes)
    np.testing.assert_allclose(found.grids, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_the_default_layer_is_the_last_one_before_the_last_pooling(towers):
    assert saliency.default_layer(towers) == "conv5"
    original = alexnet_tf.AlexNet(3, "original", image_size=32, removed_layer="conv5", towers="one")
    assert saliency.default_layer(original) == "conv4"
    six = alexnet_tf.AlexNet(3, image_size=32, sixth_convolution=True, activation="tanh")
    assert saliency.default_layer(six) == "conv6"


@pytest.mark.parametrize(
    "network, expected",
    [("vgg_a", "conv5_2"), ("googlenet", "inception5b"), ("plain_18", "relu5_2"), ("cifar10_resnet_20", "relu4_3")],
)
def test_the_default_layer_of_later_networks_has_all_maps_of_the_classifier(network, expected):
    row = registry.find(network)
    model = registry.load_class(row)(num_classes=3, image_size=32, width=0.25, **row.arguments)
    assert saliency.default_layer(model) == expected
    found = saliency.grad_cam(model, expected)(tf.ones([1, 32, 32, 3]), tf.constant([1], tf.int64))
    assert found.grids.shape[1:] == activations.outputs(model, expected)[0].shape[1:3]


def test_a_network_without_convolutions_has_no_maps_of_grad_cam(towers):
    assert saliency.has_maps(towers)
    perceptron = mlp.MLP(image_size=8)
    assert not saliency.has_maps(perceptron)
    with pytest.raises(
        ValueError, match="^Expected a network with convolutions, for Grad-CAM. Received: mlp; use .*n$"
    ):
        saliency.default_layer(perceptron)


def test_maps_are_cut_off_where_the_relu_follows_pooling(images):
    recipe = {"initialization": "he", "seed": 2, "image_size": 32, "normalization": "none"}
    original = alexnet_tf.AlexNet(3, "original", **recipe)
    values = keras.Model(original.inputs, original.get_layer("conv5_a").output)(images).numpy()
    assert values.min() < 0 < values.max()
    found = saliency.grad_cam(original, "conv5")(images, tf.constant([2, 0, 1], tf.int64))
    tail = lambda model, maps: logits_of_towers(model, maps, tf.nn.relu)
    expected = grad_cam_by_hand(original, ["conv5_a", "conv5_b"], tail, images, [2, 0, 1], tf.nn.relu)
    np.testing.assert_allclose(found.grids, expected, rtol=1e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize(
    "layer, message",
    [
        ("fc7", "^Expected a layer with positions, such as conv5. Received: 'fc7'$"),
        ("conv9", "^Expected layers among conv1, .*, logits. Received: 'conv9'$"),
    ],
)
def test_layers_without_positions_are_errors(towers, layer, message):
    with pytest.raises(ValueError, match=message):
        saliency.grad_cam(towers, layer)


def test_occlusion_equals_a_computation_image_by_image(towers, images):
    found = saliency.occlusion(towers, patch_size=9, positions=4)(images[:1], tf.constant([1], tf.int64))
    occluded = np.repeat(images[:1], 17, axis=0)
    for place, (row, column) in enumerate(np.ndindex(4, 4)):
        # Centers at 4, 12, 20 and 28; a square of 9 that begins at -0.5, 7.5, ... covers from 0, 8, ... on.
        occluded[place, 8 * row : 8 * row + 9, 8 * column : 8 * column + 9] = 0
    probabilities = tf.nn.softmax(towers(occluded)).numpy()[:, 1]
    np.testing.assert_allclose(found.grids[0], (probabilities[16] - probabilities[:16]).reshape(4, 4), atol=1e-6)
    assert found.grids.shape == (1, 4, 4) and np.abs(found.grids).max() > 1e-3


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"patch_size": 33, "positions": 4},
            "^Expected patch_size to be 1 to 32, the side of the images. Received: 33$",
        ),
        ({"patch_size": 8, "positions": 0}, "^Expected positions to be 1 to 32, the side of the images. Received: 0$"),
    ],
)
def test_squares_that_do_not_fit_are_errors(towers, options, message):
    with pytest.raises(ValueError, match=message):
        saliency.occlusion(towers, **options)


def test_maps_are_scaled_with_their_positions_at_the_centers_of_equal_parts():
    grid = np.zeros([1, 3, 3], np.float32)
    grid[0, 1, 2] = 1
    values = saliency.scale(grid, 9)
    assert values.shape == (1, 9, 9) and np.unravel_index(values.argmax(), values.shape) == (0, 4, 7)
    np.testing.assert_allclose(values[0, 4, 4:], [0, 1 / 3, 2 / 3, 1, 1], atol=1e-6)
