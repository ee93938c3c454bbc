"""Computes what the operations of a weight file say, in float64 and as the definitions are written."""

import numpy as np


def _windows(images, size, strides):
    windows = np.lib.stride_tricks.sliding_window_view(images, size, axis=(2, 3))
    return windows[:, :, :: strides[0], :: strides[1]]


def _padded(images, padding, value):
    top, left, bottom, right = padding
    return np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _convolution(images, attributes, kernel, bias):
    images = _padded(images, attributes["padding"], 0)
    groups = attributes["groups"]
    parts = []
    for part, own in zip(np.split(images, groups, 1), np.split(kernel, groups, 0)):
        windows = _windows(part, own.shape[2:], attributes["strides"])
        parts.append(np.einsum("nchwij,ocij->nohw", windows, own, optimize=True))
    return np.concatenate(parts, 1) + bias.reshape(1, -1, 1, 1)


def _lrn(images, attributes):
    half = attributes["size"] // 2
    squares = np.pad(images**2, ((0, 0), (half, half), (0, 0), (0, 0)))
    sums = sum(squares[:, start : start + images.shape[1]] for start in range(2 * half + 1))
    return images * (attributes["bias"] + attributes["alpha"] * sums) ** -attributes["beta"]


def run(found, images):
    """Returns what the operations compute for images ``[n, channels, height, width]``; those of no effect are skipped.

    Args:
      found: a `contents.Contents` with kernels ``[out, in, height, width]``.
      images: of float64.
    """
    values = images
    for operation in found.operations:
        attributes = operation.attributes
        parameters = [np.float64(found.arrays[name]) for name in operation.parameters]
        if operation.kind == "convolution":
            values = _convolution(values, attributes, *parameters)
        elif operation.kind == "dense":
            kernel = parameters[0].reshape(parameters[0].shape[-2:])
            kernel = kernel.T if attributes.get("transposed", True) else kernel
            values = values.reshape(len(values), -1) @ kernel + parameters[1].ravel()
        elif operation.kind == "relu":
            values = np.maximum(values, 0)
        elif operation.kind == "lrn":
            values = _lrn(values, attributes)
        elif operation.kind == "max_pool":
            padded = _padded(values, attributes["padding"], -np.inf)
            values = _windows(padded, attributes["kernel_size"], attributes["strides"]).max((4, 5))
        elif operation.kind == "softmax":
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        else:
            assert operation.kind in ("dropout", "Reshape", "Flatten", "flatten"), operation
    return values
