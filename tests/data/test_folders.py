"""Class folders: which files are read, and that everything else is reported."""

import os
import pathlib

import pytest

from alexnet_tf.data import folders


def fill(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def read(found, root, split="train"):
    paths, labels = found.splits[split]
    return [(os.path.relpath(path, root), label) for path, label in zip(paths, labels, strict=True)]


def two_classes(root, *more):
    return fill(root, "train/a/1.jpg", "train/b/1.jpg", *more)


def test_files_of_all_decodable_formats_are_read(tmp_path):
    suffixes = ("jpg", "JPEG", "jpe", "jfif", "png", "bmp", "GIF", "webp")
    two_classes(tmp_path, *(f"train/a/x.{suffix}" for suffix in suffixes))
    found = folders.open_folder(tmp_path)
    assert len(read(found, tmp_path)) == 2 + len(suffixes)
    assert found.notes == ()


@pytest.mark.parametrize(
    "paths, line",
    [
        (
            ["train/a/2.tif", "train/a/3.TIF", "train/b/4.heic", "train/b/README"],
            "4 files of other formats (2 .tif, 1 .heic, 1 no suffix), the first train/a/2.tif; convert images to JPEG "
            "or PNG",
        ),
        (
            ["train/a/poodle/1.jpg", "train/a/poodle/x/2.jpg"],
            "2 files in folders inside class folders, the first train/a/poodle/1.jpg; move images to the class folder",
        ),
        (["train/a/4.png/x"], "1 file in a folder inside a class folder, the first train/a/4.png/x; move images to"),
        (["train/loose.jpg"], "1 file outside of the class folders, the first train/loose.jpg; move images to a class"),
        (["labels.csv"], "1 file outside of the class folders, the first labels.csv; move"),
        (["test/a/1.jpg", "test/b/1.jpg", "test/2.jpg"], "1 file outside of the class folders, the first test/2.jpg"),
        (["train/a/._1.jpg"], "1 hidden file or folder, the first train/a/._1.jpg"),
        (["train/.thumbnails/1.jpg"], "1 hidden file or folder, the first train/.thumbnails"),
        (
            ["extra/a/1.jpg", "masks/x"],
            "the folders extra, masks; only one folder is read for each split, the first of train, training; val, ",
        ),
        (["train/a/line\nbreak.txt"], r"the first train/a/line\nbreak.txt"),
    ],
)
def test_what_is_not_read_is_counted_and_named(paths, line, tmp_path):
    found = folders.open_folder(two_classes(tmp_path, *paths))
    assert ("train/a/1.jpg", 0) in read(found, tmp_path) and len(read(found, tmp_path)) == 2
    (note,) = found.notes
    assert note.startswith(f"not read in {tmp_path}: ") and line in note and "\n" not in note


def test_links_that_lead_nowhere_are_counted(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "train" / "a" / "0.jpg").symlink_to("/nowhere/0.jpg")
    (tmp_path / "train" / "a" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "train" / "a" / "2.jpg").symlink_to(tmp_path / "train" / "b" / "1.jpg")
    os.mkfifo(tmp_path / "train" / "b" / "pipe.jpg")
    found = folders.open_folder(tmp_path)
    assert [path for path, _ in read(found, tmp_path)] == ["train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg"]
    assert [note.partition(": ")[2].partition(", the")[0] for note in found.notes] == [
        "2 links that lead nowhere",
        "1 special file",
    ]


def test_files_of_the_operating_system_need_no_line(tmp_path):
    two_classes(tmp_path, ".DS_Store", "train/Thumbs.db", "train/a/desktop.ini", "train/a/.DS_Store")
    assert folders.open_folder(tmp_path).notes == ()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val", "VALID"])
def test_usual_names_of_a_validation_set_are_read(name, tmp_path):
    found = folders.open_folder(two_classes(tmp_path, f"{name}/a/1.jpg", f"{name}/b/2.jpg"))
    assert read(found, tmp_path, "validation") == [(f"{name}/a/1.jpg", 0), (f"{name}/b/2.jpg", 1)]
    assert found.notes == ()


def test_training_and_test_sets_have_usual_names_too(tmp_path):
    found = folders.open_folder(fill(tmp_path, "Training/a/1.jpg", "Training/b/1.jpg", "testing/a/1.jpg"))
    assert read(found, tmp_path) == [("Training/a/1.jpg", 0), ("Training/b/1.jpg", 1)]
    assert read(found, tmp_path, "test") == [("testing/a/1.jpg", 0)]
    assert found.notes == (f"{tmp_path}/testing has no images of 1 of 2 classes: b",)


def test_a_second_validation_folder_is_reported(tmp_path):
    found = folders.open_folder(two_classes(tmp_path, "val/a/1.jpg", "val/b/1.jpg", "valid/a/1.jpg"))
    assert read(found, tmp_path, "validation") == [("val/a/1.jpg", 0), ("val/b/1.jpg", 1)]
    (note,) = found.notes
    assert "the folders valid; only one folder is read for each split, the first of" in note


@pytest.mark.parametrize("name", ["val", "test"])
def test_images_without_class_folders_are_left_out_with_a_line(name, tmp_path):
    found = folders.open_folder(two_classes(tmp_path, *(f"{name}/{number}.jpg" for number in range(5))))
    assert list(found.splits) == ["train"]
    assert found.notes == (f"not read: {tmp_path}/{name}, as its 5 images are not in class folders",)


def test_class_folders_without_a_train_folder_are_the_training_set(tmp_path):
    found = folders.open_folder(fill(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/2.webp", "notes.txt", "test/dog/3.jpg"))
    assert found.class_names == ("cat", "dog")
    assert read(found, tmp_path) == [("cat/1.jpg", 0), ("dog/1.jpg", 1), ("dog/2.webp", 1)]
    assert read(found, tmp_path, "test") == [("test/dog/3.jpg", 1)]
    assert "1 file outside of the class folders, the first notes.txt" in found.notes[0]


def test_a_folder_above_the_data_set_is_rejected_with_the_layout(tmp_path):
    two_classes(tmp_path / "photographs")
    with pytest.raises(FileNotFoundError, match=f"DIR/train/CLASS/IMAGE.*Received: {tmp_path}"):
        folders.open_folder(tmp_path)


def test_a_class_without_images_says_what_it_has(tmp_path):
    with pytest.raises(ValueError, match=r"Expected images \(.jpg.* in .*/train/c. Received: 2 files or folders of"):
        folders.open_folder(two_classes(tmp_path, "train/c/1.tif", "train/c/2.tif"))


def test_paths_relative_to_the_current_directory_have_no_prefix(tmp_path, monkeypatch):
    two_classes(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = folders.open_folder(pathlib.Path("."))
    assert found.splits["train"][0] == ["train/a/1.jpg", "train/b/1.jpg"]


def test_version_0_1_read_fewer_files_and_folders(tmp_path):
    two_classes(tmp_path, "train/a/2.webp", "valid/a/1.jpg", "test/a/1.jpg", "test/b/2.jfif")
    found = folders.open_folder(tmp_path, as_version_0_1=True)
    assert read(found, tmp_path) == [("train/a/1.jpg", 0), ("train/b/1.jpg", 1)]
    assert read(found, tmp_path, "test") == [("test/a/1.jpg", 0)]
    assert "validation" not in found.splits
    assert len(found.notes) == 3


# One letter, and a letter with an accent after it.
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("train, held_out", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_class_folders_match_whether_accents_are_composed_or_not(train, held_out, tmp_path):
    fill(tmp_path, f"train/{train}/1.jpg", "train/tea/1.jpg", f"val/{held_out}/2.jpg", f"test/{held_out}/3.jpg")
    found = folders.open_folder(tmp_path)
    assert found.class_names == (train, "tea")
    assert read(found, tmp_path) == [(f"train/{train}/1.jpg", 0), ("train/tea/1.jpg", 1)]
    assert read(found, tmp_path, "validation") == [(f"val/{held_out}/2.jpg", 0)]
    assert read(found, tmp_path, "test") == [(f"test/{held_out}/3.jpg", 0)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_two_class_folders_that_differ_in_how_accents_are_written_raise(split, tmp_path):
    two_classes(tmp_path, "val/a/1.jpg", f"train/{COMPOSED}/1.jpg", f"{split}/{COMPOSED}/2.jpg")
    fill(tmp_path, f"{split}/{DECOMPOSED}/1.jpg")
    with pytest.raises(ValueError) as caught:
        folders.open_folder(tmp_path)
    assert f"in {tmp_path}/{split}. Received: " in str(caught.value)
    assert r"written in two ways, cafe\u0301 and caf\xe9; move the images" in str(caught.value)


def test_class_folder_whose_name_is_not_utf_8_raises(tmp_path):
    two_classes(tmp_path)
    fill(tmp_path, os.fsdecode(b"train/caf\xe9/1.jpg"))
    with pytest.raises(ValueError, match=r"names in UTF-8 in .*/train. Received: caf\\xe9; rename it"):
        folders.open_folder(tmp_path)


@pytest.mark.parametrize("name", ["d[0]", "a*", "back\\slash"])
def test_folders_are_read_whatever_their_names(name, tmp_path):
    two_classes(tmp_path / name, "val/a[1]/x", "train/a[1]/[2].jpg")
    (tmp_path / name / "val" / "a[1]" / "3.png").write_bytes(b"")
    assert read(folders.open_folder(tmp_path / name), tmp_path / name, "validation") == [("val/a[1]/3.png", 1)]


def test_nested_folders_are_read_on_request_as_images_of_their_class(tmp_path):
    two_classes(
        tmp_path, "train/a/x/z/3.jpg", "train/a/x/2.jpg", "train/a/x/n.txt", "train/a/.h/4.jpg", "val/b/y/5.jpg"
    )
    (tmp_path / "train" / "a" / "x" / "up").symlink_to(tmp_path / "train" / "a")
    found = folders.open_folder(tmp_path, nested=True)
    assert read(found, tmp_path) == [
        ("train/a/1.jpg", 0),
        ("train/a/x/2.jpg", 0),
        ("train/a/x/z/3.jpg", 0),
        ("train/b/1.jpg", 1),
    ]
    assert read(found, tmp_path, "validation") == [("val/b/y/5.jpg", 1)]
    assert [note.partition(": ")[2].partition(", the")[0] for note in found.notes[:3]] == [
        "1 hidden file or folder",
        "1 file of another format (1 .txt)",
        "1 link to a folder that contains it",
    ]


@pytest.mark.parametrize("train", ["", "train"])
def test_classes_with_nested_folders_only_are_read_with_the_flag_that_the_error_names(tmp_path, train):
    fill(tmp_path / train, "a/x/1.jpg", "b/y/2.jpg")
    with pytest.raises((ValueError, FileNotFoundError), match="Received: .*; pass --nested_folders to read the images"):
        folders.open_folder(tmp_path)
    assert read(folders.open_folder(tmp_path, nested=True), tmp_path / train) == [("a/x/1.jpg", 0), ("b/y/2.jpg", 1)]
