"""Writing and opening an index of features."""

import json

import full_disk
import numpy as np
import pytest
import small_features

from alexnet_tf.evaluation import feature_index

clustered, needs_faiss, write = small_features.clustered, small_features.needs_faiss, small_features.write


def test_index_returns_what_was_written(tmp_path):
    features = clustered(20)
    index = feature_index.open_index(write(tmp_path / "new" / "index", features, "float16"))
    assert isinstance(index.features, np.memmap) and index.features.dtype == np.float16
    np.testing.assert_array_equal(index.features, features.astype(np.float16))
    assert len(index) == 20 and index.metadata == {"step": 7} and index.class_names == ["a", "b", "c"]
    np.testing.assert_array_equal(index.images.labels, small_features.images(20).labels)
    np.testing.assert_array_equal(index.images.places, small_features.images(20).places)
    assert index.images.names == small_features.images(20).names


def test_float16_halves_the_file_and_barely_changes_distances(tmp_path):
    features, queries = clustered(300), clustered(20, seed=1)
    half, single = (
        feature_index.open_index(write(tmp_path / dtype, features, dtype)) for dtype in feature_index.DTYPES
    )
    size = lambda index: (index.directory / "features.npy").stat().st_size
    assert size(half) < 0.51 * size(single)
    np.testing.assert_allclose(half.search(queries, 6).distances, single.search(queries, 6).distances, rtol=1e-3)


@pytest.mark.parametrize("largest", [65520.0, 1e-6])
def test_features_outside_the_range_of_float16_are_rejected(tmp_path, largest):
    features = clustered(20)
    features[4] *= largest / features[4].max()
    message = "^Expected features in the range of float16, .*use dtype float32.* Received: "
    with pytest.raises(ValueError, match=message):
        write(tmp_path, features, "float16")
    assert not list(tmp_path.glob("[a-z]*"))
    write(tmp_path, features, "float32")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_features_that_are_not_finite_are_rejected(tmp_path, value):
    features = clustered(20)
    index = feature_index.open_index(write(tmp_path / "index", features))
    features[12, 3] = value
    message = "^Expected finite features. Received: 1 of 6 images with NaN"
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "none", features, batch=6)
    assert not list((tmp_path / "none").glob("[a-z]*"))
    with pytest.raises(ValueError, match=message):
        index.search(features[10:16], 2)


def test_empty_data_set_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="^Expected at least one image to index. Received: none$"):
        write(tmp_path / "index", clustered(0))
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("count, message", [(19, "Received: .*image 20$"), (21, "of 21 images. Received: 20$")])
def test_different_numbers_of_features_and_images_are_rejected(tmp_path, count, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, clustered(20), count=count)
    assert not list(tmp_path.glob("[a-z]*"))


def test_interrupted_write_leaves_the_previous_index(tmp_path):
    features = clustered(200)
    write(tmp_path, features)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("[a-z]*")}
    with full_disk.full_disk(9000), pytest.raises(OSError):
        write(tmp_path, features + 1)

    def interrupted():
        yield features[:50]
        raise KeyboardInterrupt

    options = {"units": small_features.UNITS, "class_names": [], "metadata": {}}
    with pytest.raises(KeyboardInterrupt):
        feature_index.write(tmp_path, interrupted(), small_features.images(200), **options)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("[a-z]*")} == before


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "manifest.json").unlink(), "^Expected an index of features, with its manifest.json"),
        (
            lambda folder: cut(folder / "manifest.json", 9),
            "manifest of an index in .*manifest.json. Received: text that",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("[]"),
            r"manifest of an index in .* Received: \[\], not an object; ",
        ),
        (lambda folder: change(folder / "manifest.json", version=2), "of version 1. Received: 2; delete the directory"),
        (lambda folder: change(folder / "manifest.json", units=25), r"\(20, 25\) in .* Received: float32 \(20, 24\); "),
        (lambda folder: change(folder / "manifest.json", dtype="float16"), "Expected float16 .* Received: float32"),
        (lambda folder: cut(folder / "features.npy", 1000), r"^Expected features \(20, 24\) in .*features.npy"),
        (lambda folder: cut(folder / "features.npy", 0), "^Expected features .*features.npy. Received: "),
        (lambda folder: (folder / "features.npy").unlink(), "^Expected features .*features.npy. Received: "),
        (lambda folder: (folder / "features.npy").write_bytes(b"x" * 3000), "^Expected features .* Received: "),
        (
            lambda folder: cut(folder / "images.json", 9),
            "^Expected the images of an index in .*images.json. Received: text",
        ),
        (lambda folder: change(folder / "images.json", names=["a"]), "20 images in .*images.json. Received: 1, 20; "),
    ],
)
def test_damaged_index_is_reported_in_one_line(tmp_path, damage, message):
    write(tmp_path, clustered(20))
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        feature_index.open_index(tmp_path)
    assert "\n" not in str(caught.value)


@needs_faiss
def test_new_index_has_no_approximate_index(tmp_path):
    index = feature_index.open_index(write(tmp_path, clustered(300)))
    index.build_approximate()
    assert index.has_approximate
    assert not feature_index.open_index(write(tmp_path, clustered(300, seed=1))).has_approximate
    assert not (tmp_path / "approximate.faiss").exists()


@needs_faiss
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "^Expected [0-9]+ bytes in .*approximate.faiss. Received: none$"),
        (lambda path: cut(path, 99), "^Expected [0-9]+ bytes in .*approximate.faiss. Received: 99 bytes$"),
        (
            lambda path: path.write_bytes(b"x" * path.stat().st_size),
            "the bytes that were written in .*faiss",
        ),
    ],
)
def test_damaged_approximate_index_is_reported_in_one_line(tmp_path, damage, message):
    features = clustered(300)
    index = feature_index.open_index(write(tmp_path, features))
    index.build_approximate()
    damage(tmp_path / "approximate.faiss")
    with pytest.raises(ValueError, match=message) as caught:
        index.search(features[:1], 3, method="approximate")
    assert "\n" not in str(caught.value)
