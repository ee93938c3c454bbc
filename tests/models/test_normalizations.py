"""Compares the normalizations with their formulas, written as loops, and eager, graph and XLA modes with each other."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.models import normalizations

# Chosen so that the sum is well above the constant that it is added to, or normalization would only scale.
ACTIVITY = 60.0


def activities(*shape, seed=0, scale=ACTIVITY):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def local_response_loop(a, depth_radius, bias, alpha, beta):
    """Section 3.3 of the paper, literally: a sum over the adjacent maps that exist."""
    channels = a.shape[-1]
    b = np.empty_like(a)
    for position in np.ndindex(a.shape[:-1]):
        for i in range(channels):
            total = 0.0
            for j in range(max(0, i - depth_radius), min(channels - 1, i + depth_radius) + 1):
                total += a[position][j] ** 2
            b[position][i] = a[position][i] / (bias + alpha * total) ** beta
    return b


def same_map_loop(a, size, bias, alpha, beta):
    """Sums over the surrounding positions that exist in the same map."""
    batch, height, width, channels = a.shape
    b = np.empty_like(a)
    for n, y, x, c in np.ndindex(batch, height, width, channels):
        total = 0.0
        for v in range(max(0, y - size // 2), min(height, y + size // 2 + 1)):
            for u in range(max(0, x - size // 2), min(width, x + size // 2 + 1)):
                total += a[n, v, u, c] ** 2
        b[n, y, x, c] = a[n, y, x, c] / (bias + alpha * total) ** beta
    return b


def literal_local_response(a, depth_radius, bias, alpha, beta):
    """The formula in TensorFlow operations, with TensorFlow's gradients."""
    channels = a.shape[-1]
    maps = []
    for i in range(channels):
        window = a[..., max(0, i - depth_radius) : i + depth_radius + 1]
        maps.append(a[..., i] / (bias + alpha * tf.reduce_sum(window**2, axis=-1)) ** beta)
    return tf.stack(maps, axis=-1)


