"""Compares each variant of AlexNet with a second implementation and with parameter counts worked out by hand.

Each is built at full size to count its parameters, for images of 56 x 56 to compute logits, and for those of 32 x 32 to
compute logits and to take a training step on one device and on two.
"""

import contextlib
import functools
import gc
import json
import math
from typing import NamedTuple

import grappler
import keras
import numpy as np
import pytest
import reference_network
import tensorflow as tf

from alexnet_tf import config as configuration
from alexnet_tf.data import statistics
from alexnet_tf.models import layers
from alexnet_tf.models.alexnet import AlexNet
from alexnet_tf.profiling import placement_report
from alexnet_tf.runs import builders

DEVICES = ("/CPU:0", "/CPU:1")

# The number of towers, inputs per unit and units per tower of each layer. Every unit has a bias.
TWO = {
    "conv1": (2, 11 * 11 * 3, 48),
    "conv2": (2, 5 * 5 * 48, 128),
    "conv3": (2, 3 * 3 * 256, 192),
    "conv4": (2, 3 * 3 * 192, 192),
    "conv5": (2, 3 * 3 * 192, 128),
    "fc6": (2, 6 * 6 * 256, 2048),
    "fc7": (2, 4096, 2048),
    "fc8": (1, 4096, 1000),
}
ONE = {
    "conv1": (1, 11 * 11 * 3, 96),
    "conv2": (1, 5 * 5 * 96, 256),
    "conv3": (1, 3 * 3 * 256, 384),
    "conv4": (1, 3 * 3 * 384, 384),
    "conv5": (1, 3 * 3 * 384, 256),
    "fc6": (1, 6 * 6 * 256, 4096),
    "fc7": (1, 4096, 4096),
    "fc8": (1, 4096, 1000),
}
# One tower alone: layers that read both towers have half as many inputs, except for the wide last three.
HALF = {
    "conv1": (1, 11 * 11 * 3, 48),
    "conv2": (1, 5 * 5 * 48, 128),
    "conv3": (1, 3 * 3 * 128, 192),
    "conv4": (1, 3 * 3 * 192, 192),
    "conv5": (1, 3 * 3 * 192, 256),
    "fc6": (1, 6 * 6 * 256, 4096),
    "fc7": (1, 4096, 4096),
    "fc8": (1, 4096, 1000),
}
# Each tower reads its own maps only; conv2 and fc6 are wider to compensate.
FC8 = {
    "conv2": (2, 5 * 5 * 48, 160),
    "conv3": (2, 3 * 3 * 160, 192),
    "fc6": (2, 6 * 6 * 128, 4096),
    "fc7": (2, 4096, 2048),
}
CONV6 = (2, 3 * 3 * 256, 128)
# The number of values that one tower sends to the other before layers 3, 6 and 7, and of their gradients.
EXCHANGES = (13 * 13 * 128, 6 * 6 * 128, 2048)


class Case(NamedTuple):
    """A variant, and its expected properties at full size."""

    recipe: str
    arguments: dict
    # Changes to the layers of `TWO`, or all layers; None for a removed layer.
    layers: dict = {}
    # The number of values that a normalization keeps for each map, 2 or 4.
    normalization: int = 0
    parameters: int | None = None  # where the paper or the authors state it
    num_classes: int = 1000


