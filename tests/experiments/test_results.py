"""Results collected from runs."""

import dataclasses
import json
import os
import pathlib
import shutil

import pytest
import small_experiments as small

from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables
from alexnet_tf.utils import machine


def test_collected_result_has_the_expected_contents(flagfile, directories):
    (run,) = plan.plan([flagfile], [5])
    config = dataclasses.replace(run.config, source="folder:/home/me/pictures", deterministic=False)
    small.leave_run(pathlib.Path(directories.run(run)), config)
    result = results.collect(run, directories)
    path = pathlib.Path(directories.result(run))
    assert result == json.loads(path.read_text()) == results.read_result(path)
    for word in ("/home", "confusions", str(directories.workdir), os.uname().nodename):
        assert word not in path.read_text()
    assert result["experiment"] == "small" and result["seed"] == 5 and result["step"] == 40
    assert result["overrides"] == {"deterministic": False} and result["selected"] == "newest"
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
    # The run was not trained by the runner, which records the machine.
    assert result["machines"] == []


def test_what_a_run_chooses_is_no_difference_to_its_flagfile(flagfile, directories):
    flagfile.write_text(flagfile.read_text() + "--epochs=auto\n--batch_size=auto\n--initialize_from=auto\n")
    (run,) = plan.plan([flagfile], [0])
    chosen = dataclasses.replace(run.config, epochs=3.0, batch_size=20, initialize_from="before", split_rule="hash")
    small.leave_run(pathlib.Path(directories.run(run)), dataclasses.replace(chosen, input_scale=1.0))
    assert runner.run_status(run, directories).status == "trained"
    result = results.collect(run, directories)
    assert result["overrides"] == {} and result["step"] == 15
    assert [result["configuration"][name] for name in ("epochs", "batch_size")] == [3, 20]
    assert runner.run_status(run, directories).status == "done"
    (other,) = plan.plan([flagfile], [0], ["--epochs=2"])
    assert runner.run_status(other, directories).status == "failed"


def test_result_names_the_machine_that_trained_it(flagfile, directories, trainer):
    (done,) = small.run_quietly(plan.plan([flagfile], [0]), directories, trainer)
    (recorded,) = done.result["machines"]
    assert recorded["processor"] and recorded["cores"] == len(os.sched_getaffinity(0))
    import tensorflow as tf

    assert recorded["tensorflow"] == tf.__version__
    assert f"on: {recorded['processor']}, {recorded['cores']} cores" in tables.table([done], directories)


def test_result_names_all_machines_of_a_run_that_moved(flagfile, directories, trainer):
    (run,) = plan.plan([flagfile], [0])
    small.leave_run(pathlib.Path(directories.run(run)), run.config, epochs=2)
    elsewhere = {"processor": "another", "cores": 3}
    pathlib.Path(directories.run(run, ".state.json")).write_text(json.dumps({"machines": [elsewhere]}))
    (done,) = small.run_quietly([run], directories, trainer)
    assert done.result["machines"] == [elsewhere, machine.describe()]
    assert "another, 3 cores" in tables.table([done], directories)
    # A run that starts over has only its own machine.
    shutil.rmtree(directories.run(run))
    os.remove(directories.result(run))
    (done,) = small.run_quietly([run], directories, trainer)
    assert done.result["machines"] == [machine.describe()]


def test_a_run_that_stop_after_ended_is_finished(flagfile, directories):
    """Its error falls up to epoch 3, and is the same in epochs 3 and 4."""
    flagfile.write_text(flagfile.read_text() + "--epochs=9\n--stop_after=1\n")
    (run,) = plan.plan([flagfile], [0])
    workdir = pathlib.Path(directories.run(run))
    small.leave_run(workdir, run.config, epochs=4)
    metrics = workdir / "metrics.jsonl"
    assert runner.run_status(run, directories).status == "started"
    views = {"num_examples": 20, "loss": 1.0, "top1_error": 0.2, "top5_error": None}
    section = {"majority_error": 0.9, "center_crop": views, "ten_views": views}
    written = {"step": 40, "evaluation": {"test": section}, "selected": "best", "selection": {"step": 30}}
    (workdir / "train.json").write_text(json.dumps(written))
    # The error fell until the last epoch.
    assert runner.run_status(run, directories).status == "started"
    metrics.write_text(metrics.read_text().replace('"top1_error": 0.25', f'"top1_error": {1 / 3}'))
    assert runner.run_status(run, directories).status == "trained"
    (longer,) = plan.plan([flagfile], [0], ["--stop_after=2"])
    assert runner.run_status(longer, directories).status == "started"
    # A later run of the program was killed in the epoch after.
    lines = metrics.read_text()
    metrics.write_text(lines + lines.splitlines()[-2].replace('"step": 40', '"step": 45') + "\n")
    assert runner.run_status(run, directories).status == "started"
    metrics.write_text(lines)
    (done,) = runner.collect_all([run], directories)
    assert not done.detail and done.result["selected"] == "best" and done.result["step"] == 40
    expected = (
        "the epoch with the lowest validation error instead of the last one, which makes validation errors optimistic: "
    )
    assert f"{expected}small." in tables.table([done], directories)


def test_result_of_many_epochs_is_small(flagfile, directories):
    flagfile.write_text(flagfile.read_text() + "--epochs=1001\n")
    (run,) = plan.plan([flagfile], [0])
    small.leave_run(pathlib.Path(directories.run(run)), run.config)
    curve = results.collect(run, directories)["curve"]
    assert os.path.getsize(directories.result(run)) < 20_000
    assert curve["epoch"][-1] == 1001 and len(curve["epoch"]) > 100
    assert set(map(float.__sub__, curve["epoch"][1:], curve["epoch"])) == {6.0}


def test_old_spellings_in_results_are_read():
    result = results.read_result(small.ROOT / "results" / "cifar10_26-0.json")
    assert "centre_crop" in result["errors"]["test"] and "most_bias_drops" in result["configuration"]
    assert results.errors_in_percent(result, "center_crop") == [
        pytest.approx(100 * result["errors"]["test"]["centre_crop"][name]) for name in ("top1_error", "top5_error")
    ]
    assert results.config_of(result).max_bias_drops == 2


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
def test_malformed_result_is_reported_and_not_overwritten(flagfile, directories, trainer, tmp_path, change):
    runs = plan.plan([flagfile], [0, 1])
    (done,) = small.run_quietly(runs[:1], directories, trainer)
    path = pathlib.Path(directories.result(runs[0]))
    path.write_text(change(done.result))
    before = path.read_text()
    statuses = small.run_quietly(runs, directories, trainer)
    assert [each.status for each in statuses] == ["failed", "done"]
    assert statuses[0].detail.startswith("Expected ") and str(path) in statuses[0].detail
    assert path.read_text() == before and len(small.calls(tmp_path)) == 2
    assert "done (1 of 2 seeds); within band; seed 0 failed: Expected" in tables.table(statuses, directories)
