"""The index of features and its searches, against distances in float64."""

import importlib.util
import json

import full_disk
import numpy as np
import pytest

from alexnet_tf import config as configuration
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import report
from alexnet_tf.benchmarks import retrieval
from alexnet_tf.evaluation import feature_index

UNITS = 24
needs_faiss = pytest.mark.skipif(
    not importlib.util.find_spec("faiss"), reason="needs faiss-cpu: pip install -e '.[neighbours]'"
)


def clustered(count, units=UNITS, seed=0):
    """Features like those behind a rectifier: in clusters, half of them zero."""
    generator = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(99).standard_normal([10, units])
    return np.maximum(centres[generator.integers(0, 10, count)] + generator.standard_normal([count, units]), 0).astype(
        np.float32
    )


def images(count):
    labels = np.arange(count, dtype=np.int64) % 3
    return feature_index.Images(labels, [f"train/{number}.png" for number in range(count)], np.arange(count) * 2)


def write(directory, features, dtype="float32", batch=7, count=None):
    count = len(features) if count is None else count
    batches = (features[first : first + batch] for first in range(0, len(features), batch))
    feature_index.write(
        directory,
        batches,
        images(count),
        units=features.shape[1],
        class_names=["a", "b", "c"],
        facts={"step": 7},
        dtype=dtype,
    )
    return directory


def nearest(features, queries, k):
    """The slow literal way: distances in float64, then sorted, the lower index first."""
    difference = queries[:, None].astype(np.float64) - features[None].astype(np.float64)
    distances = np.sqrt(np.square(difference).sum(axis=-1))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize("dtype", feature_index.DTYPES)
@pytest.mark.parametrize("k", [1, 6, 500])
def test_exact_search_is_that_of_float64_distances(tmp_path, monkeypatch, dtype, k):
    features, queries = clustered(500), clustered(33, seed=1)
    index = feature_index.open_index(write(tmp_path, features, dtype))
    # Many blocks, and queries in several parts.
    monkeypatch.setattr(feature_index, "_ELEMENTS", 37 * UNITS)
    monkeypatch.setattr(feature_index, "_QUERIES", 10)
    found = index.search(queries, k)
    distances, indices = nearest(np.asarray(index.features), queries, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert found.distances.dtype == np.float32 and found.indices.dtype == np.int64


def test_distances_that_float32_products_cannot_tell_apart_are_told_apart(tmp_path):
    # All but the same, far from zero: |x|^2 + |y|^2 - 2 x y is nothing but rounding.
    generator = np.random.default_rng(0)
    features = (1000 + 1e-3 * generator.integers(0, 50, [400, UNITS])).astype(np.float32)
    index = feature_index.open_index(write(tmp_path, features))
    distances, indices = nearest(features, features[:9], 6)
    found = index.search(features[:9], 6)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert not found.distances[:, 0].any()


def test_of_equally_near_images_the_lower_index_comes_first(tmp_path, monkeypatch):
    features = np.tile(clustered(5), [40, 1])
    index = feature_index.open_index(write(tmp_path, features))
    monkeypatch.setattr(feature_index, "_ELEMENTS", 13 * UNITS)
    found = index.search(features[3:5], 6)
    np.testing.assert_array_equal(found.indices, [np.arange(6) * 5 + 3, np.arange(6) * 5 + 4])
    assert not found.distances.any()


def test_a_query_can_be_left_out_of_its_own_answer(tmp_path):
    features = np.tile(clustered(5), [3, 1])
    index = feature_index.open_index(write(tmp_path, features))
    # The first is no image of the index, the last is among several that are equally near.
    found = index.search(features[[0, 1, 7]], 2, left_out=[-1, 1, 7])
    np.testing.assert_array_equal(found.indices, [[0, 5], [6, 11], [2, 12]])
    whole = index.search(features[:1], 14, left_out=[0])
    assert 0 not in whole.indices and whole.indices.shape == (1, 14)


def test_what_is_written_comes_back(tmp_path):
    features = clustered(20)
    index = feature_index.open_index(write(tmp_path / "new" / "index", features, "float16"))
    assert isinstance(index.features, np.memmap) and index.features.dtype == np.float16
    np.testing.assert_array_equal(index.features, features.astype(np.float16))
    assert len(index) == 20 and index.facts == {"step": 7} and index.class_names == ["a", "b", "c"]
    np.testing.assert_array_equal(index.images.labels, images(20).labels)
    np.testing.assert_array_equal(index.images.places, images(20).places)
    assert index.images.names == images(20).names


def test_float16_halves_the_file_and_hardly_moves_the_distances(tmp_path):
    features, queries = clustered(300), clustered(20, seed=1)
    half, single = (
        feature_index.open_index(write(tmp_path / dtype, features, dtype)) for dtype in feature_index.DTYPES
    )
    size = lambda index: (index.directory / "features.npy").stat().st_size
    assert size(half) < 0.51 * size(single)
    np.testing.assert_allclose(half.search(queries, 6).distances, single.search(queries, 6).distances, rtol=1e-3)


@pytest.mark.parametrize("largest", [65520.0, 1e-6])
def test_features_that_float16_does_not_hold_are_refused(tmp_path, largest):
    features = clustered(20)
    features[4] *= largest / features[4].max()
    with pytest.raises(ValueError, match="^Expected features that float16 holds, .*take dtype float32.* Received: "):
        write(tmp_path, features, "float16")
    assert not list(tmp_path.glob("[a-z]*"))
    write(tmp_path, features, "float32")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_features_that_are_no_numbers_are_refused(tmp_path, value):
    features = clustered(20)
    index = feature_index.open_index(write(tmp_path / "index", features))
    features[12, 3] = value
    message = "^Expected features that are numbers. Received: 1 of 6 with some "
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "none", features, batch=6)
    assert not list((tmp_path / "none").glob("[a-z]*"))
    with pytest.raises(ValueError, match=message):
        index.search(features[10:16], 2)