CASES = {
    "paper": Case("paper", {}, parameters=60_965_224),
    "one tower": Case("paper", {"towers": "one"}, ONE, parameters=62_378_344),
    "half": Case("original", {"towers": "half"}, HALF, parameters=59_798_312),
    "fc8": Case("original", {"communication": "fc8"}, FC8, parameters=60_714_408),
    "tanh": Case("paper", {"activation": "tanh"}),
    "tanh, original": Case("original", {"activation": "tanh"}),
    "first": Case("paper", {"normalization": "first"}),
    "first, original": Case("original", {"normalization": "first"}),
    "none": Case("original", {"normalization": "none"}),
    "batch": Case("paper", {"normalization": "batch"}, normalization=4),
    "batch, original": Case("original", {"normalization": "batch"}, normalization=4),
    "group": Case("paper", {"normalization": "group"}, normalization=2),
    "layer, original": Case("original", {"normalization": "layer"}, normalization=2),
    "nonoverlapping": Case("original", {"pooling": "nonoverlapping"}),
    # The layer after a removed one takes over its input.
    "without conv3": Case("paper", {"removed_layer": "conv3"}, {"conv3": None, "conv4": (2, 3 * 3 * 256, 192)}),
    "without conv4": Case("original", {"removed_layer": "conv4"}, {"conv4": None}),
    "without conv5": Case("original", {"removed_layer": "conv5"}, {"conv5": None, "fc6": (2, 6 * 6 * 384, 2048)}),
    "sixth convolution": Case("original", {"sixth_convolution": True}, {"conv6": (2, 3 * 3 * 256, 128)}),
    "bottleneck": Case("paper", {"bottleneck": 2048}, {"bottleneck": (2, 4096, 1024), "fc8": (1, 2048, 1000)}),
    # All classes of ImageNet in 2011.
    "six_conv_2011": Case(
        "original",
        {"sixth_convolution": True, "bottleneck": 2048},
        {"conv6": (2, 3 * 3 * 256, 128), "bottleneck": (2, 4096, 1024), "fc8": (1, 2048, 21_843)},
        num_classes=21_843,
    ),
    "two towers, much": Case(
        "paper",
        {
            "communication": "fc8",
            "normalization": "group",
            "pooling": "nonoverlapping",
            "sixth_convolution": True,
            "bottleneck": 100,
        },
        FC8 | {"conv6": (2, 3 * 3 * 128, 128), "bottleneck": (2, 2048, 50), "fc8": (1, 100, 1000)},
        normalization=2,
    ),
    "one tower, much": Case(
        "original",
        {
            "towers": "one",
            "activation": "tanh",
            "normalization": "batch",
            "removed_layer": "conv3",
            "sixth_convolution": True,
            "bottleneck": 100,
        },
        ONE
        | {
            "conv3": None,
            "conv4": (1, 3 * 3 * 256, 384),
            "conv6": (1, 3 * 3 * 256, 256),
            "bottleneck": (1, 4096, 100),
            "fc8": (1, 100, 1000),
        },
        normalization=4,
    ),
}
# The values that tower b of a network for 32 x 32 sends before layers 3, 6 and 7. Tower a sends as many.
SMALL_EXCHANGES = (7 * 7 * 32, 3 * 3 * 32, 256)
# By variant, these numbers and how many values tower b sends before fc8.
SMALL_TRANSFERS = {
    "tanh": (SMALL_EXCHANGES, 256),
    "batch, original": (SMALL_EXCHANGES, 256),
    "group": (SMALL_EXCHANGES, 256),
    "layer, original": (SMALL_EXCHANGES, 256),
    "sixth convolution": ((*SMALL_EXCHANGES, 3 * 3 * 32), 256),
    "bottleneck": ((*SMALL_EXCHANGES, 256), 1024),
    "fc8": ((), 256),
    "two towers, much": ((), 50),
}


def units_of(case):
    """Returns the number of inputs of a unit and the number of units of each layer, by the layer's name."""
    found = {}
    for name, layer in (TWO | case.layers).items():
        if layer:
            towers, inputs, units = layer
            found |= {f"{name}{tower}": (inputs, units) for tower in (("_a", "_b") if towers == 2 else ("",))}
    return found


def set_large_weights(model, activation="relu"):
    """Sets large weights, and returns them in the form that `reference_network` takes."""
    weighted = [layer for layer in model.layers if layer.get_weights()]
    shapes = {layer.name: tuple(layer.kernel.shape) for layer in weighted if hasattr(layer, "kernel")}
    weights = reference_network.large_weights(shapes, 1, activation)
    for seed, layer in enumerate(weighted):
        if layer.name not in shapes:
            channels, count = layer.output.shape[-1], len(layer.get_weights())
            weights[layer.name] = reference_network.large_normalization(channels, count, seed, activation)
        layer.set_weights(weights[layer.name])
    return weights


def assert_logits_agree(received, weights, images, case):
    expected = reference_network.forward(weights, images, case.recipe, **case.arguments)["fc8"]
    assert np.max(np.abs(received - expected)) < 1e-4 * np.std(expected)


@pytest.fixture
def freed():
    """Frees full-size networks, which refer to themselves, after each test."""
    yield
    gc.collect()


# The variants whose widths or padding differ at full size from those for 32 x 32. The paper's network is compared in
# test_alexnet, and `test_small` compares the logits of every variant.
COMPARED_AT_FULL_SIZE = ("one tower", "half", "fc8", "nonoverlapping", "without conv5")


