"""Runs one after another, and where each stands."""

import fcntl
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import small_experiments as small

from alexnet_tf.experiments import plan
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables


def test_every_run_is_a_process_of_its_own_and_none_is_done_twice(flagfile, variant, places, trainer, tmp_path):
    runs = plan.plan([flagfile, variant], [0, 1], ["--precision=bfloat16"])
    done = small.run_quietly(runs, places, trainer, source="folder:/somewhere")
    assert small.statuses(done) == ["done"] * 4
    assert small.calls(tmp_path)[1] == [
        f"--flagfile={flagfile}",
        "--source=folder:/somewhere",
        "--precision=bfloat16",
        "--seed=1",
        f"--workdir={places.workdir}/small-1",
    ]
    assert sorted(os.listdir(places.results)) == ["small-0.json", "small-1.json", "variant-0.json", "variant-1.json"]

    assert small.statuses(small.run_quietly(runs, places, trainer)) == ["done"] * 4
    # What is lost of the results is harvested again.
    before = pathlib.Path(places.result(runs[2])).read_text()
    os.remove(places.result(runs[2]))
    assert [each.status for each in map(runner.look, runs, itertools.repeat(places))][2] == "finished"
    assert small.statuses(small.run_quietly(runs, places, trainer)) == ["done"] * 4
    assert pathlib.Path(places.result(runs[2])).read_text() == before
    # A result needs no work directory.
    os.rename(places.workdir, f"{places.workdir}.away")
    plan.check_places(places)
    assert small.statuses(small.run_quietly(runs, places, trainer)) == ["done"] * 4
    assert len(small.calls(tmp_path)) == 4


def test_a_run_begins_with_the_run_of_its_seed(flagfile, places, trainer, tmp_path):
    later = tmp_path / "later.flags"
    header = small.HEADER.replace("# Data", "# Base: small\n# Changes: initialize_from\n# Data")
    later.write_text(f"{header}--flagfile={flagfile}\n--initialize_from=runs/small\n")
    (waiting,) = small.run_quietly(plan.plan([later], [1]), places, trainer)
    assert str(waiting) == (
        "waits: for small-1, which is not there or not finished; --initialize_from begins with another"
    )
    # The first of the list is the last to run.
    done = small.run_quietly(plan.plan([later, flagfile], [0, 1]), places, trainer)
    assert [each.run.name for each in done] == ["small-0", "small-1", "later-0", "later-1"]
    assert small.statuses(done) == ["done"] * 4
    given = f"--initialize_from={places.workdir}/small-"
    assert [[each for each in call if each.startswith("--init")] for call in small.calls(tmp_path)] == [
        [],
        [],
        [f"{given}0"],
        [f"{given}1"],
    ]
    # It is the experiment as it is written.
    assert done[2].result["overrides"] == {} and done[3].result["configuration"]["initialize_from"] == "small"
    assert tables.table(done[2:], places).count("done (2 of 2 seeds); within band") == 1
    assert small.statuses(small.run_quietly(plan.plan([later], [0, 1]), places, trainer)) == ["done", "done"]
    os.rename(places.result(done[3].run), tmp_path / "aside")
    assert runner.look(done[3].run, places).status == "finished"

    (given,) = plan.plan([later], [2], ["--initialize_from=/elsewhere/other"])
    small.run_quietly([given], places, trainer)
    assert small.calls(tmp_path)[-1].count("--initialize_from=/elsewhere/other") == 1


def test_data_that_a_flagfile_names_stay(flagfile, places, trainer, tmp_path):
    flagfile.write_text(flagfile.read_text() + "--source=elpv\n")
    small.run_quietly(plan.plan([flagfile], [0]), places, trainer, source="folder:/somewhere")
    assert not any("/somewhere" in argument for argument in small.calls(tmp_path)[0])


def test_a_failed_run_is_told_and_the_others_go_on(flagfile, places, trainer, tmp_path, capfd):
    runs = plan.plan([flagfile], [7, 8, 1])
    done = small.run_quietly(runs, places, trainer)
    failed = ["failed: train.py: Expected luck. Received: none", "failed: signal 9"]
    assert small.statuses(done) == [*failed, "done"]
    assert "a first line" in capfd.readouterr().err
    # It is known later, and tried again.
    assert small.statuses(runner.harvest_all(runs, places)) == [*failed, "done"]
    assert "done (1 of 3 seeds); within band; seed 7 failed: train.py: Expected luck." in tables.table(done, places)
    small.run_quietly(runs, places, trainer)
    assert len(small.calls(tmp_path)) == 5
    # As it would be with luck.
    small.leave_run(pathlib.Path(places.of_run(runs[0])), runs[0].config)
    assert small.statuses(runner.harvest_all(runs, places)) == ["done", failed[1], "done"]


def test_a_training_that_was_asked_to_stop_has_only_begun(flagfile, places, trainer):
    runs = plan.plan([flagfile], [6, 1])
    done = small.run_quietly(runs, places, trainer)
    assert small.statuses(done) == ["begun: train.py: stopped at step 5", "done"]
    assert small.statuses(map(runner.look, runs, [places] * 2)) == ["begun", "done"]
    assert "done (1 of 2 seeds); within band; seed 6 begun: train.py: stopped" in tables.table(done, places)


