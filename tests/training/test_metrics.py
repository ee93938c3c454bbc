"""Records of a run: read as they were written, and the curve worked out by hand."""

import json

import pytest

from alexnet_tf.training import metrics

REPORT = {"kind": "train", "epoch_ended": False}
RECORDS = [
    REPORT | {"step": 1, "epoch": 0.5, "examples": 30, "train_error": 0.9, "train_loss": 2.0, "images_per_second": 10},
    REPORT
    | {"step": 2, "epoch": 1.0, "examples": 10, "train_error": 0.5, "train_loss": 1.0, "images_per_second": 5}
    | {"epoch_ended": True},
    {"kind": "validation", "step": 2, "epoch": 1.0, "top1_error": 0.7, "loss": 1.5},
    REPORT | {"step": 3, "epoch": 1.5, "examples": 40, "train_error": 0.4, "train_loss": 0.8, "images_per_second": 8},
]


def write(path, records, end=""):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records) + end)
    return path


def test_records_are_read_as_they_were_written(tmp_path):
    assert metrics.read(write(tmp_path / "metrics.jsonl", RECORDS)) == RECORDS


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    assert metrics.read(write(tmp_path / "metrics.jsonl", RECORDS, '{"kind": "tra')) == RECORDS


def test_no_file_is_no_record(tmp_path):
    assert metrics.read(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("line", ["{", "[]", "7", "{}", '{"kind": "train", "step": 0, "epoch": 1}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = write(tmp_path / "metrics.jsonl", RECORDS[:1], f"{line}\n")
    with pytest.raises(ValueError) as caught:
        metrics.read(path)
    assert str(caught.value) == f"Expected a record of a run. Received: {path}, line 2"


def test_the_curve_has_means_over_each_epochs_images():
    found = metrics.curve(RECORDS)
    assert found["epoch"] == [1.0, 1.5]
    assert found["train_error"] == pytest.approx([(30 * 0.9 + 10 * 0.5) / 40, 0.4])
    assert found["train_loss"] == pytest.approx([(30 * 2.0 + 10 * 1.0) / 40, 0.8])
    assert found["watched_error"] == [0.7, None]
    assert found["watched_loss"] == [1.5, None]


def test_speed_is_of_all_images_by_all_their_time():
    assert metrics.images_per_second(RECORDS) == pytest.approx(80 / (3 + 2 + 5))
    assert metrics.images_per_second(RECORDS[2:3]) is None
    assert metrics.curve([])["epoch"] == []
