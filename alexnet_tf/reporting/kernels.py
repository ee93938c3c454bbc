"""The kernels of a first layer as an image (paper Figure 3), and how colored they are."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.utils import files


def tile(weights: Sequence[np.ndarray], *, columns: int = 16, scale: int = 8, gap: int = 1) -> np.ndarray:
    """Arranges the kernels of a first layer in an image, as in the paper's Figure 3.

    Each kernel is scaled to the full range of values separately, its three colors together, with zero at middle gray.

    Args:
      weights: list of float ``[height, width, 3, kernels]``, one for each tower; a tower starts a new row.
      columns: int, kernels per row.
      scale: int, pixels of the image per pixel of a kernel, in both directions.
      gap: int, width of the white gaps between kernels, in pixels of a kernel.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    rows = []
    for tower in weights:
        tower = np.asarray(tower, np.float64)
        largest = np.maximum(np.abs(tower).max(axis=(0, 1, 2)), 1e-30)
        tiles = np.moveaxis(0.5 + 0.5 * tower / largest, -1, 0)
        tiles = np.pad(tiles, [[0, 0], [gap, 0], [gap, 0], [0, 0]], constant_values=1)
        blanks = -len(tiles) % columns
        tiles = np.concatenate([tiles, np.ones([blanks, *tiles.shape[1:]])])
        for first in range(0, len(tiles), columns):
            rows.append(np.concatenate(list(tiles[first : first + columns]), axis=1))
    image = np.pad(np.concatenate(rows, axis=0), [[0, gap], [0, gap], [0, 0]], constant_values=1)
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.round(255 * image).astype(np.uint8)


def as_images(weights: np.ndarray, size: int) -> np.ndarray:
    """Returns the weights of a layer that reads images as kernels.

    Args:
      weights: float ``[height, width, 3, kernels]`` of a convolution; or ``[size * size * 3, units]`` of a fully
        connected layer, whose kernels are as large as the images.
      size: side of the images.

    Returns:
      float ``[height, width, 3, kernels]``.
    """
    return weights if weights.ndim == 4 else weights.reshape(size, size, 3, -1)


def save_png(image: np.ndarray, path: str | os.PathLike) -> None:
    """Writes a uint8 ``[height, width, 3]`` image as PNG, atomically."""
    with files.atomic_write(path, "wb") as file:
        file.write(tf.io.encode_png(image).numpy())


def color_share(weights: np.ndarray) -> float:
    """Computes how colored kernels are (paper section 6.1: one device's were gray, the other's colored).

    Args:
      weights: float ``[height, width, 3, kernels]``.

    Returns:
      Float in [0, 1], the share of the squared weights that remains after subtracting each position's mean over the
      three colors: 0 for gray kernels, 2 / 3 for independent weights, as before training.
    """
    weights = np.asarray(weights, np.float64)
    colors = weights - weights.mean(axis=2, keepdims=True)
    return float(np.square(colors).sum() / max(np.square(weights).sum(), 1e-30))
