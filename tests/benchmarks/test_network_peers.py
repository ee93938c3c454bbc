"""The networks of others compute the same function as ours."""

import importlib.util

import numpy as np
import pytest
import reference_network

import alexnet_tf
from alexnet_tf.benchmarks import hardware
from alexnet_tf.benchmarks import network_peers


def join_towers(weights):
    """Returns our weights for Keras's grouped network: a list of kernels and biases."""

    def both(number):
        kernels, biases = zip(*[weights[f"{number}_{tower}"] for tower in "ab"])
        return np.concatenate(kernels, axis=-1), np.concatenate(biases)

    found = [*both("conv1"), *both("conv2"), *both("conv3"), *both("conv4"), *both("conv5")]
    kernel, bias = both("fc6")
    # Ours are flattened tower by tower, theirs position by position.
    kernel = kernel.reshape([2, 36, 128, 4096]).transpose(1, 0, 2, 3).reshape([9216, 4096])
    found += [kernel, bias]
    # Ours halves the outputs of fc6 and fc7 in evaluation, theirs doubles them in training.
    for kernel, bias in (both("fc7"), weights["fc8"]):
        found += [kernel / 2, bias]
    return found


@pytest.fixture(scope="module")
def keras_peer():
    return network_peers.keras_alexnet()


def test_keras_peer_is_the_same_network(keras_peer):
    assert keras_peer.count_params() == 60_965_224
    ours = alexnet_tf.AlexNet(seed=0)
    weights = {
        layer.name: [value.numpy() for value in layer.weights] for layer in ours.layers if "kernel" in dir(layer)
    }
    keras_peer.set_weights(join_towers(weights))
    # Small values: at the border of the groups, their normalization reads channels that ours does not.
    images = reference_network.random_images(2, seed=1) / 60
    expected = ours(images, training=False).numpy()
    np.testing.assert_allclose(
        keras_peer(images, training=False), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_arithmetic_of_a_step_is_counted(keras_peer):
    """Each weight is used once per position forward, and twice backward except for the gradient of the images."""
    layers = [layer for layer in keras_peer.layers if hasattr(layer, "kernel")]
    flops = [2 * np.prod(layer.output.shape[1:-1], initial=1) * np.prod(layer.kernel.shape) for layer in layers]
    assert (3 * sum(flops) - flops[0]) / 1e9 == pytest.approx(hardware.GFLOP_PER_IMAGE, abs=5e-5)


def test_expert_keras_peer_is_the_same_network(keras_peer):
    expert = network_peers.expert_keras_alexnet()
    weights = []
    for index, (kernel, bias) in enumerate(zip(*[iter(keras_peer.get_weights())] * 2)):
        # conv2, conv4 and conv5 have two groups.
        for part in zip(*(np.split(each, 2 if index in (1, 3, 4) else 1, axis=-1) for each in (kernel, bias))):
            weights += part
    expert.set_weights(weights)
    images = reference_network.random_images(2, seed=1) / 60
    expected = keras_peer(images, training=False).numpy()
    np.testing.assert_allclose(expert(images, training=False), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_torch_peer_is_the_same_network_as_the_keras_peer(keras_peer):
    import torch

    from alexnet_tf.benchmarks import torch_alexnet

    model = torch_alexnet.build().eval()
    parameters = list(model.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 60_965_224
    shapes = {str(index): kernel.shape for index, kernel in enumerate(keras_peer.get_weights()[::2])}
    # Activations that are large enough for normalization to matter.
    weights = reference_network.large_weights(shapes, seed=2)
    keras_peer.set_weights([value for pair in weights.values() for value in pair])
    for index, (kernel, bias) in enumerate(weights.values()):
        if index == 5:
            kernel = kernel.reshape([6, 6, 256, 4096]).transpose(2, 0, 1, 3).reshape([9216, 4096])
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        for parameter, value in zip(parameters[2 * index :], (kernel, bias)):
            parameter.data.copy_(torch.from_numpy(value.copy()))
    images = reference_network.random_images(1, seed=3)
    with torch.inference_mode():
        found = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    expected = keras_peer(images, training=False).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
