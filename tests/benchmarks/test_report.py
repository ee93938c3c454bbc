"""Measured rows are reported in JSON, in Markdown and as a plot."""

import importlib.util
import json

import pytest

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import report
from alexnet_tf.reporting import figures
from alexnet_tf.utils import machine


def row_at(batch):
    result = measuring.Result(
        "steps",
        "images/s",
        {f"a{batch}": [2.0, 4.0], f"b{batch}": [1.0, 1.0]},
        [measuring.Ratio(f"a{batch}", f"b{batch}", 2.5)],
        ["a note"],
        [measuring.Value(f"memory {batch}", 1234.0, "MB", 1000.0, measuring.AT_MOST)],
    )
    return result.to_dict()


def test_rows_are_written_as_json_and_as_markdown(tmp_path):
    found = {"P1": measuring.merge([row_at(1), row_at(2)]), "P8": {"not_run": "needs two devices"}}
    report.write(found, tmp_path / "found.json", tmp_path / "found.md")
    read = json.loads((tmp_path / "found.json").read_text())
    assert read["rows"] == found and read["machine"]["cores"] == machine.available_cores()
    assert [ratio["is_met"] for ratio in read["rows"]["P1"]["ratios"]] == [True, True]
    text = (tmp_path / "found.md").read_text()
    assert "| P1 | a1 / b1 | 3.00 (2.00 to 4.00) | 2.5 | steps: a1 3, b1 1, a2 3, b2 1 images/s; a note |" in text
    assert "| P1 | memory 2 | 1234 MB | at most 1000 |  |" in text
    assert "| P8 | not run: needs two devices | | | |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {6}


def test_text_of_others_cannot_change_the_table():
    found = {"P1": row_at(1), "P8": {"not_run": "no file\n| a | ![t](http://evil)"}}
    found["P1"]["notes"] = ["/data/a|b <img>"]
    text = report.markdown(found, {"processor": "<b> http://evil"})
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {6} and len(table) == 5
    assert "<" not in text and "](" not in text.replace("\\](", "") and "http:" not in text


def growth_at(size):
    """Returns the row growth at one batch size."""
    values = [
        measuring.Value(f"step, batch {size}", size / 5.0, "s"),
        measuring.Value(f"peak memory, batch {size}", 1500.0 + size, "MB"),
    ]
    return measuring.Result("steps", "images/s", {f"batch {size}": [4.0, 5.0, 6.0]}, [], values=values).to_dict()


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is not installed")
def test_plot_of_growth_shows_the_measured_values(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append((figure, path)))
    report.plot(measuring.merge([growth_at(1), growth_at(8), growth_at(64)]), tmp_path / "growth.png")
    ((figure, path),) = drawn
    assert path == tmp_path / "growth.png"
    times, memory, speeds = [axes.lines[0].get_xydata().T.tolist() for axes in figure.axes]
    assert times == [[1, 8, 64], [200.0, 1600.0, 12800.0]]
    assert memory == [[1, 8, 64], [1.501, 1.508, 1.564]]
    assert speeds == [[1, 8, 64], [5.0, 5.0, 5.0]]


def test_invalid_plot_is_rejected_before_anything_is_measured(monkeypatch):
    with pytest.raises(ValueError, match=r"^Expected growth among --rows, for --plot\. Received: P1,P9$"):
        report.check_plot("growth.png", ["P1", "P9"])
    with pytest.raises(ValueError, match=r"^Expected --plot=FILE\.png\. Received: growth\.svg$"):
        report.check_plot("growth.svg", ["growth"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"^Expected matplotlib for --plot: pip install -e '\.\[figures\]'$"):
        report.check_plot("growth.png", ["growth"])


def test_machine_is_described_with_its_measured_speed():
    row = measuring.Result("", "", {}, [], values=[measuring.Value("copy", 7.0, "GB/s")]).to_dict()
    assert report.describe_machine({"machine": row})["copy in GB/s"] == 7.0
