"""Atomic writes, locks, and JSON files."""

import errno
import os
import subprocess
import sys

import full_disk
import pytest

from alexnet_tf.utils import files
from alexnet_tf.utils import schema


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


@pytest.mark.parametrize("mode, content", [("w", "x" * 1000), ("wb", bytes(100_000))])
def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path, mode, content):
    path = tmp_path / "file"
    with full_disk.full_disk(10), pytest.raises(OSError, match=f"{path}'$"), files.atomic_write(path, mode) as file:
        file.write(content)
    assert not os.listdir(tmp_path)


def test_other_errors_of_a_write_keep_their_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="other'$"), files.atomic_write(tmp_path / "file"):
        open(tmp_path / "other")
    with pytest.raises(OSError) as caught, files.atomic_write(tmp_path / "file"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.filename is None


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
    assert schema.read_json(tmp_path / "values.json", schema.Map(), "values") == values


def test_lists_of_numbers_are_on_one_line_if_requested(tmp_path):
    values = {"m": [[1, -2], [3e-9, None]], "text": ["[\n  1\n]", "a"], "mixed": [1, "2"], "empty": []}
    path = tmp_path / "values.json"
    files.write_json(path, values, short_lists=True)
    assert schema.read_json(path, schema.Map(), "values") == values
    lines = path.read_text().splitlines()
    assert "    [1, -2]," in lines and "    [3e-09, null]" in lines
    assert lines[lines.index('  "mixed": [') + 1] == "    1,"


def test_content_and_name_are_on_disk_before_the_block_is_left(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def record(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with files.atomic_write(tmp_path / "file") as file:
        file.write("content")
        assert synced == []
    assert synced == [f"{tmp_path / 'file'}.part", str(tmp_path)]


def test_files_and_everything_below_a_directory_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    (tmp_path / "export" / "variables").mkdir(parents=True)
    inside, outside = tmp_path / "export" / "variables" / "data", tmp_path / "outside"
    inside.touch(), outside.touch()
    (tmp_path / "export" / "link").symlink_to(outside)
    files.sync([tmp_path / "export"])
    assert sorted(synced) == sorted(map(str, (inside, inside.parent, inside.parent.parent, tmp_path)))


def test_links_of_the_temporary_name_are_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("of the user")
    (tmp_path / "file.part").symlink_to(victim)
    with files.atomic_write(tmp_path / "file") as file:
        file.write("new")
    assert victim.read_text() == "of the user"
    assert (tmp_path / "file").read_text() == "new" and not (tmp_path / "file").is_symlink()
    assert not (tmp_path / "file.part").is_symlink()


def test_file_that_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / "file.part").write_text("a longer text that is half a file")
    with files.atomic_write(tmp_path / "file") as file:
        file.write("new")
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_directory_of_the_temporary_name_is_an_error_and_stays(tmp_path):
    (tmp_path / "file.part").mkdir()
    with pytest.raises(OSError, match="file.part"), files.atomic_write(tmp_path / "file"):
        pass
    assert os.listdir(tmp_path) == ["file.part"]


def test_two_writers_of_a_file_never_leave_half_of_it(tmp_path):
    with pytest.raises(OSError, match="to be written by one process. Received: two"):
        with files.atomic_write(tmp_path / "file") as first:
            first.write("first")
            with files.atomic_write(tmp_path / "file") as second:
                second.write("second")
    assert (tmp_path / "file").read_text() == "second"
    assert os.listdir(tmp_path) == ["file"]


def test_full_disk_names_the_file(tmp_path):
    with full_disk.full_disk(100), pytest.raises(OSError) as caught:
        with files.atomic_write(tmp_path / "file") as file:
            file.write("x" * 100_000)
    assert str(tmp_path / "file") in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "directory"])
def test_lock_follows_no_link_and_waits_for_no_pipe(tmp_path, kind):
    victim, path = tmp_path / "victim", tmp_path / "lock"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(victim)
    if kind == "link":
        victim.write_text("of the user")
    with pytest.raises(OSError, match="lock"), files.exclusive_lock(path, "here"):
        pass
    assert victim.exists() == (kind == "link")
    assert kind != "link" or victim.read_text() == "of the user"


def test_lock_changes_nothing_in_its_file(tmp_path):
    (tmp_path / "lock").write_text("of the user")
    with files.exclusive_lock(tmp_path / "lock", "here"):
        pass
    assert (tmp_path / "lock").read_text() == "of the user"
