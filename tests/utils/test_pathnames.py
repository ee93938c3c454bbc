"""Paths with ``~``, with characters of patterns and with bytes that are not UTF-8."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from alexnet_tf.utils import pathnames

PATTERNS = ["b[lr=0.01]", "a*b", "what?", "back\\slash", "]["]


@pytest.mark.parametrize(
    "path, expected",
    [
        ("~/runs", "/home/someone/runs"),
        ("~", "/home/someone"),
        ("folder:~/d", "folder:/home/someone/d"),
        ("imagenet2012:~/d", "imagenet2012:/home/someone/d"),
        ("ilsvrc2010:~", "ilsvrc2010:/home/someone"),
        ("./~/runs", "./~/runs"),
        ("a~b", "a~b"),
        ("runs/~", "runs/~"),
        ("~no such user/x", "~no such user/x"),
        ("folder:/a~", "folder:/a~"),
        ("tfds:cifar10", "tfds:cifar10"),
        ("", ""),
    ],
)
def test_home_directory_is_expanded_where_a_path_begins(monkeypatch, path, expected):
    monkeypatch.setenv("HOME", "/home/someone")
    assert pathnames.expand(path) == expected


def test_plain_directory_stays():
    for path in ("/a/b", "runs/a b", "", "ünï"):
        assert pathnames.without_patterns(path) == path


@pytest.mark.parametrize("name", PATTERNS)
def test_directory_with_characters_of_patterns_gets_a_link(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text("content")
    monkeypatch.chdir(tmp_path)
    link = pathnames.without_patterns(name)
    assert tf.io.gfile.glob(f"{link}/*") == [f"{link}/file"]
    assert pathlib.Path(link, "file").read_text() == "content"
    assert pathnames.without_patterns(str(tmp_path / name)) == link
    # A cleaner of temporary files came.
    shutil.rmtree(os.path.dirname(link))
    again = pathnames.without_patterns(pathlib.Path(name))
    assert pathlib.Path(again, "file").read_text() == "content"


def test_links_are_removed_with_the_process(tmp_path):
    code = "import sys; from alexnet_tf.utils import pathnames; print(pathnames.without_patterns(sys.argv[1]))"
    (tmp_path / "[a]").mkdir()
    for temporary in ("tmp", "tmp[0]"):
        (tmp_path / temporary).mkdir()
        environment = {**os.environ, "TMPDIR": str(tmp_path / temporary)}
        command = [sys.executable, "-c", code, str(tmp_path / "[a]")]
        link = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()
        assert not any(character in link for character in "[]*?\\")
        assert not os.path.lexists(link) and not os.path.exists(os.path.dirname(link))
    assert (tmp_path / "[a]").is_dir()


def test_names_that_are_not_utf_8_are_shown_with_escapes():
    name = os.fsdecode(b"/d/caf\xe9 \xc3\xa9.jpg")
    assert pathnames.printable(name) == "/d/caf\\xe9 é.jpg"
    assert not pathnames.is_text(name) and pathnames.is_text("/d/é.jpg")
