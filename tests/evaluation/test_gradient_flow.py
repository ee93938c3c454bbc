"""Norms of gradients by layer, against a computation by hand."""

import keras
import numpy as np

from alexnet_tf.evaluation import gradient_flow
from alexnet_tf.models import mlp

LABELS = np.array([0, 2, 1])


def images(side):
    return np.random.default_rng(1).uniform(-1, 1, [3, side, side, 3]).astype(np.float32)


def test_norms_equal_the_chain_rule():
    model = mlp.MLP(1, 3, units=4, activation="tanh", image_size=8, seed=1)
    found = gradient_flow.kernel_gradients(model, images(8), LABELS)
    x = images(8).reshape(3, -1).astype(np.float64)
    first, second = (model.get_layer(name).kernel.numpy().astype(np.float64) for name in ("fc1", "fc2"))
    hidden = np.tanh(x @ first)
    exponentials = np.exp(hidden @ second)
    errors = (exponentials / exponentials.sum(axis=1, keepdims=True) - np.eye(3)[LABELS]) / 3
    of_first = x.T @ (errors @ second.T * (1 - hidden**2))
    assert list(found) == ["fc1", "fc2"]
    np.testing.assert_allclose(
        list(found.values()), [np.linalg.norm(of_first), np.linalg.norm(hidden.T @ errors)], 1e-4
    )


def test_both_towers_of_a_layer_have_one_norm():
    x = keras.Input([4, 4, 3])
    towers = [keras.layers.Conv2D(2, 3, name=f"conv1_{tower}") for tower in "ab"]
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(tower(x)) for tower in towers])
    model = keras.Model(x, keras.layers.Dense(3, name="fc")(joined))
    both = gradient_flow.kernel_gradients(model, images(4), LABELS)
    assert list(both) == ["conv1", "fc"]
    # Without the other tower's name, each has its own.
    towers[1].name = "other"
    each = gradient_flow.kernel_gradients(keras.Model(x, model.output), images(4), LABELS)
    assert list(each) == ["conv1_a", "other", "fc"]
    np.testing.assert_allclose(both["conv1"], np.hypot(each["conv1_a"], each["other"]), 1e-5)


def test_a_vanished_gradient_is_not_zero():
    model = mlp.MLP(1, 3, units=4, image_size=8, seed=1)
    last = model.get_layer("fc2").kernel
    last.assign(1e-25 * last)
    # Its square would be 0 in float32.
    assert 0 < gradient_flow.kernel_gradients(model, images(8), LABELS)["fc1"] < 1e-20
