"""Maps of values drawn over the images that they belong to."""

import numpy as np

# Colors of the values 0, 1/3, 2/3 and 1, from dark to bright, so that their order is visible without hue.
_COLORS = np.array([[34, 24, 96], [164, 40, 118], [242, 122, 56], [255, 240, 130]], np.float64)
_OPACITY = 0.7
# Smallest side of an image in pixels, and white pixels between two.
_MIN_SIDE, _GAP = 224, 8


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Draws a map over an image.

    Args:
      image: uint8 ``[height, width, 3]``.
      values: float ``[height, width]``. Values of 0 and below leave the image in gray and dark; the largest has the
        brightest color.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    values = np.maximum(np.asarray(values, np.float64), 0)
    shares = (values / max(values.max(), 1e-30))[..., None]
    places = np.linspace(0, 1, len(_COLORS))
    colors = np.concatenate([np.interp(shares, places, channel) for channel in _COLORS.T], axis=-1)
    # Gray levels by the luminance of ITU-R BT.601.
    gray = np.asarray(image, np.float64) @ [[0.299] * 3, [0.587] * 3, [0.114] * 3]
    opacity = _OPACITY * (0.5 + 0.5 * shares)
    return np.round((1 - opacity) * gray + opacity * colors).astype(np.uint8)


def side_by_side(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns an image next to itself with a map over it.

    Args:
      image, values: as in `overlay`.

    Returns:
      uint8 ``[height, width, 3]``; each pixel of a small image is a square of several.
    """
    factor = -(-_MIN_SIDE // image.shape[0])
    enlarge = lambda pixels: pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    left, right = enlarge(image), enlarge(overlay(image, values))
    return np.concatenate([left, np.full([left.shape[0], _GAP, 3], 255, np.uint8), right], axis=1)
