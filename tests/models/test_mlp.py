"""The multilayer perceptron against NumPy, and activation functions of the networks that have a choice."""

import keras
import numpy as np
import numpy_layers
import pytest
import symbolic_networks

from alexnet_tf.models import mlp
from alexnet_tf.models import registry

# Keras and NumPy 2 cause it whenever a variable is saved.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FUNCTIONS = {
    "relu": numpy_layers.relu,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("hidden_layers", [1, 3])
def test_logits_equal_products_in_numpy(activation, hidden_layers):
    network = mlp.MLP(hidden_layers, 4, units=5, width=1.6, activation=activation, image_size=8)
    weights = numpy_layers.large_weights(network)
    images = np.random.default_rng(0).uniform(-1, 1, [3, 8, 8, 3]).astype(np.float32)
    x = images.reshape(3, -1).astype(np.float64)
    for number in range(1, hidden_layers + 1):
        assert weights[f"fc{number}/kernel"].shape == (x.shape[1], 8)
        x = FUNCTIONS[activation](x @ weights[f"fc{number}/kernel"] + weights[f"fc{number}/bias"])
    expected = x @ weights[f"fc{hidden_layers + 1}/kernel"] + weights[f"fc{hidden_layers + 1}/bias"]
    np.testing.assert_allclose(network(images), expected, rtol=1e-5, atol=1e-5)


def test_default_has_almost_as_many_parameters_as_the_26_percent_net_and_ten_times_as_many_when_wide():
    count = symbolic_networks.build(mlp.MLP).count_params()
    assert count == registry.find("cifar10_mlp").parameters
    assert abs(count / registry.find("cifar10_26").parameters - 1) < 0.01
    assert symbolic_networks.build(mlp.MLP, width=10).count_params() / count == pytest.approx(10, rel=0.01)


def test_network_loads_as_it_was_saved(tmp_path):
    network = mlp.MLP(2, 3, units=4, image_size=8, seed=3, dtype="mixed_bfloat16")
    path = str(tmp_path / "network.keras")
    network.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.get_config() == network.get_config() and loaded.output.dtype == "float32"
    images = np.ones([2, 8, 8, 3], np.float32)
    np.testing.assert_array_equal(loaded(images), network(images))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden_layers": 0}, "Expected hidden_layers and units to be ints of at least 1. Received: .*=0, units=47"),
        ({"units": 1.5}, "Expected hidden_layers and units to be ints of at least 1. Received: .*=1, units=1.5"),
        ({"activation": "swish"}, "Expected activation to be one of relu, tanh, sigmoid. Received: 'swish'"),
        ({"image_size": 30}, "Expected image_size to be a multiple of 8 from 8 to 256. Received: image_size=30"),
    ],
)
def test_arguments_outside_their_range(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        mlp.MLP(**options)


@pytest.mark.parametrize("name", registry.networks_with("activation"))
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_activation_is_that_of_all_layers_but_the_last(name, activation):
    network = registry.find(name)
    size = {"image_size": min(network.crop_sizes), "jit_compile": False}
    model = symbolic_networks.build(registry.load_class(network), activation=activation, **size, **network.arguments)
    kinds = [layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")]
    assert "relu" not in kinds and kinds[-1] == "linear" and set(kinds) == {activation, "linear"}
    # Convolutions and fully connected layers have a function of their own, or a layer after them.
    assert kinds.count(activation) >= network.depth - 1
