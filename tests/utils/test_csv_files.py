"""Tables as CSV files."""

import csv
import os

import full_disk
import numpy as np
import pytest

from alexnet_tf.utils import csv_files

NAMES = ["a,b", 'say "c"', "line\nfeed", "carriage\rreturn", "both\r\n", " space ", "größe", "=1+1", "", "日本"]


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_texts_and_numbers_round_trip(tmp_path):
    path = tmp_path / "table.csv"
    score = np.float32(0.1)
    with csv_files.open_table(path, ["name", *NAMES[:2]]) as write:
        assert not path.exists()
        for name in NAMES:
            write([name, score, 7])
    header, *rows = read(path)
    assert header == ["name", *NAMES[:2]]
    assert [row[0] for row in rows] == NAMES
    assert {(np.float32(row[1]), int(row[2])) for row in rows} == {(score, 7)}
    assert path.read_bytes().count(b"\r") == 2


def test_other_bytes_and_none_are_written_as_documented(tmp_path):
    path = tmp_path / "table.csv"
    with csv_files.open_table(path, ["name"]) as write:
        for name in (os.fsdecode(b"caf\xe9.jpg"), "\ud800", None):
            write([name])
    assert read(path) == [["name"], ["caf\\xe9.jpg"], ["\\ud800"], [""]]


def test_table_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with full_disk.full_disk(1000), pytest.raises(OSError, match="table.csv"):
        with csv_files.open_table(path, ["name"]) as write:
            for _ in range(10_000):
                write(["x" * 100])
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_paths_are_checked_before_work(tmp_path):
    csv_files.check(tmp_path / "new.csv")
    with pytest.raises(IsADirectoryError, match="^Expected the name of a CSV file. Received: the directory "):
        csv_files.check(tmp_path)
    with pytest.raises(FileNotFoundError, match="^Expected a CSV file in an existing directory. Received: "):
        csv_files.check(tmp_path / "none" / "new.csv")
