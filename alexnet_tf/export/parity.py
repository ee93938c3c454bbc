"""Compares the outputs of an exported network with those of the original."""

import numpy as np

# Limits of `relative_difference` by the type of the weights. Rounding of float32 alone makes about 1e-6.
LIMITS = {"float32": 1e-4, "float16": 0.05}


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the maximum absolute difference, divided by the standard deviation of the expected values."""
    return float(np.abs(found - expected).max() / (expected.std() or 1.0))


def check(what: str, found: np.ndarray | None, expected: np.ndarray, weights_dtype: str = "float32") -> str:
    """Checks that outputs differ by rounding only.

    Args:
      what: the program that computed them, such as "onnxruntime".
      found: its logits; None if it is not installed.
      expected: the network's.
      weights_dtype: a key of `LIMITS`.

    Returns:
      The result in words.

    Raises:
      ValueError: if they differ by more than the limit.
    """
    if found is None:
        return f"not checked (pip install {what})"
    difference, limit = relative_difference(found, expected), LIMITS[weights_dtype]
    # A comparison with NaN is false.
    if not difference <= limit:
        raise ValueError(
            f"Expected {what}'s logits to differ from the network's by at most {limit:g} of their standard deviation. "
            f"Received: {difference:.1e}; nothing was written"
        )
    return (
        f"{what}'s logits for {len(expected)} random images differ from the network's by at most {difference:.1e} of "
        "their standard deviation"
    )
