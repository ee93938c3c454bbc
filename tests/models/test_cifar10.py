"""Compares the nets for CIFAR-10 with a forward pass in NumPy, written from what is published about them."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.models import cifar10

LAYOUTS = ("cifar10_26", "cifar10_19", "cifar10_18")
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def photographs(count=2, size=32, seed=0):
    """Returns random pixels with a mean subtracted."""
    return np.random.default_rng(seed).uniform(-128, 128, [count, size, size, 3]).astype(np.float32)


def with_large_weights(net, seed=3):
    """Sets weights and biases with which every layer affects the logits, unlike the initial ones."""
    generator = np.random.default_rng(seed)
    for variable in net.variables:
        deviation = 0.3
        if variable.path.endswith("kernel"):
            deviation = math.sqrt(2 / np.prod(variable.shape[:-1]))
        start = 1.0 if "variance" in variable.path or "gamma" in variable.path else 0.0
        variable.assign(start + np.clip(deviation * generator.standard_normal(variable.shape), -0.9, None))
    return net


def convolution(x, kernel, bias):
    """Convolution with 5 x 5 kernels at every position, with a border of two zeros."""
    _, height, width, _ = x.shape
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    result = np.zeros([*x.shape[:3], kernel.shape[-1]]) + bias
    for row in range(5):
        for column in range(5):
            result += padded[:, row : row + height, column : column + width] @ kernel[row, column]
    return result


def pooling(x, summary, window):
    """Pooling with stride 2 from the first pixel until every pixel is in a window; windows are clipped at the edges."""
    count = 1 + math.ceil((x.shape[1] - window) / 2)
    rows = []
    for top in range(0, 2 * count, 2):
        rows.append(
            [summary(x[:, top : top + window, left : left + window], axis=(1, 2)) for left in range(0, 2 * count, 2)]
        )
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def same_map_normalization(x):
    """The authors' "rnorm": 3 x 3 positions, scale 5e-5 divided by nine (at the border too), power 0.75."""
    result = np.empty_like(x)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            around = x[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            bracket = 1 + 5e-5 / 9 * (around**2).sum(axis=(1, 2))
            result[:, row, column] = x[:, row, column] / bracket**0.75
    return result


def relu(x):
    return np.maximum(x, 0)


def forward(net, images, layout, *, activity=relu, window=3, normalizations=None):
    """Returns the logits, and the side of the maps after each pooling."""
    weights = {variable.path: variable.numpy().astype(np.float64) for variable in net.variables}
    if normalizations is None:
        normalizations = [same_map_normalization] * 2 if layout == "cifar10_18" else []
    x = images.astype(np.float64)
    sides = []
    for number, summary in enumerate((np.max, np.mean, np.mean), start=1):
        x = activity(convolution(x, weights[f"conv{number}/kernel"], weights[f"conv{number}/bias"]))
        x = pooling(x, summary, window)
        sides.append(x.shape[1])
        if number <= len(normalizations):
            x = normalizations[number - 1](x)
    x = x.reshape(len(x), -1)
    if layout == "cifar10_26":
        x = activity(x @ weights["fc64/kernel"] + weights["fc64/bias"])
    return x @ weights["fc10/kernel"] + weights["fc10/bias"], sides


def assert_near(received, expected, tolerance=1e-5):
    """Compares logits relative to the largest of each example, as single logits are differences of large terms."""
    assert received.dtype == np.float32 and received.shape == expected.shape
    error = np.abs(received.astype(np.float64) - expected).max(axis=-1)
    assert (error < tolerance * np.abs(expected).max(axis=-1)).all(), error / np.abs(expected).max(axis=-1)


@each_layout
@pytest.mark.parametrize("compiled", [False, True])
def test_forward_pass_agrees_with_the_authors_code(layout, compiled):
    net = with_large_weights(cifar10.Cifar10Net(layout))
    function = tf.function(net, jit_compile=True) if compiled else net
    expected, sides = forward(net, photographs(), layout)
    assert sides == [16, 8, 4]
    assert_near(function(photographs()).numpy(), expected)


def test_reference_detects_mistakes():
    """Each of these mistakes changes the logits."""
    net, images = with_large_weights(cifar10.Cifar10Net("cifar10_18")), photographs()
    right, _ = forward(net, images, "cifar10_18")
    for wrong, _ in (
        forward(net, images, "cifar10_18", normalizations=[]),
        forward(net, images, "cifar10_18", normalizations=[same_map_normalization]),
        forward(net, images, "cifar10_18", activity=np.tanh),
        forward(net, images, "cifar10_18", window=2),
    ):
        assert np.abs(wrong - right).max() > 1e-3 * np.abs(right).max()


def test_average_pooling_divides_by_positions_inside_the_image():
    """Constant maps stay constant, also at the border."""
    x = np.full([1, 6, 6, 2], 3.0)
    np.testing.assert_array_equal(pooling(x, np.mean, 3), np.full([1, 3, 3, 2], 3.0))
    net = cifar10.Cifar10Net("cifar10_26")
    for name in ("pool2", "pool3"):
        pool = net.get_layer(name)
        np.testing.assert_array_equal(pool(np.float32(x)), np.full([1, 3, 3, 2], 3.0))


@each_layout
@pytest.mark.parametrize("image_size", [8, 24, 40])
def test_other_sizes(layout, image_size):
    net = with_large_weights(cifar10.Cifar10Net(layout, image_size=image_size))
    images = photographs(size=image_size)
    expected, sides = forward(net, images, layout)
    assert sides == [image_size // 2, image_size // 4, image_size // 8]
    assert_near(net(images).numpy(), expected)


@each_layout
@pytest.mark.parametrize("activation, activity", [("tanh", np.tanh), ("relu", relu)])
@pytest.mark.parametrize("pooling, window", [("nonoverlapping", 2), ("overlapping", 3)])
def test_variants(layout, activation, activity, pooling, window):
    net = with_large_weights(cifar10.Cifar10Net(layout, activation=activation, pooling=pooling))
    expected, sides = forward(net, photographs(), layout, activity=activity, window=window)
    assert sides == [16, 8, 4]
    assert_near(net(photographs()).numpy(), expected)


@each_layout
@pytest.mark.parametrize("normalization, count", [("none", 0), ("first", 1), ("response", 2)])
def test_number_of_response_normalizations(layout, normalization, count):
    net = with_large_weights(cifar10.Cifar10Net(layout, normalization=normalization))
    own = [same_map_normalization] * (count if layout == "cifar10_18" else 0)
    expected, _ = forward(net, photographs(), layout, normalizations=own)
    assert_near(net(photographs()).numpy(), expected)


def later(net, kind):
    """Returns the two normalizations of a net in float64: by moving averages, or over groups."""

    def normalize(number, x):
        weights = {
            variable.path.rpartition("/")[2]: variable.numpy().astype(np.float64)
            for variable in net.get_layer(f"norm{number}").variables
        }
        if kind == "batch":
            mean, variance = weights["moving_mean"], weights["moving_variance"]
            normal = (x - mean) / np.sqrt(variance + 1e-3)
        else:
            normal = np.empty_like(x)
            size = 16 if kind == "group" else x.shape[-1]
            for first in range(0, x.shape[-1], size):
                part = x[..., first : first + size]
                mean = part.mean(axis=(1, 2, 3), keepdims=True)
                normal[..., first : first + size] = (part - mean) / np.sqrt(
                    ((part - mean) ** 2).mean(axis=(1, 2, 3), keepdims=True) + 1e-3
                )
        return weights["gamma"] * normal + weights["beta"]

    return [lambda x: normalize(1, x), lambda x: normalize(2, x)]


@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_later_normalizations_replace_the_authors(kind):
    net = with_large_weights(cifar10.Cifar10Net("cifar10_18", normalization=kind))
    expected, _ = forward(net, photographs(), "cifar10_18", normalizations=later(net, kind))
    assert_near(net(photographs()).numpy(), expected)
    # Two layers of two vectors each; the averages of batch normalization are not trainable.
    own = 2 * 2 * 32
    without = cifar10.Cifar10Net("cifar10_18", normalization="none").count_params()
    assert sum(math.prod(variable.shape) for variable in net.trainable_variables) == without + own


@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
@pytest.mark.parametrize("layout", ["cifar10_26", "cifar10_19"])
def test_nets_without_normalization_stay_without(layout, kind):
    with_kind, without = (cifar10.Cifar10Net(layout, normalization=name) for name in (kind, "none"))
    assert [layer.name for layer in with_kind.layers] == [layer.name for layer in without.layers]


@pytest.mark.parametrize("layout, hidden", [("cifar10_26", 64), ("cifar10_19", 0), ("cifar10_18", 0)])
@pytest.mark.parametrize("num_classes, image_size", [(10, 32), (100, 24)])
def test_number_of_parameters(layout, hidden, num_classes, image_size):
    convolutions = (25 * 3 + 1) * 32 + (25 * 32 + 1) * 32 + (25 * 32 + 1) * 64
    outputs = 64 * (image_size // 8) ** 2
    dense = (outputs + 1) * hidden + ((hidden or outputs) + 1) * num_classes
    net = cifar10.Cifar10Net(layout, num_classes, image_size=image_size)
    assert net.count_params() == convolutions + dense
    assert net.output_shape == (None, num_classes)


@pytest.mark.parametrize("layout, dense", [("cifar10_26", 0.1), ("cifar10_19", 0.01), ("cifar10_18", 0.01)])
def test_initial_weights_have_the_authors_standard_deviations(layout, dense):
    net = cifar10.Cifar10Net(layout, seed=5)
    expected = {"conv1": 0.0001, "conv2": 0.01, "conv3": 0.01, "fc64": dense, "fc10": dense}
    found = {}
    for variable in net.trainable_variables:
        layer, _, kind = variable.path.rpartition("/")
        values = variable.numpy()
        if kind == "bias":
            assert not values.any()
            continue
        found[layer] = values
        deviation = expected[layer]
        # Five standard errors of a mean and of a standard deviation.
        assert abs(values.mean()) < 5 * deviation / math.sqrt(values.size)
        assert abs(values.std() / deviation - 1) < 5 / math.sqrt(2 * values.size)
        if values.size > 10_000:
            # Not truncated: 0.27% of a normal distribution are more than three standard deviations from its mean.
            beyond = (np.abs(values) > 3 * deviation).mean()
            assert abs(beyond - 0.0027) < 5 * math.sqrt(0.0027 / values.size)
    assert set(found) == set(expected) - (set() if layout == "cifar10_26" else {"fc64"})
    scaled = [values.ravel()[:640] / expected[layer] for layer, values in found.items()]
    # No two layers start with the same random numbers.
    assert np.abs(np.corrcoef(scaled) - np.eye(len(scaled))).max() < 5 / math.sqrt(640)


def test_he_initialization():
    net = cifar10.Cifar10Net("cifar10_26", initialization="he", seed=5)
    for variable in net.trainable_variables:
        if variable.path.endswith("kernel"):
            deviation = math.sqrt(2 / np.prod(variable.shape[:-1]))
            count = np.prod(variable.shape)
            assert abs(variable.numpy().std() / deviation - 1) < 5 / math.sqrt(2 * count)


def test_seed_determines_the_initial_weights():
    one, same, other, anew, again = (cifar10.Cifar10Net("cifar10_26", seed=seed) for seed in (1, 1, 2, None, None))
    for a, b, c, d, e in zip(*(net.trainable_variables for net in (one, same, other, anew, again)), strict=True):
        np.testing.assert_array_equal(a, b)
        if a.path.endswith("kernel"):
            assert (a.numpy() != c.numpy()).any()
            assert (d.numpy() != e.numpy()).any()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"layout": "cifar10_11"}, "Expected layout to be one of cifar10_26, cifar10_19, cifar10_18. .*'cifar10_11'"),
        ({"activation": "gelu"}, "Expected activation to be one of relu, tanh, sigmoid. Received: 'gelu'"),
        ({"normalization": "local"}, "Expected normalization to be one of response, first, none, .*'local'"),
        ({"pooling": "average"}, "Expected pooling to be one of overlapping, nonoverlapping. Received: 'average'"),
        ({"initialization": "glorot"}, "Expected initialization to be one of recipe, he, zeros. Received: 'glorot'"),
        ({"num_classes": 1}, "Expected num_classes to be an int of at least 2. Received: num_classes=1"),
        ({"num_classes": 10.0}, "Expected num_classes to be an int of at least 2. Received: num_classes=10.0"),
        ({"image_size": 30}, "Expected image_size to be a multiple of 8. Received: image_size=30"),
        ({"image_size": 0}, "Expected image_size to be a multiple of 8. Received: image_size=0"),
        ({"image_size": 32.0}, "Expected image_size to be a multiple of 8. Received: image_size=32.0"),
    ],
)
def test_invalid_arguments(values, message):
    with pytest.raises(ValueError, match=message):
        cifar10.Cifar10Net(**{"layout": "cifar10_26", **values})