def test_zeros_are_features(tmp_path):
    index = feature_index.open_index(write(tmp_path, np.zeros([8, UNITS], np.float32), "float16"))
    np.testing.assert_array_equal(index.search(np.zeros([1, UNITS]), 3).indices, [[0, 1, 2]])


@pytest.mark.parametrize(
    "queries, arguments, message",
    [
        (clustered(2), {"k": 21}, r"^Expected k to be 1 to the 20 images. Received: 21$"),
        (clustered(2), {"k": 20, "left_out": [0, 1]}, "1 to the 19 images beside the query itself. Received: 20$"),
        (clustered(2), {"k": 0}, "Received: 0$"),
        (clustered(2, 25), {"k": 1}, r"^Expected queries \[queries, 24\]. Received: \[2, 25\]$"),
        (clustered(2)[0], {"k": 1}, r"Received: \[24\]$"),
        (clustered(2), {"k": 1, "method": "best"}, "^Expected method to be one of auto, exact, approximate. Received"),
        (clustered(2), {"k": 1, "method": "approximate"}, "^Expected an approximate index, from build_approximate"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tmp_path, queries, arguments, message):
    if arguments.get("method") == "approximate":
        pytest.importorskip("faiss")
    index = feature_index.open_index(write(tmp_path, clustered(20)))
    with pytest.raises(ValueError, match=message):
        index.search(queries, **arguments)


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^Expected at least one image to index. Received: none$"):
        write(tmp_path / "index", clustered(0))
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("count, message", [(19, "Received: .*image 20$"), (21, "of 21 images. Received: 20$")])
def test_another_number_of_features_than_images_is_refused(tmp_path, count, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, clustered(20), count=count)
    assert not list(tmp_path.glob("[a-z]*"))


def test_an_interrupted_index_leaves_the_one_before(tmp_path):
    features = clustered(200)
    write(tmp_path, features)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("[a-z]*")}
    with full_disk.full_disk(9000), pytest.raises(OSError):
        write(tmp_path, features + 1)

    def interrupted():
        yield features[:50]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feature_index.write(tmp_path, interrupted(), images(200), units=UNITS, class_names=[], facts={})
    assert {path.name: path.read_bytes() for path in tmp_path.glob("[a-z]*")} == before


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "manifest.json").unlink(), "^Expected an index of features, with its manifest.json"),
        (lambda folder: cut(folder / "manifest.json", 9), "^Expected JSON in .*manifest.json. Received: "),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "^Expected version, count.* Received: no version"),
        (lambda folder: change(folder / "manifest.json", version=2), "of version 1. Received: 2$"),
        (lambda folder: change(folder / "manifest.json", units=25), r"\(20, 25\) in .* Received: float32 \(20, 24\)$"),
        (lambda folder: change(folder / "manifest.json", dtype="float16"), "Expected float16 .* Received: float32"),
        (lambda folder: cut(folder / "features.npy", 1000), r"^Expected features \(20, 24\) in .*features.npy"),
        (lambda folder: cut(folder / "features.npy", 0), "^Expected features .*features.npy. Received: "),
        (lambda folder: (folder / "features.npy").unlink(), "^Expected features .*features.npy. Received: "),
        (lambda folder: (folder / "features.npy").write_bytes(b"x" * 3000), "^Expected features .* Received: "),
        (lambda folder: cut(folder / "images.json", 9), "^Expected JSON in .*images.json. Received: "),
        (lambda folder: change(folder / "images.json", names=["a"]), "images.json of 20 images. Received: 1, 20$"),
    ],
)
def test_a_damaged_index_is_refused_in_a_line(tmp_path, spoil, message):
    write(tmp_path, clustered(20))
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        feature_index.open_index(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_search_is_approximate_from_a_million_images_on():
    assert feature_index.choose_method("auto", 999_999) == "exact"
    assert feature_index.choose_method("auto", 1_000_000) == "approximate"
    assert feature_index.choose_method("exact", 10**7) == "exact"
    assert feature_index.choose_method("approximate", 10) == "approximate"


@needs_faiss
def test_approximate_search_finds_nearly_all_with_their_true_distances(tmp_path):
    features, queries = clustered(3000, 160), clustered(50, 160, seed=1)
    index = feature_index.open_index(write(tmp_path, features, "float16", batch=500))
    seen = []
    feature_index.build_approximate(index, seen.append)
    assert seen[-1] == 3000
    # As another process finds it.
    found = feature_index.open_index(tmp_path).search(queries, 6, method="approximate")
    right = index.search(queries, 6)
    assert feature_index.recall(found.indices, right.indices) > 0.95
    again = np.linalg.norm(index.features[found.indices].astype(np.float64) - queries[:, None], axis=-1)
    np.testing.assert_allclose(found.distances, again, rtol=1e-6)
    assert (np.diff(found.distances) >= 0).all()
    own = index.search(features[:4], 6, method="approximate", left_out=np.arange(4))
    assert not (own.indices == np.arange(4)[:, None]).any()


@needs_faiss
def test_an_approximate_search_that_has_too_few_candidates_is_exact(tmp_path):
    features, queries = clustered(300), clustered(3, seed=1)
    index = feature_index.open_index(write(tmp_path, features))
    feature_index.build_approximate(index)
    found = index.search(queries, 300, method="approximate")
    np.testing.assert_array_equal(found.indices, nearest(features, queries, 300)[1])


@needs_faiss
def test_a_new_index_has_no_approximate_one(tmp_path):
    index = feature_index.open_index(write(tmp_path, clustered(300)))
    feature_index.build_approximate(index)
    assert index.has_approximate
    assert not feature_index.open_index(write(tmp_path, clustered(300, seed=1))).has_approximate
    assert not (tmp_path / "approximate.faiss").exists()


@needs_faiss
@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(), "^Expected [0-9]+ bytes in .*approximate.faiss. Received: none$"),
        (lambda path: cut(path, 99), "^Expected [0-9]+ bytes in .*approximate.faiss. Received: 99 bytes$"),
        (lambda path: path.write_bytes(b"x" * path.stat().st_size), "^Expected an index of faiss in .* Received: "),
    ],
)
def test_a_damaged_approximate_index_is_refused_in_a_line(tmp_path, spoil, message):
    features = clustered(300)
    index = feature_index.open_index(write(tmp_path, features))
    feature_index.build_approximate(index)
    spoil(tmp_path / "approximate.faiss")
    with pytest.raises(ValueError, match=message) as caught:
        index.search(features[:1], 3, method="approximate")
    assert "\n" not in str(caught.value)


