"""The best checkpoint: chosen by the monitored split, kept besides the newest, and never half-written."""

import json
import math
import os
import shutil

import pytest
import tensorflow as tf

from alexnet_tf.training import best_checkpoint
from alexnet_tf.training import checkpoint_files
from alexnet_tf.training import checkpoints
from alexnet_tf.training import loop
from alexnet_tf.training import schedules


class Run:
    """A run of a few variables, whose epochs have ten steps."""

    def __init__(self, directory, validations=(), keep=2):
        self.directory = str(directory)
        self.variable = tf.Variable([0.0, 0.0])
        schedule = schedules.Linear(9.0)
        self.checkpoints = checkpoints.Checkpoints(self.directory, {"a": self.variable}, schedule, {}, keep=keep)
        recorded = best_checkpoint.read(self.directory)
        self.monitor = best_checkpoint.Monitor("validation", validations, recorded)
        self.keeper = best_checkpoint.Keeper(self.directory, self.monitor)

    def epoch(self, number, error, loss=1.0):
        step = 10 * number
        self.variable.assign([step, error])
        self.monitor.add(step, float(number), error, loss)
        progress = loop.Progress(step, float(number), 0.1, 1.0, 0.5, None, 10, 1.0, 0.0, True)
        self.checkpoints(progress)
        self.keeper(progress)


def record(number, error, loss=1.0):
    return {"step": 10 * number, "epoch": float(number), "top1_error": error, "loss": loss}


def names(directory):
    return sorted(os.listdir(os.path.join(directory, "best")))


FILES = lambda step: ["best.json", f"ckpt-{step}.data-00000-of-00001", f"ckpt-{step}.index"]


def test_the_epoch_with_the_lowest_error_is_kept_besides_the_newest(tmp_path):
    run = Run(tmp_path)
    for number, error in enumerate((0.5, 0.3, 0.4, 0.3, 0.6), start=1):
        run.epoch(number, error)
    assert best_checkpoint.read(str(tmp_path)) == (20, 2.0, 0.3, 1.0, "validation")
    assert names(tmp_path) == FILES(20)
    assert [os.path.basename(path) for path in checkpoint_files.paths(str(tmp_path))] == ["ckpt-50", "ckpt-40"]
    other = Run(tmp_path)
    path = best_checkpoint.path_of(str(tmp_path), best_checkpoint.read(str(tmp_path)))
    assert other.checkpoints.restore(path=path) == 20
    assert other.variable.numpy().tolist() == [20, pytest.approx(0.3)]
    assert other.checkpoints.restore() == 50


@pytest.mark.parametrize(
    "epochs, best, waited",
    [
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 0.9), (0.5, 1.1)], 2, 3),
        ([(0.5, 1.0), (0.4, 2.0), (0.5, 0.1)], 2, 1),
        ([(math.nan, 1.0), (0.4, math.nan), (0.5, 1.0)], 3, 1),
        ([], None, 0),
    ],
    ids=["ties", "error_before_loss", "nan", "none"],
)
def test_ties_go_to_the_lower_loss_then_to_the_earlier_epoch(epochs, best, waited):
    monitor = best_checkpoint.Monitor("validation", [record(n, *each) for n, each in enumerate(epochs, start=1)])
    assert (monitor.best and monitor.best.step) == (best and 10 * best)
    assert monitor.epochs_without_improvement == waited


def test_a_run_that_resumes_follows_the_epochs_before(tmp_path):
    run = Run(tmp_path)
    run.epoch(1, 0.4)
    run.epoch(2, 0.5)
    resumed = Run(tmp_path, [record(1, 0.4), record(2, 0.5)])
    assert resumed.monitor.epochs_without_improvement == 1
    resumed.keeper.resume()
    resumed.epoch(3, 0.45)
    assert names(tmp_path) == FILES(10) and resumed.monitor.epochs_without_improvement == 2
    resumed.epoch(4, 0.35)
    assert names(tmp_path) == FILES(40)


def test_a_kill_between_the_checkpoint_and_its_record_is_made_good_at_the_next_start(tmp_path):
    run = Run(tmp_path)
    run.epoch(1, 0.4)
    run.checkpoints.save(20)
    (tmp_path / "best" / "ckpt-20.index").write_bytes(b"")
    (tmp_path / "best" / "ckpt-20.index.part").write_bytes(b"")
    assert best_checkpoint.read(str(tmp_path)).step == 10
    Run(tmp_path, [record(1, 0.4), record(2, 0.3)]).keeper.resume()
    assert best_checkpoint.read(str(tmp_path)).step == 20 and names(tmp_path) == FILES(20)
    # The file is complete: it replaced the one that the kill left.
    Run(tmp_path).checkpoints.restore(path=str(tmp_path / "best" / "ckpt-20"))


def test_what_a_kill_left_is_removed_and_files_of_others_stay(tmp_path):
    run = Run(tmp_path)
    run.epoch(1, 0.4)
    for name in ("ckpt-7.index", "ckpt-7.data-00000-of-00001.part", "best.json.part", "notes.txt"):
        (tmp_path / "best" / name).write_text("")
    Run(tmp_path, [record(1, 0.4)]).keeper.resume()
    assert names(tmp_path) == sorted([*FILES(10), "notes.txt"])


def test_an_older_run_has_a_best_checkpoint_only_once_its_lowest_error_is_beaten(tmp_path):
    """Its checkpoints of earlier epochs are gone."""
    Run(tmp_path).checkpoints.save(30)
    resumed = Run(tmp_path, [record(1, 0.3), record(2, 0.5), record(3, 0.4)])
    resumed.keeper.resume()
    resumed.epoch(4, 0.35)
    assert best_checkpoint.read(str(tmp_path)) is None
    resumed.epoch(5, 0.25)
    assert best_checkpoint.read(str(tmp_path)).step == 50


@pytest.mark.parametrize("fails", ["copy", "record"])
def test_a_full_disk_leaves_the_best_before(tmp_path, monkeypatch, fails):
    run = Run(tmp_path)
    run.epoch(1, 0.4)

    def full(*unused, **others):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        # As on a file system without hard links.
        patch.setattr(os, "link", full)
        patch.setattr(*((shutil, "copyfile") if fails == "copy" else (json, "dump")), full)
        with pytest.raises(OSError, match="No space left"):
            run.epoch(2, 0.3)
    assert best_checkpoint.read(str(tmp_path)).step == 10
    Run(tmp_path).checkpoints.restore(path=str(tmp_path / "best" / "ckpt-10"))
    assert not [name for name in names(tmp_path) if name.endswith(".part")]
    Run(tmp_path, [record(1, 0.4), record(2, 0.3)]).keeper.resume()
    assert best_checkpoint.read(str(tmp_path)).step == 20 and names(tmp_path) == FILES(20)


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    def refused(*unused):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    run = Run(tmp_path)
    run.epoch(1, 0.4)
    assert names(tmp_path) == FILES(10)
    assert Run(tmp_path).checkpoints.restore(path=str(tmp_path / "best" / "ckpt-10")) == 10


def test_a_changed_record_is_one_line(tmp_path):
    Run(tmp_path).epoch(1, 0.4)
    path = tmp_path / "best" / "best.json"
    path.write_text(path.read_text().replace("0.4", "0.1"))
    with pytest.raises(ValueError, match="contents that differ .*delete it, or use --checkpoint=newest") as caught:
        best_checkpoint.read(str(tmp_path))
    assert "\n" not in str(caught.value)
