"""Tiny ImageNet in the layout of its distribution: labels, words, and messages about what is missing."""

import re

import numpy as np
import pytest
import small_tiny_imagenet
import tensorflow as tf

from alexnet_tf.data import photograph
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sources
from alexnet_tf.data import tiny_imagenet

IDENTIFIERS = small_tiny_imagenet.IDENTIFIERS


@pytest.fixture
def folder(tmp_path):
    return small_tiny_imagenet.write(tmp_path / "tiny-imagenet-200", test_images=2)


def test_classes_are_wordnet_identifiers_with_words(folder):
    source = sources.open_source(f"tiny_imagenet:{folder}")
    assert source.name == f"tiny_imagenet:{folder}"
    assert source.class_names == ("n01443537", "n02124075", "n04067472") == IDENTIFIERS
    assert source.class_words == small_tiny_imagenet.WORDS
    assert source.display_names == ("goldfish (n01443537)", "Egyptian cat (n02124075)", "reel (n04067472)")
    assert "non-commercial" in source.license


def test_labels_follow_the_folders_and_the_annotations(folder):
    source = sources.open_source(f"tiny_imagenet:{folder}")
    assert list(source.splits) == ["train", "validation"]
    train, validation = source.splits["train"], source.splits["validation"]
    np.testing.assert_array_equal(train.labels, np.repeat([0, 1, 2], 3))
    assert train.name_of(0) == f"{folder}/train/n01443537/images/n01443537_0.JPEG"
    names = validation.names(source.root).tolist()
    assert names == [f"val/images/val_{number}.JPEG".encode() for number in range(4)]
    # In the order of the annotations: a cat, a goldfish, a reel, a cat.
    assert [source.class_names[label] for label in validation.labels] == [*small_tiny_imagenet.WORDS, "n02124075"]
    for split in (train, validation):
        for index in range(len(split.labels)):
            assert photograph.decode(split.read(tf.constant(index, tf.int64))).shape == [64, 64, 3]
        assert (split.sizes_of(np.arange(len(split.labels))) > 0).all()


def test_what_is_not_read_is_reported(folder):
    (folder / "train" / "n01443537" / "images" / "notes.txt").write_text("notes")
    (folder / "train" / "n99999999" / "images").mkdir(parents=True)
    notes = sources.open_source(f"tiny_imagenet:{folder}").notes
    assert len(notes) == 3
    assert "1 file of another format (1 .txt), the first train/n01443537/images/notes.txt" in notes[0]
    assert "wnids.txt does not name 1 of the folders, such as n99999999" in notes[1]
    assert notes[2] == f"not read: {folder}/test/images, as its 2 files have no labels"


def test_another_layout_is_described(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        sources.open_source(f"tiny_imagenet:{tmp_path}")
    assert str(caught.value) == (
        f"Expected Tiny ImageNet as {tiny_imagenet.LAYOUT}; for folders of images by class, use folder:DIR. Received: "
        f"{tmp_path} without wnids.txt, words.txt, val/images, val/val_annotations.txt"
    )


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("wnids.txt", "n01443537\ngoldfish\n", "wnids.txt. Received: 'goldfish' in line 2"),
        ("wnids.txt", "n01443537\nn01443537\n", "wnids.txt. Received: 'n01443537' in line 2"),
        ("wnids.txt", "n01443537\nn11111111\n", "of the 2 classes .* Received: none in .*train/n11111111/images"),
        ("val/val_annotations.txt", "val_0.JPEG\tn11111111\t0\t0\t1\t1\n", "one of 3 classes .*n11111111.* in line 1"),
        ("val/val_annotations.txt", "val_0.JPEG\n", "one of 3 classes .*Received: 'val_0.JPEG' in line 1"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01443537\n" * 2, "a different image .* in line 2"),
        ("val/val_annotations.txt", "val_9.JPEG\tn01443537\n", "4 images, 1 missing, 4 unexpected .no val_9.JPEG"),
        ("val/val_annotations.txt", "", "the 0 images .* Received: 4 images, 0 missing, 4 unexpected"),
    ],
)
def test_files_that_do_not_belong_together_raise(folder, name, text, expected):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=expected) as caught:
        sources.open_source(f"tiny_imagenet:{folder}")
    assert "\n" not in str(caught.value)


def test_words_are_one_line_and_may_be_missing(folder):
    (folder / "words.txt").write_bytes(b"n02124075\tcat\x1b[2J \xff\r\nn01443537\t\n")
    source = sources.open_source(f"tiny_imagenet:{folder}")
    words = source.class_words
    assert source.display_names[0] == "n01443537"
    assert list(words) == ["n02124075"] and re.fullmatch(r"cat\\x1b\[2J .", words["n02124075"])


def test_prepared_data_keep_words_and_license(folder, tmp_path):
    source = sources.open_source(f"tiny_imagenet:{folder}")
    prepare.prepare(source, tmp_path / "data", prepare.Options())
    opened, _ = prepared.open_data_dir(tmp_path / "data")
    assert opened.class_names == source.class_names
    assert opened.class_words == small_tiny_imagenet.WORDS
    assert opened.license == tiny_imagenet.LICENSE
    assert {name: len(split.labels) for name, split in opened.splits.items()} == {"train": 9, "validation": 4}
