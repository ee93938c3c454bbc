"""The order of the images and the random numbers that augment them: functions of seed, epoch and position alone.

A counter-based generator (Philox: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) computes the
numbers of the requested positions only. A run that resumes therefore replays nothing, and several workers, each with
its own part of a batch, draw what one worker would have drawn.
"""

import functools
from typing import NamedTuple

import numpy as np

# Independent streams of random numbers.
ORDER, GEOMETRY, NOISE, SHARDS, CLASSES, SHAPES = range(6)

# Crops of random area and shape: their share of the image, and their height divided by their width (Szegedy et al.,
# "Going Deeper with Convolutions", 2014, section 6).
AREAS = (0.08, 1.0)
ASPECTS = (3 / 4, 4 / 3)

FLIPS = {"none": (False, False), "horizontal": (False, True), "both": (True, True)}


class Draws(NamedTuple):
    """How consecutive images of an epoch are augmented."""

    offsets: np.ndarray  # int32 [images, 2]: row and column of the crop's first pixel, which padding makes negative
    flips: np.ndarray  # bool [images, 2]: upside down, left to right
    noise: np.ndarray  # float32 [images, 3]: standard normal


class Areas(NamedTuple):
    """Rectangles of consecutive images of an epoch."""

    offsets: np.ndarray  # int32 [images, 2]: row and column of the first pixel
    sizes: np.ndarray  # int32 [images, 2]: height and width


def _numbers(seed, stream, epoch, first, count):
    """Returns four random numbers for each of `count` positions from `first`: uint64 ``[count, 4]``."""
    generator = np.random.Philox(key=[seed, stream], counter=[first, 0, epoch, 0])
    return generator.random_raw(4 * count).reshape(count, 4)


