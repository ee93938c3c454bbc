"""Sources: their examples, the order of these, and messages about missing files."""

import collections
import io
import pathlib
import shutil
import socket
import sys
import tarfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from alexnet_tf.data import photograph
from alexnet_tf.data import sources
from alexnet_tf.data import tfds_sets

tfds = pytest.importorskip("tensorflow_datasets")


def picture(level, mode="RGB", height=12, width=16):
    return PIL.Image.new("RGB", (width, height), (level, 255 - level, 100)).convert(mode)


def write(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(level).save(path)
    return path


def encoded(level, kind="JPEG", mode="RGB"):
    file = io.BytesIO()
    picture(level, mode).save(file, kind)
    return file.getvalue()


def contents(split):
    """Returns what is read at every index, in tf.data."""
    return list(tf.data.Dataset.range(len(split.labels)).map(split.read).as_numpy_iterator())


def names(split):
    return [split.name_of(index) for index in range(len(split.labels))]


@pytest.fixture
def no_network(monkeypatch):
    """Fails the test at its end if anything accessed the network."""
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not asked


def test_folder_of_training_images_only(tmp_path):
    # Sorted by name as text, 10 before 9, and not in the order of creation.
    for name in ("zebra/9.png", "zebra/10.png", "ant/b.jpg", "ant/a.JPG", "mule/only.bmp", "mule/too.gif"):
        write(tmp_path / "train" / name)
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.name == f"folder:{tmp_path}"
    assert source.class_names == ("ant", "mule", "zebra")
    assert list(source.splits) == ["train"]
    train = source.splits["train"]
    assert train.labels.dtype == np.int64
    np.testing.assert_array_equal(train.labels, [0, 0, 1, 1, 2, 2])
    expected = ["ant/a.JPG", "ant/b.jpg", "mule/only.bmp", "mule/too.gif", "zebra/10.png", "zebra/9.png"]
    assert names(train) == [str(tmp_path / "train" / name) for name in expected]
    assert contents(train) == [(tmp_path / "train" / name).read_bytes() for name in expected]


def test_folder_of_three_splits(tmp_path):
    for split in ("train", "val", "test"):
        for class_name in ("a", "b"):
            write(tmp_path / split / class_name / f"{split}.png")
    # A class without validation images is still a class.
    write(tmp_path / "train" / "c" / "train.png")
    source = sources.folder(tmp_path)
    assert source.class_names == ("a", "b", "c")
    assert list(source.splits) == ["train", "validation", "test"]
    for split, directory in (("validation", "val"), ("test", "test")):
        np.testing.assert_array_equal(source.splits[split].labels, [0, 1])
        expected = [str(tmp_path / directory / name / f"{directory}.png") for name in ("a", "b")]
        assert names(source.splits[split]) == expected


def test_other_files_are_ignored(tmp_path):
    for class_name in ("a", "b"):
        write(tmp_path / "train" / class_name / "1.png")
    write(tmp_path / "train" / "a" / ".2.png")
    write(tmp_path / "train" / ".thumbnails" / "3.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("notes")
    (tmp_path / "train" / "a" / "4.png").mkdir()
    (tmp_path / "train" / "README.png").write_text("no class")
    source = sources.folder(tmp_path)
    assert source.class_names == ("a", "b")
    assert [pathlib.Path(name).name for name in names(source.splits["train"])] == ["1.png", "1.png"]


def test_folder_with_another_layout_describes_the_expected_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="DIR/train/CLASS/IMAGE.*Received: /no/such/folder"):
        sources.open_source("folder:/no/such/folder")
    with pytest.raises(FileNotFoundError, match="DIR/train/CLASS/IMAGE"):
        sources.folder(tmp_path)
    train = tmp_path / "train"
    train.mkdir()
    write(train / "loose.png")
    with pytest.raises(FileNotFoundError, match="Expected class folders in .*train: DIR/train/CLASS/IMAGE.*none"):
        sources.folder(tmp_path)
    write(train / "a" / "1.png")
    # Enough to prepare it; `dataset.check_for_training` rejects it.
    assert sources.open_source(f"folder:{tmp_path}").class_names == ("a",)
    (train / "b").mkdir()
    with pytest.raises(ValueError, match=r"Expected images \(.jpg, .*\) in .*train/b. Received: none"):
        sources.folder(tmp_path)
    write(train / "b" / "1.png")
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="Expected images in .*val. Received: none"):
        sources.folder(tmp_path)
    for unknown in ("d", "c"):
        write(tmp_path / "val" / unknown / "1.png")
    with pytest.raises(ValueError, match="Expected .*val to have the class folders of .*train only. Received: c, d"):
        sources.folder(tmp_path)


