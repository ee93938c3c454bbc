"""Reports: their errors are those of the run, and the pages contain all figures."""

import dataclasses
import html.parser
import importlib.util
import json
import os
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
import serving_models as small
import tensorflow as tf

import alexnet_tf
from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import errors
from alexnet_tf.models import cifar10
from alexnet_tf.models import registry
from alexnet_tf.runs import builders
from alexnet_tf.runs import costs
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import report
from alexnet_tf.runs import split_results

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
NAMES = ["alder", "birch & <beech>", "cedar"]
CONFIG = config.Config(
    network="alexnet",
    image_size=36,
    crop_size=32,
    initialization="he",
    input_scale=0.02,
    validation_fraction=0.2,
    batch_size=10,
    normalization="none",
).resolved()
SMALL = dataclasses.replace(CONFIG, network="cifar10_18")
needs_matplotlib = pytest.mark.skipif(
    not importlib.util.find_spec("matplotlib"), reason="needs matplotlib: pip install -e '.[figures]'"
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 15 training images and 5 test images per class."""
    folder = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 15), ("test", 5)):
        for number, name in enumerate(NAMES):
            to = folder / split / name
            to.mkdir(parents=True)
            for place in range(count):
                picture = small.pixels(40, 44, 100 * number + place + count)
                (to / f"{place}.png").write_bytes(small.encoded(picture, "PNG"))
    return folder


def make_run(workdir, run_config, step=8):
    """Writes a work directory like that of a run at a step."""
    workdir.mkdir()
    (workdir / "config.flags").write_text(flagfiles.to_text(run_config))
    mean_image = np.full([run_config.image_size, run_config.image_size, 3], 120, np.float32)
    image_statistics = statistics.Statistics(mean_image, np.eye(3, dtype=np.float32), np.ones(3, np.float32), 36)
    statistics.save(image_statistics, workdir / "statistics.npz")
    model = builders.build_model(run_config, len(NAMES))
    schedule = builders.build_schedule(run_config)
    builders.build_checkpoints(run_config, model, None, schedule, NAMES, str(workdir)).save(step)
    records = []
    for epoch in (1, 2, 3):
        at = {"step": 4 * epoch, "epoch": float(epoch)}
        records.append(
            {"kind": "train", "train_error": 0.5 / epoch, "train_loss": 1.0 / epoch, "examples": 40}
            | {"images_per_second": 20.0, "epoch_ended": True}
            | at
        )
        records.append({"kind": "validation", "top1_error": 0.6 / epoch, "loss": 1.5 / epoch} | at)
    records.insert(2, {"kind": "warning", "step": 4, "epoch": 1.0, "text": "something stood still"})
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory, photographs):
    """A run with its report."""
    run_config = dataclasses.replace(CONFIG, source=f"folder:{photographs}")
    workdir = make_run(tmp_path_factory.mktemp("runs") / "first", run_config)
    assert report.make(str(workdir)) == str(workdir / "report.html")
    return workdir


class Cells(html.parser.HTMLParser):
    """Parses the rows of all tables, the headings and the paragraphs."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.headings, self.paragraphs, self._into = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self._into = {"td": self.rows and self.rows[-1], "h2": self.headings, "p": self.paragraphs}.get(tag)
        if self._into is not None:
            self._into.append("")

    def handle_endtag(self, tag):
        self._into = None

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data.replace("\u00a0", " ")


def read(workdir):
    return Cells((workdir / "report.html").read_text(encoding="utf-8"))


def test_errors_are_those_of_an_evaluation(run):
    rows = {row[0]: row[1:] for row in read(run).rows if row}
    for split, count in (("validation", 9), ("test", 15)):
        figures = evaluate.evaluate(str(run), split)["evaluation"][split]
        for way in ("center crop", "ten views"):
            expected = errors.percent(figures[way.replace(" ", "_")]["top1_error"])
            assert rows[f"this run, {split}, {way}"] == [str(count), expected]
        assert rows[f"always the most frequent class, {split}"] == ["", "66.67%"]
    # There are no top-5 errors with three classes.
    assert not any("Top-5" in each for each in read(run).paragraphs)


def test_errors_of_more_than_five_classes_include_the_top5_error():
    labels = np.arange(6)
    found = errors.from_probabilities(np.eye(6)[(labels + 1) % 6] * 0.5 + np.eye(6)[::-1] * 0.1, labels)
    result = split_results.SplitResult("test", labels, {}, {"ten views": found}, "ten views")
    data = types.SimpleNamespace(source=types.SimpleNamespace(name="six", class_names=tuple("abcdef")))
    _, paragraph, table, _ = report._errors(SMALL, data, [result])
    assert "Top-5 error: the true class is not among" in paragraph.text
    assert list(table.header) == ["", "images", "top-1 error", "top-5 error"]
    assert table.rows[0] == ["this run, test, ten views", 6, "100.00%", errors.percent(found.top5_error)]


def test_summary_states_accuracy_and_baseline(run):
    (first, *_) = read(run).paragraphs
    wrong = evaluate.evaluate(str(run), "test")["evaluation"]["test"]["ten_views"]["top1_error"]
    assert "was trained on 36 images of 3 classes (alder, birch & <beech>, cedar) for 2.67 epochs." in first
    assert f"It classifies {100 * (1 - wrong):.1f}% of the 15 images of the test set correctly." in first
    assert "would be correct for 33.3%" in first


@needs_matplotlib
def test_both_pages_have_all_figures(run):
    text = (run / "report.md").read_text(encoding="utf-8")
    paths = re.findall(r"!\[.*\]\((.*)\)", text)
    names = ["curves.png", "answers.png", "confusion.png", "hardest.png", "maps.png", "reliability.png"]
    assert sorted(paths) == sorted(["kernels.png", *(os.path.join("figures", name) for name in names)])
    for path in paths:
        assert tf.io.decode_png((run / path).read_bytes()).shape[0] > 20
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(paths)
    assert not re.search(r"https?://|<script|<link", page)


def test_records_after_the_checkpoint_are_ignored(run):
    # The third epoch, steps 9 to 12, comes after the checkpoint.
    rows = {row[0]: row[1] for row in read(run).rows if len(row) == 2}
    assert rows["training time"] == "0 min 4 s"
    assert rows["speed"].startswith("20.0 images/s")


def test_warnings_and_configuration_are_listed(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "step 4: something stood still" in page
    assert ["batch_size", "10", "128"] in read(run).rows
    assert "--input_scale=0.02" in page


@needs_matplotlib
def test_the_figure_of_neighbors_is_included_if_it_exists(run):
    assert "Nearest neighbors" not in read(run).headings
    (run / "figures" / "neighbours.png").write_bytes((run / "kernels.png").read_bytes())
    report.make(str(run))
    assert "Nearest neighbors" in read(run).headings
    (run / "figures" / "neighbours.png").unlink()


def test_without_matplotlib_the_report_says_what_is_missing(run, monkeypatch):
    find_spec = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest)
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    report.make(str(run))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    assert "Expected matplotlib for this picture" in page


@pytest.mark.slow
def test_a_run_on_two_devices_has_a_placement_report(tmp_path, photographs):
    devices = ("/CPU:0", "/CPU:1")
    run_config = dataclasses.replace(CONFIG, source=f"folder:{photographs}", devices=devices)
    workdir = make_run(tmp_path / "two", run_config)
    report.make(str(workdir))
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "Tower a runs on /CPU:0, tower b on /CPU:1" in page
    assert re.search(r"GFLOP, backward", page)


def test_unreadable_files_are_listed(tmp_path):
    for split, count in (("train", 15), ("test", 3)):
        for number, name in enumerate(NAMES):
            to = tmp_path / "photographs" / split / name
            to.mkdir(parents=True)
            for place in range(count):
                (to / f"{place}.png").write_bytes(small.encoded(small.pixels(40, 44, place + number), "PNG"))
    (tmp_path / "photographs" / "test" / NAMES[0] / "1.png").write_bytes(small.damaged("PNG"))
    run_config = dataclasses.replace(SMALL, source=f"folder:{tmp_path / 'photographs'}")
    workdir = make_run(tmp_path / "run", run_config)
    report.make(str(workdir))
    text = (workdir / "report.md").read_text(encoding="utf-8")
    assert re.search(r"1 test files could not be read, the first .*test/alder/1\.png: \w+", text)
    hardest = sorted(row[1] for row in read(workdir).rows if len(row) == 6 and row[0].isdigit())
    readable = [f"test/{name}/{place}.png" for name in NAMES for place in range(3)]
    readable.remove("test/alder/1.png")
    assert hardest == sorted(readable)
    for _, image, true, *_ in [row for row in read(workdir).rows if len(row) == 6 and row[0].isdigit()]:
        assert image.split("/")[1] == true


def test_a_run_without_records_has_no_curves(tmp_path, photographs):
    workdir = make_run(tmp_path / "begun", dataclasses.replace(SMALL, source=f"folder:{photographs}"), step=1)
    report.make(str(workdir))
    assert "Training curves" not in read(workdir).headings
    assert "Example predictions" in read(workdir).headings


@pytest.mark.parametrize(
    "flips, share", [("horizontal", "0.0%"), pytest.param("both", "0.0%", marks=pytest.mark.slow), ("none", "100.0%")]
)
def test_ten_views_are_the_headline_only_after_training_with_mirror_images(
    tmp_path, photographs, monkeypatch, capsys, flips, share
):
    def predict(function, data, split, console=None, *, headline):
        labels = data.examples[split].labels
        probabilities = {"center crop": np.eye(3)[labels], "ten views": np.eye(3)[(labels + 1) % 3]}
        results = {way: errors.from_probabilities(each, labels) for way, each in probabilities.items()}
        return split_results.SplitResult(split, labels, probabilities, results, headline)

    monkeypatch.setattr(split_results, "evaluate_all_views", predict)
    run_config = dataclasses.replace(SMALL, source=f"folder:{photographs}", flips=flips)
    workdir = make_run(tmp_path / "run", run_config)
    report.make(str(workdir))
    page = read(workdir)
    assert f"It classifies {share} of the 15 images" in page.paragraphs[0]
    assert (["alder", "birch & <beech>", "5", "100.0%"] in page.rows) == (flips != "none")
    assert any("trained without mirror images" in each for each in page.paragraphs) == (flips == "none")
    by = "center crop, because" if flips == "none" else "ten views."
    assert any(f"All other sections use the {by}" in each for each in page.paragraphs)
    capsys.readouterr()
    evaluate.evaluate(str(workdir), "test")
    assert ("alder classified as birch" in capsys.readouterr().out) == (flips != "none")


def test_training_flops_of_the_paper_network():
    assert costs.training_flops(alexnet_tf.AlexNet()) == pytest.approx(4.1356e9, rel=1e-4)


def test_training_flops_of_a_small_network_match_a_hand_calculation():
    first = 32 * 32 * 5 * 5 * 3 * 32
    rest = 16 * 16 * 5 * 5 * 32 * 32 + 8 * 8 * 5 * 5 * 32 * 64 + 4 * 4 * 64 * 10
    assert costs.training_flops(cifar10.Cifar10Net("cifar10_18")) == 2 * (2 * first + 3 * rest)


def test_peak_flops_are_measured(monkeypatch):
    # Tiny matrices on a busy machine are mostly waiting.
    monkeypatch.setattr(costs, "MATRIX_SIDES", {"CPU": 1024, "GPU": 3072})
    assert costs.peak_flops(rounds=1) > 1e8


@pytest.mark.parametrize(
    "network, name, classes, expected",
    [
        ("alexnet", "imagenet2012", "ab", [0.407, 0.40664]),
        ("alexnet", "prepared (ilsvrc2010)", "ab", [0.375, 0.390, 0.374727, 0.390247]),
        ("alexnet", "folder:photographs", "ab", []),
        ("cifar10_18", "folder:photographs", CIFAR10, [0.18]),
        ("cifar10_18", "folder:photographs", CIFAR10[:4], []),
    ],
)
def test_recorded_errors_are_shown_for_the_same_data_only(network, name, classes, expected):
    recorded = registry.recorded_errors(network, name, tuple(classes))
    assert [errors.top1_error for errors in recorded] == expected


@pytest.mark.parametrize(
    "missing, message",
    [
        ("config.flags", "Expected a run with its config.flags in "),
        ("statistics.npz", "statistics.npz"),
        ("checkpoints", "Expected a checkpoint in "),
    ],
)
def test_an_incomplete_run_is_rejected(tmp_path, photographs, missing, message):
    workdir = make_run(tmp_path / "broken", dataclasses.replace(SMALL, source=f"folder:{photographs}"))
    path = pathlib.Path(workdir, missing)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises((ValueError, OSError)) as caught:
        report.make(str(workdir))
    assert message in str(caught.value)
    assert not (workdir / "report.html").exists()
