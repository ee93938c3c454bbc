"""Nearest neighbors by Euclidean distance: exact in one pass over the features, or approximate with faiss.

Both searches return distances between the stored features and the queries, computed in float64. The exact search
returns the nearest features, ties in the order of their indices, in one pass over the features for all queries. The
approximate search computes the distances of a few hundred candidates for each query, which faiss selects by their
projections onto the directions in which the features vary most.
"""

import importlib.util
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation import errors

METHODS = ("auto", "exact", "approximate")
# Number of images from which method "auto" is approximate.
APPROXIMATE_FROM = 1_000_000

# Elements of a block of features: 64 MiB in float32.
_ELEMENTS = 2**24
# Queries that are compared with a block at a time.
_QUERIES = 1024

# Of the approximate index (BUILD_NOTES.md explains the choice): the number of directions, the number of features and of
# iterations that determine them, and the number of candidates for each neighbor.
DIRECTIONS, _SAMPLE, _ITERATIONS, _CANDIDATES = 128, 4096, 6, 32


class Neighbors(NamedTuple):
    """Result of a search, the nearest first."""

    distances: np.ndarray  # float32 [queries, k], Euclidean
    indices: np.ndarray  # int64 [queries, k]


def choose_method(method: str, count: int) -> str:
    """Returns how `count` images are searched: "exact" or "approximate".

    Args:
      method: "exact", "approximate", or "auto" (exact below `APPROXIMATE_FROM` images).
      count: int.

    Raises:
      ValueError: for another method.
    """
    if method not in METHODS:
        raise ValueError(f"Expected method to be one of {', '.join(METHODS)}. Received: {method}")
    if method != "auto":
        return method
    return "exact" if count < APPROXIMATE_FROM else "approximate"


def check_finite(features: np.ndarray) -> None:
    """Raises ValueError for features ``[images, units]`` whose distances float32 cannot represent."""
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(np.square(features).sum(axis=1))
    if not is_finite.all():
        raise ValueError(
            f"Expected finite features. Received: {np.count_nonzero(~is_finite)} of {len(features)} images with NaN, "
            "infinite or too large features; the training of this network may have diverged"
        )