# One recipe of each is enough here: `test_small` covers both where the recipe matters.
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"tanh, original", "first, original", "batch, original"}))
def test_full_size(name, freed, monkeypatch):
    """Compares the number of parameters of each layer with the expected one and, for some variants, the logits."""
    # Random initial weights take longer than the rest.
    monkeypatch.setattr(layers, "kernel_initializer", lambda *_: keras.initializers.Zeros())
    case = CASES[name]
    # Compiling changes nothing (test_layers) and takes long.
    model = AlexNet(case.num_classes, case.recipe, jit_compile=False, **case.arguments)
    expected = {layer: inputs * units + units for layer, (inputs, units) in units_of(case).items()}
    if case.normalization:
        convolutions = {layer: units for layer, (_, units) in units_of(case).items() if layer[:5] in ("conv1", "conv2")}
        expected |= {f"norm{layer[4:]}": case.normalization * maps for layer, maps in convolutions.items()}
    assert {layer.name: layer.count_params() for layer in model.layers if layer.count_params()} == expected
    assert model.count_params() == sum(expected.values())
    assert case.parameters in (None, model.count_params())

    if name in COMPARED_AT_FULL_SIZE:
        weights = set_large_weights(model)
        images = reference_network.random_images(1, seed=2)
        assert_logits_agree(model(images).numpy(), weights, images, case)


CROPS = np.random.default_rng(3).integers(0, 256, [2, 32, 32, 3], dtype=np.uint8)


class Small:
    """A variant for images of 32 x 32, built from its configuration: its logits, and the results of a training step.

    The step uses no momentum, no weight decay and a learning rate of 1, so velocities are negative gradients.
    """

    def __init__(self, name, devices=()):
        self.case = CASES[name]
        config = configuration.Config(
            **self.case.arguments,
            recipe=self.case.recipe,
            devices=devices,
            image_size=32,
            crop_size=32,
            batch_size=2,
            momentum=0.0,
            weight_decay=0.0,
            bias_weight_decay=0.0,
            input_divisor=1.0,
            seed=3,
        ).resolved()
        # Equal results on two devices are those of the same kernels.
        is_compared = name in SMALL_TRANSFERS
        with grappler.enabled() if is_compared else contextlib.nullcontext():
            self._compute(config, is_compared)

    def _compute(self, config, is_compared):
        model = builders.build_model(config, 20, jit_compile=False)
        self.weights = set_large_weights(model, config.activation)
        self.images = reference_network.random_images(2, seed=2, size=32)
        self.logits = model(self.images).numpy()

        mean = np.full([32, 32, 3], 127.5, np.float32)
        image_statistics = statistics.Statistics(mean, np.eye(3, dtype=np.float32), np.ones(3, np.float32), 0)
        trainer = builders.build_trainer(config, model, image_statistics)
        batch = {
            "crops": tf.constant(CROPS),
            "offsets": tf.zeros([2, 2], tf.int32),
            "flips": tf.zeros([2, 2], tf.bool),
            "labels": tf.constant([1, 2], tf.int64),
            "noise": tf.zeros([2, 3]),
        }
        rates = tf.ones(builders.initial_rates(config).shape)
        before = {variable.path: variable.numpy() for variable in model.trainable_variables}
        if config.devices:
            self.report = placement_report.placement_report(trainer.step, batch, rates)
        else:
            # Only results that are compared with those of two devices need the traced function, which takes longer.
            with contextlib.nullcontext() if is_compared else grappler.untraced():
                self.loss = trainer.step(batch, rates).loss.numpy()
        self.gradients = {path: -value.numpy() for path, value in zip(before, trainer.optimizer.velocities)}
        self.after = {variable.path: variable.numpy() for variable in model.variables}
        self.changes = {path: self.after[path] - value for path, value in before.items()}


# Networks of a few megabytes, cached for the tests that compare them.
small = functools.cache(Small)


# The other recipe has the same, in a case that stays.
SIMILAR = ("tanh, original", "first", "batch")


# "six_conv_2011" combines two of the others.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SIMILAR)) for name in CASES if name != "six_conv_2011"],
)
def test_small(name):
    """Compares logits, and checks that a step updates every variable."""
    network = small(name)
    assert_logits_agree(network.logits, network.weights, network.images, network.case)
    assert 0 < network.loss < np.inf
    for path, change in network.changes.items():
        assert np.all(np.isfinite(change)) and np.any(change), path


# "batch, original" and "group" exchange the same.
on_two_devices = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("tanh", "layer, original"))) for name in SMALL_TRANSFERS],
)


