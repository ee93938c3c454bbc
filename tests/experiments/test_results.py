"""What is kept of a run."""

import dataclasses
import json
import os
import pathlib
import shutil

import pytest
import small_experiments as small

from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results
from alexnet_tf.experiments import tables
from alexnet_tf.utils import machine


def test_what_is_kept_of_a_run(flagfile, places):
    (run,) = plan.plan([flagfile], [5])
    config = dataclasses.replace(run.config, source="folder:/home/me/pictures", deterministic=False)
    small.leave_run(pathlib.Path(places.of_run(run)), config)
    result = results.harvest(run, places)
    path = pathlib.Path(places.result(run))
    assert result == json.loads(path.read_text()) == results.read_result(path)
    for word in ("/home", "confusions", str(places.workdir), os.uname().nodename):
        assert word not in path.read_text()
    assert result["experiment"] == "small" and result["seed"] == 5 and result["step"] == 40
    assert result["overrides"] == {"deterministic": False}
    assert result["configuration"]["network"] == "cifar10_26" and result["configuration"]["input_divisor"] == 1.1
    assert results.config_of(result) == dataclasses.replace(config, source="")
    assert result["data"] == {"name": "pictures", "source": "folder", "images": {"train": 100, "test": 20}}
    assert result["errors"]["test"]["ten_views"]["top1_error"] == 0.2
    assert result["curve"] == {
        "epoch": [1.0, 2.0, 3.0, 4.0],
        "train_error": [0.8, 0.7, 0.6, 0.5],
        "train_loss": [1.9, 1.8, 1.7, 1.6],
        "watched_error": [1.0, 0.5, 0.33333, 0.25],
    }
    assert result["images_seen"] == 400
    assert result["wall_seconds"] == 4 * (0.8 + 2)
    assert result["images_per_second"] == round(400 / 11.2, 3)
    # Nobody saw where it ran.
    assert result["machines"] == []


def test_a_result_tells_the_machine_that_it_was_trained_on(flagfile, places, trainer):
    (done,) = small.run_quietly(plan.plan([flagfile], [0]), places, trainer)
    (facts,) = done.result["machines"]
    assert facts["processor"] and facts["cores"] == len(os.sched_getaffinity(0))
    import tensorflow as tf

    assert facts["tensorflow"] == tf.__version__
    assert f"on: {facts['processor']}, {facts['cores']} cores" in tables.table([done], places)


def test_a_result_tells_all_machines_of_a_run_that_moved(flagfile, places, trainer):
    (run,) = plan.plan([flagfile], [0])
    small.leave_run(pathlib.Path(places.of_run(run)), run.config, epochs=2)
    elsewhere = {"processor": "another", "cores": 3}
    pathlib.Path(places.of_run(run, ".state.json")).write_text(json.dumps({"machines": [elsewhere]}))
    (done,) = small.run_quietly([run], places, trainer)
    assert done.result["machines"] == [elsewhere, machine.facts()]
    assert "another, 3 cores" in tables.table([done], places)
    # What is trained anew has nothing of it.
    shutil.rmtree(places.of_run(run))
    os.remove(places.result(run))
    (done,) = small.run_quietly([run], places, trainer)
    assert done.result["machines"] == [machine.facts()]


def test_a_result_stays_small(flagfile, places):
    flagfile.write_text(flagfile.read_text() + "--epochs=1001\n")
    (run,) = plan.plan([flagfile], [0])
    small.leave_run(pathlib.Path(places.of_run(run)), run.config)
    curve = results.harvest(run, places)["curve"]
    assert os.path.getsize(places.result(run)) < 20_000
    assert curve["epoch"][-1] == 1001 and len(curve["epoch"]) > 100
    assert set(map(float.__sub__, curve["epoch"][1:], curve["epoch"])) == {6.0}


@pytest.mark.parametrize(
    "change",
    [
        lambda result: "{",
        lambda result: json.dumps([result]),
        lambda result: json.dumps({**result, "errors": {}}),
        lambda result: json.dumps({**result, "configuration": {"no_field": 1}}),
        lambda result: json.dumps({**result, "configuration": {"batch_size": "many"}}),
        lambda result: json.dumps({**result, "curve": {**result["curve"], "epoch": []}}),
        lambda result: json.dumps({**result, "images_seen": "many"}),
        lambda result: json.dumps({**result, "step": "many"}),
        lambda result: json.dumps({**result, "experiment": 3}),
        lambda result: json.dumps({key: value for key, value in result.items() if key != "seed"}),
    ],
)
def test_a_malformed_result_is_named_and_left_as_it_is(flagfile, places, trainer, tmp_path, change):
    runs = plan.plan([flagfile], [0, 1])
    (done,) = small.run_quietly(runs[:1], places, trainer)
    path = pathlib.Path(places.result(runs[0]))
    path.write_text(change(done.result))
    before = path.read_text()
    standings = small.run_quietly(runs, places, trainer)
    assert [each.status for each in standings] == ["failed", "done"]
    assert standings[0].detail.startswith("Expected ") and str(path) in standings[0].detail
    assert path.read_text() == before and len(small.calls(tmp_path)) == 2
    assert "done (1 of 2 seeds); within band; seed 0 failed: Expected" in tables.table(standings, places)
