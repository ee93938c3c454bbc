"""Compares AlexNet with its published description and with a second implementation."""

import json

import keras
import numpy as np
import pytest
import reference_network
import tensorflow as tf

from alexnet_tf.models.alexnet import AlexNet

RECIPES = ("paper", "original")
SEED = 5

# The shape of the kernel in one tower, and the number of towers that have the layer.
KERNELS = {
    "conv1": ([11, 11, 3, 48], 2),
    "conv2": ([5, 5, 48, 128], 2),
    "conv3": ([3, 3, 256, 192], 2),
    "conv4": ([3, 3, 192, 192], 2),
    "conv5": ([3, 3, 192, 128], 2),
    "fc6": ([9216, 2048], 2),
    "fc7": ([4096, 2048], 2),
    "fc8": ([4096, 1000], 1),
}
PARAMETERS = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}
BIAS_ONE = {"conv2", "conv4", "conv5", "fc6", "fc7"}


def layer_names(number_and_kind):
    """Returns the names of the Keras layers of one of the paper's layers."""
    towers = KERNELS[number_and_kind][1]
    return [f"{number_and_kind}_{tower}" for tower in "ab"] if towers == 2 else [number_and_kind]


@pytest.fixture(scope="module", params=RECIPES)
def fresh(request):
    """A new network of each recipe. Tests must not change it."""
    return request.param, AlexNet(recipe=request.param, seed=SEED)


class Compared:
    """A network with large weights, and the outputs of the reference network with the same weights."""

    def __init__(self, recipe):
        self.recipe = recipe
        self.model = AlexNet(num_classes=20, recipe=recipe, seed=SEED)
        names = [layer.name for layer in self.model.layers if layer.get_weights()]
        shapes = {name: tuple(self.model.get_layer(name).kernel.shape) for name in names}
        self.weights = reference_network.large_weights(shapes, seed=1)
        for name, values in self.weights.items():
            self.model.get_layer(name).set_weights(values)
        self.images = reference_network.random_images(2, seed=2)
        self.expected = reference_network.forward(self.weights, self.images, recipe)

    def outputs(self, names, images):
        """Returns the outputs of layers by their names."""
        part = keras.Model(self.model.input, {name: self.model.get_layer(name).output for name in names})
        return {name: value.numpy() for name, value in part(images).items()}


@pytest.fixture(scope="module", params=RECIPES)
def compared(request):
    return Compared(request.param)


paper_only = pytest.mark.parametrize("compared", ["paper"], indirect=True)


def test_parameters(fresh):
    _, model = fresh
    assert model.count_params() == 60_965_224
    counts = {name: sum(model.get_layer(own).count_params() for own in layer_names(name)) for name in KERNELS}
    assert counts == PARAMETERS


def test_units(fresh):
    _, model = fresh
    outputs = [model.get_layer(own).output for name in KERNELS for own in layer_names(name)]
    assert sum(np.prod(output.shape[1:]) for output in outputs) == 659_272


def test_weight_shapes(fresh):
    _, model = fresh
    for name, (kernel, _) in KERNELS.items():
        for own in layer_names(name):
            layer = model.get_layer(own)
            assert [list(weight.shape) for weight in layer.weights] == [kernel, kernel[-1:]], own
    assert len(model.weights) == 2 * sum(towers for _, towers in KERNELS.values())


def test_spatial_sizes(fresh):
    _, model = fresh
    stages = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
    for tower in "ab":
        shapes = [model.get_layer(f"{stage}_{tower}").output.shape for stage in stages]
        assert [shape[1] for shape in shapes] == [55, 27, 27, 13, 13, 13, 13, 6]
        assert [shape[2] for shape in shapes] == [55, 27, 27, 13, 13, 13, 13, 6]


