"""Loading a split: skipped photographs, image sizes, caching in memory."""

import time
import types

import numpy as np
import PIL.Image
import psutil
import pytest
import small_examples
import tensorflow as tf

from alexnet_tf.data import examples
from alexnet_tf.data import loading
from alexnet_tf.data import photograph
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sources
from alexnet_tf.data import statistics


def photographs(folder):
    """Returns a split of eight files, three of them unreadable, and a missing file."""
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, [280, 300, 3], dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.jpg")
    (folder / "1.jpg").write_text("This is no photograph.")
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:5000])
    (folder / "6.jpg").write_bytes(b"")
    paths = [folder / f"{number}.jpg" for number in range(9)]
    return sources.Split(
        labels=np.arange(9) % 3,
        read=lambda index: tf.io.read_file(tf.gather(tf.constant([str(path) for path in paths]), index)),
        name_of=lambda index: paths[index].name,
    )


def small_photographs(folder, count=6):
    """Returns a split of lossless 32 x 32 files, and their pixels."""
    folder.mkdir(exist_ok=True)
    pixels = [np.random.default_rng(number).integers(0, 256, [32, 32, 3], dtype=np.uint8) for number in range(count)]
    paths = [folder / f"{number}.png" for number in range(count)]
    for path, image in zip(paths, pixels, strict=True):
        PIL.Image.fromarray(image).save(path)
    split = sources.Split(
        labels=np.arange(count) % 2,
        read=lambda index: tf.io.read_file(tf.gather(tf.constant([str(path) for path in paths]), index)),
        name_of=lambda index: paths[index].name,
    )
    return split, np.stack(pixels)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_unreadable_photographs_are_skipped_and_named(tmp_path, cache):
    split = photographs(tmp_path)
    examples, skipped, image_statistics = loading.load(split, cache=cache)
    assert image_statistics is None
    assert len(examples) == 5
    np.testing.assert_array_equal(examples.labels, [0, 2, 0, 2, 1])
    expected = [photograph.decode_to_square(split.read(index)) for index in (0, 2, 3, 5, 7)]
    np.testing.assert_array_equal(small_examples.read_all(examples), expected)

    reasons = dict(skipped)
    assert list(reasons) == ["1.jpg", "4.jpg", "6.jpg", "8.jpg"]
    assert reasons["1.jpg"].startswith("Expected a JPEG, PNG, GIF, BMP or WebP. Received: ")
    assert reasons["4.jpg"].startswith("jpeg::Uncompress failed")
    assert reasons["6.jpg"] == "Expected a JPEG, PNG, GIF, BMP or WebP. Received: an empty file"
    assert "No such file" in reasons["8.jpg"]
    for reason in reasons.values():
        assert "\n" not in reason
        assert "function_node" not in reason


