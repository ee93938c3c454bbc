"""Training runs one after another, and the status of each."""

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


def test_each_run_is_trained_once_in_its_own_process(flagfile, variant, directories, trainer, tmp_path):
    runs = plan.plan([flagfile, variant], [0, 1], ["--precision=bfloat16"])
    done = small.run_quietly(runs, directories, trainer, source="folder:/somewhere")
    assert small.status_lines(done) == ["done"] * 4
    assert small.calls(tmp_path)[1] == [
        f"--flagfile={flagfile}",
        "--source=folder:/somewhere",
        "--precision=bfloat16",
        "--seed=1",
        f"--workdir={directories.workdir}/small-1",
    ]
    assert sorted(os.listdir(directories.results)) == [
        "small-0.json",
        "small-1.json",
        "variant-0.json",
        "variant-1.json",
    ]

    assert small.status_lines(small.run_quietly(runs, directories, trainer)) == ["done"] * 4
    # A lost result is collected again.
    before = pathlib.Path(directories.result(runs[2])).read_text()
    os.remove(directories.result(runs[2]))
    assert [each.status for each in map(runner.run_status, runs, itertools.repeat(directories))][2] == "trained"
    assert small.status_lines(small.run_quietly(runs, directories, trainer)) == ["done"] * 4
    assert pathlib.Path(directories.result(runs[2])).read_text() == before
    # A run that is done does not need its work directory.
    os.rename(directories.workdir, f"{directories.workdir}.away")
    plan.check_writable(directories)
    assert small.status_lines(small.run_quietly(runs, directories, trainer)) == ["done"] * 4
    assert len(small.calls(tmp_path)) == 4


def test_run_is_initialized_from_the_run_with_the_same_seed(flagfile, directories, trainer, tmp_path):
    later = tmp_path / "later.flags"
    header = small.HEADER.replace("# Data", "# Base: small\n# Changes: initialize_from new_layers\n# Data")
    later.write_text(f"{header}--flagfile={flagfile}\n--initialize_from=runs/small\n")
    (waiting,) = small.run_quietly(plan.plan([later], [1]), directories, trainer)
    assert str(waiting) == ("waiting: for small-1, which is missing or unfinished; --initialize_from names another run")
    # The first experiment in the list is the last to run.
    done = small.run_quietly(plan.plan([later, flagfile], [0, 1]), directories, trainer)
    assert [each.run.name for each in done] == ["small-0", "small-1", "later-0", "later-1"]
    assert small.status_lines(done) == ["done"] * 4
    given = f"--initialize_from={directories.workdir}/small-"
    assert [[each for each in call if each.startswith("--init")] for call in small.calls(tmp_path)] == [
        [],
        [],
        [f"{given}0"],
        [f"{given}1"],
    ]
    # It counts as the experiment as written.
    assert done[2].result["overrides"] == {} and done[3].result["configuration"]["initialize_from"] == "small"
    assert tables.table(done[2:], directories).count("done (2 of 2 seeds); within band") == 1
    assert small.status_lines(small.run_quietly(plan.plan([later], [0, 1]), directories, trainer)) == ["done", "done"]
    os.rename(directories.result(done[3].run), tmp_path / "aside")
    assert runner.run_status(done[3].run, directories).status == "trained"

    (given,) = plan.plan([later], [2], ["--initialize_from=/elsewhere/other"])
    small.run_quietly([given], directories, trainer)
    assert small.calls(tmp_path)[-1].count("--initialize_from=/elsewhere/other") == 1


def test_data_named_by_a_flagfile_are_not_overridden(flagfile, directories, trainer, tmp_path):
    flagfile.write_text(flagfile.read_text() + "--source=elpv\n")
    small.run_quietly(plan.plan([flagfile], [0]), directories, trainer, source="folder:/somewhere")
    assert not any("/somewhere" in argument for argument in small.calls(tmp_path)[0])


def test_failed_run_is_reported_and_the_others_continue(flagfile, directories, trainer, tmp_path, capfd):
    runs = plan.plan([flagfile], [7, 8, 1])
    done = small.run_quietly(runs, directories, trainer)
    failed = ["failed: train.py: Expected luck. Received: none", "failed: signal 9"]
    assert small.status_lines(done) == [*failed, "done"]
    assert "a first line" in capfd.readouterr().err
    # The failure is remembered, and the run is retried.
    assert small.status_lines(runner.collect_all(runs, directories)) == [*failed, "done"]
    assert "done (1 of 3 seeds); within band; seed 7 failed: train.py: Expected luck." in tables.table(
        done, directories
    )
    small.run_quietly(runs, directories, trainer)
    assert len(small.calls(tmp_path)) == 5
    # As if the run had succeeded.
    small.leave_run(pathlib.Path(directories.run(runs[0])), runs[0].config)
    assert small.status_lines(runner.collect_all(runs, directories)) == ["done", failed[1], "done"]


def test_interrupted_training_has_the_status_started(flagfile, directories, trainer):
    runs = plan.plan([flagfile], [6, 1])
    done = small.run_quietly(runs, directories, trainer)
    assert small.status_lines(done) == ["started: train.py: stopped at step 5", "done"]
    assert small.status_lines(map(runner.run_status, runs, [directories] * 2)) == ["started", "done"]
    assert "done (1 of 2 seeds); within band; seed 6 started: train.py: stopped" in tables.table(done, directories)


