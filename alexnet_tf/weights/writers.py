"""Writes named arrays to files that other programs read."""

import os
from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from alexnet_tf.utils import files


def write_safetensors(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors file, atomically.

    Args:
      path: of the file.
      arrays: by name.
      metadata: stored in the file's header.

    Raises:
      OSError: if the file cannot be written.
    """
    # The library writes the memory of an array as it is.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with files.atomic_write(path, "wb") as file:
        file.write(safetensors.numpy.save(contiguous, dict(metadata)))


def read_back_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of `write_safetensors`."""
    return safetensors.numpy.load_file(path)


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes an .npz file, atomically; arguments and errors as of `write_safetensors`.

    The format has no place for metadata, which are not written.
    """
    with files.atomic_write(path, "wb") as file:
        np.savez(file, **arrays)


def read_back_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of `write_npz`."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
