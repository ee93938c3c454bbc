"""Records of a run: written, read back, and summarized as a curve."""

import json

import pytest
import small_progress

from alexnet_tf.training import metrics

REPORT = {"kind": "train", "epoch_ended": False}
RECORDS = [
    REPORT | {"step": 1, "epoch": 0.5, "examples": 30, "train_error": 0.9, "train_loss": 2.0, "images_per_second": 10},
    REPORT
    | {"step": 2, "epoch": 1.0, "examples": 10, "train_error": 0.5, "train_loss": 1.0, "images_per_second": 5}
    | {"epoch_ended": True},
    {"kind": "validation", "step": 2, "epoch": 1.0, "top1_error": 0.7, "loss": 1.5, "num_examples": 50},
    REPORT
    | {"step": 3, "epoch": 1.5, "examples": 40, "train_error": 0.4, "train_loss": 0.8, "images_per_second": 8}
    | {"learning_rate": 0.125},
]


def write(path, records, end=""):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records) + end)
    return path


def test_records_are_read_as_they_were_written(tmp_path):
    assert metrics.read(write(tmp_path / "metrics.jsonl", RECORDS)) == RECORDS


def test_line_truncated_by_a_kill_is_ignored(tmp_path):
    assert metrics.read(write(tmp_path / "metrics.jsonl", RECORDS, '{"kind": "tra')) == RECORDS


def test_missing_file_has_no_records(tmp_path):
    assert metrics.read(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("line", ["{", "[]", "7", "{}", '{"kind": "train", "step": 0, "epoch": 1}'])
def test_line_that_is_not_a_record_is_reported(tmp_path, line):
    path = write(tmp_path / "metrics.jsonl", RECORDS[:1], f"{line}\n")
    with pytest.raises(ValueError) as caught:
        metrics.read(path)
    assert str(caught.value).startswith(f"Expected a record of a run in {path}, line 2. Received: ")
    assert str(caught.value).endswith("; delete this line, or copy the file from a backup")


def test_curve_has_means_over_the_images_of_each_epoch():
    found = metrics.curve(RECORDS)
    assert found["epoch"] == [1.0, 1.5]
    assert found["train_error"] == pytest.approx([(30 * 0.9 + 10 * 0.5) / 40, 0.4])
    assert found["train_loss"] == pytest.approx([(30 * 2.0 + 10 * 1.0) / 40, 0.8])
    assert found["watched_error"] == [0.7, None]
    assert found["watched_loss"] == [1.5, None]
    assert found["watched_examples"] == [50, None]
    assert found["learning_rate"] == [None, 0.125]


def test_speed_is_all_images_divided_by_their_total_time():
    assert metrics.images_per_second(RECORDS) == pytest.approx(80 / (3 + 2 + 5))
    assert metrics.images_per_second(RECORDS[2:3]) is None
    assert metrics.curve([])["epoch"] == []


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_writer_appends_lines_of_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.Writer(path, 0)
    writer(small_progress.progress_at(20))
    writer.write(kind="validation", step=20, top1_error=0.5)
    assert lines_of(path) == [
        {"kind": "train", **small_progress.progress_at(20)._asdict()},
        {"kind": "validation", "step": 20, "top1_error": 0.5},
    ]


def test_writer_removes_records_of_steps_that_will_be_repeated(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.Writer(path, 0)
    for step in (10, 20, 30):
        writer.write(kind="train", step=step)
        writer.write(kind="validation", step=step)
    resumed = metrics.Writer(path, 20)
    resumed.write(kind="train", step=21)
    assert [(line["kind"], line["step"]) for line in lines_of(path)] == [
        ("train", 10),
        ("validation", 10),
        ("train", 20),
        ("validation", 20),
        ("train", 21),
    ]
    assert [found.name for found in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_writer_removes_a_truncated_line_wherever_it_ends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics.Writer(path, 0).write(kind="train", step=1)
    first = path.read_bytes()
    complete = first + b'{"kind": "train", "step": 2}\n'
    for cut in range(len(first), len(complete)):
        path.write_bytes(complete[:cut])
        metrics.Writer(path, 2).write(kind="train", step=3)
        assert [line["step"] for line in lines_of(path)] == [1, 3], f"cut after {cut} bytes"


@pytest.mark.parametrize("line", ["", "{}", "[]", "5", "null", '{"step": null}', "\0\0\0"])
def test_writer_removes_lines_that_are_not_records(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + '\n{"step": 1}\n')
    metrics.Writer(path, 5)
    assert lines_of(path) == [{"step": 1}]