def test_a_run_goes_on_after_fewer_epochs_and_results_are_not_those_of_before(flagfile, places, trainer, tmp_path):
    short = plan.plan([flagfile], [0], ["--epochs=1"])
    (done,) = small.run_quietly(short, places, trainer)
    assert done.result["step"] == 10 and done.result["overrides"] == {"epochs": 1.0}
    assert "| small, with epochs=1.0 |" in tables.table([done], places)
    assert "done (1 of 1 seeds); not as written |" in tables.table([done], places)

    runs = plan.plan([flagfile], [0])
    # Killed on the way to four epochs, with train.json from one.
    stale = (tmp_path / "runs" / "small-0" / "train.json").read_text()
    small.leave_run(tmp_path / "runs" / "small-0", runs[0].config, epochs=2)
    assert (tmp_path / "runs" / "small-0" / "train.json").read_text() == stale
    with open(tmp_path / "runs" / "small-0" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tra')
    assert runner.look(runs[0], places).status == "begun"
    (done,) = small.run_quietly(runs, places, trainer)
    assert done.result["step"] == 40 and done.result["overrides"] == {} and len(small.calls(tmp_path)) == 2

    # The short run takes nobody's place.
    (refused,) = small.run_quietly(short, places, trainer)
    assert "Expected --results without small-0.json of another configuration" in str(refused)
    elsewhere = places._replace(results=str(tmp_path / "elsewhere"))
    plan.check_places(elsewhere)
    (refused,) = small.run_quietly(short, elsewhere, trainer)
    assert "at most the 10 steps of epochs=1. Received: 40" in str(refused)
    assert (
        json.loads(pathlib.Path(places.result(runs[0])).read_text())["step"] == 40 and len(small.calls(tmp_path)) == 2
    )


def test_a_changed_flagfile_makes_its_results_void(flagfile, places, trainer):
    small.run_quietly(plan.plan([flagfile], [0]), places, trainer)
    flagfile.write_text(flagfile.read_text() + "--momentum=0.5\n")
    (run,) = plan.plan([flagfile], [0])
    (standing,) = small.run_quietly([run], places, trainer)
    assert str(standing).startswith("failed: Expected --workdir without small-0 of another configuration")
    assert "momentum" in str(standing)
    os.rename(places.workdir, f"{places.workdir}.away")
    plan.check_places(places)
    assert str(runner.look(run, places)) == "not run: the result there is of another momentum"
    (standing,) = small.run_quietly([run], places, trainer)
    assert standing.result["configuration"]["momentum"] == 0.5


def test_a_run_that_another_process_is_at_is_left(flagfile, places, trainer, tmp_path):
    runs = plan.plan([flagfile], [0, 1])
    with open(places.of_run(runs[0], ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = small.run_quietly(runs, places, trainer)
    assert small.statuses(done) == ["left: another process is at it", "done"]
    assert small.statuses(small.run_quietly(runs, places, trainer)) == ["done", "done"]


def test_training_that_outlives_its_parent_keeps_the_lock(flagfile, places, trainer):
    program = (
        "import sys; from alexnet_tf.suite import execution, plans\n"
        "flagfile, workdir, results, *trainer = sys.argv[1:]\n"
        "runs = plans.plan([flagfile], [9])\n"
        "execution.run_all(runs, plans.Places(workdir, results), trainer, tell=lambda line: None)"
    )
    command = [sys.executable, "-c", program, str(flagfile), *places, *trainer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=small.ROOT) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    runs = plan.plan([flagfile], [9])
    try:
        assert small.statuses(small.run_quietly(runs, places, trainer)) == ["left: another process is at it"]
    finally:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open(places.of_run(runs[0], ".lock")) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
    else:
        pytest.fail("the lock outlives training")


@pytest.mark.parametrize(
    "name, text",
    [
        ("train.json", '{"step": 40'),
        ("train.json", '{"step": 40}'),
        ("train.json", '{"step": 40, "evaluation": {"test": {"centre_crop": {}}}}'),
        ("train.json", '{"step": 40, "evaluation": {"train": {"centre_crop": {"num_examples": 1}}}}'),
        ("train.json", "[]"),
        ("metrics.jsonl", "nothing\n"),
        ("metrics.jsonl", '{"kind": "train", "step": 40, "epoch": 4}\n'),
        ("config.flags", "--learning_rat=1\n"),
    ],
)
def test_a_damaged_work_directory_is_named_and_not_trained_in(flagfile, places, trainer, tmp_path, name, text):
    (run,) = plan.plan([flagfile], [0])
    small.leave_run(pathlib.Path(places.of_run(run)), run.config)
    pathlib.Path(places.of_run(run), name).write_text(text)
    (standing,) = small.run_quietly([run], places, trainer)
    assert standing.status == "failed" and "small-0" in standing.detail and "\n" not in standing.detail
    assert small.calls(tmp_path) == [] and os.listdir(places.results) == []


@pytest.mark.parametrize(
    "data, runs",
    [
        ({}, False),
        ({"source": "folder:/pictures"}, False),
        ({"source": "imagenet2012:/tars"}, True),
        ({"source": "ilsvrc2010:/tars"}, True),
        ({"source": "tfds:imagenet2012"}, True),
        ({"data_dir": "/prepared"}, True),
    ],
)
def test_what_needs_imagenet_runs_on_nothing_else(flagfile, places, trainer, tmp_path, data, runs):
    flagfile.write_text(flagfile.read_text().replace("Data: pictures", "Data: ilsvrc2012"))
    (standing,) = small.run_quietly(plan.plan([flagfile], [0]), places, trainer, **data)
    assert str(standing) == ("done" if runs else "not run: needs ImageNet")
    assert len(small.calls(tmp_path)) == runs
    table = tables.table([standing], places)
    below = (
        "- small: `python tools/train.py --flagfile=flags/small.flags --source=folder:DIR --workdir=DIR`; expected "
        "error in percent: 30 / 10, give or take 5 / 2. a second."
    )
    assert (below in table) == (not runs)
    assert (small.cells(table, "small")["status"] == "not run: needs ImageNet") == (not runs)


def test_experiments_are_planned_and_told_without_tensorflow():
    program = "import sys; from alexnet_tf.suite import execution, tables; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=small.ROOT).returncode == 0