def exact(features: np.ndarray, queries: np.ndarray, k: int) -> Neighbors:
    """Finds the nearest features, ties in the order of their indices, in one pass.

    A float32 matrix product and a bound on its rounding error rule out most features; the distances of the rest are
    computed in float64. Memory is needed for one block of features and for the result only.

    Args:
      features: float16 or float32 ``[images, units]``, such as a memory map.
      queries: float32 ``[queries, units]``.
      k: int, at most the number of images.

    Returns:
      `Neighbors`.
    """
    count, units = features.shape
    squares = np.full([len(queries), k], np.inf)
    indices = np.full([len(queries), k], count, np.int64)
    lengths = np.square(queries).sum(axis=1)
    rows = max(1, _ELEMENTS // units)
    for first in range(0, count, rows):
        tensor = _tensor(features[first : first + rows])
        # Shares the tensor's memory; converting an array to a tensor would copy.
        block = tensor.numpy()
        # einsum makes no second block for the squares, which would cost as much as everything else.
        block_lengths = np.einsum("ij,ij->i", block, block)
        for begin in range(0, len(queries), _QUERIES):
            part = slice(begin, begin + _QUERIES)
            products = _products(tensor, queries[part])
            sums = lengths[part, None] + block_lengths
            rows_near, columns = _candidates(products, sums, units, squares[part, -1], min(k, len(block)))
            found = _squares(queries[part], block, rows_near, columns)
            squares[part], indices[part] = _merged(squares[part], indices[part], rows_near, found, columns + first)
    return Neighbors(np.sqrt(squares).astype(np.float32), indices)


def _float32(block):
    return _tensor(block).numpy()


def _tensor(block):
    # TensorFlow converts float16 nine times as fast as NumPy.
    with tf.device("/CPU:0"):
        return tf.cast(np.asarray(block), tf.float32)


def _products(block, queries):
    """Returns the dot products of queries and features, float32 ``[queries, rows]``."""
    # On the CPU: a GPU may multiply in TF32.
    with tf.device("/CPU:0"):
        return tf.matmul(block, queries, transpose_b=True).numpy().T


def _candidates(products, sums, units, farthest, k):
    """Finds the pairs that may be near.

    Args:
      products: float32 ``[queries, rows]``.
      sums: float32 ``[queries, rows]``, the squared length of the query plus that of the feature.
      units: int.
      farthest: float64 ``[queries]``, the squared distance of the k-th neighbor so far.
      k: int, at least this many features are returned for each query unless they are farther than `farthest`.

    Returns:
      Two int64 arrays ``[pairs]``: query numbers and row numbers.
    """
    squares = sums - 2 * products
    # The error of a sum of n rounded products, in any order, is at most n u |x| |y|, with u = 2^-24 and
    # |x| |y| <= (x^2 + y^2) / 2.
    error = sums * np.float32((units + 4) * 2.0**-23)
    # At least k features are no farther than this.
    bound = np.minimum(np.partition(squares + error, k - 1, axis=1)[:, k - 1], farthest)
    return np.nonzero(squares - error <= bound[:, None])


def _squares(queries, block, rows, columns):
    """Returns the squared distances of pairs of a query and a feature, float64 ``[pairs]``."""
    squares = np.empty(len(rows))
    for chunk in errors.chunks(len(rows), block.shape[1]):
        difference = block[columns[chunk]].astype(np.float64) - queries[rows[chunk]]
        squares[chunk] = np.square(difference, out=difference).sum(axis=1)
    return squares


def _merged(squares, indices, rows, new_squares, new_indices):
    """Merges the neighbors so far with new pairs; returns squares and indices, both ``[queries, k]``."""
    count, k = squares.shape
    rows = np.concatenate([np.repeat(np.arange(count), k), rows])
    squares = np.concatenate([squares.ravel(), new_squares])
    indices = np.concatenate([indices.ravel(), new_indices])
    order = np.lexsort([indices, squares, rows])
    # Sorted by query, then by distance, then by index.
    first = np.searchsorted(rows[order], np.arange(count))
    chosen = order[first[:, None] + np.arange(k)]
    return squares[chosen], indices[chosen]


def exclude(neighbors: Neighbors, indices: np.ndarray) -> Neighbors:
    """Drops one neighbor of each query: the one with the given index, or the last where it is not among them.

    Args:
      neighbors: `Neighbors` with k + 1 for each query.
      indices: int ``[queries]``.

    Returns:
      `Neighbors` with k for each query.
    """
    is_kept = neighbors.indices != np.asarray(indices)[:, None]
    is_kept[is_kept.all(axis=1), -1] = False
    return Neighbors(*(values[is_kept].reshape(len(values), -1) for values in neighbors))


def faiss_index(features: np.ndarray, progress: Callable[[int], None] | None = None) -> Any:
    """Builds the faiss index that `approximate` takes its candidates from.

    It holds the `DIRECTIONS` coordinates of each image in which the features vary most, in 8 bits each.

    Args:
      features: float16 or float32 ``[images, units]``.
      progress: called with the number of features added so far.

    Raises:
      ModuleNotFoundError: without faiss.
    """
    faiss = load_faiss()
    count, units = features.shape
    sample = np.sort(np.random.default_rng(0).permutation(count)[:_SAMPLE])
    sample = _float32(features[sample])
    directions = _directions(sample, min(DIRECTIONS, units))
    reduction = faiss.LinearTransform(units, directions.shape[1], False)
    faiss.copy_array_to_vector(directions.T.ravel(), reduction.A)
    reduction.is_trained = True
    quantizer = faiss.IndexScalarQuantizer(directions.shape[1], faiss.ScalarQuantizer.QT_8bit)
    quantizer.train(reduction.apply(sample))
    rows = max(1, _ELEMENTS // units)
    for first in range(0, count, rows):
        quantizer.add(reduction.apply(_float32(features[first : first + rows])))
        if progress:
            progress(min(first + rows, count))
    return faiss.IndexPreTransform(reduction, quantizer)


def _directions(features, count):
    """Approximates the span of the first principal components: an orthonormal basis, float32 ``[units, count]``.

    Subspace iteration takes seconds; LAPACK takes minutes for the components themselves, with the same distances.
    """
    with tf.device("/CPU:0"):
        centered = features - features.mean(axis=0)
        basis = tf.random.stateless_normal([features.shape[1], count], seed=[0, 0])
        for _ in range(_ITERATIONS):
            basis, _ = tf.linalg.qr(tf.matmul(centered, tf.matmul(centered, basis), transpose_a=True))
        return basis.numpy()


def approximate(features: np.ndarray, index: Any, queries: np.ndarray, k: int) -> Neighbors:
    """Finds the nearest of the candidates from a faiss index.

    Args:
      features, queries, k: as in `exact`.
      index: from `faiss_index`, of the same features.

    Returns:
      `Neighbors` with distances as in `exact`; some of the nearest features may be missing.
    """
    count = min(_CANDIDATES * k, len(features))
    found = Neighbors(np.empty([len(queries), k], np.float32), np.empty([len(queries), k], np.int64))
    incomplete = []
    for number, candidates in enumerate(index.search(queries, count)[1]):
        # faiss pads with -1. Sorted, the features are read in the order of the file.
        places = np.sort(candidates[candidates >= 0])
        if len(places) < k:
            incomplete.append(number)
            continue
        block = _float32(features[places])
        squares = _squares(queries[number][None], block, np.zeros(len(places), np.int64), np.arange(len(places)))
        nearest = np.argsort(squares, kind="stable")[:k]
        found.distances[number], found.indices[number] = np.sqrt(squares[nearest]), places[nearest]
    if incomplete:
        found.distances[incomplete], found.indices[incomplete] = exact(features, queries[incomplete], k)
    return found


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """Computes the recall of a search: the fraction of the true neighbors that it found.

    Args:
      found, true: int64 ``[queries, k]``, indices from a search and from an exact one.

    Returns:
      Float in [0, 1].
    """
    return float(np.mean([len(np.intersect1d(*pair)) for pair in zip(found, true)]) / true.shape[1])


def load_faiss() -> Any:
    """Imports and returns the module faiss.

    Raises:
      ModuleNotFoundError: if it is not installed.
    """
    if importlib.util.find_spec("faiss") is None:
        raise ModuleNotFoundError(
            "Expected faiss-cpu for an approximate search: pip install -e '.[neighbours]', or use method exact"
        )
    import faiss

    return faiss
