"""The mean image of a training set and the principal components of its colors."""

import os
from typing import NamedTuple

import numpy as np

from alexnet_tf.utils import files
from alexnet_tf.utils import schema

_WHAT = "statistics of a training set"
_REMEDY = "copy the file from a backup, or train again in a new --workdir"
_ARRAYS = {
    "mean_image": schema.Array("f", (None, None, 3), low=0, high=255),
    "directions": schema.Array("f", (3, 3), low=-1.001, high=1.001),
    "standard_deviations": schema.Array("f", (3,), low=0, high=255 * 3**0.5),
    "num_examples": schema.Array("iu", (), low=0),
}
# Ours, which an older file may lack; it shows whether the mean image is the one that was written.
_MEAN_COLOR = {"mean_color": schema.Array("f", (3,))}


class Statistics(NamedTuple):
    """Statistics of a training set's pixels, which are in [0, 255]."""

    mean_image: np.ndarray  # float32 [256, 256, 3]
    # The principal components of the colors of all pixels in rows, in order of decreasing variance. The coordinate
    # with the largest magnitude in a row is positive.
    directions: np.ndarray  # float32 [3, 3], unit vectors
    standard_deviations: np.ndarray  # float32 [3]: along each direction, in gray levels
    num_examples: int

    @property
    def mean_color(self) -> np.ndarray:
        """The mean of the mean image over its pixels, float32 ``[3]``."""
        return self.mean_image.mean(axis=(0, 1))

    @property
    def components(self) -> np.ndarray:
        """Each direction times its standard deviation, float32 ``[3, 3]``."""
        return self.directions * self.standard_deviations[:, None]


class Sums(NamedTuple):
    """The sums of an `Accumulator`. All are integers, and exact."""

    image: np.ndarray  # float64 [height, width, 3]: sum over the images
    products: np.ndarray  # float64 [3, 3]: sum over all pixels of the products of two channels
    num_examples: int


class Accumulator:
    """Accumulates the sums over images from which `Statistics` are computed, in float64 and constant memory."""

    def __init__(self):
        self._sum_image = None
        self._products = np.zeros([3, 3])
        self._examples = 0

    def add(self, images: np.ndarray):
        """Adds a batch of images.

        Args:
          images: uint8 ``[batch, height, width, 3]``, at most 256 pixels wide.
        """
        self._add_sum_image(images.sum(axis=0, dtype=np.uint32))
        for image in images:
            # Row by row: the sum of 256 products of at most 255 ** 2 is below 2 ** 24, so float32 is exact.
            planes = np.moveaxis(image, -1, 0).astype(np.float32, order="C")
            for i in range(3):
                for j in range(i + 1):
                    rows = np.einsum("yx,yx->y", planes[i], planes[j])
                    self._products[i, j] += rows.sum(dtype=np.float64)
                    self._products[j, i] = self._products[i, j]
        self._examples += len(images)

    def _add_sum_image(self, image):
        if self._sum_image is None:
            self._sum_image = np.zeros(image.shape)
        self._sum_image += image

    @property
    def sums(self) -> Sums | None:
        """The `Sums` so far; None before the first image."""
        return Sums(self._sum_image, self._products, self._examples) if self._examples else None

    def add_sums(self, sums: Sums):
        """Adds the sums of another accumulator."""
        self._add_sum_image(sums.image)
        self._products += sums.products
        self._examples += int(sums.num_examples)

    def result(self) -> Statistics:
        """Computes the `Statistics` of all images so far.

        Raises:
          ValueError: if there are none.
        """
        if not self._examples:
            raise ValueError("Expected at least one image to compute statistics from. Received: none")
        mean_image = self._sum_image / self._examples
        pixels = mean_image.shape[0] * mean_image.shape[1] * self._examples
        mean_color = mean_image.mean(axis=(0, 1))
        covariance = self._products / pixels - np.outer(mean_color, mean_color)
        variances, vectors = np.linalg.eigh(covariance)
        variances, directions = variances[::-1], vectors.T[::-1]
        largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
        return Statistics(
            mean_image.astype(np.float32),
            (directions * np.sign(largest)).astype(np.float32),
            np.sqrt(np.maximum(variances, 0)).astype(np.float32),
            self._examples,
        )


def save(statistics: Statistics, path: str | os.PathLike):
    """Writes `Statistics` to an ``.npz`` file atomically."""
    with files.atomic_write(path, "wb") as file:
        np.savez(file, **statistics._asdict(), mean_color=statistics.mean_color)


def load(path: str | os.PathLike) -> Statistics:
    """Reads a file that `save` wrote.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, has other contents, or numbers that no images have.
    """
    arrays = schema.read_npz(path, _ARRAYS, _WHAT, _REMEDY, optional=_MEAN_COLOR)
    mean_color = arrays.pop("mean_color", None)
    statistics = Statistics(**{**arrays, "num_examples": int(arrays["num_examples"])})
    if mean_color is not None and not np.allclose(mean_color, statistics.mean_color, atol=0.01):
        received = f"a mean image of mean {statistics.mean_color.tolist()}, not {mean_color.tolist()}"
        raise schema.error(_WHAT, path, received, _REMEDY)
    if not np.allclose(statistics.directions @ statistics.directions.T, np.eye(3), atol=1e-3):
        raise schema.error(_WHAT, path, "directions that are not orthogonal unit vectors", _REMEDY)
    if not is_possible(statistics):
        received = f"a mean color of {statistics.mean_color.tolist()} with deviations that no images have"
        raise schema.error(_WHAT, path, received, _REMEDY)
    return statistics


def is_possible(statistics: Statistics) -> bool:
    """Returns whether pixels in [0, 255] can have this mean color and these deviations.

    The variance of numbers in [0, 255] is at most that of only 0 and 255 with the same mean m: m (255 - m). A mean
    image of zeros, for example, is that of black images alone.
    """
    mean = statistics.mean_color.astype(np.float64)
    largest = np.sum(mean * (255 - mean))
    return bool(np.sum(statistics.standard_deviations.astype(np.float64) ** 2) <= 1.001 * largest + 1)