def literal_same_map(a, size, bias, alpha, beta):
    """The same over the positions of a map."""
    _, height, width, _ = a.shape
    reach = size // 2
    rows = []
    for y in range(height):
        positions = []
        for x in range(width):
            window = a[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            positions.append(a[:, y, x] / (bias + alpha * tf.reduce_sum(window**2, axis=(1, 2))) ** beta)
        rows.append(tf.stack(positions, axis=1))
    return tf.stack(rows, axis=1)


LOCAL = {"depth_radius": 2, "bias": 2.0, "alpha": 1e-4, "beta": 0.75}
SAME_MAP = {"size": 5, "bias": 1.0, "alpha": 4e-5, "beta": 0.75}
NORMALIZATIONS = [
    (normalizations.LocalResponseNormalization, LOCAL, local_response_loop, literal_local_response),
    (normalizations.SameMapNormalization, SAME_MAP, same_map_loop, literal_same_map),
]
each_normalization = pytest.mark.parametrize(
    "layer_class, arguments, loop, literal", NORMALIZATIONS, ids=["local", "same_map"]
)


def relative_error(received, expected):
    """Returns the maximum relative error of an element."""
    return np.max(np.abs(np.asarray(received, np.float64) - expected) / np.maximum(np.abs(expected), 1e-30))


def gradient_of(function, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, output_gradients=upstream)


@pytest.mark.parametrize("channels", [1, 7, 48])
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("depth_radius", [0, 1, 2, 3, 9])
def test_local_response_normalization_agrees_with_the_paper(depth_radius, beta, channels):
    a = activities(2, 2, 3, channels, seed=depth_radius).astype(np.float32)
    arguments = {"depth_radius": depth_radius, "bias": 2.0, "alpha": 1e-4, "beta": beta}
    expected = local_response_loop(a.astype(np.float64), **arguments)
    received = normalizations.LocalResponseNormalization(**arguments, jit_compile=False)(a)
    assert relative_error(received, expected) < 1e-6


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_same_map_normalization_agrees_with_its_formula(size, beta):
    a = activities(2, 7, 6, 3, seed=size).astype(np.float32)
    arguments = {"size": size, "bias": 1.0, "alpha": 4e-5, "beta": beta}
    expected = same_map_loop(a.astype(np.float64), **arguments)
    received = normalizations.SameMapNormalization(**arguments, jit_compile=False)(a)
    assert relative_error(received, expected) < 1e-6


def test_defaults_follow_paper_and_original():
    a = activities(1, 6, 6, 9).astype(np.float32)
    local = local_response_loop(a.astype(np.float64), depth_radius=2, bias=2, alpha=1e-4, beta=0.75)
    same_map = same_map_loop(a.astype(np.float64), size=5, bias=1, alpha=0.001 / 25, beta=0.75)
    assert relative_error(normalizations.LocalResponseNormalization()(a), local) < 1e-6
    assert relative_error(normalizations.SameMapNormalization()(a), same_map) < 1e-6


def test_local_response_normalization_agrees_with_tensorflow():
    a = tf.constant(activities(2, 5, 5, 48), tf.float32)
    upstream = tf.constant(activities(2, 5, 5, 48, seed=1, scale=1.0), tf.float32)

    def theirs(x):
        return tf.nn.local_response_normalization(x, depth_radius=2, bias=2, alpha=1e-4, beta=0.75)

    ours = normalizations.LocalResponseNormalization()
    assert relative_error(ours(a), theirs(a).numpy()) < 1e-6
    received, expected = gradient_of(ours, a, upstream), gradient_of(theirs, a, upstream)
    # Relative to the largest element, as single elements are differences of nearly equal terms in both.
    assert np.max(np.abs(received - expected)) < 1e-6 * np.max(np.abs(expected))


def test_input_of_any_rank():
    a = activities(3, 7).astype(np.float32)
    expected = local_response_loop(a.astype(np.float64), **LOCAL)
    assert relative_error(normalizations.LocalResponseNormalization(**LOCAL)(a), expected) < 1e-6


@each_normalization
def test_gradient_agrees_with_finite_differences(layer_class, arguments, loop, literal):
    a = activities(1, 3, 3, 3)
    upstream = activities(1, 3, 3, 3, seed=1, scale=1.0)
    received = gradient_of(layer_class(**arguments), tf.constant(a), tf.constant(upstream)).numpy()
    expected = np.empty_like(a)
    step = 1e-3
    for place in np.ndindex(a.shape):
        up, down = a.copy(), a.copy()
        up[place] += step
        down[place] -= step
        difference = loop(up, **arguments) - loop(down, **arguments)
        expected[place] = np.sum(upstream * difference) / (2 * step)
    # The error of the differences is of the order (step / ACTIVITY) ** 2 = 3e-10.
    assert np.max(np.abs(received - expected)) < 1e-8 * np.max(np.abs(expected))


@each_normalization
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_agrees_with_the_literal_formula(layer_class, arguments, loop, literal, beta, jit_compile):
    arguments = {**arguments, "beta": beta}
    a = tf.constant(activities(2, 6, 5, 7))
    upstream = tf.constant(activities(2, 6, 5, 7, seed=1, scale=1.0))
    expected = gradient_of(lambda x: literal(x, **arguments), a, upstream).numpy()
    layer = layer_class(**arguments, jit_compile=jit_compile)
    in_float64 = gradient_of(layer, a, upstream)
    assert np.max(np.abs(in_float64 - expected)) < 1e-13 * np.max(np.abs(expected))
    in_float32 = gradient_of(layer, tf.cast(a, tf.float32), tf.cast(upstream, tf.float32))
    assert np.max(np.abs(in_float32 - expected)) < 1e-6 * np.max(np.abs(expected))


@each_normalization
@pytest.mark.parametrize("jit_compile", [False, True])
def test_eager_graph_and_xla_agree(layer_class, arguments, loop, literal, jit_compile):
    a = activities(2, 6, 5, 7).astype(np.float32)
    upstream = activities(2, 6, 5, 7, seed=1, scale=1.0).astype(np.float32)
    expected = loop(a.astype(np.float64), **arguments)
    layer = layer_class(**arguments, jit_compile=jit_compile)

    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, x, output_gradients=upstream)

    eager_y, eager_gradient = both(tf.constant(a))
    assert relative_error(eager_y, expected) < 1e-6
    for function in (tf.function(both), tf.function(both, jit_compile=True)):
        y, gradient = function(tf.constant(a))
        assert relative_error(y, expected) < 1e-6
        assert np.max(np.abs(gradient - eager_gradient)) < 1e-6 * np.max(np.abs(eager_gradient))


# Half a unit in the last place, the error of rounding an exact result to the type.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


@each_normalization
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_mixed_precision_sums_in_float32(layer_class, arguments, loop, literal, dtype, jit_compile):
    # Above 256, a square overflows in float16, which would make every output zero.
    a = tf.cast(300 + np.abs(activities(1, 5, 4, 7)), dtype)
    upstream = tf.cast(activities(1, 5, 4, 7, seed=1, scale=1.0), dtype)
    wide, wide_upstream = tf.cast(a, tf.float64), tf.cast(upstream, tf.float64)
    layer = layer_class(**arguments, jit_compile=jit_compile, dtype=f"mixed_{dtype}")

    y = layer(a)
    assert y.dtype == dtype
    expected = loop(wide.numpy(), **arguments)
    assert relative_error(tf.cast(y, tf.float64), expected) < 1.01 * ROUNDING[dtype]

    gradient = gradient_of(layer, a, upstream)
    assert gradient.dtype == dtype
    expected = gradient_of(lambda x: literal(x, **arguments), wide, wide_upstream).numpy()
    error = np.abs(tf.cast(gradient, tf.float64) - expected)
    # The second term: float16 values below 6e-5 are denormal, with a spacing of 6e-8.
    assert np.all(error < 1.01 * ROUNDING[dtype] * np.abs(expected) + 1e-6 * np.max(np.abs(expected)) + 3e-8)


@each_normalization
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_output_dtype_is_the_input_dtype(layer_class, arguments, loop, literal, dtype):
    assert layer_class()(tf.ones([1, 5, 5, 3], dtype)).dtype == dtype
    assert layer_class()(keras.Input([5, 5, 3], dtype=dtype)).dtype == dtype


