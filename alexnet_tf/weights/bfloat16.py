"""Numbers of the type bfloat16, which NumPy does not have: they are the upper halves of float32's."""

from collections.abc import Callable

import numpy as np

_CHUNK = 1 << 20


def read(size: int, order: str, read_into: Callable[[memoryview], None]) -> np.ndarray:
    """Reads bfloat16 numbers as float32 of the same values, without other memory than theirs.

    Args:
      size: how many there are.
      order: of their bytes, "<" or ">".
      read_into: fills memory with their bytes.

    Returns:
      A float32 array of one axis.
    """
    found = np.empty(size, np.uint32)
    # Read into the end of the same memory, and widened from its beginning.
    halves = found.view(order + "u2")[size:]
    read_into(memoryview(halves.view(np.uint8)))
    for start in range(0, size, _CHUNK):
        found[start : start + _CHUNK] = halves[start : start + _CHUNK].astype(np.uint32) << 16
    return found.view(np.float32)
