"""Compares the outputs of an exported network with those of the original."""

import numpy as np


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the maximum absolute difference, divided by the standard deviation of the expected values."""
    return float(np.abs(found - expected).max() / (expected.std() or 1.0))


def check(what: str, difference: float, limit: float) -> None:
    """Raises an error if outputs differ by more than rounding.

    Raises:
      ValueError: if `difference` is above `limit`, or NaN.
    """
    if not difference <= limit:
        raise ValueError(
            f"Expected {what} to differ from the network's by at most {limit:g}. Received: {difference:.1e}; nothing "
            "was written"
        )