def test_config_round_trip():
    arguments = {
        "layout": "cifar10_18",
        "num_classes": 7,
        "image_size": 24,
        "activation": "tanh",
        "normalization": "group",
        "pooling": "nonoverlapping",
        "initialization": "he",
        "seed": 4,
        "jit_compile": False,
        "dtype": "float32",
        "name": "mine",
    }
    net = cifar10.Cifar10Net(**arguments)
    assert net.get_config() == arguments
    copy = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(net))))
    assert type(copy) is cifar10.Cifar10Net
    assert copy.get_config() == arguments
    images = photographs(size=24)
    # The configuration includes the seed, so the weights are the same.
    np.testing.assert_array_equal(copy(images), net(images))


# Keras reads its variables by an old NumPy protocol.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@each_layout
def test_saved_net_loads_with_the_same_logits(layout, tmp_path):
    net = with_large_weights(cifar10.Cifar10Net(layout))
    net.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded(photographs()), net(photographs()))


@each_layout
def test_bfloat16_is_close_to_float32(layout):
    wide = with_large_weights(cifar10.Cifar10Net(layout))
    narrow = cifar10.Cifar10Net(layout, dtype="mixed_bfloat16")
    for to, value in zip(narrow.variables, wide.variables, strict=True):
        assert to.dtype == "float32"
        to.assign(value)
    received, expected = narrow(photographs()).numpy(), wide(photographs()).numpy()
    assert received.dtype == np.float32
    inner = {
        layer.name: layer.output.dtype for layer in narrow.layers if layer.name.startswith(("conv", "pool", "norm"))
    }
    assert set(inner.values()) == {"bfloat16"}
    error = np.abs(received - expected).max() / np.abs(expected).max()
    # About ten roundings of 2 ** -9 may add up. The lower bound shows that it is not float32.
    assert 1e-6 < error < 10 * 2.0**-9


def test_gradients_reach_every_weight():
    net = with_large_weights(cifar10.Cifar10Net("cifar10_18", normalization="batch"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(net(photographs(), training=True) ** 2)
    for variable, gradient in zip(net.trainable_variables, tape.gradient(loss, net.trainable_variables), strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path