@pytest.mark.parametrize(
    "specification",
    [
        "",
        "elpv:now",
        "folder",
        "folder:",
        "tfds:",
        "imagenet2012",
        "tiny_imagenet",
        "synthetic:10",
        "cifar10",
        "FOLDER:x",
    ],
)
def test_unknown_specification_raises(specification):
    with pytest.raises(ValueError, match=f"Expected source to be elpv, folder:DIR, .*Received: '{specification}'"):
        sources.open_source(specification)


def test_elpv_has_the_packages_images_and_labels():
    elpv_dataset = pytest.importorskip("elpv_dataset")
    data = pathlib.Path(elpv_dataset.__file__).parent / "data"
    table = np.loadtxt(data / "labels.csv", dtype=str)
    defective = table[:, 1].astype(float) > 0.5
    source = sources.open_source("elpv")
    assert source.class_names == ("sound", "defective")
    assert "CC BY-NC-SA 4.0" in source.license
    assert list(source.splits) == ["train"]
    train = source.splits["train"]
    assert len(train.labels) == 2624
    np.testing.assert_array_equal(train.labels, defective)
    assert collections.Counter(train.labels.tolist()) == {0: 1803, 1: 821}
    assert names(train) == [str(data / name) for name in table[:, 0]]
    for index in (0, 1000, 2623):
        image = photograph.decode(train.read(tf.constant(index, tf.int64))).numpy()
        stored = np.asarray(PIL.Image.open(data / table[index, 0]))
        np.testing.assert_array_equal(image, np.repeat(stored[:, :, None], 3, axis=-1))


def test_missing_elpv_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(ModuleNotFoundError, match=r"elpv-dataset: pip install -e '\.\[quickstart\]'"):
        sources.open_source("elpv")


