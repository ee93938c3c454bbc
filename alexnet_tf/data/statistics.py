"""The mean image and the colour components of a training set."""

import zipfile
from typing import NamedTuple

import numpy as np

from alexnet_tf import files


class Statistics(NamedTuple):
    """What the training set tells about its pixels, on the scale of 0 to 255."""

    mean_image: np.ndarray  # float32 [256, 256, 3]
    # The principal components of the colours of all pixels in rows, by falling variance; the first coordinate that
    # is the largest of a row is positive.
    directions: np.ndarray  # float32 [3, 3], unit vectors
    standard_deviations: np.ndarray  # float32 [3], along each, in grey levels
    num_examples: int

    @property
    def components(self):
        """float32 ``[3, 3]``: each direction times its standard deviation."""
        return self.directions * self.standard_deviations[:, None]


class Accumulator:
    """Sums over images, in float64, from which `Statistics` follow; memory does not grow with the images."""

    def __init__(self):
        self._sum_image = None
        self._products = np.zeros([3, 3])
        self._examples = 0

    def add(self, images):
        """Counts in a batch.

        Args:
          images: uint8 ``[batch, height, width, 3]``.
        """
        if self._sum_image is None:
            self._sum_image = np.zeros(images.shape[1:])
        self._sum_image += images.sum(axis=0, dtype=np.float64)
        for image in images:
            # Exact: 65,536 products of at most 255 ** 2 stay below 2 ** 53.
            pixels = image.reshape(-1, 3).astype(np.float64)
            self._products += pixels.T @ pixels
        self._examples += len(images)

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
    with files.whole(path, "wb") as file:
        np.savez(file, **statistics._asdict())


def load(path):
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError, ValueError: if there is no such file, or another one.
    """
    try:
        # Opened here, as NumPy leaves a file open that it cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            fields = {name: arrays[name] for name in Statistics._fields}
    except FileNotFoundError:
        raise
    # A TypeError is what an .npy file ends in, which is one array and no archive.
    except (KeyError, OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"Expected statistics of a training set in {path}. Received: {error}") from None
    return Statistics(**{**fields, "num_examples": int(fields["num_examples"])})