@on_two_devices
def test_two_devices_give_equal_results(name):
    one, two = small(name), small(name, DEVICES)
    # As in test_placement: the same kernels compute on the same numbers, and dropout uses the same random numbers.
    np.testing.assert_allclose(two.logits, one.logits, rtol=0, atol=1e-6 * np.max(np.abs(one.logits)))
    for received, expected in ((two.gradients, one.gradients), (two.after, one.after)):
        assert list(received) == list(expected)
        for path, value in expected.items():
            atol = 1e-6 * np.max(np.abs(value))
            np.testing.assert_allclose(received[path], value, rtol=0, atol=atol, err_msg=path)


@on_two_devices
def test_only_exchanged_activations_are_transferred(name):
    """Every transferred activation has a gradient that is transferred back."""
    exchanges, last = SMALL_TRANSFERS[name]
    found = small(name, DEVICES).report
    transferred = [each for each in found.transfers if not each.is_input]
    expected = [elements for elements in exchanges for _ in range(4)] + [last] * 2
    assert sorted(math.prod(each.shape) for each in transferred) == sorted(2 * each for each in expected)
    assert {each.name for each in found.transfers if each.is_input} == {"preprocess/images", "learning_rates"}
    devices = {each.layer: each.device for each in found.operations if each.flops}
    assert devices == {layer: "CPU:1" if layer.endswith("_b") else "CPU:0" for layer in units_of(CASES[name])}


def test_towers_that_communicate_before_fc8_only_transfer_nothing_else():
    """The batch goes to the second device, the outputs of fc7 come back, and their gradients return."""
    transfers = small("fc8", DEVICES).report.transfers
    assert sorted((each.is_input, each.source, each.destination, *each.shape) for each in transfers) == [
        (False, "CPU:0", "CPU:1", 2, 256),
        (False, "CPU:1", "CPU:0", 2, 256),
        (True, "CPU:0", "CPU:1", 2, 32, 32, 3),
        (True, "CPU:0", "CPU:1", 6),  # learning rates
    ]


@pytest.mark.parametrize("devices", [(), DEVICES])
def test_batch_normalization_updates_moving_averages(devices):
    network = small("batch, original", devices)
    images = reference_network.pad(CROPS.astype(np.float64) - 127.5, 2, 2)
    for tower in "ab":
        outputs = reference_network.convolution(images, *network.weights[f"conv1_{tower}"])
        _, _, mean, variance = network.weights[f"norm1_{tower}"]
        expected = 0.99 * mean + 0.01 * outputs.mean(axis=(0, 1, 2))
        received = network.after[f"norm1_{tower}/moving_mean"]
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))
        expected = 0.99 * variance + 0.01 * outputs.var(axis=(0, 1, 2))
        np.testing.assert_allclose(network.after[f"norm1_{tower}/moving_variance"], expected, rtol=1e-5)


@pytest.mark.parametrize("recipe, deviation", [("paper", 0.01), ("original", 0.03)])
def test_initial_weights_of_additional_layers(recipe, deviation):
    """conv6 follows the recipe's middle layers, and the bottleneck its fully connected ones; towers differ."""
    model = AlexNet(2, recipe, sixth_convolution=True, bottleneck=1024, image_size=32, seed=1)
    for name, expected, start in (("conv6", deviation, 1), ("bottleneck", 0.01, 0)):
        kernels = []
        for tower in "ab":
            kernel, bias = model.get_layer(f"{name}_{tower}").get_weights()
            kernels.append(kernel.ravel())
            # Five standard errors.
            assert abs(kernel.std(dtype=np.float64) / expected - 1) < 5 / np.sqrt(2 * kernel.size), name
            np.testing.assert_array_equal(bias, start, err_msg=name)
        assert abs(np.corrcoef(*kernels)[0, 1]) < 5 / np.sqrt(kernels[0].size), name


NOT_DEFAULT = [
    {"towers": "half", "normalization": "layer", "removed_layer": "conv4"},
    {"towers": "one", "activation": "tanh", "pooling": "nonoverlapping", "initialization": "he"},
    {"communication": "fc8", "normalization": "group", "bottleneck": 64, "devices": list(DEVICES)},
    {"normalization": "batch", "sixth_convolution": True, "dtype": "mixed_bfloat16"},
]


@pytest.mark.parametrize("arguments", NOT_DEFAULT, ids=" ".join)
def test_config_round_trip(arguments):
    model = AlexNet(5, "original", seed=7, image_size=32, **arguments)
    text = json.dumps(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    received = copy.get_config()
    assert received == model.get_config()
    assert {name: received[name] for name in arguments} == arguments
    assert [layer.get_config() for layer in copy.layers] == [layer.get_config() for layer in model.layers]
    assert [variable.path for variable in copy.variables] == [variable.path for variable in model.variables]
    for received, expected in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)