def _permutation(seed, stream, epoch, count):
    # Sorts raw numbers, because NumPy may change the result of its own permutation.
    return np.argsort(_numbers(seed, stream, epoch, 0, -(-count // 4)).ravel()[:count], kind="stable")


@functools.lru_cache(maxsize=4)
def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the images in an epoch.

    Args:
      count: int, the number of images.
      seed, epoch: ints of at least 0.

    Returns:
      int64 ``[count]``, each index once; read-only.
    """
    indices = _permutation(seed, ORDER, epoch, count)
    indices.flags.writeable = False
    return indices


def balanced_order(labels: np.ndarray, seed: int, epoch: int, length: int) -> np.ndarray:
    """Returns the images of an epoch that draws each class equally often.

    Over the whole run, the numbers of draws of two classes differ by at most one after each epoch. The images of a
    class are drawn in random orders, one after another: all of them once, then all of them again, across epochs.

    Args:
      labels: int ``[count]``, the class of each image. Classes without images are not drawn.
      seed, epoch: ints of at least 0.
      length: int, the number of images of an epoch.

    Returns:
      int64 ``[length]``, indices into `labels`.
    """
    present, counts = np.unique(labels, return_counts=True)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    indices = np.empty(length, np.int64)
    # The places of all epochs belong to the classes in turn; those of an epoch are then shuffled.
    begin = int(epoch) * length
    for turn, label in enumerate(present.tolist()):
        first = (turn - begin) % len(present)
        own = indices[first :: len(present)]
        drawn_before = (begin + first) // len(present)
        own[:] = members[turn][_repeated_permutations(seed, label, len(members[turn]), drawn_before, len(own))]
    return indices[_permutation(seed, ORDER, epoch, length)]


def _repeated_permutations(seed, label, count, first, length):
    """Returns `length` elements, from `first` on, of an endless sequence of permutations of `count` elements."""
    rounds = range(first // count, -(-(first + length) // count))
    begin, words = rounds.start * count, len(rounds) * count
    numbers = _numbers(seed, CLASSES, label, begin // 4, words // 4 + 2).ravel()[begin % 4 :][:words]
    permutations = np.argsort(numbers.reshape(-1, count), axis=1, kind="stable").ravel()
    return permutations[first - begin :][:length]


def order_on_disk(count: int, seed: int) -> np.ndarray:
    """Returns the order in which `count` images are written to disk: int64 ``[count]``, each index once."""
    return _permutation(seed, SHARDS, 0, count)


def draw(
    seed: int,
    epoch: int,
    positions: range,
    *,
    margin: int,
    pad: int = 0,
    crops: str = "random",
    flips: str = "horizontal",
    images_per_draw: int = 1,
) -> Draws:
    """Draws crops, mirroring and color noise for consecutive images of an epoch.

    Args:
      seed, epoch: ints of at least 0.
      positions: range of ints, the images' positions in the epoch.
      margin: int, the difference between the sides of an image and a crop in pixels.
      pad: int, how far "random" crops may extend past each edge of the image: offsets are from -pad to margin + pad.
      crops: "random", any position, or "center".
      flips: "none", "horizontal" or "both" (also upside down), each with probability one half.
      images_per_draw: int, the number of consecutive images that share crop position and mirroring (original #145:
        32). The noise is drawn for each image.

    Returns:
      `Draws`.
    """
    shared = np.arange(positions.start, positions.stop) // images_per_draw
    geometry = _numbers(seed, GEOMETRY, epoch, shared[0], shared[-1] - shared[0] + 1)[shared - shared[0]]
    if crops == "random":
        # Scales the upper 32 bits: of 2 ** 32 values, every offset gets the same number, give or take one.
        places = np.uint64(margin + 2 * pad + 1)
        offsets = (((geometry[:, :2] >> np.uint64(32)) * places) >> np.uint64(32)).astype(np.int64) - pad
    else:
        offsets = np.full([len(positions), 2], margin // 2)
    heads = (geometry[:, 2:] >> np.uint64(63)).astype(bool)
    noise = _normal(_numbers(seed, NOISE, epoch, positions.start, len(positions)))
    return Draws(offsets.astype(np.int32), heads & np.array(FLIPS[flips]), noise.astype(np.float32))


def areas(seed: int, epoch: int, positions: range, *, side: int, images_per_draw: int = 1) -> Areas:
    """Draws rectangles of random area (`AREAS`), shape (`ASPECTS`) and position, for consecutive images of an epoch.

    Rectangles that would be longer than the image are cut off.

    Args:
      seed, epoch, positions, images_per_draw: as in `draw`.
      side: int, the side of an image in pixels.
    """
    shared = np.arange(positions.start, positions.stop) // images_per_draw
    first, count = shared[0], shared[-1] - shared[0] + 1
    geometry, shapes = (_numbers(seed, stream, epoch, first, count)[shared - first] for stream in (GEOMETRY, SHAPES))
    sizes = _sizes(shapes, side)
    offsets = ((geometry[:, :2] >> np.uint64(32)) * (side - sizes + 1).astype(np.uint64)) >> np.uint64(32)
    return Areas(offsets.astype(np.int32), sizes)


def _sizes(numbers, side):
    """Returns height and width of rectangles, int32 ``[images, 2]``, from two of four words each."""
    # Additions, products, quotients and square roots are rounded alike everywhere, unlike powers and logarithms.
    uniform = (numbers[:, :2] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    area = (AREAS[0] + (AREAS[1] - AREAS[0]) * uniform[:, 0]) * (side * side)
    aspect = ASPECTS[0] + (ASPECTS[1] - ASPECTS[0]) * uniform[:, 1]
    exact = np.sqrt(np.column_stack([area * aspect, area / aspect]))
    return np.clip(np.floor(exact + 0.5), 1, side).astype(np.int32)


def _normal(numbers):
    """Returns three independent standard normal numbers from four uniform ones (Box and Muller, 1958)."""
    # In the open interval (0, 1), so the logarithm is finite.
    uniform = ((numbers >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radii = np.sqrt(-2 * np.log(uniform[:, :2]))
    angles = 2 * np.pi * uniform[:, 2:]
    return np.column_stack([radii * np.cos(angles), radii[:, 0] * np.sin(angles[:, 0])])