def chain(model, first, last):
    """Returns the names of the layers from `first` to `last`, each of which reads the output of the previous one."""
    made_by = {id(layer.output): layer for layer in model.layers if not isinstance(layer.output, list)}
    names = [last]
    while names[-1] != first:
        names.append(made_by[id(model.get_layer(names[-1]).input)].name)
    return [name.rpartition("_")[0] for name in reversed(names)]


ORDER = {
    "paper": [
        ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2"],
        ["conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5", "flatten5"],
        ["fc6", "relu6", "dropout6"],
        ["fc7", "relu7", "dropout7"],
    ],
    "original": [
        ["conv1", "norm1", "pool1", "relu1", "conv2", "relu2", "norm2", "samemap2", "pool2"],
        ["conv3", "relu3", "conv4", "relu4", "conv5", "pool5", "relu5", "flatten5"],
        ["fc6", "relu6", "dropout6"],
        ["fc7", "relu7", "dropout7"],
    ],
}


def test_order_of_the_layers(fresh):
    recipe, model = fresh
    for tower in "ab":
        for names in ORDER[recipe]:
            assert chain(model, f"{names[0]}_{tower}", f"{names[-1]}_{tower}") == names


def test_initial_weights_follow_the_description(fresh):
    recipe, model = fresh
    for name in KERNELS:
        deviation = 0.03 if recipe == "original" and name in ("conv3", "conv4", "conv5") else 0.01
        for own in layer_names(name):
            kernel, bias = model.get_layer(own).get_weights()
            # Five standard errors of a mean, of a deviation and of a proportion.
            assert abs(kernel.mean(dtype=np.float64)) < 5 * deviation / np.sqrt(kernel.size), own
            assert abs(kernel.std(dtype=np.float64) / deviation - 1) < 5 / np.sqrt(2 * kernel.size), own
            # Not truncated: 0.27% of a normal distribution are more than three standard deviations from its mean.
            outside = np.mean(np.abs(kernel) > 3 * deviation)
            assert abs(outside - 0.0026998) < 5 * np.sqrt(0.0027 / kernel.size), own
            np.testing.assert_array_equal(bias, 1.0 if name in BIAS_ONE else 0.0, err_msg=own)


def test_he_initialization_depends_on_the_inputs():
    model = AlexNet(2, recipe="original", initialization="he", seed=SEED)
    inputs = {"conv1": 363, "conv2": 1200, "conv3": 2304, "conv4": 1728, "conv5": 1728, "fc6": 9216}
    for name in KERNELS:
        deviation = np.sqrt(2 / inputs.get(name, 4096))
        for own in layer_names(name):
            kernel, bias = model.get_layer(own).get_weights()
            # Five standard errors.
            assert abs(kernel.std(dtype=np.float64) / deviation - 1) < 5 / np.sqrt(2 * kernel.size), own
            np.testing.assert_array_equal(bias, 0, err_msg=own)


@pytest.mark.parametrize("initialization", ["recipe", "he"])
def test_conv1_stddev_changes_only_the_kernels_of_conv1(initialization):
    default, changed = (
        AlexNet(2, initialization=initialization, conv1_stddev=stddev, image_size=32, seed=SEED)
        for stddev in (None, 0.05)
    )
    for tower in "ab":
        kernel, bias = changed.get_layer(f"conv1_{tower}").get_weights()
        # Five standard errors.
        assert abs(kernel.std(dtype=np.float64) / 0.05 - 1) < 5 / np.sqrt(2 * kernel.size)
        np.testing.assert_array_equal(bias, 0)
    for received, expected in zip(changed.weights, default.weights, strict=True):
        if "conv1" not in received.path:
            np.testing.assert_array_equal(received.numpy(), expected.numpy(), err_msg=received.path)


