"""Photographs that the training set and a held-out split share are counted and named."""

import numpy as np
import pytest

from alexnet_tf.data import duplicates
from alexnet_tf.data import sources


def write(root, split, label, name, content):
    path = root / split / label / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def root(tmp_path):
    end = b"e" * 5000
    for number, label in enumerate(("cat", "dog")):
        write(tmp_path, "train", label, "1.jpg", b"%d" % number + end)
        write(tmp_path, "train", label, "2.jpg", b"%d" % number + end[1:])
        write(tmp_path, "train", label, "empty.jpg", b"")
        write(tmp_path, "val", label, "own.jpg", b"x" + end)
        write(tmp_path, "val", label, "empty.jpg", b"")
    return tmp_path


def test_files_that_only_end_alike_or_are_empty_are_not_duplicates(root):
    assert duplicates.describe(sources.folder(root)) == []


def test_duplicates_are_counted_and_named(root):
    write(root, "val", "cat", "copy.jpg", (root / "train" / "cat" / "1.jpg").read_bytes())
    write(root, "val", "cat", "moved\n.jpg", (root / "train" / "dog" / "2.jpg").read_bytes())
    write(root, "test", "dog", "1.jpg", (root / "train" / "dog" / "1.jpg").read_bytes())
    lines = duplicates.describe(sources.folder(root))
    assert lines == [
        "2 of the 6 validation images are also in the training set, with the same bytes and 1 of them with another "
        "label, which makes the validation error optimistic: val/cat/copy.jpg is train/cat/1.jpg, "
        r"val/cat/moved\n.jpg is train/dog/2.jpg",
        "1 of the 1 test images is also in the training set, with the same bytes, which makes the test error "
        "optimistic: test/dog/1.jpg is train/dog/1.jpg",
    ]


def test_five_pairs_are_named(root):
    for number in range(7):
        write(root, "val", "dog", f"{number}.jpg", (root / "train" / "dog" / "1.jpg").read_bytes())
    (line,) = duplicates.describe(sources.folder(root))
    assert line.startswith("7 of the 11 ") and line.count(" is train/dog/1.jpg, ") == 5 and line.endswith(", ...")


def test_duplicates_within_a_split_that_was_held_out_are_found(root):
    source = sources.folder(root)._replace(splits={})
    train = sources.folder(root).splits["train"]
    write(root, "train", "cat", "1.jpg", (root / "train" / "dog" / "1.jpg").read_bytes())
    parts = {"train": sources.subset(train, np.array([0, 1])), "validation": sources.subset(train, np.array([3, 4]))}
    (line,) = duplicates.describe(source._replace(splits=parts))
    assert line.endswith("train/dog/1.jpg is train/cat/1.jpg")


def test_files_that_disappear_and_other_photographs_are_not_compared(root):
    source = sources.folder(root)
    write(root, "val", "dog", "own.jpg", (root / "train" / "dog" / "1.jpg").read_bytes())
    (root / "train" / "dog" / "1.jpg").unlink()
    assert duplicates.describe(source) == []
    assert duplicates.describe(sources.synthetic()) == []
