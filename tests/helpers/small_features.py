"""Small synthetic features, an index of them, and their nearest neighbors by the literal definition."""

import importlib.util

import numpy as np
import pytest

from alexnet_tf.evaluation import feature_index

UNITS = 24
needs_faiss = pytest.mark.skipif(
    not importlib.util.find_spec("faiss"), reason="needs faiss-cpu: pip install -e '.[neighbours]'"
)


def clustered(count, units=UNITS, seed=0):
    """Returns features like those after a ReLU: in clusters, half of them zero."""
    generator = np.random.default_rng(seed)
    centers = 3 * np.random.default_rng(99).standard_normal([10, units])
    return np.maximum(centers[generator.integers(0, 10, count)] + generator.standard_normal([count, units]), 0).astype(
        np.float32
    )


def images(count):
    labels = np.arange(count, dtype=np.int64) % 3
    return feature_index.Images(labels, [f"train/{number}.png" for number in range(count)], np.arange(count) * 2)


def write(directory, features, dtype="float32", batch=7, count=None):
    """Writes an index of the features; returns its directory."""
    count = len(features) if count is None else count
    batches = (features[first : first + batch] for first in range(0, len(features), batch))
    feature_index.write(
        directory,
        batches,
        images(count),
        units=features.shape[1],
        class_names=["a", "b", "c"],
        metadata={"step": 7},
        dtype=dtype,
    )
    return directory


def sorted_neighbors(features, queries, k):
    """Returns distances and indices of the nearest: distances in float64, sorted, ties by index."""
    difference = queries[:, None].astype(np.float64) - features[None].astype(np.float64)
    distances = np.sqrt(np.square(difference).sum(axis=-1))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order
