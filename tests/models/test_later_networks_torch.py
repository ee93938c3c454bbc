"""Compares VGG, ResNet and GoogLeNet, forward and backward, with torch modules of the same weights in float64."""

import keras
import numpy as np
import numpy_layers
import pytest
import tensorflow as tf

from alexnet_tf.models import registry

torch = pytest.importorskip("torch")

from alexnet_tf.benchmarks import torch_networks  # noqa: E402

LABELS = np.array([3, 0])
# Our dropout scales in inference, and so the kernels after it are scaled in torch.
AFTER_DROPOUT = {"vgg": {"fc7": 0.5, "fc8": 0.5}, "googlenet": {"fc": 0.6}}


def copied(name, layer, weights, factor):
    """Copies the weights of one of our layers to torch; returns torch's parameters by our paths."""
    if isinstance(layer, torch.nn.BatchNorm2d):
        layer.running_mean.copy_(torch.from_numpy(weights[f"{name}/moving_mean"]))
        layer.running_var.copy_(torch.from_numpy(weights[f"{name}/moving_variance"]))
        pairs = {"gamma": layer.weight, "beta": layer.bias}
        values = {each: weights[f"{name}/{each}"] for each in pairs}
    else:
        kernel = factor * weights[f"{name}/kernel"]
        pairs = {"kernel": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})
        values = {"kernel": kernel.transpose((3, 2, 0, 1) if kernel.ndim == 4 else (1, 0))}
        values |= {"bias": weights[f"{name}/bias"]} if "bias" in pairs else {}
    with torch.no_grad():
        for each, parameter in pairs.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values[each])))
    return {f"{name}/{each}": parameter for each, parameter in pairs.items()}


def gradient_of(parameter, path, factor):
    """Returns torch's gradient in our layout."""
    gradient = parameter.grad.numpy()
    if path.endswith("kernel"):
        return factor * gradient.transpose((2, 3, 1, 0) if gradient.ndim == 4 else (1, 0))
    return gradient


@pytest.mark.parametrize(
    "name, is_training",
    [
        pytest.param("vgg_a", False, marks=pytest.mark.slow),
        ("vgg_a_lrn", False),
        pytest.param("vgg_d", False, marks=pytest.mark.slow),
        pytest.param("plain_18", True, marks=pytest.mark.slow),
        pytest.param("resnet_18", False, marks=pytest.mark.slow),
        ("resnet_18", True),
        ("resnet_50", True),
        pytest.param("cifar10_resnet_20", True, marks=pytest.mark.slow),
        ("googlenet", False),
    ],
)
def test_logits_and_gradients(name, is_training):
    row, width, side = registry.find(name), 1 / 16, 64
    arguments = {"image_size": side, "width": width, "dtype": "float64", "jit_compile": False}
    ours = registry.load_class(row)(num_classes=7, **arguments, **row.arguments)
    weights = numpy_layers.large_weights(ours)
    theirs = torch_networks.build(name, 7, side, width=width).double().train(is_training)
    factors = next((each for kind, each in AFTER_DROPOUT.items() if name.startswith(kind)), {})
    parameters = {}
    for layer_name, layer in theirs.layers.items():
        parameters |= copied(layer_name, layer, weights, factors.get(layer_name, 1.0))
    assert parameters.keys() == {variable.path for variable in ours.trainable_variables}
    # Our images are float32.
    images = np.random.default_rng(0).uniform(-1, 1, [2, side, side, 3]).astype(np.float32).astype(np.float64)
    expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    torch.nn.functional.cross_entropy(expected, torch.from_numpy(LABELS)).backward()
    # After the last layer, logits are cast to float32.
    last = next(layer for layer in reversed(ours.layers) if isinstance(layer, keras.layers.Dense))
    network = keras.Model(ours.input, last.output)
    variables = {variable.path: variable.value for variable in ours.trainable_variables}
    with tf.GradientTape() as tape:
        received = network(tf.constant(images), training=is_training)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, received))
    found = tape.gradient(loss, variables)
    scale = expected.abs().max().item()
    assert np.abs(received - expected.detach().numpy()).max() < 1e-9 * scale
    largest = max(np.abs(each).max() for each in found.values())
    passed = 0
    for path, parameter in parameters.items():
        by_torch = gradient_of(parameter, path, factors.get(path.split("/")[0], 1.0))
        size = np.abs(by_torch).max()
        assert np.abs(found[path] - by_torch).max() < 1e-9 * max(size, 1e-6 * largest), path
        passed += size > 0
    # With few kernels, a ReLU of GoogLeNet may pass nothing.
    assert passed > 0.9 * len(parameters)
