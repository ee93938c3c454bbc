"""TFDS data sets of unusual form: what is read, and one line for what is not."""

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.data import sources
from alexnet_tf.data import tfds_sets

tfds = pytest.importorskip("tensorflow_datasets")

CLASSES = ("red", "green", "blue")


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    tfds.disable_progress_bar()
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    return tmp_path


def rows(labels, shape=(6, 6, 3), dtype=np.uint8):
    return [{"image": np.full(shape, 10 * number, dtype), "label": label} for number, label in enumerate(labels)]


def write(data_dir, splits, image=None, label=None, file_format="array_record"):
    """Writes the data set "odd_set" with splits, a dict from name to rows."""
    features = {
        "image": image or tfds.features.Image(),
        "label": label or tfds.features.ClassLabel(names=CLASSES),
    }

    class OddSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "odd_set"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: iter(enumerate(examples)) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    OddSet(data_dir=data_dir, file_format=file_format).download_and_prepare()


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_split_without_labels_is_left_out_with_a_line(file_format, data_dir):
    write(data_dir, {"train": rows([0, 1, 2, 0]), "test": rows([-1, -1])}, file_format=file_format)
    source = sources.open_source("tfds:odd_set")
    assert list(source.splits) == ["train"]
    assert source.notes == ("not read in tfds:odd_set: test, whose examples have no labels",)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_examples_without_labels_are_left_out_with_a_line(file_format, data_dir):
    write(data_dir, {"train": rows([0, -1, 2, 1])}, file_format=file_format)
    source = sources.open_source("tfds:odd_set")
    train = source.splits["train"]
    np.testing.assert_array_equal(np.sort(train.labels), [0, 1, 2])
    for index, label in enumerate(train.labels):
        level = tf.io.decode_image(train.read(tf.constant(index, tf.int64)))[0, 0, 0]
        assert int(level) == 10 * [0, -1, 2, 1].index(label)
    (note,) = source.notes
    assert note.endswith("1 of 4 train examples, whose labels (-1) are not those of the 3 classes")


def test_a_training_split_without_labels_raises(data_dir):
    write(data_dir, {"train": rows([-1, -1])})
    with pytest.raises(ValueError, match="Expected labels in the split train of tfds:odd_set. Received: none"):
        sources.open_source("tfds:odd_set")


@pytest.mark.parametrize(
    "image, shape, dtype, received",
    [
        ("Tensor", (6, 6, 3), np.uint8, r"Tensor of uint8, shape \(6, 6, 3\)"),
        ("Image", (6, 6, 1), np.uint16, "Image of .*uint16"),
        ("Image", (6, 6, 1), np.float32, "Image of .*float32"),
    ],
)
def test_images_that_are_not_8_bit_images_raise(image, shape, dtype, received, data_dir):
    write(data_dir, {"train": rows([0, 1, 2], shape, dtype)}, getattr(tfds.features, image)(shape=shape, dtype=dtype))
    with pytest.raises(ValueError, match=f"Expected the feature image of tfds:odd_set to be .*Received: {received}"):
        sources.open_source("tfds:odd_set")


@pytest.mark.parametrize("name", ["val", "valid", "dev"])
def test_usual_names_of_a_validation_split_are_read(name, data_dir):
    write(data_dir, {"train": rows([0, 1, 2]), name: rows([0, 1]), "extra": rows([2])})
    source = sources.open_source("tfds:odd_set")
    assert {split: len(part.labels) for split, part in source.splits.items()} == {"train": 3, "validation": 2}
    assert source.notes == ("not read in tfds:odd_set: the splits extra",)
    old = tfds_sets.open_set("odd_set", as_version_0_1=True)
    assert list(old.splits) == ["train"]
    assert set(old.notes[0].partition("splits ")[2].split(", ")) == {name, "extra"}


def test_classes_without_names_are_numbered(data_dir):
    write(data_dir, {"train": rows([0, 1, 2])}, label=tfds.features.ClassLabel(num_classes=3))
    assert sources.open_source("tfds:odd_set").class_names == ("0", "1", "2")


def test_gray_images_are_read(data_dir):
    image = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    write(data_dir, {"train": rows([0, 1, 2], (6, 6, 1))}, image)
    assert len(sources.open_source("tfds:odd_set").splits["train"].labels) == 3


@pytest.mark.parametrize("name", ["d[0]", "d*"])
def test_directory_with_characters_of_patterns_is_prepared_once(name, data_dir, monkeypatch):
    write(data_dir / "plain", {"train": rows([0, 1, 2])})
    (data_dir / "plain").rename(data_dir / name)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(data_dir / name))
    assert sources.open_source("tfds:odd_set").splits["train"].labels.tolist() == [0, 1, 2]
    assert tfds_sets.open_set("odd_set", data_dir=str(data_dir / name)).splits["train"].labels.tolist() == [0, 1, 2]
