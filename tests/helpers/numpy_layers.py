"""Layers of convolutional networks in float64 NumPy, written from their definitions; slow, and without our code."""

import numpy as np


def convolution(x, kernel, bias=0.0, *, stride=1, pad=0):
    """Convolution with `pad` zeros around the maps; the kernel is ``[height, width, in, out]``."""
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    size = kernel.shape[0]
    side = (x.shape[1] - size) // stride + 1
    result = np.zeros([len(x), side, side, kernel.shape[-1]]) + bias
    for row in range(size):
        for column in range(size):
            ends = row + stride * (side - 1) + 1, column + stride * (side - 1) + 1
            result += x[:, row : ends[0] : stride, column : ends[1] : stride] @ kernel[row, column]
    return result


def max_pooling(x, window, stride, *, before=0, after=0):
    """Max pooling; positions outside the maps, `before` at the top and left and `after` them, do not count."""
    edges = (before, after)
    x = np.pad(x, [(0, 0), edges, edges, (0, 0)], constant_values=-np.inf)
    side = (x.shape[1] - window) // stride + 1
    shifts = [(row, column) for row in range(window) for column in range(window)]
    last = stride * (side - 1) + 1
    return np.max([x[:, row : row + last : stride, column : column + last : stride] for row, column in shifts], axis=0)


def batch_normalization(x, gamma, beta, mean, variance, epsilon=1e-5):
    """Batch normalization by the moving statistics."""
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def response_normalization(x):
    """AlexNet's: k = 2, n = 5, alpha = 1e-4, beta = 0.75."""
    channels = x.shape[-1]
    result = np.empty_like(x)
    for channel in range(channels):
        window = x[..., max(0, channel - 2) : channel + 3]
        result[..., channel] = x[..., channel] / (2 + 1e-4 * (window**2).sum(axis=-1)) ** 0.75
    return result


def relu(x):
    return np.maximum(x, 0)


def large_weights(model, seed=1):
    """Assigns weights with which every layer affects the logits, and returns them by path in float64."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        value = generator.standard_normal(variable.shape)
        if variable.path.endswith("kernel"):
            value *= np.sqrt(2 / np.prod(variable.shape[:-1]))
        elif variable.path.endswith(("variance", "gamma")):
            value = 0.5 + np.abs(value)
        if "seed_generator" not in variable.path:
            variable.assign(value.astype(np.float32))
    return {variable.path: variable.numpy().astype(np.float64) for variable in model.weights}