def test_synthetic_images_depend_on_their_index_only():
    source = sources.open_source("synthetic")
    assert len(source.class_names) == 10
    train, validation = source.splits["train"], source.splits["validation"]
    for split, count in ((train, 1000), (validation, 200)):
        np.testing.assert_array_equal(np.bincount(split.labels), [count // 10] * 10)
        index = tf.constant(13, tf.int64)
        image = split.read(index)
        assert image.dtype == tf.uint8
        assert image.shape == [256, 256, 3]
        np.testing.assert_array_equal(image, split.read(index))
        inside = next(tf.data.Dataset.from_tensors(index).map(split.read).as_numpy_iterator())
        # A graph may add in another order than eager code, and levels are truncated, not rounded.
        np.testing.assert_allclose(image.numpy().astype(int), inside.astype(int), atol=1, rtol=0)
    images = [split.read(tf.constant(index, tf.int64)).numpy() for split in (train, validation) for index in (3, 13)]
    for i in range(4):
        for j in range(i):
            assert (images[i] != images[j]).mean() > 0.5
    assert names(validation)[0] == "synthetic image 1000"


def test_synthetic_classes_are_balanced():
    source = sources.synthetic(num_classes=3, examples=(9, 6))
    assert len(source.class_names) == 3
    np.testing.assert_array_equal(np.bincount(source.splits["train"].labels), [3] * 3)
    np.testing.assert_array_equal(np.bincount(source.splits["validation"].labels), [2] * 3)


def numbered(labels):
    """Returns a split whose photographs are their own index."""
    return sources.Split(np.array(labels, np.int64), tf.identity, lambda index: f"number {index}")


def test_subset_reads_the_examples_that_it_names():
    split = numbered([0, 1, 0, 1, 2, 2])
    part = sources.subset(split, np.array([4, 1, 2]))
    np.testing.assert_array_equal(part.labels, [2, 1, 0])
    assert contents(part) == [4, 1, 2]
    assert names(part) == ["number 4", "number 1", "number 2"]
    assert contents(sources.subset(part, np.array([2, 0]))) == [2, 4]


def test_stratified_split_takes_a_fraction_of_each_class():
    labels = np.random.default_rng(0).permutation([0] * 100 + [1] * 40 + [2] * 7)
    first, second = sources.stratified_split(numbered(labels), 0.2, seed=5)
    np.testing.assert_array_equal(np.bincount(second.labels), [20, 8, 1])
    ours = contents(first), contents(second)
    for part, numbers in zip((first, second), ours, strict=True):
        assert numbers == sorted(numbers)
        np.testing.assert_array_equal(part.labels, labels[numbers])
    assert sorted(ours[0] + ours[1]) == list(range(147))

    same = sources.stratified_split(numbered(labels), 0.2, seed=5)
    assert (contents(same[0]), contents(same[1])) == ours
    other = sources.stratified_split(numbered(labels), 0.2, seed=6)
    assert contents(other[1]) != ours[1]
    np.testing.assert_array_equal(np.bincount(other[1].labels), [20, 8, 1])


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_too_few_images_to_split_raise(fraction):
    with pytest.raises(sources.TooFewImagesError, match=f"a fraction of {fraction} of each class. Received: 2 images"):
        sources.stratified_split(numbered([0, 1]), fraction, seed=0)


def held_out(count, fraction=0.2, seed=0, extra=()):
    """Returns the names that are held out of one class with `count` names and `extra` ones."""
    all_names = sorted([f"{number:04}.jpg" for number in range(count)] + list(extra))
    split = sources.Split(np.zeros(len(all_names), np.int64), tf.identity, all_names.__getitem__)
    return set(names(sources.hashed_split(split, fraction, seed)[1]))


def test_an_added_image_moves_at_most_one_other():
    moved = []
    for number in range(60):
        extra = f"{number}x.jpg"
        for count in (7, 12, 101):
            before, after = held_out(count), held_out(count, extra=[extra])
            moved.append(len((before ^ after) - {extra}))
            assert len(after) == round(0.2 * (count + 1))
    assert max(moved) == 1 and min(moved) == 0


def test_the_hashed_split_is_stable_and_depends_on_the_seed():
    # A change of these names would move images between the splits of existing folders.
    assert held_out(20) == {"0001.jpg", "0003.jpg", "0005.jpg", "0010.jpg"}
    assert held_out(20, seed=1) != held_out(20)
    assert held_out(20, 0.1) < held_out(20) < held_out(20, 0.5)


def test_the_hashed_split_holds_out_at_least_one_image_of_each_class():
    labels = [0] * 100 + [1] * 2 + [2] + [3] * 4
    train, validation = sources.hashed_split(numbered(labels), 0.1, 0)
    np.testing.assert_array_equal(np.bincount(validation.labels, minlength=4), [10, 1, 0, 1])
    assert sorted(contents(train) + contents(validation)) == list(range(107))
    np.testing.assert_array_equal(np.bincount(sources.hashed_split(numbered(labels), 0.9, 0)[0].labels), [10, 1, 1, 1])
    with pytest.raises(sources.TooFewImagesError, match="Received: 2 images of 2 classes$"):
        sources.hashed_split(numbered([0, 1]), 0.5, 0)


def test_a_hashed_subset_has_the_same_fraction_of_each_class_and_is_part_of_a_larger_one():
    split = numbered([0] * 100 + [1] * 40 + [2] * 20)
    subsets = {count: sources.hashed_subset(split, count, 0) for count in (3, 16, 80, 160)}
    assert {count: np.bincount(part.labels).tolist() for count, part in subsets.items()} == {
        3: [1, 1, 1],
        16: [10, 4, 2],
        80: [50, 20, 10],
        160: [100, 40, 20],
    }
    chosen = [set(contents(part)) for part in subsets.values()]
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3]
    assert set(contents(sources.hashed_subset(split, 16, 1))) != chosen[1]
    for count in (2, 161):
        with pytest.raises(ValueError, match=f"from 3, one per class, to 160, all of them. Received: {count}$"):
            sources.hashed_subset(split, count, 0)


def test_names_are_relative_to_the_root_and_equal_on_all_systems(tmp_path):
    for class_name in ("a", "e\u0301"):
        write(tmp_path / "train" / class_name / "1.png")
    source = sources.folder(tmp_path)
    assert source.splits["train"].names(source.root).tolist() == [b"train/a/1.png", "train/\xe9/1.png".encode()]


class PlainPhotographs(tfds.core.GeneratorBasedBuilder):
    """Seven photographs for training and three for testing; their red channel is their number."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(7)), "test": self._generate_examples(range(7, 10))}

    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, {"image": np.asarray(picture(number)), "label": number % 2}


class HeldOutPhotographs(PlainPhotographs):
    """A data set without training images."""

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples(range(3))}


class MeasuredPhotographs(PlainPhotographs):
    """A data set with numbers in place of classes."""

    def _info(self):
        features = {"image": tfds.features.Image(encoding_format="png"), "label": np.float32}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))


@pytest.fixture
def data_dir(tmp_path, monkeypatch, no_network):
    """Returns the directory of TFDS during a test."""
    tfds.disable_progress_bar()
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_tfds_data_sets_of_any_file_format_are_read(data_dir, file_format):
    PlainPhotographs(data_dir=data_dir, file_format=file_format).download_and_prepare()
    source = sources.open_source("tfds:plain_photographs")
    assert source.name == "tfds:plain_photographs"
    assert source.class_names == ("even", "odd")
    assert {name: len(split.labels) for name, split in source.splits.items()} == {"train": 7, "test": 3}
    for split, expected in (("train", range(7)), ("test", range(7, 10))):
        numbers = []
        for image, label in zip(contents(source.splits[split]), source.splits[split].labels, strict=True):
            pixels = photograph.decode(tf.constant(image)).numpy()
            np.testing.assert_array_equal(pixels, np.asarray(picture(pixels[0, 0, 0])))
            assert pixels[0, 0, 0] % 2 == label
            numbers.append(int(pixels[0, 0, 0]))
        assert sorted(numbers) == list(expected)
    assert names(source.splits["test"])[2] == "plain_photographs test 2"


def test_tfds_prepares_a_format_that_is_read_by_index(data_dir):
    source = sources.open_source("tfds:plain_photographs")
    assert len(source.splits["train"].labels) == 7
    assert list(data_dir.glob("plain_photographs/1.0.0/*.array_record*"))


def test_tfrecord_data_sets_must_fit_in_memory(data_dir, monkeypatch):
    PlainPhotographs(data_dir=data_dir, file_format="tfrecord").download_and_prepare()
    monkeypatch.setattr(tfds_sets, "MAX_BYTES_IN_MEMORY", 100)
    with pytest.raises(
        ValueError, match="Expected plain_photographs in .* file_format='array_record'.*GiB of tfrecord"
    ):
        sources.open_source("tfds:plain_photographs")


def test_other_tfds_data_sets_raise(data_dir):
    with pytest.raises(ValueError, match="Expected a split named train. Received: test"):
        sources.open_source("tfds:held_out_photographs")
    with pytest.raises(ValueError, match="of images with labels. Received: 'measured_photographs' with image, label"):
        sources.open_source("tfds:measured_photographs")
    with pytest.raises(ValueError, match="of images with labels. Received: 'glue' with sentence, label, idx"):
        sources.open_source("tfds:glue")


@pytest.mark.parametrize("name", ["no_such_data_set", "no such name", "plain_photographs:7.0.0", "imagenet_2012"])
def test_unknown_tfds_name_raises(name, data_dir):
    with pytest.raises(ValueError, match=f"Expected the name of a TFDS data set. Received: '{name}'") as caught:
        sources.open_source(f"tfds:{name}")
    assert "\n" not in str(caught.value)


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def write_imagenet(directory):
    """Writes archives like those of image-net.org, with a few photographs under real names."""
    training = {
        "n02105855": {
            "n02105855_1.JPEG": encoded(10),
            "n02105855_2.JPEG": encoded(20, mode="L"),
            # The only PNG file, and one of the 22 CMYK files.
            "n02105855_2933.JPEG": encoded(30, "PNG"),
        },
        "n01739381": {"n01739381_1309.JPEG": encoded(40, mode="CMYK")},
        "n01440764": {"n01440764_7.JPEG": encoded(50)},
    }
    with tarfile.open(directory / "ILSVRC2012_img_train.tar", "w") as archive:
        for synset, files in training.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as class_archive:
                for name, content in files.items():
                    add(class_archive, name, content)
            add(archive, f"{synset}.tar", inner.getvalue())
    with tarfile.open(directory / "ILSVRC2012_img_val.tar", "w") as archive:
        for number in (1, 2, 3):
            add(archive, f"ILSVRC2012_val_{number:08d}.JPEG", encoded(60 * number))


def test_imagenet_is_read_from_its_archives(tmp_path, no_network):
    tfds.disable_progress_bar()
    write_imagenet(tmp_path)
    source = sources.open_source(f"imagenet2012:{tmp_path}")
    # TFDS names the classes by sorted WordNet identifiers: tench first, toilet tissue last.
    assert len(source.class_names) == 1000
    assert source.class_names == tuple(sorted(source.class_names))
    assert (source.class_names[0], source.class_names[-1]) == ("n01440764", "n15075141")
    assert list(source.splits) == ["train", "validation"]
    synsets = [source.class_names[label] for label in source.splits["train"].labels]
    assert collections.Counter(synsets) == {"n02105855": 3, "n01739381": 1, "n01440764": 1}
    # A sea snake, an alp and a sheepdog are the first three of the validation set.
    found = {
        int(photograph.decode(tf.constant(image))[0, 0, 0]) // 50: source.class_names[label]
        for image, label in zip(contents(source.splits["validation"]), source.splits["validation"].labels, strict=True)
    }
    assert found == {1: "n01751748", 2: "n09193705", 3: "n02105855"}
    # All have been converted to RGB.
    for image in contents(source.splits["train"]):
        assert image[:2] == b"\xff\xd8"
        assert photograph.decode(tf.constant(image)).shape == [12, 16, 3]
    # Once prepared, the 150 GB are no longer needed.
    for archive in tmp_path.glob("*.tar"):
        archive.unlink()
    again = sources.open_source(f"imagenet2012:{tmp_path}")
    np.testing.assert_array_equal(again.splits["train"].labels, source.splits["train"].labels)


def test_missing_imagenet_archives_are_named(tmp_path):
    train, validation = (tmp_path / f"ILSVRC2012_img_{part}.tar" for part in ("train", "val"))
    with pytest.raises(FileNotFoundError) as caught:
        sources.open_source(f"imagenet2012:{tmp_path}")
    assert str(caught.value) == (
        f"Expected the ImageNet 2012 archives (from image-net.org) as {train} and {validation}. "
        f"Received: no {train}, no {validation}"
    )
    train.touch()
    with pytest.raises(FileNotFoundError) as caught:
        sources.open_source(f"imagenet2012:{tmp_path}")
    assert str(caught.value).endswith(f"Received: no {validation}")


def test_invalid_archive_raises(tmp_path, no_network):
    tfds.disable_progress_bar()
    write_imagenet(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").write_text("downloaded from somewhere else")
    with pytest.raises(ValueError, match="Expected TFDS to prepare imagenet2012. Received: ") as caught:
        sources.open_source(f"imagenet2012:{tmp_path}")
    assert "\n" not in str(caught.value)
    shutil.rmtree(tmp_path / "tfds")
    write_imagenet(tmp_path)
    assert len(sources.open_source(f"imagenet2012:{tmp_path}").splits["train"].labels) == 5
