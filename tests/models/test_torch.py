"""Compares forward and backward passes of the paper's network with PyTorch in float64 (grouped convolutions, LRN)."""

import keras
import numpy as np
import pytest
import reference_network
import tensorflow as tf

from alexnet_tf.models.alexnet import AlexNet

torch = pytest.importorskip("torch")
functional = torch.nn.functional

CLASSES = 20
LABELS = np.array([3, 11])


def torch_logits(weights, images):
    """Computes logits with PyTorch.

    Args:
      weights: a dictionary from names of Keras layers to kernel and bias in Keras's layout, float64 tensors.
      images: float64 tensor ``[batch, 224, 224, 3]``.
    """

    def both(name):
        """Returns kernel and bias of both towers as one PyTorch layer, with the units of tower a first."""
        kernels, biases = zip(*(weights[f"{name}_{tower}"] for tower in "ab"))
        axes = (3, 2, 0, 1) if kernels[0].dim() == 4 else (1, 0)
        return torch.cat([kernel.permute(axes) for kernel in kernels]), torch.cat(biases)

    def normalize(x):
        # PyTorch divides alpha by the size of the window; each tower normalizes its own maps.
        halves = x.chunk(2, dim=1)
        return torch.cat([functional.local_response_norm(half, 5, alpha=5e-4, beta=0.75, k=2.0) for half in halves], 1)

    x = functional.pad(images.permute(0, 3, 1, 2), (0, 3, 0, 3))
    x = functional.max_pool2d(normalize(functional.conv2d(x, *both("conv1"), stride=4).relu()), 3, 2)
    x = functional.max_pool2d(normalize(functional.conv2d(x, *both("conv2"), padding=2, groups=2).relu()), 3, 2)
    x = functional.conv2d(x, *both("conv3"), padding=1).relu()
    x = functional.conv2d(x, *both("conv4"), padding=1, groups=2).relu()
    x = functional.max_pool2d(functional.conv2d(x, *both("conv5"), padding=1, groups=2).relu(), 3, 2)
    # Our order: rows, columns and maps of tower a, then those of tower b.
    x = torch.cat([half.permute(0, 2, 3, 1).flatten(1) for half in x.chunk(2, dim=1)], 1)
    x = functional.linear(x, *both("fc6")).relu()
    x = functional.linear(x, *both("fc7")).relu()
    kernel, bias = weights["fc8"]
    return functional.linear(x, kernel.T, bias)


@pytest.fixture(scope="module")
def expected():
    """Large weights, images, and the logits and gradients by layer that PyTorch computes."""
    # Only the shapes of this network are needed.
    model = AlexNet(CLASSES, jit_compile=False)
    shapes = {layer.name: tuple(layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel")}
    weights = reference_network.large_weights(shapes, seed=1)
    images = reference_network.random_images(2, seed=2)
    leaves = {
        name: [torch.from_numpy(value).double().requires_grad_() for value in values]
        for name, values in weights.items()
    }
    logits = torch_logits(leaves, torch.from_numpy(images).double())
    # Logits are in the hundreds. They are divided so that no probability is 0 or 1.
    functional.cross_entropy(logits / 100, torch.from_numpy(LABELS)).backward()
    gradients = {name: [leaf.grad.numpy() for leaf in pair] for name, pair in leaves.items()}
    return weights, images, logits.detach().numpy(), gradients


# Tolerances are relative to the largest logit and to the largest entry of each gradient. In float32, rounding may
# decide a ReLU or a maximum the other way, which changes single entries.
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-4)])
def test_logits_and_gradients(expected, dtype, tolerance):
    weights, images, logits, gradients = expected
    model = AlexNet(CLASSES, dropout=0.0, jit_compile=False, dtype=dtype)
    for name, values in weights.items():
        model.get_layer(name).set_weights(values)
    # After fc8, logits are cast to float32.
    network = keras.Model(model.input, model.get_layer("fc8").output)

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, outputs / 100)
            loss = tf.reduce_mean(losses)
        return outputs, tape.gradient(loss, {name: model.get_layer(name).trainable_weights for name in weights})

    received, found = step(tf.constant(images))
    assert np.max(np.abs(received - logits)) < tolerance * np.max(np.abs(logits))
    for name, pair in gradients.items():
        for kind, a, b in zip(("kernel", "bias"), found[name], pair, strict=True):
            error = np.max(np.abs(a - b)) / np.max(np.abs(b))
            assert error < tolerance, (name, kind, error)
