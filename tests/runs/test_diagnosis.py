"""Warnings about runs that failed to learn: in the terminal, in metrics.jsonl and in the report."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import small_progress
import small_runs

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import sources
from alexnet_tf.evaluation import errors
from alexnet_tf.runs import diagnosis
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import report
from alexnet_tf.runs import split_results
from alexnet_tf.runs import train
from alexnet_tf.training import loop

NAMES = ("cat", "dog", "bird")
LABELS = np.array([0] * 8 + [1] * 8 + [2] * 4)


def source():
    split = sources.Split(LABELS, read=None, name_of=str)
    return sources.Source("folder:test", NAMES, {"train": split})


def result(predicted, split="validation"):
    probabilities = {"center crop": np.eye(3)[predicted], "ten views": np.eye(3)[LABELS]}
    found = {name: errors.from_probabilities(each, LABELS) for name, each in probabilities.items()}
    return split_results.SplitResult(split, LABELS, probabilities, found, "center crop")


def curve_records(losses, rates, monitored=None):
    records = []
    for epoch, (loss, rate) in enumerate(zip(losses, rates), start=1):
        at = {"step": 10 * epoch, "epoch": float(epoch)}
        records.append({"kind": "train", "epoch_ended": True, "examples": 40, "train_error": 0.5} | at)
        records[-1] |= {"train_loss": loss, "learning_rate": rate, "images_per_second": 5.0}
        if monitored:
            records.append({"kind": "validation", "top1_error": monitored[epoch - 1], "num_examples": 100} | at)
    return records


def test_each_sign_of_a_failed_run_is_a_warning():
    records = curve_records([1.1, 1.1, 1.1], [0.01, 0.01, 0.001], [0.2, 0.5, 0.6])
    run_config = small_runs.make_config("any", validation_fraction=0.1, schedule="plateau")
    found = diagnosis.of_run(run_config, records, [result([1] * 20), result(LABELS, "test")], source())
    beginnings = [
        "the validation error of 60.0% is not below the 60.0% ",
        "all 20 validation images are classified as dog",
        "the learning rate was cut after epoch 2, ",
        "the last checkpoint's validation error of 60.0% is more than two standard errors above the 20.0% ",
    ]
    assert len(found) == len(beginnings)
    for text, beginning in zip(found, beginnings):
        assert text.startswith(beginning)


def test_a_run_that_learned_has_no_warning():
    records = curve_records([0.9, 0.5, 0.3], [0.01, 0.01, 0.001], [0.4, 0.2, 0.21])
    for schedule in ("plateau", "epochs", "linear"):
        run_config = small_runs.make_config("any", validation_fraction=0.1, schedule=schedule)
        assert diagnosis.of_run(run_config, records, [result(LABELS)], source()) == []


def test_few_held_out_images_are_a_warning():
    labels = LABELS[::2]
    found = errors.from_probabilities(np.eye(3)[labels], labels)
    few = split_results.SplitResult("validation", labels, {}, {"center crop": found}, "center crop")
    (text,) = diagnosis.of_run(config.Config(), [], [few], source())
    assert text == "the validation set has 10 images: each counts for 10 percentage points of its error"


@pytest.mark.parametrize(
    "split, schedule, is_warned",
    [("test", "plateau", True), ("test", "linear", False), ("validation", "plateau", False)],
)
def test_a_learning_rate_that_follows_the_test_error_is_a_warning(split, schedule, is_warned):
    texts = diagnosis.of_run(config.Config(schedule=schedule), [], [result(LABELS)._replace(split=split)], source())
    assert [text.startswith("there is no validation set, so schedule=plateau") for text in texts] == [True] * is_warned


def test_a_class_that_is_mostly_wrong_is_a_warning_unless_nothing_was_learned():
    labels = np.array([0] * 40 + [1] * 40 + [2] * 5)

    def of_labels(predicted):
        found = errors.from_probabilities(np.eye(3)[predicted], labels)
        return split_results.SplitResult("test", labels, {}, {"center crop": found}, "center crop")

    linear = config.Config(schedule="linear")
    rare_is_wrong = np.where(labels == 2, 0, labels)
    (text,) = diagnosis.of_run(linear, [], [of_labels(rare_is_wrong)], source())
    assert "most images of 1 of 3 classes are classified wrongly: bird (5 of 5)" in text
    assert "--class_weights=balanced" in text
    for changes in ({"class_weights": "balanced"}, {"class_weights": "weights.csv"}, {"sampling": "balanced"}):
        run_config = dataclasses.replace(linear, **changes)
        (text,) = diagnosis.of_run(run_config, [], [of_labels(rare_is_wrong)], source())
        assert "bird (5 of 5)" in text and "class_weights" not in text
    # The warning that all images are classified as a cat says more.
    found = diagnosis.of_run(linear, [], [of_labels(np.zeros(85, int))], source())
    assert not any("most images" in text for text in found) and len(found) == 2


def test_duplicates_are_among_the_warnings():
    found = source()._replace(duplicates=("2 of the 5 test images are ...",))
    assert diagnosis.of_run(config.Config(), [], [result(LABELS)], found) == ["2 of the 5 test images are ..."]


def test_warnings_recommend_nothing_that_the_run_has():
    flags = pathlib.Path(__file__).parents[2] / "flags"
    own_pictures = flagfiles.read_flagfile(flags / "own_pictures.flags")
    assert "--initialization" not in diagnosis.flat_loss(
        flagfiles.read_flagfile(flags / "own_pictures_from_scratch.flags"), 1.0986
    )
    for run_config in (own_pictures, dataclasses.replace(own_pictures, learning_rate=0.002, batch_size=8)):
        found = diagnosis.of_run(run_config, [], [result([1] * 20)], source())
        assert "is not below the 60.0%" in found[0] and "own_pictures" not in found[0]
        assert "--initialization" not in diagnosis.flat_loss(run_config, 1.0986)
    for changes in ({"schedule": "plateau"}, {"initialize_from": ""}):
        found = diagnosis.of_run(dataclasses.replace(own_pictures, **changes), [], [result([1] * 20)], source())
        assert "use the options of flags/own_pictures.flags" in found[0]
    for changes in ({}, {"initialize_from": "runs/other", "new_layers": ("fc8",)}):
        run_config = config.Config(source="folder:any", **changes)
        assert ("--recipe=original" in diagnosis.flat_loss(run_config, 1.0986)) == (not changes)
    assert "--recipe" not in diagnosis.flat_loss(config.Config(source="folder:any", network="cifar10_26"), 1.0986)


def test_a_linear_schedule_has_no_cut():
    records = curve_records([1.1, 1.1], [0.01, 0.001])
    run_config = small_runs.make_config("any", validation_fraction=0.1, schedule="linear")
    assert diagnosis.of_run(run_config, records, [result(LABELS)], source()) == []


def write_records(path, records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def test_an_early_cut_is_reported_once_while_training(tmp_path):
    records = curve_records([1.1] * 5, [0.01, 0.01, 0.001, 0.0001, 0.0001])
    run_config = small_runs.make_config("any", validation_fraction=0.1, schedule="plateau")
    warnings = []

    def warn(progress, text):
        warnings.append((progress.step, text))
        with open(tmp_path / "metrics.jsonl", "a") as file:
            record = {"kind": "warning", "step": progress.step, "epoch": progress.epoch, "text": text}
            file.write(f"{json.dumps(record)}\n")

    early_cut = diagnosis.EarlyCut(tmp_path, run_config, source(), warn)
    for record in records:
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write(f"{json.dumps(record)}\n")
        early_cut(small_progress.progress_at(record["step"], epoch_ended=True, learning_rate=record["learning_rate"]))
    assert [step for step, _ in warnings] == [30]
    # Nor again after a restart, and damaged records are no reason to stop.
    resumed = diagnosis.EarlyCut(tmp_path, run_config, source(), warn)
    resumed(small_progress.progress_at(50, epoch_ended=True))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    diagnosis.EarlyCut(tmp_path, run_config, source(), warn)(small_progress.progress_at(50, epoch_ended=True))
    assert len(warnings) == 1


def test_divergence_is_recorded(tmp_path):
    write_records(tmp_path / "metrics.jsonl", curve_records([1.1], [0.01]))
    with pytest.raises(loop.NonFiniteLossError), diagnosis.divergence_recorded(tmp_path, 10):
        raise loop.NonFiniteLossError("Expected a finite loss", 15)
    (record,) = small_runs.lines(tmp_path, "warning")
    assert record == {"kind": "warning", "step": 15, "epoch": 1.5, "text": "Expected a finite loss"}


@pytest.fixture
def folder(tmp_path):
    """Two classes with the same images, so that half of the answers are wrong."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for name in ("one", "other"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
        for number in range(count):
            path = tmp_path / "pictures" / split / "one" / f"{number}.png"
            small_runs.write_picture(path, generator)
            (tmp_path / "pictures" / split / "other" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "pictures"


def test_a_run_that_learned_nothing_says_so_everywhere(folder, tmp_path, capsys, monkeypatch):
    changes = {"learning_rate": 1e-9, "schedule": "plateau", "patience": 1, "drop_epochs": (), "summary_epochs": 0.0}
    run_config = small_runs.make_config(folder, validation_fraction=0.1, **changes)
    workdir = tmp_path / "run"
    train.train(run_config, str(workdir))
    said = capsys.readouterr().out
    texts = [record["text"] for record in small_runs.lines(workdir, "warning")]
    error = [text for text in texts if text.startswith("the validation error of 50.0% is not below the 50.0% ")]
    cut = [text for text in texts if text.startswith("the learning rate was cut after epoch 2, ")]
    assert len(error) == len(cut) == 1
    # The cut is reported when it happens, and again at the end.
    assert said.count(f"warning: {error[0]}") == 1 and said.count(f"warning: {cut[0]}") == 2
    page = (workdir / "report.md").read_text(encoding="utf-8")
    section = page[page.index("## Warnings") :]
    assert all(section.count(text) == 1 for text in texts)

    # The same command only evaluates, and records nothing twice.
    with monkeypatch.context() as patch:
        patch.setattr(report, "write", lambda workdir, *others: "none")
        train.train(run_config, str(workdir))
    assert [record["text"] for record in small_runs.lines(workdir, "warning")] == texts
    capsys.readouterr()
    evaluate.evaluate(str(workdir))
    assert f"warning: {error[0]}" in capsys.readouterr().out

    # A run of version 0.1 has no such records; its report has the warnings nevertheless.
    kept = [line for line in (workdir / "metrics.jsonl").read_text().splitlines(keepends=True) if "warning" not in line]
    (workdir / "metrics.jsonl").write_text("".join(kept))
    report.make(str(workdir))
    page = (workdir / "report.md").read_text(encoding="utf-8")
    assert error[0] in page and cut[0] in page and "None." not in page
