"""The method before AlexNet: dense SIFT descriptors, Fisher vectors and a linear classifier.

OpenCV computes the descriptors, scikit-image the Fisher vectors, and scikit-learn the rest.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import skimage.feature
import sklearn.decomposition
import sklearn.mixture
import sklearn.svm

# Distance of the centers of descriptors in pixels, for images of 256 x 256.
STEP = 8
# Sides of the square patches that descriptors describe.
PATCH_SIZES = (16, 24, 36, 54)
# Principal components of the descriptors, and modes of the mixture.
COMPONENTS, MODES = 64, 64
# Descriptors from which components and mixture are computed, and how many of each image at most.
_SAMPLES, _SAMPLES_OF_IMAGE = 100_000, 400
# OpenCV's descriptor covers 6 times the size of its keypoint.
_PATCHES_PER_SIZE = 6


def dense_sift(image: np.ndarray, chosen: Sequence[int] | None = None) -> np.ndarray:
    """Computes SIFT descriptors on a grid, upright, at several scales (Lowe 2004).

    Args:
      image: uint8 ``[height, width, 3]``, RGB.
      chosen: indices of the descriptors to compute, ascending; None for all.

    Returns:
      float32 ``[points, 128]``, the square roots of descriptors whose sum is 1 ("RootSIFT", Arandjelovic and Zisserman
      2012); 0 for a patch without contrast.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    points = _grid(*gray.shape)
    points = points if chosen is None else [points[index] for index in chosen]
    _, descriptors = cv2.SIFT_create().compute(gray, points)
    total = descriptors.sum(axis=1, keepdims=True)
    return np.sqrt(np.divide(descriptors, total, out=np.zeros_like(descriptors), where=total > 0))


def _grid(height, width):
    """Returns the keypoints of all descriptors of an image."""
    return [
        cv2.KeyPoint(float(x), float(y), size / _PATCHES_PER_SIZE, 0.0)
        for size in PATCH_SIZES
        for y in range(size // 2, height - size // 2 + 1, STEP)
        for x in range(size // 2, width - size // 2 + 1, STEP)
    ]


class Encoder(NamedTuple):
    """From an image to its Fisher vector."""

    components: sklearn.decomposition.PCA
    mixture: sklearn.mixture.GaussianMixture

    @property
    def size(self) -> int:
        """The number of elements of a Fisher vector."""
        modes, dimensions = self.mixture.means_.shape
        return modes * (1 + 2 * dimensions)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Computes the improved Fisher vector of an image (Perronnin et al. 2010): signed square roots of norm 1.

        Args:
          image: uint8 ``[height, width, 3]``, RGB.

        Returns:
          float32 ``[size]``.
        """
        reduced = self.components.transform(dense_sift(image))
        return skimage.feature.fisher_vector(reduced, self.mixture, improved=True).astype(np.float32)


def fit_encoder(images: Iterable[np.ndarray], count: int, *, modes: int = MODES, seed: int = 0) -> Encoder:
    """Computes the components and the mixture from descriptors of images.

    Args:
      images: training images, uint8 ``[height, width, 3]``.
      count: their number.
      modes: of the mixture.
      seed: of the choice of descriptors and of the mixture's start.
    """
    generator = np.random.default_rng(seed)
    per_image = min(_SAMPLES_OF_IMAGE, max(1, round(_SAMPLES / count)))
    sample = np.concatenate([dense_sift(image, _choose(image, per_image, generator)) for image in images])
    components = sklearn.decomposition.PCA(min(COMPONENTS, len(sample)), random_state=seed).fit(sample)
    mixture = sklearn.mixture.GaussianMixture(
        modes,
        covariance_type="diag",
        max_iter=200,
        tol=1e-2,
        reg_covar=1e-5,
        random_state=seed,
        init_params="k-means++",
    )
    return Encoder(components, mixture.fit(components.transform(sample)))


def _choose(image, count, generator):
    """Returns the indices of some descriptors of an image; computing only these saves almost all of the time."""
    chosen = generator.permutation(len(_grid(*image.shape[:2])))[:count]
    return np.sort(chosen)


def classifier(
    vectors: np.ndarray, labels: np.ndarray, *, penalty: float = 1.0, seed: int = 0
) -> sklearn.svm.LinearSVC:
    """Trains a linear support vector machine, one class against the rest.

    Args:
      vectors: float32 ``[images, size]``.
      labels: int64 ``[images]``.
      penalty: C, the weight of errors against the norm.
      seed: of the order in which it is optimized.
    """
    return sklearn.svm.LinearSVC(C=penalty, random_state=seed).fit(vectors, labels)


def scores(trained: sklearn.svm.LinearSVC, vectors: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the score of each class, float64 ``[images, num_classes]``; -inf for a class without training images."""
    found = trained.decision_function(vectors)
    if found.ndim == 1:
        found = np.stack([-found, found], axis=1)
    every = np.full([len(vectors), num_classes], -np.inf)
    every[:, trained.classes_] = found
    return every
