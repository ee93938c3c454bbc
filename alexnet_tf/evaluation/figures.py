"""Pictures of a network."""

import numpy as np
import tensorflow as tf

from alexnet_tf import files


def kernels(weights, *, columns=16, scale=8, gap=1):
    """The kernels of a first layer side by side, as in the paper's Figure 3.

    Each kernel is stretched to the whole range of grey levels on its own: its three colours together, with zero at
    middle grey.

    Args:
      weights: list of float ``[height, width, 3, kernels]``, one for each tower; a tower begins a new row.
      columns: int, kernels a row.
      scale: int, pixels of the picture for one of a kernel.
      gap: int, pixels of a kernel's size between two, white.

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
    picture = np.pad(np.concatenate(rows, axis=0), [[0, gap], [0, gap], [0, 0]], constant_values=1)
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.round(255 * picture).astype(np.uint8)


def save_png(picture, path):
    """Writes a uint8 ``[height, width, 3]`` picture, aside first, so that `path` is whole or not there."""
    with files.whole(path, "wb") as file:
        file.write(tf.io.encode_png(picture).numpy())
