"""Nearest-neighbor searches, exact and approximate (row neighbours)."""

import importlib.util
import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.evaluation import feature_index
from alexnet_tf.evaluation import nearest

# Of AlexNet's last hidden layer.
UNITS = 4096
COUNTS = (10_000,)
QUERIES = (1, 100)
K = 6
_CLASSES, _DIMENSIONS, _BATCH = 1000, 512, 2000
# Rows of a block for faiss, as many as in our search.
_BLOCK = 4096


def nearest_images(
    request: measuring.Request, counts: Sequence[int] = COUNTS, scratch: str | pathlib.Path | None = None
) -> measuring.Result:
    """Row neighbours: one query and a hundred at a time, exact, by faiss in the same blocks, and approximate.

    Args:
      request: `measuring.Request`.
      counts: numbers of images; each has `UNITS` float16 features on disk, 8.2 kB.
      scratch: a directory for the features; None for the default temporary directory.

    Returns:
      `measuring.Result` in queries per second, with recall, sizes and build times as values.

    Raises:
      measuring.NotRunError: without faiss.
    """
    if importlib.util.find_spec("faiss") is None:
        raise measuring.NotRunError("faiss-cpu is not installed: pip install -e '.[neighbours]'")
    rates, ratios, values = {}, [], []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="alexnet_neighbours_", dir=scratch) as directory:
            index, build_values = _build(directory, count)
            rates |= measuring.interleave(_sides(index), rounds=request.rounds, seconds=request.seconds, warm_up=0)
            values += build_values + [_recall(index)]
        for queries in QUERIES:
            ours = _name("exact", count, queries)
            ratios.append(measuring.Ratio(ours, _name("faiss", count, queries)))
            ratios.append(measuring.Ratio(_name("approximate", count, queries), ours))
    description = f"the {K} nearest of {UNITS} synthetic float16 features in {_CLASSES} clusters"
    return measuring.Result(description, "queries/s", rates, ratios, values=values)


def clustered(count: int, seed: int) -> Iterator[np.ndarray]:
    """Generates synthetic features, half of them zero, in clusters whose variance decreases over their directions.

    Args:
      count: int.
      seed: int, of the draws within the clusters; the clusters are the same for all seeds.

    Yields:
      float32 ``[batch, UNITS]``.
    """
    fixed = np.random.default_rng(0)
    # The variance of the i-th direction is proportional to 1 / i.
    spread = 1 / np.sqrt(np.arange(1, _DIMENSIONS + 1, dtype=np.float32))
    directions = spread[:, None] * fixed.standard_normal([_DIMENSIONS, UNITS], np.float32)
    centers = fixed.standard_normal([_CLASSES, _DIMENSIONS], np.float32)
    drawn = np.random.default_rng([1, seed])
    for first in range(0, count, _BATCH):
        size = min(_BATCH, count - first)
        within = centers[drawn.integers(0, _CLASSES, size)] + drawn.standard_normal([size, _DIMENSIONS], np.float32)
        yield np.maximum(within @ directions + 0.1 * drawn.standard_normal([size, UNITS], np.float32), 0)


def _build(directory, count):
    """Builds an index of synthetic features; returns it and `measuring.Value`s of its sizes and build time."""
    images = feature_index.Images(np.zeros(count, np.int64), [""] * count, np.arange(count))
    feature_index.write(directory, clustered(count, 0), images, units=UNITS, class_names=["synthetic"], metadata={})
    index = feature_index.open_index(directory)
    start = time.perf_counter()
    index.build_approximate()
    seconds = time.perf_counter() - start
    size = lambda name: pathlib.Path(directory, name).stat().st_size / 1e6
    return index, [
        measuring.Value(f"features of {count} images", size(feature_index.FEATURES), "MB"),
        measuring.Value(f"approximate index of {count} images", size(feature_index.APPROXIMATE), "MB"),
        measuring.Value(f"building the approximate index of {count} images", seconds, "s"),
    ]


def _name(method, count, queries):
    return f"{method}, {count} images, {queries} at a time"


def _sides(index):
    methods = {
        "exact": lambda queries: index.search(queries, K, method="exact"),
        "faiss": lambda queries: _search_by_faiss(index.features, queries),
        "approximate": lambda queries: index.search(queries, K, method="approximate"),
    }

    (queries,) = clustered(max(QUERIES), 1)

    def side(method, size):
        def work():
            # Different queries in turn: the same ones would stay in the processor's caches.
            for first in itertools.cycle(range(0, len(queries), size)):
                method(queries[first : first + size])
                yield size

        return work

    return {_name(name, len(index), size): side(method, size) for size in QUERIES for name, method in methods.items()}


def _search_by_faiss(features, queries):
    """Searches exactly with faiss, which has no float16: block by block, converted as fast as in our search."""
    import faiss

    answers = []
    for first in range(0, len(features), _BLOCK):
        block = tf.cast(np.asarray(features[first : first + _BLOCK]), tf.float32).numpy()
        squares, indices = faiss.knn(queries, block, K)
        answers.append((squares, indices + first))
    squares, indices = (np.concatenate(values, axis=1) for values in zip(*answers))
    order = np.argsort(squares, axis=1)[:, :K]
    return np.take_along_axis(indices, order, axis=1)


def _recall(index):
    """Returns the recall of the approximate search as `measuring.Value`."""
    queries = np.concatenate(list(clustered(200, 99)))
    exact, approximate = (index.search(queries, K, method=method).indices for method in ("exact", "approximate"))
    return measuring.Value(f"recall at {K} of {len(index)} images", nearest.recall(approximate, exact), "")