def test_run_continues_after_fewer_epochs_and_its_result_is_replaced(flagfile, directories, trainer, tmp_path):
    short = plan.plan([flagfile], [0], ["--epochs=1"])
    (done,) = small.run_quietly(short, directories, trainer)
    assert done.result["step"] == 10 and done.result["overrides"] == {"epochs": 1.0}
    assert "| small, with epochs=1.0 |" in tables.table([done], directories)
    assert "done (1 of 1 seeds); not as written |" in tables.table([done], directories)

    runs = plan.plan([flagfile], [0])
    # Killed before the end of four epochs, with the train.json of one.
    stale = (tmp_path / "runs" / "small-0" / "train.json").read_text()
    small.leave_run(tmp_path / "runs" / "small-0", runs[0].config, epochs=2)
    assert (tmp_path / "runs" / "small-0" / "train.json").read_text() == stale
    with open(tmp_path / "runs" / "small-0" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tra')
    assert runner.run_status(runs[0], directories).status == "started"
    (done,) = small.run_quietly(runs, directories, trainer)
    assert done.result["step"] == 40 and done.result["overrides"] == {} and len(small.calls(tmp_path)) == 2

    # The short run does not replace the result of the long one.
    (refused,) = small.run_quietly(short, directories, trainer)
    assert "small-0.json was trained with different values: epochs=4.0 (not 1.0); use the previous" in str(refused)
    elsewhere = directories._replace(results=str(tmp_path / "elsewhere"))
    plan.check_writable(elsewhere)
    (refused,) = small.run_quietly(short, elsewhere, trainer)
    assert "at most the 10 steps of epochs=1. Received: 40" in str(refused)
    assert (
        json.loads(pathlib.Path(directories.result(runs[0])).read_text())["step"] == 40
        and len(small.calls(tmp_path)) == 2
    )


def test_changed_flagfile_invalidates_its_results(flagfile, directories, trainer):
    small.run_quietly(plan.plan([flagfile], [0]), directories, trainer)
    flagfile.write_text(flagfile.read_text() + "--momentum=0.5\n")
    (run,) = plan.plan([flagfile], [0])
    (status,) = small.run_quietly([run], directories, trainer)
    assert str(status).startswith(
        f"failed: {directories.run(run)} was trained with different values: momentum=0.9 (not 0.5)"
    )
    assert "momentum" in str(status)
    os.rename(directories.workdir, f"{directories.workdir}.away")
    plan.check_writable(directories)
    assert str(runner.run_status(run, directories)) == "not run: the existing result has a different momentum"
    (status,) = small.run_quietly([run], directories, trainer)
    assert status.result["configuration"]["momentum"] == 0.5


def test_run_that_another_process_trains_is_skipped(flagfile, directories, trainer, tmp_path):
    runs = plan.plan([flagfile], [0, 1])
    with open(directories.run(runs[0], ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = small.run_quietly(runs, directories, trainer)
    assert small.status_lines(done) == ["busy: another process is training it", "done"]
    assert small.status_lines(small.run_quietly(runs, directories, trainer)) == ["done", "done"]


def test_training_that_outlives_its_parent_holds_the_lock(flagfile, directories, trainer):
    program = (
        "import sys; from alexnet_tf.experiments import plan, runner\n"
        "flagfile, workdir, results, *trainer = sys.argv[1:]\n"
        "runs = plan.plan([flagfile], [9])\n"
        "runner.run_all(runs, plan.Directories(workdir, results), trainer, log=lambda line: None)"
    )
    command = [sys.executable, "-c", program, str(flagfile), *directories, *trainer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=small.ROOT) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    runs = plan.plan([flagfile], [9])
    try:
        assert small.status_lines(small.run_quietly(runs, directories, trainer)) == [
            "busy: another process is training it"
        ]
    finally:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open(directories.run(runs[0], ".lock")) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
    else:
        pytest.fail("the lock was not released after training")


@pytest.mark.parametrize(
    "name, text",
    [
        ("train.json", '{"step": 40'),
        ("train.json", '{"step": 40}'),
        ("train.json", '{"step": 40, "evaluation": {"test": {"center_crop": {}}}}'),
        ("train.json", '{"step": 40, "evaluation": {"train": {"center_crop": {"num_examples": 1}}}}'),
        ("train.json", "[]"),
        ("metrics.jsonl", "nothing\n"),
        ("metrics.jsonl", '{"kind": "train", "step": 40, "epoch": 4}\n'),
        ("config.flags", "--learning_rat=1\n"),
    ],
)
def test_damaged_work_directory_is_reported_and_not_used(flagfile, directories, trainer, tmp_path, name, text):
    (run,) = plan.plan([flagfile], [0])
    small.leave_run(pathlib.Path(directories.run(run)), run.config)
    pathlib.Path(directories.run(run), name).write_text(text)
    (status,) = small.run_quietly([run], directories, trainer)
    assert status.status == "failed" and "small-0" in status.detail and "\n" not in status.detail
    assert small.calls(tmp_path) == [] and os.listdir(directories.results) == []


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
def test_imagenet_experiments_run_on_imagenet_only(flagfile, directories, trainer, tmp_path, data, runs):
    flagfile.write_text(flagfile.read_text().replace("Data: pictures", "Data: ilsvrc2012"))
    (status,) = small.run_quietly(plan.plan([flagfile], [0]), directories, trainer, **data)
    assert str(status) == ("done" if runs else "not run: needs ImageNet")
    assert len(small.calls(tmp_path)) == runs
    table = tables.table([status], directories)
    below = (
        "- small: `python tools/train.py --flagfile=flags/small.flags --source=folder:DIR --workdir=DIR`; expected "
        "error in percent: 30 / 10 (within 5 / 2). a second."
    )
    assert (below in table) == (not runs)
    assert (small.cells(table, "small")["status"] == "not run: needs ImageNet") == (not runs)


def test_planning_and_tables_do_not_import_tensorflow():
    program = "import sys; from alexnet_tf.experiments import runner, tables; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=small.ROOT).returncode == 0
