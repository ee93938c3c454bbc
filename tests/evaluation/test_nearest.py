"""Exact and approximate searches, compared with distances in float64."""

import importlib.util

import numpy as np
import pytest
import small_features

from alexnet_tf.evaluation import feature_index
from alexnet_tf.evaluation import nearest

clustered, needs_faiss, UNITS = small_features.clustered, small_features.needs_faiss, small_features.UNITS


def make_index(directory, features, dtype="float32", **options):
    return feature_index.open_index(small_features.write(directory, features, dtype, **options))


@pytest.mark.parametrize("dtype", feature_index.DTYPES)
@pytest.mark.parametrize("k", [1, 6, 500])
def test_exact_search_equals_sorted_float64_distances(tmp_path, monkeypatch, dtype, k):
    features, queries = clustered(500), clustered(33, seed=1)
    index = make_index(tmp_path, features, dtype)
    # Many blocks, and several groups of queries.
    monkeypatch.setattr(nearest, "_ELEMENTS", 37 * UNITS)
    monkeypatch.setattr(nearest, "_QUERIES", 10)
    found = index.search(queries, k)
    distances, indices = small_features.sorted_neighbors(np.asarray(index.features), queries, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert found.distances.dtype == np.float32 and found.indices.dtype == np.int64


def test_exact_search_orders_distances_below_float32_rounding(tmp_path):
    # Almost equal and far from zero: |x|^2 + |y|^2 - 2 x y is rounding error only.
    generator = np.random.default_rng(0)
    features = (1000 + 1e-3 * generator.integers(0, 50, [400, UNITS])).astype(np.float32)
    index = make_index(tmp_path, features)
    distances, indices = small_features.sorted_neighbors(features, features[:9], 6)
    found = index.search(features[:9], 6)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert not found.distances[:, 0].any()


def test_ties_are_in_the_order_of_indices(tmp_path, monkeypatch):
    features = np.tile(clustered(5), [40, 1])
    index = make_index(tmp_path, features)
    monkeypatch.setattr(nearest, "_ELEMENTS", 13 * UNITS)
    found = index.search(features[3:5], 6)
    np.testing.assert_array_equal(found.indices, [np.arange(6) * 5 + 3, np.arange(6) * 5 + 4])
    assert not found.distances.any()


def test_query_can_be_excluded_from_its_own_neighbors(tmp_path):
    features = np.tile(clustered(5), [3, 1])
    index = make_index(tmp_path, features)
    # The first query is not in the index; the last one is among several that are equally near.
    found = index.search(features[[0, 1, 7]], 2, exclude=[-1, 1, 7])
    np.testing.assert_array_equal(found.indices, [[0, 5], [6, 11], [2, 12]])
    found = index.search(features[:1], 14, exclude=[0])
    assert 0 not in found.indices and found.indices.shape == (1, 14)


def test_zero_features_can_be_searched(tmp_path):
    index = make_index(tmp_path, np.zeros([8, UNITS], np.float32), "float16")
    np.testing.assert_array_equal(index.search(np.zeros([1, UNITS]), 3).indices, [[0, 1, 2]])


@pytest.mark.parametrize(
    "queries, arguments, message",
    [
        (clustered(2), {"k": 21}, r"^Expected k to be from 1 to 20, the number of images\. Received: 21$"),
        (clustered(2), {"k": 20, "exclude": [0, 1]}, "1 to 19, the number of images other than the query.* 20$"),
        (clustered(2), {"k": 0}, "Received: 0$"),
        (clustered(2, 25), {"k": 1}, r"^Expected queries \[queries, 24\]. Received: \[2, 25\]$"),
        (clustered(2)[0], {"k": 1}, r"Received: \[24\]$"),
        (clustered(2), {"k": 1, "method": "best"}, "^Expected method to be one of auto, exact, approximate. Received"),
        (clustered(2), {"k": 1, "method": "approximate"}, "^Expected an approximate index, from build_approximate"),
    ],
)
def test_invalid_search_is_rejected(tmp_path, queries, arguments, message):
    if arguments.get("method") == "approximate":
        pytest.importorskip("faiss")
    index = make_index(tmp_path, clustered(20))
    with pytest.raises(ValueError, match=message):
        index.search(queries, **arguments)


def test_auto_is_approximate_from_a_million_images():
    assert nearest.choose_method("auto", 999_999) == "exact"
    assert nearest.choose_method("auto", 1_000_000) == "approximate"
    assert nearest.choose_method("exact", 10**7) == "exact"
    assert nearest.choose_method("approximate", 10) == "approximate"


@needs_faiss
def test_approximate_search_has_high_recall_and_true_distances(tmp_path):
    features, queries = clustered(3000, 160), clustered(50, 160, seed=1)
    index = make_index(tmp_path, features, "float16", batch=500)
    seen = []
    index.build_approximate(seen.append)
    assert seen[-1] == 3000
    # Opened again, as by another process.
    found = feature_index.open_index(tmp_path).search(queries, 6, method="approximate")
    true = index.search(queries, 6)
    assert nearest.recall(found.indices, true.indices) > 0.95
    again = np.linalg.norm(index.features[found.indices].astype(np.float64) - queries[:, None], axis=-1)
    np.testing.assert_allclose(found.distances, again, rtol=1e-6)
    assert (np.diff(found.distances) >= 0).all()
    own = index.search(features[:4], 6, method="approximate", exclude=np.arange(4))
    assert not (own.indices == np.arange(4)[:, None]).any()


@needs_faiss
def test_approximate_search_with_too_few_candidates_is_exact(tmp_path):
    features, queries = clustered(300), clustered(3, seed=1)
    index = make_index(tmp_path, features)
    index.build_approximate()
    found = index.search(queries, 300, method="approximate")
    np.testing.assert_array_equal(found.indices, small_features.sorted_neighbors(features, queries, 300)[1])


@needs_faiss
def test_equal_features_can_be_searched_approximately(tmp_path):
    index = make_index(tmp_path, np.zeros([5, UNITS], np.float32))
    index.build_approximate()
    found = index.search(np.zeros([2, UNITS]), 3, method="approximate")
    assert not found.distances.any() and found.indices.shape == (2, 3)


def test_missing_faiss_is_reported_with_the_command_to_install_it(tmp_path, monkeypatch):
    index = make_index(tmp_path, clustered(300))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = r"^Expected faiss-cpu for an approximate search: pip install -e '\.\[neighbours\]'"
    with pytest.raises(ModuleNotFoundError, match=expected):
        index.build_approximate()


def test_recall_is_the_fraction_of_true_neighbors_found():
    found, true = np.array([[1, 2, 3], [9, 8, 7]]), np.array([[3, 2, 4], [7, 8, 9]])
    assert nearest.recall(found, true) == pytest.approx(5 / 6)