def test_towers_start_with_different_weights(fresh):
    _, model = fresh
    for name in KERNELS:
        if len(layer_names(name)) == 2:
            a, b = (model.get_layer(own).get_weights()[0].ravel() for own in layer_names(name))
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_seed_determines_the_weights(recipe):
    model, same, other = (
        AlexNet(num_classes, recipe, image_size=32, seed=seed)
        for num_classes, seed in ((20, SEED), (7, SEED), (7, SEED + 1))
    )
    assert same.output.shape == (None, 7)
    assert same.count_params() == model.count_params() - 13 * 513
    for name in KERNELS:
        for own in layer_names(name):
            values = [network.get_layer(own).get_weights()[0] for network in (model, same, other)]
            if name != "fc8":
                np.testing.assert_array_equal(values[0], values[1], err_msg=own)
            assert not np.array_equal(values[1], values[2]), own


@pytest.mark.parametrize("devices", [None, ("/CPU:0", "/CPU:1")])
def test_config_round_trip(devices):
    arguments = {"dropout": 0.25, "seed": 7, "jit_compile": False, "dtype": "mixed_bfloat16", "name": "net"}
    model = AlexNet(5, "original", devices, image_size=32, **arguments)
    text = json.dumps(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert isinstance(copy, AlexNet)
    assert copy.get_config() == model.get_config()
    assert [layer.get_config() for layer in copy.layers] == [layer.get_config() for layer in model.layers]
    assert [variable.path for variable in copy.variables] == [variable.path for variable in model.variables]
    for received, expected in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)


def test_left_out_is_an_alias_of_removed_layer():
    config = AlexNet(2, removed_layer="conv4", image_size=32).get_config()
    assert config["removed_layer"] == "conv4" and "left_out" not in config
    old = {name: value for name, value in config.items() if name not in ("removed_layer", "conv1_stddev")}
    copy = AlexNet.from_config({**old, "left_out": "conv4"})
    assert copy.get_config() == config
    assert "conv4_a" not in [layer.name for layer in copy.layers]


