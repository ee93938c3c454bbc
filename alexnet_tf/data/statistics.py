"""The mean image and the colour components of a training set."""

import tokenize
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from alexnet_tf.utils import files

# What NumPy raises for a file that is no whole archive of arrays: a TypeError for one that is an array alone, a
# RuntimeError for one that seems encrypted or packed in an unknown way, a MemoryError or an OverflowError for an array
# that says it is larger than any memory, a TokenError for a description of an array that does not end.
LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


class Statistics(NamedTuple):
    """What the training set tells about its pixels, on the scale of 0 to 255."""

    mean_image: np.ndarray  # float32 [256, 256, 3]
    # The principal components of the colours of all pixels in rows, by falling variance; the first coordinate that
    # is the largest of a row is positive.
    directions: np.ndarray  # float32 [3, 3], unit vectors
    standard_deviations: np.ndarray  # float32 [3], along each, in grey levels
    num_examples: int

    @property
    def mean_color(self):
        """float32 ``[3]``: the mean image's mean over its pixels."""
        return self.mean_image.mean(axis=(0, 1))

    @property
    def components(self):
        """float32 ``[3, 3]``: each direction times its standard deviation."""
        return self.directions * self.standard_deviations[:, None]


class Sums(NamedTuple):
    """What an `Accumulator` has counted so far; all are whole numbers, and exact."""

    image: np.ndarray  # float64 [height, width, 3], sum over the images
    products: np.ndarray  # float64 [3, 3], sum over all pixels of the products of two channels
    num_examples: int


class Accumulator:
    """Sums over images, in float64, from which `Statistics` follow; memory does not grow with the images."""

    def __init__(self):
        self._sum_image = None
        self._products = np.zeros([3, 3])
        self._examples = 0

    def add(self, images):
        """Counts in a batch.

        Args:
          images: uint8 ``[batch, height, width, 3]``, at most 256 pixels wide.
        """
        self._add_sum_image(images.sum(axis=0, dtype=np.uint32))
        for image in images:
            # A row at a time: 256 products of at most 255 ** 2 stay below 2 ** 24, so float32 is exact.
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
    def sums(self):
        """The `Sums` so far, or None before the first image."""
        return Sums(self._sum_image, self._products, self._examples) if self._examples else None

    def add_sums(self, sums):
        """Counts in what another accumulator has counted."""
        self._add_sum_image(sums.image)
        self._products += sums.products
        self._examples += int(sums.num_examples)

    def result(self):
        """The `Statistics` of all images so far.

        Raises:
          ValueError: if there were none.
        """
        if not self._examples:
            raise ValueError("Expected at least one image to take statistics of. Received: none")
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


def save(statistics, path):
    """Writes a `Statistics` to an ``.npz`` file, aside first, so that `path` is whole or not there."""
    with files.atomic_write(path, "wb") as file:
        np.savez(file, **statistics._asdict(), mean_color=statistics.mean_color)


def load(path):
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError, ValueError: if there is no such file, or another one.
    """
    try:
        # Opened here, as NumPy leaves a file open that it cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            fields = {name: arrays[name] for name in Statistics._fields}
        image, *others = (fields[name].shape for name in Statistics._fields)
        if len(image) != 3 or image[2] != 3 or others != [(3, 3), (3,), ()]:
            raise ValueError(f"arrays of {image}, {', '.join(map(str, others))}")
        fields["num_examples"] = int(fields["num_examples"])
    except FileNotFoundError:
        raise
    except LOADING_ERRORS as error:
        raise ValueError(f"Expected statistics of a training set in {path}. Received: {error}") from None
    return Statistics(**fields)
