"""Saves and loads every layer, and compares dropout with what the paper describes."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.models import layers
from alexnet_tf.models import normalizations


def activities(*shape, seed=0):
    return 60.0 * np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(
    "layer",
    [
        normalizations.GroupNormalization(5, epsilon=0.01, name="group"),
        normalizations.GroupNormalization(name="one_group"),
        normalizations.later_normalization("batch", name="batch"),
        normalizations.LocalResponseNormalization(3, bias=1.5, alpha=0.01, beta=0.6, jit_compile=False, name="norm"),
        normalizations.SameMapNormalization(3, bias=1.5, alpha=0.01, beta=0.6, jit_compile=False, name="samemap"),
        layers.Dropout(0.25, seed=7, name="drop"),
    ],
    ids=lambda layer: layer.name,
)
def test_config_round_trip(layer):
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    a = activities(1, 4, 4, 5).astype(np.float32)
    np.testing.assert_array_equal(copy(a), layer(a))


def test_saved_model_loads_with_the_same_outputs(tmp_path):
    model = keras.Sequential(
        [
            keras.Input([6, 6, 7]),
            normalizations.LocalResponseNormalization(1, alpha=0.01),
            normalizations.SameMapNormalization(3, alpha=0.01),
            layers.Dropout(0.3, seed=1),
        ]
    )
    a = activities(2, 6, 6, 7).astype(np.float32)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(a), model(a))
    np.testing.assert_array_equal(loaded(a, training=True), model(a, training=True))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: normalizations.LocalResponseNormalization(-1), "int of at least 0. Received: depth_radius=-1"),
        (lambda: normalizations.LocalResponseNormalization(2.5), "int of at least 0. Received: depth_radius=2.5"),
        (lambda: normalizations.LocalResponseNormalization(bias=0), "bias > 0.*Received: bias=0,"),
        (lambda: normalizations.LocalResponseNormalization(alpha=-1e-4), "alpha >= 0.*alpha=-0.0001"),
        (lambda: normalizations.LocalResponseNormalization(beta=float("nan")), "beta > 0.*beta=nan"),
        (lambda: normalizations.LocalResponseNormalization(True), "int of at least 0. Received: depth_radius=True"),
        (lambda: normalizations.LocalResponseNormalization("2"), "int of at least 0. Received: depth_radius='2'"),
        (lambda: normalizations.LocalResponseNormalization(bias=float("inf")), "finite numbers bias > 0.*bias=inf"),
        (lambda: normalizations.LocalResponseNormalization(bias=10**400), "finite numbers bias > 0.*bias=10000"),
        (lambda: normalizations.LocalResponseNormalization(bias=True), "finite numbers bias > 0.*bias=True"),
        (lambda: normalizations.LocalResponseNormalization(bias="2"), "finite numbers bias > 0.*bias='2'"),
        (lambda: normalizations.LocalResponseNormalization(alpha=np.inf), "finite numbers.*alpha=inf"),
        (lambda: normalizations.LocalResponseNormalization(alpha=np.True_), "finite numbers.*alpha=.*True"),
        (lambda: normalizations.LocalResponseNormalization(beta=None), "finite numbers.*beta=None"),
        (lambda: normalizations.SameMapNormalization(True), "odd int of at least 1. Received: size=True"),
        (lambda: normalizations.SameMapNormalization(alpha=np.nan), "finite numbers.*alpha=nan"),
        (lambda: normalizations.GroupNormalization(True), "int of at least 1, or None. Received: group_channels=True"),
        (lambda: normalizations.GroupNormalization(2.0), "int of at least 1, or None. Received: group_channels=2.0"),
        (lambda: layers.Dropout(False), r"\[0, 1\). Received: rate=False"),
        (lambda: layers.Dropout("0.5"), r"\[0, 1\). Received: rate='0.5'"),
        (lambda: layers.Dropout(float("nan")), r"\[0, 1\). Received: rate=nan"),
        (lambda: normalizations.SameMapNormalization(4), "odd int of at least 1. Received: size=4"),
        (lambda: normalizations.SameMapNormalization(0), "odd int of at least 1. Received: size=0"),
        (lambda: normalizations.SameMapNormalization(5.0), "odd int of at least 1. Received: size=5.0"),
        (lambda: normalizations.SameMapNormalization(bias=-1), "bias > 0.*Received: bias=-1,"),
        (lambda: layers.Dropout(1.0), r"\[0, 1\). Received: rate=1.0"),
        (lambda: layers.Dropout(-0.1), r"\[0, 1\). Received: rate=-0.1"),
    ],
)
def test_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_dropout_drops_the_rate_in_training_without_scaling(rate):
    a = 1 + np.abs(activities(100, 1000)).astype(np.float32)
    dropped = layers.Dropout(rate, seed=1)(a, training=True).numpy()
    kept = dropped != 0
    np.testing.assert_array_equal(dropped[kept], a[kept])
    # Five standard errors of a proportion, also by unit and by example, so that none share random numbers.
    for axis, count in ((None, kept.size), (0, kept.shape[0]), (1, kept.shape[1])):
        assert np.all(np.abs(np.mean(kept, axis) - (1 - rate)) <= 5 * np.sqrt(rate * (1 - rate) / count))


def test_dropout_scales_in_inference():
    a = activities(2, 10).astype(np.float32)
    layer = layers.Dropout(0.25, seed=1)
    np.testing.assert_array_equal(layer(a), np.float32(0.75) * a)
    np.testing.assert_array_equal(layer(a, training=False), np.float32(0.75) * a)


def test_dropout_gradient_passes_where_outputs_are_kept():
    a = tf.constant(1 + np.abs(activities(5, 50)), tf.float32)
    upstream = tf.constant(activities(5, 50, seed=1), tf.float32)
    layer = layers.Dropout(0.5, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(a)
        y = layer(a, training=True)
    gradient = tape.gradient(y, a, output_gradients=upstream)
    np.testing.assert_array_equal(gradient, np.where(y.numpy() != 0, upstream, 0))


def test_dropout_depends_on_the_seed_and_the_number_of_calls():
    a = np.ones([4, 100], np.float32)
    first, second, other = layers.Dropout(seed=1), layers.Dropout(seed=1), layers.Dropout(seed=2)
    compiled = tf.function(lambda x: second(x, training=True))
    draws = [first(a, training=True).numpy() for _ in range(3)]
    assert not np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[1], draws[2])
    for draw in draws:
        np.testing.assert_array_equal(compiled(a), draw)
    assert not np.array_equal(other(a, training=True), draws[0])


def test_dropout_without_a_seed_is_random():
    a = np.ones([4, 100], np.float32)
    assert not np.array_equal(layers.Dropout()(a, training=True), layers.Dropout()(a, training=True))


def test_dropout_uses_no_random_numbers_in_inference():
    a = np.ones([4, 100], np.float32)
    first, second = layers.Dropout(seed=1), layers.Dropout(seed=1)
    first(a)
    np.testing.assert_array_equal(first(a, training=True), second(a, training=True))


def test_dropout_restored_from_a_checkpoint_continues_its_random_numbers(tmp_path):
    a = np.ones([4, 100], np.float32)

    def network(seed):
        return keras.Sequential([keras.Input([100]), layers.Dropout(seed=seed)])

    model = network(seed=1)
    model(a, training=True)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    expected = [model(a, training=True).numpy() for _ in range(2)]

    restored = network(seed=2)
    tf.train.Checkpoint(model=restored).read(path).assert_consumed()
    for draw in expected:
        np.testing.assert_array_equal(restored(a, training=True), draw)


def test_dropout_state_is_not_a_weight():
    layer = layers.Dropout()
    layer(np.ones([1, 2], np.float32), training=True)
    assert layer.count_params() == 0
    (state,) = layer.variables
    assert state.path == f"{layer.name}/seed_generator/seed_generator_state"


def test_dropout_compiles_with_xla():
    a = np.ones([4, 1000], np.float32)
    layer = layers.Dropout(seed=1)
    function = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    # XLA generates other random numbers than the other modes.
    first, second = function(a).numpy(), function(a).numpy()
    assert set(np.unique(first)) == {0.0, 1.0}
    for agreement in (np.mean(first), np.mean(second), np.mean(first == second)):
        assert abs(agreement - 0.5) < 5 * np.sqrt(0.25 / a.size)