def test_statistics_cover_the_readable_photographs(tmp_path):
    examples, _, found = loading.load(photographs(tmp_path), collect_statistics=True)
    accumulator = statistics.Accumulator()
    accumulator.add(small_examples.read_all(examples))
    for one, other in zip(found, accumulator.result(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_progress_is_reported_until_the_end(tmp_path):
    reported = []
    loading.load(photographs(tmp_path), progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == 9


def test_slow_photographs_are_named(tmp_path, monkeypatch):
    split = photographs(tmp_path)
    reported = []
    loading.load(split, report_slow=lambda *each: reported.append(each))
    assert not reported
    # Some take longer than others.
    monkeypatch.setattr(loading, "SLOW_SECONDS", -1.0)
    _, skipped, _ = loading.load(split, report_slow=lambda *each: reported.append(each))
    assert [name for name, _ in reported] == [f"{number}.jpg" for number in (0, 2, 3, 5, 7)]
    assert all(0 <= seconds < 60 for _, seconds in reported)
    assert all(each.reason.endswith(" s)") for each in skipped)


def test_a_slow_photograph_takes_as_long_as_it_is_reported_to(monkeypatch):
    monkeypatch.setattr(loading, "SLOW_SECONDS", 0.5)

    def slow(index):
        time.sleep(1.0 if index == 3 else 0.0)
        return index

    def read(index):
        return small_examples.coded_image(tf.numpy_function(slow, [index], tf.int64))

    reported = []
    loading.load(sources.Split(np.arange(8), read, str), report_slow=lambda *each: reported.append(each))
    ((name, seconds),) = reported
    assert name == "3" and 1 <= seconds < 1.5


READERS = {
    "all": small_examples.read_all,
    "batches": lambda data: small_examples.sampled(data, batch_size=2, steps=6),
    "some": lambda data: data.images([0, 3, 4]),
}


@pytest.mark.parametrize(
    "damage, readers", [("text", READERS), ("cut", ["batches"]), ("removed", ["all"]), ("folder", ["some"])]
)
def test_a_photograph_that_goes_bad_after_it_was_read_is_named(tmp_path, damage, readers):
    split = photographs(tmp_path)
    data, _, _ = loading.load(split, cache="none")
    path = tmp_path / "5.jpg"
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "removed":
        path.write_bytes(b"no photograph" if damage == "text" else content[:5000])
    for reader in readers:
        with pytest.raises(
            ValueError, match=r"to stay readable while the program runs\. Received: 5\.jpg \(.+\); restore it"
        ) as caught:
            with examples.naming_unreadable(data):
                READERS[reader](data)
        assert "\n" not in str(caught.value)


def test_other_errors_than_of_photographs_are_unchanged(tmp_path):
    data, _, _ = loading.load(photographs(tmp_path), cache="none")
    for error in (tf.errors.InvalidArgumentError(None, None, "other"), tf.errors.UnavailableError(None, None, "lost")):
        with pytest.raises(type(error)), examples.naming_unreadable(data):
            raise error


def test_no_readable_photograph_raises(tmp_path):
    split = photographs(tmp_path)
    with pytest.raises(ValueError, match=r"Received: 3 unreadable files, the first 1.jpg \(Expected a JPEG, PNG"):
        loading.load(sources.subset(split, np.array([1, 4, 6])))


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_images_of_another_size_are_complete_and_in_order(tmp_path, cache):
    split, pixels = small_photographs(tmp_path)
    (tmp_path / "4.png").write_text("This is no photograph.")
    examples, skipped, found = loading.load(split, image_size=32, cache=cache, collect_statistics=True)
    assert examples.image_size == 32
    assert [each.name for each in skipped] == ["4.png"]
    dataset = pipeline.evaluation_batches(examples, batch_size=3)
    assert dataset.element_spec[0] == tf.TensorSpec([None, 32, 32, 3], tf.uint8)
    assert [len(labels) for _, labels in dataset] == [3, 2]
    good = pixels[[0, 1, 2, 3, 5]]
    np.testing.assert_array_equal(small_examples.read_all(examples), good)
    np.testing.assert_allclose(found.mean_image, good.mean(axis=0, dtype=np.float64), atol=255e-6)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_photographs_are_scaled_to_the_requested_size(tmp_path, cache):
    split = photographs(tmp_path)
    examples, _, _ = loading.load(split, image_size=32, cache=cache)
    expected = [photograph.decode_to_square(split.read(index), 32) for index in (0, 2, 3, 5, 7)]
    np.testing.assert_array_equal(small_examples.read_all(examples), expected)


@pytest.mark.parametrize("kept", [True, False])
def test_cache_size_depends_on_the_image_size(tmp_path, monkeypatch, kept):
    split, _ = small_photographs(tmp_path)
    free = 2 * 6 * 32 * 32 * 3 - (not kept)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=free))
    examples, _, _ = loading.load(split, image_size=32)
    assert (examples.decode is None) == kept


@pytest.mark.parametrize("crops, cache", [("random", "memory"), ("random", "none"), ("center", "none")])
def test_crops_of_24_of_32_are_the_pixels_at_their_offsets(tmp_path, cache, crops):
    split, pixels = small_photographs(tmp_path)
    split = split._replace(labels=np.arange(6))
    examples, _, _ = loading.load(split, image_size=32, cache=cache)
    found = small_examples.sampled(examples, batch_size=6, steps=40, crop_size=24, crops=crops)
    for batch in found[:5]:
        assert batch["crops"].shape == (6, 24, 24, 3)
        assert sorted(batch["labels"]) == list(range(6))
        for crop, (top, left), label in zip(batch["crops"], batch["offsets"], batch["labels"], strict=True):
            np.testing.assert_array_equal(crop, pixels[label][top : top + 24, left : left + 24])
    offsets = small_examples.gathered(found, "offsets")
    # 240 draws contain each of nine rows and columns, except once in ten billion runs.
    for axis in (0, 1):
        assert sorted(set(offsets[:, axis].tolist())) == (list(range(9)) if crops == "random" else [4])


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_crops_as_large_as_the_images_are_the_images(tmp_path, cache):
    split, pixels = small_photographs(tmp_path)
    split = split._replace(labels=np.arange(6))
    examples, _, _ = loading.load(split, image_size=32, cache=cache)
    for batch in small_examples.sampled(examples, batch_size=3, steps=4, crop_size=32):
        assert not batch["offsets"].any()
        np.testing.assert_array_equal(batch["crops"], pixels[batch["labels"]])


@pytest.mark.parametrize("storage", prepare.STORAGES)
def test_prepared_images_have_a_fixed_size(tmp_path, storage):
    for number in range(4):
        path = tmp_path / "photographs" / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(small_examples.coded_image(number).numpy()).save(path)
    source = sources.folder(tmp_path / "photographs")
    prepare.prepare(source, tmp_path / "made", prepare.Options(storage=storage))
    split = prepared.open_data_dir(tmp_path / "made")[0].splits["train"]
    for cache in ("auto", "memory", "none"):
        assert len(loading.load(split, cache=cache)[0]) == 4
        with pytest.raises(ValueError) as caught:
            loading.load(split, image_size=32, cache=cache)
        assert (
            str(caught.value) == "Expected image_size to be 256, the size of prepared images. Received: image_size=32"
        )


@pytest.mark.parametrize("cache, kept", [("memory", True), ("none", False), ("auto", True), ("auto", False)])
def test_images_are_cached_if_they_fit(tmp_path, monkeypatch, cache, kept):
    split, _ = small_photographs(tmp_path / "photographs")
    # Six images fill half of the available memory, or exceed it by a byte.
    free = 2 * 6 * 256 * 256 * 3 - (not kept)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=free))
    examples, _, _ = loading.load(split, cache=cache)
    before = small_examples.read_all(examples)
    for path in (tmp_path / "photographs").iterdir():
        path.unlink()
    if kept:
        np.testing.assert_array_equal(small_examples.read_all(examples), before)
    else:
        with pytest.raises(tf.errors.NotFoundError):
            small_examples.read_all(examples)


def test_cached_images_are_held_once():
    """Neither filling the table nor reading batches from it holds a second copy."""
    count = 600
    split = sources.Split(np.arange(count), small_examples.coded_image, str)
    loading.load(sources.subset(split, np.arange(8)), cache="memory")
    before = psutil.Process().memory_info().rss
    examples, _, _ = loading.load(split, cache="memory")
    found = small_examples.sampled(examples, steps=2)
    assert len(found) == 2
    assert psutil.Process().memory_info().rss - before < 1.5 * count * 256 * 256 * 3
    np.testing.assert_array_equal(
        examples.fetch(np.array([599]), np.zeros([1, 2], int), 256)[0], small_examples.coded_image(599)
    )


def test_unknown_cache_raises(tmp_path):
    with pytest.raises(ValueError, match="Expected cache to be one of auto, memory, none. Received: cache='disk'"):
        loading.load(photographs(tmp_path), cache="disk")