@each_normalization
@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_batch_and_image_size(layer_class, arguments, loop, literal, jit_compile):
    layer = layer_class(**arguments, jit_compile=jit_compile)
    inputs = keras.Input([None, None, 7])
    model = keras.Model(inputs, layer(inputs))
    assert model.output.shape == (None, None, None, 7)
    function = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 7], tf.float32)])
    for shape in ((1, 3, 4, 7), (2, 6, 5, 7)):
        a = activities(*shape).astype(np.float32)
        expected = loop(a.astype(np.float64), **arguments)
        assert relative_error(function(a), expected) < 1e-6


def test_many_layers_cause_no_retracing_warning(caplog):
    """Six layers that are traced once each are not five retracings."""
    for _ in range(6):
        normalizations.LocalResponseNormalization()(np.ones([1, 2, 2, 3], np.float32))
    assert "retracing" not in caplog.text


def group_loop(a, group_channels, gamma, beta, epsilon=1e-3):
    """Normalizes groups of `together` adjacent maps of each example by their mean and standard deviation."""
    b = np.empty_like(a)
    for n in range(a.shape[0]):
        for first in range(0, a.shape[-1], group_channels):
            group = a[n, ..., first : first + group_channels]
            deviation = np.sqrt(np.mean((group - group.mean()) ** 2) + epsilon)
            b[n, ..., first : first + group_channels] = (group - group.mean()) / deviation
    return gamma * b + beta


def with_random_weights(layer, shape, seed=5):
    """Builds a layer with random weights, and returns it with gamma and beta in float64."""
    layer.build((None, *shape))
    generator = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        variable.assign(generator.uniform(0.5, 2, variable.shape))
    return layer, *(variable.numpy().astype(np.float64) for variable in (layer.gamma, layer.beta))


@pytest.mark.parametrize(
    "make, channels, together",
    [
        (lambda: normalizations.GroupNormalization(2), 6, 2),
        (lambda: normalizations.GroupNormalization(3), 6, 3),
        (lambda: normalizations.GroupNormalization(1), 6, 1),
        (lambda: normalizations.GroupNormalization(), 6, 6),
        (lambda: normalizations.later_normalization("group"), 48, 16),
        (lambda: normalizations.later_normalization("layer"), 48, 48),
    ],
    ids=["2", "3", "1", "all", "later_group", "later_layer"],
)
def test_group_normalization_agrees_with_its_formula(make, channels, together):
    # Every map has another mean, so that the result depends on the grouping.
    a = (activities(2, 5, 4, channels) + 100 * np.arange(channels)).astype(np.float32)
    layer, gamma, beta = with_random_weights(make(), a.shape[1:])
    expected = group_loop(a.astype(np.float64), together, gamma, beta)
    for received in (layer(a), layer(a, training=True), tf.function(layer, jit_compile=True)(a)):
        assert np.abs(received - expected).max() < 1e-5 * np.abs(expected).max()


def test_batch_normalization_uses_moving_averages_in_inference():
    layer, gamma, beta = with_random_weights(normalizations.later_normalization("batch", name="norm1"), (5, 4, 6))
    assert layer.name == "norm1"
    mean, variance = np.zeros(6), np.ones(6)
    for seed in range(3):
        a = (activities(4, 5, 4, 6, seed=seed) + 100 * np.arange(6)).astype(np.float32)
        own_mean, own_variance = a.mean(axis=(0, 1, 2), dtype=np.float64), a.var(axis=(0, 1, 2), dtype=np.float64)
        expected = gamma * (a - own_mean) / np.sqrt(own_variance + 1e-3) + beta
        assert np.abs(layer(a, training=True) - expected).max() < 1e-5 * np.abs(expected).max()
        mean, variance = 0.99 * mean + 0.01 * own_mean, 0.99 * variance + 0.01 * own_variance
    expected = gamma * (a - mean) / np.sqrt(variance + 1e-3) + beta
    assert np.abs(layer(a) - expected).max() < 1e-5 * np.abs(expected).max()


def test_group_size_must_divide_the_channels():
    with pytest.raises(ValueError, match="channels to be a multiple of group_channels=4. Received: 6"):
        normalizations.GroupNormalization(4)(np.ones([1, 2, 2, 6], np.float32))


@each_normalization
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "bool"])
def test_inputs_must_be_floating_point(layer_class, arguments, loop, literal, dtype):
    message = f"Expected floating point inputs for norm; cast them. Received: {dtype}"
    for inputs in (tf.ones([1, 5, 5, 3], dtype), np.ones([1, 5, 5, 3], dtype), keras.Input([5, 5, 3], dtype=dtype)):
        with pytest.raises(ValueError, match=message):
            layer_class(name="norm")(inputs)


def test_numbers_of_numpy_are_accepted():
    layer = normalizations.LocalResponseNormalization(2, bias=np.float32(2), alpha=np.float64(0), beta=np.int64(1))
    assert json.loads(json.dumps(layer.get_config()))["bias"] == 2.0
