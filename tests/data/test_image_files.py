"""Image files found by folders, patterns, lists and names."""

import os

import pytest

from alexnet_tf.data import image_files


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/b/2.JPG", "d/b/1.png", "d/a/x[1].webp", "d/notes.md", "d/.hidden.png", "d/b/Thumbs.db", "e/1.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_a_folder_is_searched_with_those_below_it(tree):
    found = image_files.find(["d"])
    assert found.paths == ["d/a/x[1].webp", "d/b/1.png", "d/b/2.JPG"]
    assert [note.partition(": ")[2] for note in found.notes] == [
        "1 hidden file or folder, the first .hidden.png",
        "1 file of another format (1 .md), the first notes.md; convert images to JPEG or PNG",
    ]


def test_links_to_folders_are_followed_once(tree):
    os.symlink("../e", "d/other")
    os.symlink("..", "d/b/up")
    os.symlink("nowhere", "d/lost.png")
    os.mkfifo("d/pipe.png")
    found = image_files.find(["d"])
    assert found.paths == ["d/a/x[1].webp", "d/b/1.png", "d/b/2.JPG", "d/other/1.gif"]
    notes = "\n".join(found.notes)
    for words in ("1 link to a folder that contains it, the first b/up", "1 link that leads nowhere", "1 special file"):
        assert words in notes


def test_patterns_files_and_lists_keep_their_order_and_duplicates(tree, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    odd = os.fsdecode(b"caf\xe9.png")
    (tree / "list.txt").write_bytes(b"\xef\xbb\xbfe/1.gif\r\n\n  e/1.gif\n~/x.jpg\n" + os.fsencode(odd) + b"\nnone.jpg")
    assert image_files.find(["list.txt"]).paths == ["e/1.gif", "e/1.gif", "/home/someone/x.jpg", odd, "none.jpg"]
    assert image_files.find(["d/b/*", "e/1.gif", "e/1.gif"]).paths == [
        "d/b/1.png",
        "d/b/2.JPG",
        "d/b/Thumbs.db",
        "e/1.gif",
        "e/1.gif",
    ]
    assert image_files.find(["**/*.png"]).paths == ["d/b/1.png"]
    assert image_files.find(["d/a/x[1].webp"]).paths == ["d/a/x[1].webp"]


def test_a_list_in_an_encoding_of_windows_is_read(tree):
    (tree / "list.txt").write_bytes("e/1.gif\r\ncafé.png\r\n".encode("utf-16"))
    assert image_files.find(["list.txt"]).paths == ["e/1.gif", "café.png"]
    (tree / "list.txt").write_bytes("e/1.gif\r\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="^Expected a list of images. Received: list.txt with zero bytes; save it as"):
        image_files.find(["list.txt"])


@pytest.mark.parametrize("request_, received", [("nowhere", "nowhere"), ("d/*.gif", "d/*.gif"), ("a\0b", r"a\\x00b")])
def test_a_request_without_a_match_is_an_error(tree, request_, received):
    message = f"^Expected a folder, an image, a list of images .* Received: {received.replace('*', '.')}$"
    with pytest.raises(FileNotFoundError, match=message):
        image_files.find([request_])


def test_an_empty_folder_or_list_is_an_error(tree):
    (tree / "empty").mkdir()
    (tree / "empty.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match=r"^Expected images \(.jpg, .*\) in empty. Received: none$"):
        image_files.find(["empty"])
    with pytest.raises(FileNotFoundError, match="^Expected a path of an image on each line of empty.txt. Received: n"):
        image_files.find(["empty.txt"])
