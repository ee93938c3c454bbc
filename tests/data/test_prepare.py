"""Writing a data set: exact pixels, compatibility with TFDS, and resuming after interruptions."""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil

import forks
import full_disk
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from alexnet_tf.data import draws
from alexnet_tf.data import image_records
from alexnet_tf.data import loading
from alexnet_tf.data import photograph
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import records
from alexnet_tf.data import sources
from alexnet_tf.data import statistics

OPTIONS = prepare.Options(shard_examples=4)
BAD = {
    "train/dog/cut.jpg": "jpeg::Uncompress",
    "train/dog/empty.jpg": "Expected a JPEG, PNG, GIF, BMP or WebP. Received: an empty file",
    "train/cat/text.jpg": "Expected a JPEG, PNG, GIF, BMP or WebP. Received: ",
}
CLASSES = ("cat", "dog")


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, [height, width, channels], dtype=np.uint8)


def write_photographs(root):
    """Writes a folder source: eleven unusual images and three unreadable files for training, five for validation."""
    for split in ("train", "val"):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
    cat, dog = root / "train" / "cat", root / "train" / "dog"
    picture = PIL.Image.fromarray(noise(70, 90))
    picture.convert("CMYK").save(cat / "cmyk.jpg")
    picture.convert("L").save(cat / "gray.jpg")
    picture.quantize(16).save(cat / "palette.png")
    PIL.Image.fromarray(np.random.default_rng(1).integers(0, 2**16, [30, 41]).astype(np.uint16)).save(cat / "16.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture.save(cat / "turned.jpg", exif=exif)
    PIL.Image.fromarray(noise(1, 1)).save(dog / "1x1.png")
    PIL.Image.fromarray(noise(50, 8000)).save(dog / "8000x50.jpg")
    PIL.Image.fromarray(noise(256, 256)).save(dog / "256.png")
    PIL.Image.fromarray(noise(257, 301)).save(dog / "257.jpg")
    PIL.Image.fromarray(noise(401, 300)).save(dog / "large.jpg")
    PIL.Image.fromarray(np.full([9, 9, 3], 12, np.uint8)).save(dog / "plain.bmp")
    (cat / "text.jpg").write_text("This is no photograph.")
    (dog / "cut.jpg").write_bytes((dog / "257.jpg").read_bytes()[:9000])
    (dog / "empty.jpg").write_bytes(b"")
    for number in range(5):
        picture = PIL.Image.fromarray(noise(90 + number, 120, seed=number))
        picture.save(root / "val" / CLASSES[number % 2] / f"{number}.jpg")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    write_photographs(root)
    return sources.folder(root)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """Returns the directory of an uninterrupted preparation; read-only."""
    directory = tmp_path_factory.mktemp("finished") / "jpeg"
    prepare.prepare(source, directory, OPTIONS)
    return directory


@pytest.fixture(scope="module")
def finished_raw(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "raw"
    prepare.prepare(source, directory, OPTIONS._replace(storage="raw"))
    return directory


@pytest.fixture
def few(tmp_path):
    """Returns a source of four photographs."""
    root = tmp_path / "few"
    for number in range(4):
        path = root / "train" / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(noise(20, 20 + number, seed=number)).save(path)
    return sources.folder(root)


def image_of(source, relative):
    return photograph.decode_to_square(tf.io.read_file(f"{source.root}/{relative}"))


def files_below(directory):
    """Returns the contents of each file except the lock."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def times(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.iterdir() if path.name != ".lock"}


def shards_of(directory, split="train"):
    return sorted(directory.glob(f"prepared-{split}.tfrecord-?????-of-?????"))


def examples(directory, split="train"):
    """Returns (name, label, image bytes) of each record in the order on disk, read by TensorFlow."""
    found = []
    for path in shards_of(directory, split):
        for payload in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(payload).features.feature
            assert set(feature) == {"image", "label", "file_name"}
            name, image = (feature[key].bytes_list.value[0] for key in ("file_name", "image"))
            found.append((name.decode(), feature["label"].int64_list.value[0], image))
    return found


def assert_same_files(directory, expected):
    found, wanted = files_below(directory), files_below(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert not [path.name for path in directory.rglob("*.part")]


def stop_at(monkeypatch, call, error=None, most_bytes=None):
    """Raises an error or fills the disk halfway through the shard number `call`, counted from 0."""
    write = records.write
    calls = []

    def stopped(payloads):
        yield from [next(iter(payloads))]
        raise error

    def stopping(path, payloads):
        calls.append(path)
        if len(calls) != call + 1:
            return write(path, payloads)
        if error:
            return write(path, stopped(payloads))
        with full_disk.full_disk(most_bytes):
            return write(path, payloads)

    monkeypatch.setattr(records, "write", stopping)
    return calls


@pytest.mark.parametrize("split, count", [("train", 11), ("validation", 5)])
def test_raw_images_are_the_scaled_photographs(source, finished_raw, split, count):
    found = examples(finished_raw, split)
    assert len({name for name, _, _ in found}) == count
    for name, label, image in found:
        pixels = np.frombuffer(image, np.uint8).reshape(256, 256, 3)
        np.testing.assert_array_equal(pixels, image_of(source, name), err_msg=name)
        assert name.split("/")[:2] == ["train" if split == "train" else "val", CLASSES[label]]


@pytest.mark.parametrize("split, count", [("train", 11), ("validation", 5)])
def test_jpeg_images_are_the_encoded_scaled_photographs(source, finished, split, count):
    found = examples(finished, split)
    assert len({name for name, _, _ in found}) == count
    for name, label, image in found:
        expected = tf.io.decode_jpeg(tf.io.encode_jpeg(image_of(source, name), quality=95))
        np.testing.assert_array_equal(tf.io.decode_jpeg(image), expected, err_msg=name)
        assert name.split("/")[:2] == ["train" if split == "train" else "val", CLASSES[label]]


def test_jpeg_quality_is_that_of_the_options(few, tmp_path):
    prepare.prepare(few, tmp_path / "data", prepare.Options(jpeg_quality=30))
    for name, _, image in examples(tmp_path / "data"):
        assert image == tf.io.encode_jpeg(image_of(few, name), quality=30)
        assert len(image) < len(tf.io.encode_jpeg(image_of(few, name), quality=95).numpy())


def test_record_is_the_same_in_every_process(finished):
    """Protocol buffer maps are unordered: only deterministic serialization gives the same file."""
    for path in shards_of(finished):
        for payload in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            assert tf.train.Example.FromString(payload).SerializeToString(deterministic=True) == payload


def test_seed_determines_the_order_on_disk(few, source, finished, tmp_path):
    split = source.splits["train"]
    names = [split.name_of(index).removeprefix(f"{source.root}/") for index in range(len(split.labels))]
    order = draws.order_on_disk(14, 0).tolist()
    assert order != sorted(order)
    expected = [names[index] for index in order if names[index] not in BAD]
    assert [name for name, _, _ in examples(finished)] == expected

    orders = [draws.order_on_disk(4, seed).tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]
    prepare.prepare(few, tmp_path / "data", prepare.Options(seed=1, shard_examples=2))
    split = few.splits["train"]
    expected = [split.name_of(index).removeprefix(f"{few.root}/") for index in orders[1]]
    assert [name for name, _, _ in examples(tmp_path / "data")] == expected


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
def test_tfds_reads_the_directory(source, finished, finished_raw, storage):
    builder = tfds.builder_from_directory(str(finished if storage == "jpeg" else finished_raw))
    assert builder.info.features["label"].names == list(CLASSES)
    assert builder.info.supervised_keys == ("image", "label")
    sizes = {split: (info.num_examples, info.shard_lengths) for split, info in builder.info.splits.items()}
    assert {split: size for split, (size, _) in sizes.items()} == {"train": 11, "validation": 5}
    assert [len(list(tf.data.TFRecordDataset(str(path)))) for path in shards_of(finished)] == sizes["train"][1]
    for split in ("train", "validation"):
        found = list(builder.as_dataset(split=split, shuffle_files=False).as_numpy_iterator())
        assert len({example["file_name"] for example in found}) == len(found) == sizes[split][0]
        for example in found:
            expected = image_of(source, example["file_name"].decode())
            if storage == "jpeg":
                expected = tf.io.decode_jpeg(tf.io.encode_jpeg(expected, quality=95))
            np.testing.assert_array_equal(example["image"], expected)
            assert example["file_name"].decode().split("/")[1] == CLASSES[example["label"]]
    pairs = builder.as_dataset(split="validation", as_supervised=True).as_numpy_iterator()
    assert sorted(label for _, label in pairs) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
def test_statistics_are_those_of_the_training_images(source, finished, finished_raw, storage):
    """They are computed before JPEG encoding and do not depend on order and shards."""
    accumulator = statistics.Accumulator()
    for name, _, _ in sorted(examples(finished)):
        accumulator.add(image_of(source, name).numpy()[None])
    found = statistics.load((finished if storage == "jpeg" else finished_raw) / prepared.STATISTICS)
    assert found.num_examples == 11
    for one, other in zip(found, accumulator.result(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_manifest_has_the_right_counts(source, finished):
    manifest = json.loads((finished / prepared.MANIFEST).read_text())
    assert prepare.prepare(source, finished, OPTIONS) == manifest
    assert manifest["source"] == source.name
    assert manifest["storage"] == "jpeg"
    assert manifest["request"]["seed"] == 0
    train, validation = manifest["splits"]["train"], manifest["splits"]["validation"]
    assert (train["examples"], train["per_class"]) == (11, [5, 6])
    assert (validation["examples"], validation["per_class"], validation["skipped"]) == (5, [3, 2], [])
    for split, metadata in manifest["splits"].items():
        assert [shard["file"] for shard in metadata["shards"]] == [path.name for path in shards_of(finished, split)]
        for shard, path in zip(metadata["shards"], shards_of(finished, split), strict=True):
            content = path.read_bytes()
            assert shard["sha256"] == hashlib.sha256(content).hexdigest()
            assert shard["bytes"] == len(content)
            assert shard["examples"] == len(list(tf.data.TFRecordDataset(str(path))))
    assert sorted(manifest["files"]) == [
        "classes.json",
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
        "records.npz",
        "statistics.npz",
    ]
    for name, digest in manifest["files"].items():
        assert digest == hashlib.sha256((finished / name).read_bytes()).hexdigest()


def test_skipped_images_are_named_with_the_reason(source, finished):
    skipped = prepared.read_manifest(finished)["splits"]["train"]["skipped"]
    found = {each["name"].removeprefix(f"{source.root}/"): each["reason"] for each in skipped}
    assert found.keys() == BAD.keys()
    for name, reason in BAD.items():
        assert found[name].startswith(reason)
        assert "\n" not in found[name]


def test_index_locates_label_name_and_image(finished):
    for split in ("train", "validation"):
        index = prepared.read_index(finished, split)
        expected = examples(finished, split)
        contents = [path.read_bytes() for path in shards_of(finished, split)]
        assert len(index.labels) == len(expected)
        for row, (name, label, image) in zip(zip(*index, strict=True), expected, strict=True):
            entry = image_records.Index(*row)
            assert (entry.names.decode(), entry.labels) == (name, label)
            first = entry.places + 12 + entry.image_places
            assert contents[entry.shards][first : first + entry.image_lengths] == image


def test_class_metadata_is_kept(few, tmp_path):
    metadata = ({"wnid": "n01", "ilsvrc_id": 2}, {"wnid": "n02", "ilsvrc_id": 1})
    prepare.prepare(few._replace(class_metadata=metadata, license="free"), tmp_path / "data", OPTIONS)
    opened, _ = prepared.open_data_dir(tmp_path / "data")
    assert opened.class_names == CLASSES
    assert opened.class_metadata == tuple({**known, "name": name} for known, name in zip(metadata, CLASSES))
    assert opened.license == "free"


def test_progress_is_reported_over_all_splits(source, tmp_path, monkeypatch):
    reported = []
    stop_at(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(source, tmp_path / "data", OPTIONS, progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == 8
    reported = []
    prepare.prepare(source, tmp_path / "data", OPTIONS, progress=reported.append)
    assert reported == sorted(reported)
    assert (reported[0], reported[-1]) == (8, 19)


@pytest.mark.parametrize("shard_examples", [1, 2])
def test_shard_without_a_readable_photograph_is_empty(few, tmp_path, shard_examples):
    order = draws.order_on_disk(4, 0)
    broken = [few.splits["train"].name_of(index) for index in order[:shard_examples].tolist()]
    for path in broken:
        pathlib.Path(path).write_bytes(b"")
    directory = tmp_path / "data"
    manifest = prepare.prepare(few, directory, prepare.Options(shard_examples=shard_examples))
    first, *rest = manifest["splits"]["train"]["shards"]
    assert (first["examples"], first["bytes"]) == (0, 0)
    assert [shard["examples"] for shard in rest] == [shard_examples] * (4 // shard_examples - 1)
    assert sorted(each["name"] for each in manifest["splits"]["train"]["skipped"]) == sorted(broken)
    assert prepared.verify(directory) == []
    names = [name for name, _, _ in examples(directory)]
    assert len(names) == 4 - shard_examples
    opened, image_statistics = prepared.open_data_dir(directory)
    train = opened.splits["train"]
    assert [train.name_of(number) for number in range(len(train.labels))] == names
    for number, (_, _, image) in enumerate(examples(directory)):
        assert bytes(train.records.image(number)) == image
    assert image_statistics.num_examples == len(names)
    dataset = tfds.builder_from_directory(str(directory)).as_dataset(split="train")
    assert sorted(each["file_name"].decode() for each in dataset.as_numpy_iterator()) == sorted(names)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_split_without_a_readable_photograph_raises(few, tmp_path, split):
    nothing = tmp_path / "nothing.jpg"
    nothing.write_text("no photograph")
    bad = sources.Split(
        np.array([0, 1]), lambda index: tf.io.read_file(str(nothing)), lambda index: f"photograph {index}"
    )
    broken = few._replace(splits={"train": few.splits["train"], split: bad})
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            prepare.prepare(broken, tmp_path / "data", prepare.Options(shard_examples=1))
        message = str(caught.value)
        assert message.startswith(
            f"Expected at least one readable image. Received: 2 unreadable files for {split}, the first photograph"
        )
        assert "(Expected a JPEG, PNG, GIF, BMP or WebP. Received: 13 bytes of another format)" in message
        assert "\n" not in message
        assert not (tmp_path / "data" / prepared.MANIFEST).exists()


def test_slow_photographs_are_reported_by_name(few, tmp_path, monkeypatch):
    reported = []
    monkeypatch.setattr(loading, "SLOW_SECONDS", -1.0)
    prepare.prepare(
        few, tmp_path / "data", prepare.Options(shard_examples=1), report_slow=lambda *each: reported.append(each)
    )
    names = {split.name_of(index) for split in few.splits.values() for index in range(len(split.labels))}
    assert {name for name, _ in reported} == names


@pytest.mark.parametrize("call", [0, 2, 4])
def test_interrupted_preparation_resumes(source, finished, tmp_path, monkeypatch, call):
    """Six shards, four of them for training."""
    directory = tmp_path / "data"
    with monkeypatch.context() as patch:
        calls = stop_at(patch, call, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(source, directory, OPTIONS)
        assert len(calls) == call + 1
    assert not list(directory.rglob("*.part"))
    before = {path.name: path.stat().st_mtime_ns for path in directory.glob("*.tfrecord-*")}
    assert len(before) == call
    assert not (directory / prepared.MANIFEST).exists()
    with pytest.raises(FileNotFoundError, match="an unfinished preparation; run the same command again"):
        prepared.open_data_dir(directory)

    calls = stop_at(monkeypatch, -1)
    prepare.prepare(source, directory, OPTIONS)
    assert len(calls) == 6 - call
    assert {name: time for name, time in times(directory).items() if name in before} == before
    assert_same_files(directory, finished)


KILLED = """
import os, signal, sys
from alexnet_tf.data import prepare, records, sources
write = records.write

def killing(path, payloads):
    def killed():
        yield next(payloads)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, killed() if "00002-of" in str(path) else payloads)

records.write = killing
prepare.prepare(sources.folder(sys.argv[1]), sys.argv[2], prepare.Options(shard_examples=4))
"""


def test_killed_preparation_resumes(source, finished, tmp_path, monkeypatch):
    """Runs in another process, so nothing in the files may depend on the process."""
    directory = tmp_path / "data"
    (tmp_path / "killed.py").write_text(KILLED)
    child = forks.server().start(tmp_path / "killed", tmp_path / "log", source.root, directory)
    assert child.wait() is None, child.said()
    shards = shards_of(directory)
    assert [path.name[-14:] for path in shards] == ["00000-of-00004", "00001-of-00004"]
    # The process was killed in the middle of a shard.
    assert [path.name for path in directory.glob("*.part")] == ["prepared-train.tfrecord-00002-of-00004.part"]
    before = [path.stat().st_mtime_ns for path in shards]

    calls = stop_at(monkeypatch, -1)
    prepare.prepare(source, directory, OPTIONS)
    assert len(calls) == 4
    assert [path.stat().st_mtime_ns for path in shards] == before
    assert_same_files(directory, finished)


def test_shard_without_metadata_is_written_again(source, finished, tmp_path, monkeypatch):
    """As if killed after writing a shard and before its metadata."""
    directory = tmp_path / "data"
    with monkeypatch.context() as patch:
        stop_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(source, directory, OPTIONS)
    (directory / prepared.PROGRESS / "train-00001.npz").unlink()
    shards_of(directory)[1].write_bytes(b"of another time")
    prepare.prepare(source, directory, OPTIONS)
    assert_same_files(directory, finished)


def test_full_disk_during_a_shard_keeps_earlier_shards(source, finished, tmp_path, monkeypatch):
    directory = tmp_path / "data"
    with monkeypatch.context() as patch:
        stop_at(patch, 2, most_bytes=20_000)
        with pytest.raises(OSError):
            prepare.prepare(source, directory, OPTIONS)
    assert not list(directory.rglob("*.part"))
    before = times(directory)
    before.pop(prepared.PROGRESS)
    assert sorted(before) == [path.name for path in shards_of(finished)[:2]]
    prepare.prepare(source, directory, OPTIONS)
    assert {name: times(directory)[name] for name in before} == before
    assert_same_files(directory, finished)


def test_full_disk_after_a_shard_loses_that_shard_only(source, finished, tmp_path):
    """The sums for the statistics are larger than the shard."""
    directory = tmp_path / "data"
    with full_disk.full_disk(1_000_000), pytest.raises(OSError):
        prepare.prepare(source, directory, OPTIONS)
    assert sorted(os.listdir(directory / prepared.PROGRESS)) == ["request.json"]
    assert not list(directory.rglob("*.part"))
    prepare.prepare(source, directory, OPTIONS)
    assert_same_files(directory, finished)


def test_finished_data_set_is_unchanged(source, finished, tmp_path, monkeypatch):
    directory = tmp_path / "data"
    shutil.copytree(finished, directory)
    before = times(directory)
    calls = stop_at(monkeypatch, -1)
    assert prepare.prepare(source, directory, OPTIONS) == prepared.read_manifest(finished)
    assert calls == []
    assert times(directory) == before
    assert_same_files(directory, finished)


@pytest.mark.slow
def test_leftovers_of_a_kill_after_the_manifest_are_removed(source, finished, tmp_path, monkeypatch):
    directory = tmp_path / "data"

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(source, directory, OPTIONS)
    assert (directory / prepared.MANIFEST).exists()
    assert (directory / prepared.PROGRESS).exists()
    prepare.prepare(source, directory, OPTIONS)
    assert_same_files(directory, finished)


@pytest.mark.parametrize("state", ["begun", "finished"])
def test_different_options_in_the_same_directory_raise(few, tmp_path, monkeypatch, state):
    directory = tmp_path / "data"
    options = prepare.Options(shard_examples=2)
    if state == "begun":
        with monkeypatch.context() as patch:
            stop_at(patch, 1, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                prepare.prepare(few, directory, options, settings={"split_seed": 1})
    else:
        prepare.prepare(few, directory, options, settings={"split_seed": 1})
    before = files_below(directory)
    others = {
        "storage": (few, options._replace(storage="raw"), 1),
        "jpeg_quality": (few, options._replace(jpeg_quality=90), 1),
        "shard_examples": (few, options._replace(shard_examples=3), 1),
        "seed": (few, options._replace(seed=5), 1),
        "settings": (few, options, 2),
        "source": (few._replace(name="folder:elsewhere"), options, 1),
        "classes": (few._replace(class_names=("cat", "dog", "cow")), options, 1),
        "photographs": (
            few._replace(splits={"train": sources.subset(few.splits["train"], np.arange(3))}),
            options,
            1,
        ),
    }
    for name, (source, other, split_seed) in others.items():
        with pytest.raises(ValueError) as caught:
            prepare.prepare(source, directory, other, settings={"split_seed": split_seed})
        message = str(caught.value)
        assert message.startswith(f"The preparation in {directory} was started with different values: {name}="), message
        assert " (not " in message
        assert "\n" not in message
        named = [field for field in others if f" {field}=" in message]
        assert named == [name]
    both = options._replace(seed=5, storage="raw")
    with pytest.raises(ValueError, match=r"storage=jpeg \(not raw\), seed=0 \(not 5\)"):
        prepare.prepare(few, directory, both, settings={"split_seed": 1})
    assert files_below(directory) == before
    prepare.prepare(few, directory, options, settings={"split_seed": 1})
    assert prepared.verify(directory) == []


def test_directory_with_other_files_raises(few, tmp_path):
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "letter.txt").write_text("Dear Sir")
    with pytest.raises(
        ValueError, match=f"Expected {directory} to be empty. Received: letter.txt; use a new --data_dir"
    ):
        prepare.prepare(few, directory, OPTIONS)
    assert files_below(directory) == {"letter.txt": b"Dear Sir"}


@pytest.mark.parametrize("state", ["new", "finished"])
def test_concurrent_preparation_raises(few, tmp_path, state):
    directory = tmp_path / "data"
    directory.mkdir()
    if state == "finished":
        prepare.prepare(few, directory, OPTIONS)
    before = files_below(directory)
    with open(directory / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError) as caught:
            prepare.prepare(few, directory, OPTIONS)
    assert str(caught.value) == f"Another process is using {directory}; wait for it to finish, or use another directory"
    assert files_below(directory) == before
    prepare.prepare(few, directory, OPTIONS)
    assert prepared.verify(directory) == []


def test_directory_is_locked_during_a_preparation(few, tmp_path, monkeypatch):
    directory = tmp_path / "data"
    write = records.write
    refused = []

    def second(path, payloads):
        with pytest.raises(BlockingIOError):
            prepare.prepare(few, directory, OPTIONS)
        refused.append(path)
        return write(path, payloads)

    monkeypatch.setattr(records, "write", second)
    prepare.prepare(few, directory, OPTIONS)
    assert len(refused) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"storage": "png"}, "Expected storage to be one of jpeg, raw. Received: 'png'"),
        ({"jpeg_quality": 0}, "Expected jpeg_quality to be 1 to 100. Received: 0"),
        ({"jpeg_quality": 101}, "Expected jpeg_quality to be 1 to 100. Received: 101"),
        ({"shard_examples": 0}, "Expected shard_examples to be at least 1. Received: 0"),
    ],
)
def test_options_out_of_range_raise(few, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare.prepare(few, tmp_path / "data", prepare.Options(**options))
    assert not (tmp_path / "data").exists()