# Of the network for 56 x 56, as `TWO` and `FC8`.
MEDIUM = {
    "conv1": (2, 7 * 7 * 3, 24),
    "conv2": (2, 5 * 5 * 24, 48),
    "conv3": (2, 3 * 3 * 96, 64),
    "conv4": (2, 3 * 3 * 64, 64),
    "conv5": (2, 3 * 3 * 64, 48),
    "fc6": (2, 2 * 2 * 96, 768),
    "fc7": (2, 1536, 768),
    "fc8": (1, 1536, 200),
}
MEDIUM_VARIANTS = {
    "paper": {},
    "one tower": {
        "conv1": (1, 7 * 7 * 3, 48),
        "conv2": (1, 5 * 5 * 48, 96),
        "conv3": (1, 3 * 3 * 96, 128),
        "conv4": (1, 3 * 3 * 128, 128),
        "conv5": (1, 3 * 3 * 128, 96),
        "fc6": (1, 2 * 2 * 96, 1536),
        "fc7": (1, 1536, 1536),
    },
    "half": {
        "conv1": (1, 7 * 7 * 3, 24),
        "conv2": (1, 5 * 5 * 24, 48),
        "conv3": (1, 3 * 3 * 48, 64),
        "conv4": (1, 3 * 3 * 64, 64),
        "conv5": (1, 3 * 3 * 64, 96),
        "fc6": (1, 2 * 2 * 96, 1536),
        "fc7": (1, 1536, 1536),
    },
    "fc8": {
        "conv2": (2, 5 * 5 * 24, 64),
        "conv3": (2, 3 * 3 * 64, 64),
        "fc6": (2, 2 * 2 * 48, 1536),
        "fc7": (2, 1536, 768),
    },
    "nonoverlapping": {},
    "first, original": {},
    "none": {},
    "batch, original": {},
    "tanh, original": {},
    "without conv3": {"conv3": None, "conv4": (2, 3 * 3 * 96, 64)},
    "without conv4": {"conv4": None},
    "without conv5": {"conv5": None, "fc6": (2, 2 * 2 * 128, 768)},
    "sixth convolution": {"conv6": (2, 3 * 3 * 96, 48)},
}


@pytest.mark.parametrize("name", MEDIUM_VARIANTS)
def test_images_of_56(name):
    """Compares the number of parameters of each layer with the expected one, and the logits."""
    case = CASES[name]._replace(layers=MEDIUM | MEDIUM_VARIANTS[name])
    model = AlexNet(200, case.recipe, image_size=56, jit_compile=False, seed=1, **case.arguments)
    weights = set_large_weights(model, case.arguments.get("activation", "relu"))
    counts = {layer.name: layer.count_params() for layer in model.layers if hasattr(layer, "kernel")}
    assert counts == {layer: inputs * units + units for layer, (inputs, units) in units_of(case).items()}
    images = reference_network.random_images(2, seed=2, size=56)
    assert_logits_agree(model(images).numpy(), weights, images, case)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, [19, 9, 9, 4, 4, 4, 4, 2]),
        # Less padding in conv2 leads to the same pooled sizes.
        ({"pooling": "nonoverlapping"}, [19, 10, 8, 4, 4, 4, 4, 2]),
    ],
)
def test_spatial_sizes_of_images_of_56(arguments, expected):
    model = AlexNet(200, image_size=56, jit_compile=False, seed=1, **arguments)
    for tower in "ab":
        stages = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
        shapes = [tuple(model.get_layer(f"{stage}_{tower}").output.shape[1:3]) for stage in stages]
        assert shapes == [(side, side) for side in expected]
    if not arguments:
        assert model.count_params() == 3_564_360


@pytest.mark.parametrize("recipe", ["caffe", "caffenet"])
def test_caffes_recipes_take_images_of_56(recipe):
    model = AlexNet(5, recipe, image_size=56, jit_compile=False, seed=1)
    assert model(reference_network.random_images(1, seed=2, size=56)).shape == (1, 5)


def test_two_devices_give_equal_results_for_images_of_56():
    images = reference_network.random_images(2, seed=2, size=56)
    models = [
        AlexNet(200, "original", devices, image_size=56, jit_compile=False, seed=1) for devices in (None, DEVICES)
    ]
    weights = set_large_weights(models[0])
    for name, values in weights.items():
        models[1].get_layer(name).set_weights(values)
    gradients = []
    for model in models:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(images) ** 2)
        gradients.append(tape.gradient(loss, model.trainable_variables))
    for one, two in zip(*gradients, strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-6 * np.max(np.abs(one)))
