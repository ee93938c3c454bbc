"""The row "neighbours": how long it takes to find the nearest images, exactly and approximately."""

import importlib.util
import itertools
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.evaluation import feature_index
from alexnet_tf.evaluation import nearest

# Those of AlexNet's last hidden layer.
UNITS = 4096
COUNTS = (10_000,)
QUERIES = (1, 100)
K = 6
_CLASSES, _DIMENSIONS, _BATCH = 1000, 512, 2000
# Rows of a block that faiss is given, as many as ours.
_BLOCK = 4096


def nearest_images(request, counts=COUNTS, scratch=None):
    """Row "neighbours": one and a hundred queries at a time, exactly, by faiss in the same blocks, and approximately.

    Args:
      request: `measuring.Request`.
      counts: numbers of features; `UNITS` of float16 for each of them are written, 8.2 kB.
      scratch: a directory for them; None for that of temporary files.

    Returns:
      `measuring.Result` in queries a second, with recall, sizes and times of building as figures.
    """
    if importlib.util.find_spec("faiss") is None:
        raise measuring.NotRunError("faiss-cpu is not installed: pip install -e '.[neighbours]'")
    rates, ratios, figures = {}, [], []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="alexnet_neighbours_", dir=scratch) as directory:
            index, of_building = _build(directory, count)
            found = _sides(index)
            rates |= measuring.interleave(found, rounds=request.rounds, seconds=request.seconds, warm_up=0)
            figures += of_building + [_recall(index)]
        for queries in QUERIES:
            ours = _side("exact", count, queries)
            ratios.append(measuring.Ratio(ours, _side("faiss", count, queries)))
            ratios.append(measuring.Ratio(_side("approximate", count, queries), ours))
    what = f"the {K} nearest of {UNITS} features in float16, made up in {_CLASSES} clusters"
    return measuring.Result(what, "queries/s", rates, ratios, figures=figures)


def clustered(count, seed):
    """Made-up features, half of them zero: a thousand classes, within which they differ in ever smaller directions.

    Args:
      count: int.
      seed: int, of what is drawn within the classes, which are the same for all.

    Yields:
      float32 ``[batch, UNITS]``.
    """
    fixed = np.random.default_rng(0)
    # The variance of the i-th direction goes with 1 / i.
    spread = 1 / np.sqrt(np.arange(1, _DIMENSIONS + 1, dtype=np.float32))
    directions = spread[:, None] * fixed.standard_normal([_DIMENSIONS, UNITS], np.float32)
    centres = fixed.standard_normal([_CLASSES, _DIMENSIONS], np.float32)
    drawn = np.random.default_rng([1, seed])
    for first in range(0, count, _BATCH):
        size = min(_BATCH, count - first)
        within = centres[drawn.integers(0, _CLASSES, size)] + drawn.standard_normal([size, _DIMENSIONS], np.float32)
        yield np.maximum(within @ directions + 0.1 * drawn.standard_normal([size, UNITS], np.float32), 0)


def _build(directory, count):
    """An index of made-up features, and `measuring.Figure` of what it takes."""
    images = feature_index.Images(np.zeros(count, np.int64), [""] * count, np.arange(count))
    feature_index.write(directory, clustered(count, 0), images, units=UNITS, class_names=["synthetic"], metadata={})
    index = feature_index.open_index(directory)
    began = time.perf_counter()
    index.build_approximate()
    seconds = time.perf_counter() - began
    size = lambda name: pathlib.Path(directory, name).stat().st_size / 1e6
    return index, [
        measuring.Figure(f"features of {count}", size(feature_index.FEATURES), "MB"),
        measuring.Figure(f"approximate index of {count}", size(feature_index.APPROXIMATE), "MB"),
        measuring.Figure(f"building the approximate index of {count}", seconds, "s"),
    ]


def _side(method, count, queries):
    return f"{method}, {count} images, {queries} at a time"


def _sides(index):
    methods = {
        "exact": lambda queries: index.search(queries, K, method="exact"),
        "faiss": lambda queries: _by_faiss(index.features, queries),
        "approximate": lambda queries: index.search(queries, K, method="approximate"),
    }

    (queries,) = clustered(max(QUERIES), 1)

    def side(method, size):
        def work():
            # Not always the same ones, which lie in the processor's caches.
            for first in itertools.cycle(range(0, len(queries), size)):
                method(queries[first : first + size])
                yield size

        return work

    return {_side(name, len(index), size): side(method, size) for size in QUERIES for name, method in methods.items()}


def _by_faiss(features, queries):
    """The exact search of faiss, which knows no float16: block by block, each in float32 as quickly as ours."""
    import faiss

    answers = []
    for first in range(0, len(features), _BLOCK):
        block = tf.cast(np.asarray(features[first : first + _BLOCK]), tf.float32).numpy()
        squares, indices = faiss.knn(queries, block, K)
        answers.append((squares, indices + first))
    squares, indices = (np.concatenate(values, axis=1) for values in zip(*answers))
    nearest = np.argsort(squares, axis=1)[:, :K]
    return np.take_along_axis(indices, nearest, axis=1)


def _recall(index):
    """How many of the nearest an approximate search finds, as `measuring.Figure`."""
    queries = np.concatenate(list(clustered(200, 99)))
    exact, approximate = (index.search(queries, K, method=method).indices for method in ("exact", "approximate"))
    return measuring.Figure(f"recall at {K} of {len(index)}", nearest.recall(approximate, exact), "")