def test_arguments_reach_the_layers():
    model = AlexNet(2, dropout=0.25, jit_compile=False, dtype="mixed_bfloat16", image_size=32)
    assert [model.get_layer(f"dropout{n}_{tower}").rate for n in (6, 7) for tower in "ab"] == [0.25] * 4
    assert not any(getattr(layer, "jit_compile", False) for layer in model.layers)
    assert all(variable.dtype == "float32" for variable in model.weights)
    assert model.get_layer("conv2_b").output.dtype == model.get_layer("norm2_b").output.dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_no_grouped_convolution(fresh):
    """On a CPU, convolutions with groups are compiled by XLA, and a step takes four times as long."""
    _, model = fresh
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 10
    assert all(layer.groups == 1 for layer in convolutions)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 1}, "int of at least 2. Received: num_classes=1"),
        ({"num_classes": 10.0}, "int of at least 2. Received: num_classes=10.0"),
        ({"recipe": "vgg"}, r"one of \['caffe', 'caffenet', 'original', 'paper'\]. Received: recipe='vgg'"),
        ({"initialization": "glorot"}, "recipe, he or zeros. Received: initialization='glorot'"),
        ({"dropout": 1.0}, r"\[0, 1\). Received: rate=1.0"),
        ({"devices": "/CPU:0"}, "two device names. Received: devices='/CPU:0'"),
        ({"devices": ("/CPU:0",)}, r"two device names. Received: devices=\('/CPU:0',\)"),
        ({"devices": ("/CPU:0", "/CPU:7")}, "present: /CPU:0, /CPU:1.* Received: /CPU:7"),
        ({"devices": ("/GPU:98", "/GPU:99")}, "present: /CPU:0, /CPU:1.* Received: /GPU:98, /GPU:99"),
        ({"towers": 2}, "towers to be one of two, one, half. Received: towers=2"),
        ({"communication": "none"}, "communication to be one of paper, fc8. Received: communication='none'"),
        ({"activation": "elu"}, "activation to be one of relu, tanh, sigmoid. Received: activation='elu'"),
        (
            {"normalization": None},
            "normalization to be one of response, first, none, batch, group, layer. Received: normalization=None",
        ),
        ({"pooling": "average"}, "pooling to be one of overlapping, nonoverlapping. Received: pooling='average'"),
        (
            {"removed_layer": "conv2"},
            "removed_layer to be one of none, conv3, conv4, conv5. Received: removed_layer='conv2'",
        ),
        ({"removed_layer": ["conv3"]}, r"removed_layer to be one of .* Received: removed_layer=\['conv3'\]"),
        ({"image_size": 225}, "image_size to be one of 224, 227, 56, 32. Received: image_size=225"),
        ({"sixth_convolution": "conv6"}, "sixth_convolution to be a bool. Received: 'conv6'"),
        ({"sixth_convolution": 1}, "sixth_convolution to be a bool. Received: 1"),
        (
            {"left_out": "conv2"},
            "removed_layer to be one of none, conv3, conv4, conv5. Received: removed_layer='conv2'",
        ),
        ({"conv1_stddev": True}, "conv1_stddev to be a finite number above 0, or None. Received: True"),
        ({"num_classes": True}, "int of at least 2. Received: num_classes=True"),
        ({"bottleneck": False}, "bottleneck to be an even int of at least 0. Received: False"),
        ({"dropout": False}, r"\[0, 1\). Received: rate=False"),
        ({"conv1_stddev": 0}, "conv1_stddev to be a finite number above 0, or None. Received: 0"),
        ({"conv1_stddev": float("nan")}, "conv1_stddev to be a finite number above 0, or None. Received: nan"),
        ({"conv1_stddev": "0.01"}, "conv1_stddev to be a finite number above 0, or None. Received: '0.01'"),
        ({"bottleneck": 101}, "bottleneck to be an even int of at least 0. Received: 101"),
        ({"bottleneck": -2}, "bottleneck to be an even int of at least 0. Received: -2"),
        ({"bottleneck": 64.0}, "bottleneck to be an even int of at least 0. Received: 64.0"),
        ({"bottleneck": True}, "bottleneck to be an even int of at least 0. Received: True"),
        ({"towers": "one", "devices": ("/CPU:0", "/CPU:1")}, "devices=None for towers='one'. Received: devices="),
        ({"towers": "half", "devices": ("/CPU:0", "/CPU:1")}, "devices=None for towers='half'. Received: devices="),
        ({"towers": "half", "communication": "fc8"}, "'two' for communication='fc8'. Received: towers='half'"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        AlexNet(**arguments)
    assert "\n" not in str(caught.value)


def test_stages_and_logits_agree_with_the_reference(compared):
    """Compares stages in the order of the network, so that the first failure names the stage that is wrong."""
    names = list(compared.expected)
    received = compared.outputs(names, compared.images)
    for name in names:
        expected = compared.expected[name]
        error = np.max(np.abs(received[name] - expected)) / np.max(np.abs(expected))
        assert error < 1e-5, (name, error)


def test_reference_exercises_every_nonlinearity(compared):
    """Otherwise the agreement above would prove little."""
    stages = compared.expected
    for tower in "ab":
        # The original applies the ReLU of layer 1 after pooling, where few values are negative.
        assert 0.2 < np.mean(stages[f"conv1_{tower}"] > 0) < 0.8
        assert np.any(stages[f"relu1_{tower}"] == 0)
        for number in (2, 3, 4):
            assert 0.2 < np.mean(stages[f"relu{number}_{tower}"] > 0) < 0.8
        for number in (6, 7):
            assert 0.2 < np.mean(stages[f"dropout{number}_{tower}"] > 0) < 0.8
        before = stages[f"relu1_{tower}" if compared.recipe == "paper" else f"conv1_{tower}"]
        for number, source in ((1, before), (2, stages[f"relu2_{tower}"])):
            live = source != 0
            shrinkage = stages[f"norm{number}_{tower}"][live] / source[live] * 2**0.75
            assert np.mean(shrinkage) < 0.9 and np.std(shrinkage) > 0.05
        if compared.recipe == "original":
            live = stages[f"norm2_{tower}"] != 0
            shrinkage = stages[f"samemap2_{tower}"][live] / stages[f"norm2_{tower}"][live]
            assert np.mean(shrinkage) < 0.9 and np.std(shrinkage) > 0.05


@paper_only
def test_recipes_are_different_functions(compared):
    original = reference_network.forward(compared.weights, compared.images, "original")
    difference = np.abs(original["fc8"] - compared.expected["fc8"])
    assert np.max(difference) > 0.1 * np.max(np.abs(original["fc8"]))


@paper_only
def test_bfloat16_logits_are_close(compared):
    model = AlexNet(num_classes=20, dtype="mixed_bfloat16")
    for name, values in compared.weights.items():
        model.get_layer(name).set_weights(values)
    received, expected = model(compared.images).numpy(), compared.expected["fc8"]
    # Eight layers each round weights and outputs a few times to 8 bits. Some 30 independent errors, of mean size
    # 2 ** -9, add up to 0.01. Processors without bfloat16 instructions round once more; one gave 0.0106.
    assert np.linalg.norm(received - expected) < 1.5e-2 * np.linalg.norm(expected)


@paper_only
def test_last_position_of_conv1_extends_past_right_and_bottom(compared):
    kernel, bias = compared.weights["conv1_a"]
    images = compared.images.astype(np.float64)
    received = compared.outputs(["conv1_a"], compared.images)["conv1_a"]
    # 54 * 4 = 216, so eight of eleven pixels are inside the image.
    corner = np.einsum("nyxc,yxck->nk", images[:, 216:, 216:], kernel[:8, :8]) + bias
    first = np.einsum("nyxc,yxck->nk", images[:, :11, :11], kernel) + bias
    assert np.max(np.abs(received[:, 54, 54] - corner)) < 1e-6 * np.max(np.abs(received))
    assert np.max(np.abs(received[:, 0, 0] - first)) < 1e-6 * np.max(np.abs(received))


@paper_only
@pytest.mark.parametrize(
    "pixel, position", [((223, 223), (54, 54)), ((0, 0), (0, 0)), ((223, 0), (54, 0)), ((0, 223), (0, 54))]
)
def test_corner_pixels_affect_one_position(compared, pixel, position):
    images = compared.images[:1]
    changed = images.copy()
    changed[0, pixel[0], pixel[1]] += 100
    outputs = [compared.outputs(["conv1_b"], x)["conv1_b"][0] for x in (images, changed)]
    reached = np.argwhere(np.any(outputs[0] != outputs[1], axis=-1))
    assert {tuple(place) for place in reached} == {position}


@paper_only
def test_normalization_does_not_cross_towers(compared):
    model, images = compared.model, compared.images[:1]
    names = ["norm1_a", "norm1_b", "norm2_a", "norm2_b", "conv3_a", "conv3_b"]
    before = compared.outputs(names, images)
    layer = model.get_layer("conv1_b")
    kernel, bias = layer.get_weights()
    try:
        layer.set_weights([10 * kernel, bias])
        after = compared.outputs(names, images)
    finally:
        layer.set_weights([kernel, bias])
    changed = {name for name in names if not np.array_equal(before[name], after[name])}
    # Layer 3 is the first that reads both towers.
    assert changed == {"norm1_b", "norm2_b", "conv3_a", "conv3_b"}


@paper_only
def test_dropout_is_random_in_training_only(compared):
    model, images = compared.model, compared.images[:1]
    np.testing.assert_array_equal(model(images), model(images, training=False))
    first, second = (model(images, training=True).numpy() for _ in range(2))
    assert np.max(np.abs(first - second)) > 0.01 * np.max(np.abs(first))


def test_other_image_sizes_are_rejected(fresh):
    _, model = fresh
    with pytest.raises(ValueError, match="shape=.*224, 224, 3.*227, 227, 3"):
        model(tf.zeros([1, 227, 227, 3]))
