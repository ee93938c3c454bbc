"""Atomic writes, locks, and JSON files."""

import os
import subprocess
import sys

import pytest

from alexnet_tf.utils import files


def test_atomic_write_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with files.atomic_write(path) as file:
        file.write("größer")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "größer"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_of_bytes(tmp_path):
    with files.atomic_write(tmp_path / "file", "wb") as file:
        file.write(b"\xff\x00")
    assert (tmp_path / "file").read_bytes() == b"\xff\x00"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_write_keeps_the_old_file_after_an_error(tmp_path, error):
    (tmp_path / "file").write_text("old")
    with pytest.raises(error), files.atomic_write(tmp_path / "file") as file:
        file.write("new")
        raise error
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_lock_is_exclusive_and_released(tmp_path):
    path = tmp_path / ".lock"
    with files.exclusive_lock(path, "here"):
        with pytest.raises(BlockingIOError) as caught, files.exclusive_lock(path, "here"):
            pass
        assert str(caught.value) == "Another process is using here; wait for it to finish, or use another directory"
    with files.exclusive_lock(path, "here"):
        pass


def test_lock_lasts_as_long_as_a_child_that_inherits_it(tmp_path):
    path = tmp_path / ".lock"
    with files.exclusive_lock(path, "here") as descriptor:
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    with pytest.raises(BlockingIOError), files.exclusive_lock(path, "here"):
        pass
    child.communicate(b"\n", timeout=60)
    with files.exclusive_lock(path, "here"):
        pass


def test_json_round_trips(tmp_path):
    values = {"a": [1, 2.5, None], "b": "größer"}
    files.write_json(tmp_path / "values.json", values)
    assert files.read_json(tmp_path / "values.json") == values
    assert files.read_json(tmp_path / "values.json", ["b", "a"]) == values


def test_missing_json_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="values.json"):
        files.read_json(tmp_path / "values.json")


@pytest.mark.parametrize("text, missing", [("[]", "a, b"), ('{"b": 1}', "a"), ("3", "a, b")])
def test_missing_fields_are_named(tmp_path, text, missing):
    path = tmp_path / "values.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        files.read_json(path, ["a", "b"])
    assert str(caught.value) == f"Expected a, b in {path}, but {missing} is missing"