@needs_faiss
def test_features_that_do_not_differ_can_be_searched_approximately(tmp_path):
    index = feature_index.open_index(write(tmp_path, np.zeros([5, UNITS], np.float32)))
    feature_index.build_approximate(index)
    found = index.search(np.zeros([2, UNITS]), 3, method="approximate")
    assert not found.distances.any() and found.indices.shape == (2, 3)


def test_without_faiss_one_line_says_what_to_install(tmp_path, monkeypatch):
    index = feature_index.open_index(write(tmp_path, clustered(300)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = r"^Expected faiss-cpu for an approximate search: pip install -e '\.\[neighbours\]'"
    with pytest.raises(ModuleNotFoundError, match=expected):
        feature_index.build_approximate(index)


def test_recall_is_the_share_of_the_right_ones_that_were_found():
    found, right = np.array([[1, 2, 3], [9, 8, 7]]), np.array([[3, 2, 4], [7, 8, 9]])
    assert feature_index.recall(found, right) == pytest.approx(5 / 6)


@needs_faiss
def test_the_benchmark_compares_searches_that_find_the_same(tmp_path, monkeypatch):
    for name, value in (("UNITS", 160), ("QUERIES", (1, 3)), ("_CLASSES", 20), ("_BATCH", 300), ("_BLOCK", 300)):
        monkeypatch.setattr(retrieval, name, value)
    request = measuring.Request(configuration.Config(), rounds=1, seconds=0.0)
    found = measuring.as_dict(retrieval.nearest_images(request, counts=(400, 700), scratch=tmp_path))
    assert len(found["rates"]) == 12 and all(rate > 0 for rates in found["rates"].values() for rate in rates)
    assert [each["value"] for each in found["figures"] if each["what"].startswith("recall")] == [1.0, 1.0]
    assert report.lines("neighbours", found) and not list(tmp_path.iterdir())
    index = feature_index.open_index(write(tmp_path, np.concatenate(list(retrieval.clustered(700, 0)))))
    (queries,) = retrieval.clustered(9, 1)
    right = nearest(np.asarray(index.features), queries, retrieval.K)[1]
    np.testing.assert_array_equal(retrieval._by_faiss(index.features, queries), right)
