"""Reading a prepared data set: images as they were written, and messages that name every damage."""

import json
import os
import pathlib
import shutil
import types
import zipfile

import numpy as np
import PIL.Image
import psutil
import pytest
import small_examples
import tensorflow as tf

from alexnet_tf.data import examples
from alexnet_tf.data import image_records
from alexnet_tf.data import loading
from alexnet_tf.data import photograph
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import records
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.utils import messages


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a source of ten photographs for training and three for validation."""
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 10), ("val", 3)):
        for number in range(count):
            path = root / split / ("cat", "dog")[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, [60 + number, 75, 3], dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(path)
    return sources.folder(root)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    """Returns data sets by storage, in shards of four; read-only."""
    root = tmp_path_factory.mktemp("made")
    for storage in prepare.STORAGES:
        prepare.prepare(source, root / storage, prepare.Options(storage=storage, shard_examples=4))
    return {storage: root / storage for storage in prepare.STORAGES}


@pytest.fixture(params=prepare.STORAGES)
def storage(request):
    return request.param


@pytest.fixture
def directory(made, storage, tmp_path):
    """Returns a copy of a data set to damage."""
    shutil.copytree(made[storage], tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def jpegs(made, tmp_path):
    """Returns a copy of the JPEG data set to damage, for tests that do not depend on the storage."""
    shutil.copytree(made["jpeg"], tmp_path / "data")
    return tmp_path / "data"


def expected_images(source, split, storage):
    """Returns the images to write, in the order on disk."""
    images = []
    for number in range(len(split.labels)):
        image = photograph.decode_to_square(tf.io.read_file(f"{source.root}/{split.name_of(number)}"))
        if storage == "jpeg":
            image = tf.io.decode_jpeg(tf.io.encode_jpeg(image, quality=95))
        images.append(image.numpy())
    return np.stack(images)


def flip_bit(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)


def damage_image(directory, number, split="train"):
    """Flips one bit in the middle of an image; returns the names of shard and image."""
    index = prepared.read_index(directory, split)
    shard = sorted(directory.glob(f"prepared-{split}*"))[index.shards[number]]
    middle = index.places[number] + 12 + index.image_places[number] + index.image_lengths[number] // 2
    flip_bit(shard, int(middle))
    return str(shard), index.names[number].decode()


def wrong_line(directory):
    """Returns the only message of `verify`."""
    (line,) = prepared.verify(directory)
    assert "\n" not in line
    return line


REMEDY = "copy the file from a backup, or prepare the data again in a new --data_dir"


def refused(directory, kind=ValueError):
    with pytest.raises(kind) as caught:
        prepared.open_data_dir(directory)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("Expected ")
    return str(caught.value)


@pytest.mark.parametrize("cache", ["none", "memory", "auto"])
@pytest.mark.parametrize("split, count", [("train", 10), ("validation", 3)])
def test_written_images_are_read_back(source, made, storage, cache, split, count):
    opened, _ = prepared.open_data_dir(made[storage])
    part = opened.splits[split]
    data, skipped, _ = loading.load(part, cache=cache)
    assert (len(data), skipped) == (count, [])
    found = list(pipeline.evaluation_batches(data, batch_size=4).as_numpy_iterator())
    images, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    np.testing.assert_array_equal(images, expected_images(source, part, storage))
    assert [("cat", "dog")[label] for label in labels] == [
        part.name_of(number).split("/")[1] for number in range(count)
    ]
    np.testing.assert_array_equal(part.labels, labels)
    assert len({part.name_of(number) for number in range(count)}) == count


def test_split_is_read_by_index_inside_tf_data(source, made, storage):
    part = prepared.open_data_dir(made[storage])[0].splits["train"]
    indices = np.array([7, 0, 9, 3, 3, 8], np.int64)
    dataset = tf.data.Dataset.from_tensor_slices(indices).map(part.read, num_parallel_calls=3)
    found = np.stack([photograph.decode_to_square(each) for each in dataset])
    np.testing.assert_array_equal(found, expected_images(source, part, storage)[indices])


@pytest.mark.parametrize("cache", ["none", "memory", "auto"])
def test_crops_equal_those_of_the_images(source, made, storage, cache):
    """Crops of stored pixels and of partially decoded JPEG files are exact."""
    part = prepared.open_data_dir(made[storage])[0].splits["train"]
    data = loading.load(part, cache=cache).examples
    images = expected_images(source, part, storage)
    seen = []
    for batch in small_examples.sampled(data, batch_size=5, seed=3, steps=2):
        for crop, (top, left), label in zip(batch["crops"], batch["offsets"], batch["labels"], strict=True):
            squares = images[:, top : top + 224, left : left + 224]
            (number,) = np.flatnonzero((squares == crop).all(axis=(1, 2, 3)))
            assert part.labels[number] == label
            seen.append(number)
    assert sorted(seen) == list(range(10))


def test_jpeg_crop_equals_that_of_the_decoded_image_at_any_offset(made):
    """Colors have half the resolution, so those next to a crop affect its edges."""
    part = prepared.open_data_dir(made["jpeg"])[0].splits["train"]
    for number in range(len(part.labels)):
        encoded = tf.constant(bytes(part.records.image(number)))
        whole = tf.io.decode_jpeg(encoded, channels=3).numpy()
        for left in range(33):
            top = 32 - left
            crop = examples.decode_jpeg_crop(encoded, tf.constant([top, left]), 224)
            np.testing.assert_array_equal(crop, whole[top : top + 224, left : left + 224])


def test_statistics_and_classes_come_with_the_images(source, made, storage):
    opened, image_statistics = prepared.open_data_dir(made[storage])
    assert opened.class_names == ("cat", "dog")
    assert opened.class_metadata == ({"name": "cat"}, {"name": "dog"})
    assert opened.name == f"{made[storage]} ({source.name})"
    for one, other in zip(image_statistics, statistics.load(made[storage] / prepared.STATISTICS), strict=True):
        np.testing.assert_array_equal(one, other)
    if storage == "raw":
        _, _, again = loading.load(opened.splits["train"], collect_statistics=True)
        for one, other in zip(image_statistics, again, strict=True):
            np.testing.assert_array_equal(one, other)


def test_data_set_can_be_moved(made, storage, tmp_path):
    shutil.copytree(made[storage], tmp_path / "elsewhere")
    before, after = (
        prepared.open_data_dir(folder)[0].splits["train"].records for folder in (made[storage], tmp_path / "elsewhere")
    )
    assert [bytes(before.image(number)) for number in range(10)] == [bytes(after.image(number)) for number in range(10)]


def test_verify_of_intact_data_reports_progress_only(made, storage):
    reported = []
    assert prepared.verify(made[storage], reported.append) == []
    assert reported == [4, 8, 10, 13]


@pytest.mark.parametrize("number", [0, 5, 9])
def test_verify_names_shard_and_image_of_one_flipped_bit(directory, number):
    shard, name = damage_image(directory, number)
    assert (
        wrong_line(directory)
        == f"Expected the bytes that were written. Received: a wrong checksum at {name} in {shard}"
    )


def test_verify_names_every_damaged_image(directory):
    damaged = [damage_image(directory, number) for number in (1, 2, 8)]
    damaged.append(damage_image(directory, 2, "validation"))
    lines = prepared.verify(directory)
    assert len(lines) == 4
    for line, (shard, name) in zip(lines, damaged, strict=True):
        assert line.endswith(f" at {name} in {shard}")


def test_verify_finds_any_flipped_byte_of_a_shard(jpegs):
    """Also in headers and checksums: all bytes near the ends of the first record, and some within."""
    index = prepared.read_index(jpegs, "train")
    shard = sorted(jpegs.glob("prepared-train*"))[0]
    second = int(index.places[1])
    for byte in [*range(70), *range(second - 70, second + 20), *range(0, second, second // 20)]:
        flip_bit(shard, byte)
        name = index.names[int(byte >= second)].decode()
        assert wrong_line(jpegs).endswith(f" at {name} in {shard}"), byte
        flip_bit(shard, byte)
    assert prepared.verify(jpegs) == []


def test_training_on_a_damaged_image_names_shard_and_image(directory):
    shard, name = damage_image(directory, 6)
    opened, _ = prepared.open_data_dir(directory)
    with pytest.raises(records.DamagedRecordError, match=f"{name} in {shard}"):
        opened.splits["train"].records.image(6)
    data = loading.load(opened.splits["train"], cache="none").examples
    with pytest.raises(tf.errors.OpError) as caught:
        small_examples.sampled(data, batch_size=5, steps=2)
    line = messages.first_line(caught.value)
    assert line.endswith(f"Expected the bytes that were written. Received: a wrong checksum at {name} in {shard}")


def test_automatic_cache_reads_each_image_once_and_only_when_it_is_used(jpegs, monkeypatch):
    split = prepared.open_data_dir(jpegs)[0].splits["train"]
    read = []
    image = type(split.records).image
    monkeypatch.setattr(type(split.records), "image", lambda self, number: read.append(number) or image(self, number))
    loaded = loading.load(split, cache="auto").examples
    assert read == [] and loaded.promised == 10 * 256 * 256 * 3
    offsets = np.zeros([2, 2], int)
    first = loaded.fetch(np.array([6, 2]), offsets, 256)
    np.testing.assert_array_equal(loaded.fetch(np.array([6, 2]), offsets + 3, 200), first[:, 3:203, 3:203])
    assert read == [6, 2]
    free = 2 * loaded.promised
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=free))
    assert loading.load(split).examples.promised and not loading.load(split, promised=1).examples.promised


def test_caching_a_damaged_image_names_it(directory):
    """It is not skipped as an unreadable photograph would be."""
    shard, name = damage_image(directory, 6)
    opened, _ = prepared.open_data_dir(directory)
    with pytest.raises(tf.errors.OpError) as caught:
        loading.load(opened.splits["train"], cache="memory")
    assert messages.first_line(caught.value).endswith(f" at {name} in {shard}")
    with pytest.raises(tf.errors.OpError) as caught:
        list(tf.data.Dataset.from_tensors(np.int64(6)).map(opened.splits["train"].read))
    assert messages.first_line(caught.value).endswith(f" at {name} in {shard}")


@pytest.mark.parametrize("left", [0, 1, -1])
def test_truncated_shard_is_refused_and_named(directory, left):
    shard = sorted(directory.glob("prepared-train*"))[1]
    size = shard.stat().st_size
    os.truncate(shard, left % size)
    assert refused(directory) == f"Expected {shard} to have {size} bytes. Received: {left % size} bytes; {REMEDY}"
    assert wrong_line(directory) == f"{shard}: {left % size} bytes, not {size}"


def test_shard_truncated_while_open_is_named(directory):
    opened, _ = prepared.open_data_dir(directory)
    shard = sorted(directory.glob("prepared-validation*"))[0]
    os.truncate(shard, shard.stat().st_size - 1)
    name = opened.splits["validation"].name_of(2)
    with pytest.raises(records.DamagedRecordError, match=f"the file ends at {name} in {shard}"):
        opened.splits["validation"].records.image(2)


def test_missing_shard_is_refused_and_named(directory):
    shard = sorted(directory.glob("prepared-train*"))[2]
    size = shard.stat().st_size
    shard.unlink()
    assert refused(directory) == f"Expected {shard} to have {size} bytes. Received: none; {REMEDY}"
    assert wrong_line(directory) == f"{shard}: missing"


def test_swapped_shards_are_noticed(directory):
    one, other = sorted(directory.glob("prepared-train*"))[:2]
    os.rename(one, directory / "aside")
    os.rename(other, one)
    os.rename(directory / "aside", other)
    lines = prepared.verify(directory)
    assert lines
    assert all(str(one) in line or str(other) in line for line in lines)


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "text"])
@pytest.mark.parametrize("name", [prepared.INDEX, prepared.STATISTICS, prepared.CLASSES])
def test_other_damaged_files_are_refused_and_named(jpegs, name, damage):
    path = jpegs / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "text": b"Dear Sir\n"}[damage])
    if (name, damage) == (prepared.STATISTICS, "missing"):
        with pytest.raises(FileNotFoundError, match=prepared.STATISTICS):
            prepared.open_data_dir(jpegs)
    else:
        assert f" in {path}. Received: " in refused(jpegs)
    assert wrong_line(jpegs) == f"{path}: not the bytes that were written"


@pytest.mark.parametrize("classes", ["{}", "[]x", "[1, 2]", '[{"wnid": "n01"}]', '[{"name": 3}]', "null"])
def test_invalid_classes_are_refused(jpegs, classes):
    (jpegs / prepared.CLASSES).write_text(classes)
    if classes == "{}":
        # No invalid class, as there is none; only the checksum differs.
        assert wrong_line(jpegs).startswith(str(jpegs / prepared.CLASSES))
    else:
        assert f"Expected the classes in {jpegs / prepared.CLASSES}. Received: " in refused(jpegs)


def test_flipped_bits_in_the_index_are_refused_or_harmless(tmp_path):
    """Some of them make an array look encrypted, or compressed by an unknown method."""
    path = tmp_path / prepared.INDEX
    before = image_records.Index(*[np.arange(2)] * 6, np.array([b"a.jpg", b"b.jpg"]))
    with open(path, "wb") as file:
        np.savez(file, **{f"train.{field}": column for field, column in before._asdict().items()})
    with zipfile.ZipFile(path) as archive:
        first = archive.start_dir
    content = bytearray(path.read_bytes())
    refusals = []
    for bit in range(8 * first, 8 * len(content), 2):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            found = prepared.read_index(tmp_path, "train")
        except ValueError as error:
            refusals.append(str(error))
        else:
            for one, other in zip(found, before, strict=True):
                np.testing.assert_array_equal(one, other)
        content[bit // 8] ^= 1 << bit % 8
    for refusal in refusals:
        assert refusal.startswith(f"Expected the record locations of train in {path}. Received: ")
        assert "\n" not in refusal
    for kind in ("is encrypted", "compression method is not supported", "Bad CRC-32"):
        assert any(kind in refusal for refusal in refusals), kind


@pytest.mark.parametrize(
    "content, received",
    [
        (b"", "Expecting value"),
        (b'{"version": 1', "Expecting ',' delimiter"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "[], not an object"),
        (b"{}", "no 'version'"),
        (b'{"version": 2}', "version 2"),
        (b'{"version": 1}', "no 'source'"),
    ],
)
def test_damaged_manifest_raises(jpegs, content, received):
    path = jpegs / prepared.MANIFEST
    path.write_bytes(content)
    message = refused(jpegs)
    assert message.startswith(f"Expected a manifest of version 1 in {path}. Received: ")
    assert received in message
    with pytest.raises(ValueError, match="Expected a manifest of version 1"):
        prepared.verify(jpegs)


@pytest.mark.parametrize("where", [(), ("splits", "train"), ("splits", "train", "shards", 1)])
def test_manifest_with_a_missing_field_raises(jpegs, where):
    path = jpegs / prepared.MANIFEST
    whole = path.read_text()

    def part(manifest):
        for key in where:
            manifest = manifest[key]
        return manifest

    optional = {"duplicates"}
    for field in set(part(json.loads(whole))) - optional:
        manifest = json.loads(whole)
        del part(manifest)[field]
        path.write_text(json.dumps(manifest))
        expected = f"Expected a manifest of version 1 in {path}. Received: no '{field}'"
        place = {0: "", 2: " in splits.train", 4: " in splits.train.shards[1]"}[len(where)]
        assert refused(jpegs) == expected + place
    path.write_text(whole)
    assert prepared.verify(jpegs) == []


def test_manifest_with_other_counts_is_noticed(jpegs):
    path = jpegs / prepared.MANIFEST
    whole = path.read_text()
    for field, value in (("examples", 9), ("per_class", [4, 6])):
        manifest = json.loads(whole)
        manifest["splits"]["train"][field] = value
        path.write_text(json.dumps(manifest))
        assert wrong_line(jpegs) == f"{jpegs / prepared.INDEX}: the counts of train differ from manifest.json"


@pytest.mark.parametrize("call", [prepared.open_data_dir, prepared.verify, prepared.read_manifest])
def test_directory_without_a_data_set_raises(tmp_path, call):
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError) as caught:
            call(directory)
        assert str(caught.value) == (
            f"Expected a data set made by alexnet-tf prepare, with its manifest.json, in {directory}. Received: none"
        )


def test_unfinished_data_set_says_what_to_do(jpegs):
    (jpegs / prepared.MANIFEST).unlink()
    (jpegs / prepared.PROGRESS).mkdir()
    for call in (prepared.open_data_dir, prepared.verify):
        with pytest.raises(FileNotFoundError) as caught:
            call(jpegs)
        assert str(caught.value).endswith(
            f"in {jpegs}. Received: an unfinished preparation; run the same command again"
        )


def test_data_set_of_version_0_1_opens():
    """Sixteen images of two classes, bright and dark, written by the package's version 0.1."""
    directory = pathlib.Path(__file__).parent / "version_0_1" / "prepared"
    assert prepared.verify(directory) == []
    opened, image_statistics = prepared.open_data_dir(directory)
    assert opened.class_names == ("bright", "dark")
    assert opened.name == f"{directory} (folder:pictures)"
    assert {split: len(part.labels) for split, part in opened.splits.items()} == {
        "train": 8,
        "test": 4,
        "validation": 4,
    }
    assert image_statistics.num_examples == 8
    assert image_statistics.mean_image.shape == (256, 256, 3)
    for part in opened.splits.values():
        images = small_examples.read_all(loading.load(part, cache="none").examples)
        assert images.shape == (len(part.labels), 256, 256, 3)
        for number, (image, label) in enumerate(zip(images, part.labels, strict=True)):
            assert f"/{opened.class_names[label]}/" in part.name_of(number)
            assert (image.mean() > 128) == (opened.class_names[label] == "bright")
        again = examples.from_records(part).images(range(len(part.labels)))
        np.testing.assert_array_equal(again, images)
