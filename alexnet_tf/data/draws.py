"""Which image comes when, and what is drawn for it: functions of seed, epoch and position alone.

A counter-based generator (Philox: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) is asked for the
numbers of just the positions that are wanted. So a run that is resumed replays nothing, and several workers, each
with its own part of a batch, draw what one would have drawn.
"""

import functools
from typing import NamedTuple

import numpy as np

# Streams of random numbers that must not meet.
ORDER, GEOMETRY, NOISE, SHARDS = range(4)

FLIPS = {"none": (False, False), "horizontal": (False, True), "both": (True, True)}


class Draws(NamedTuple):
    """What happens to some images in a row."""

    offsets: np.ndarray  # int32 [images, 2], row and column of the crop's first pixel
    flips: np.ndarray  # bool [images, 2], upside down, left to right
    noise: np.ndarray  # float32 [images, 3], standard normal


def _numbers(seed, stream, epoch, first, count):
    """Four random numbers, uint64, for each of `count` positions from `first`: ``[count, 4]``."""
    generator = np.random.Philox(key=[seed, stream], counter=[first, 0, epoch, 0])
    return generator.random_raw(4 * count).reshape(count, 4)


def _permutation(seed, stream, epoch, count):
    # A sort of raw numbers, as NumPy may change what its own permutation draws.
    return np.argsort(_numbers(seed, stream, epoch, 0, -(-count // 4)).ravel()[:count], kind="stable")


@functools.lru_cache(maxsize=4)
def order(count, seed, epoch):
    """The order of an epoch.

    Args:
      count: int, how many images there are.
      seed, epoch: ints of at least 0.

    Returns:
      int64 ``[count]``, each index once; not to be changed.
    """
    indices = _permutation(seed, ORDER, epoch, count)
    indices.flags.writeable = False
    return indices


def order_on_disk(count, seed):
    """The order in which `count` images are written once and for all: int64 ``[count]``, each index once."""
    return _permutation(seed, SHARDS, 0, count)


def draw(seed, epoch, positions, *, margin, crops="random", flips="horizontal", images_per_draw=1):
    """Crops, mirror images and colour noise of images that follow one another in an epoch.

    Args:
      seed, epoch: ints of at least 0.
      positions: range of ints, the images' places in the epoch.
      margin: int, by how many pixels the image's side exceeds the crop's.
      crops: "random", any position, or "center".
      flips: "none", "horizontal" or "both" (upside down as well), each with probability one half.
      images_per_draw: int; so many images in a row share crop and mirroring (original: 32). Noise is each one's own.

    Returns:
      `Draws`.
    """
    shared = np.arange(positions.start, positions.stop) // images_per_draw
    geometry = _numbers(seed, GEOMETRY, epoch, shared[0], shared[-1] - shared[0] + 1)[shared - shared[0]]
    if crops == "random":
        # The upper 32 bits, scaled: of 2 ** 32 values each offset gets the same number but for one.
        offsets = ((geometry[:, :2] >> np.uint64(32)) * np.uint64(margin + 1)) >> np.uint64(32)
    else:
        offsets = np.full([len(positions), 2], margin // 2)
    heads = (geometry[:, 2:] >> np.uint64(63)).astype(bool)
    noise = _normal(_numbers(seed, NOISE, epoch, positions.start, len(positions)))
    return Draws(offsets.astype(np.int32), heads & np.array(FLIPS[flips]), noise.astype(np.float32))


def _normal(numbers):
    """Three independent standard normal numbers from four uniform ones (Box and Muller, 1958)."""
    # In (0, 1), so that the logarithm is finite.
    uniform = ((numbers >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radii = np.sqrt(-2 * np.log(uniform[:, :2]))
    angles = 2 * np.pi * uniform[:, 2:]
    return np.column_stack([radii * np.cos(angles), radii[:, 0] * np.sin(angles[:, 0])])
