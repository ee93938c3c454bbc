"""After any interruption, a run resumes and ends with the same weights as an undisturbed run."""

import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import forks
import full_disk
import numpy as np
import pytest
import small_runs

from alexnet_tf.benchmarks import workers
from alexnet_tf.data import prepare
from alexnet_tf.data import service
from alexnet_tf.data import sources
from alexnet_tf.runs import report
from alexnet_tf.runs import train
from alexnet_tf.training import loop
from alexnet_tf.training import stopping
from alexnet_tf.utils import files

EPOCHS = 12
STEPS = 3 * EPOCHS
# Most steps that a killed run may lose: the checkpoint interval.
INTERVAL = 5


def config(folder, **changes):
    # The schedule, the order of each epoch and the draws of each image must all be restored.
    return small_runs.make_config(
        folder,
        **{
            "epochs": float(EPOCHS),
            "drop_epochs": (6.0,),
            "crop_size": 24,
            "crops": "random",
            "flips": "horizontal",
            "color_noise": 0.1,
            "recipe": "paper",
            "checkpoint_steps": INTERVAL,
            "summary_epochs": 0.0,
            **changes,
        },
    )


@pytest.fixture(autouse=True, scope="module")
def without_report():
    """Skips the report of runs in this process, which takes half of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda workdir, *others: os.path.join(workdir, "none"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_runs.make_pictures(tmp_path_factory.mktemp("pictures") / "small")


@pytest.fixture(scope="module")
def server():
    return forks.server()


@pytest.fixture(scope="module")
def undisturbed(server, folder, tmp_path_factory):
    """Everything in the last checkpoint of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    child = server.start("train", f"{workdir}.log", f"--workdir={workdir}", *small_runs.flags(config(folder)))
    assert child.wait() == 0, child.said()
    return small_runs.stored(workdir, STEPS)


@pytest.fixture(scope="module")
def undisturbed_here(folder, tmp_path_factory):
    """The work directory of a run in this process, whose threads may round differently, with all its checkpoints."""
    workdir = tmp_path_factory.mktemp("undisturbed_here") / "run"
    train.train(config(folder, keep_checkpoints=STEPS), str(workdir))
    return workdir


@pytest.fixture
def killed_here(undisturbed_here, tmp_path):
    """The work directory of the same run as if it had been killed after step 17."""
    return small_runs.killed_copy(undisturbed_here, tmp_path / "run", step=17)


def newest_step(workdir):
    steps = [int(path.stem.removeprefix("ckpt-")) for path in (workdir / "checkpoints").glob("ckpt-*.index")]
    return max(steps, default=0)


def wait_for_step(workdir, step, child, timeout=600):
    deadline = time.monotonic() + timeout
    while len(small_runs.lines(workdir, "train")) < step:
        assert child.is_alive(), child.said()
        assert time.monotonic() < deadline, child.said()
        time.sleep(0.005)


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(kills, server, folder, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    arguments = [f"--workdir={workdir}", *small_runs.flags(config(folder))]
    moments = random.Random(kills)
    killed, latest = 0, []
    # Alternates between any moment, including loading and evaluation, and a moment during training and saving.
    while killed < kills:
        if newest_step(workdir) == STEPS:
            shutil.rmtree(workdir)
        child = server.start("train", tmp_path / "log", *arguments)
        moment = moments.uniform(0.0, 4.0)
        if killed % 2 == 0:
            wait_for_step(workdir, newest_step(workdir) + 1, child)
            moment = moments.uniform(0.0, 0.5)
        began = time.monotonic()
        while child.is_alive() and time.monotonic() < began + moment:
            time.sleep(0.002)
        if not child.is_alive():
            # It finished first, so the next one starts from scratch.
            assert child.wait() == 0, child.said()
            np.testing.assert_equal(newest_step(workdir), STEPS)
            small_runs.assert_same_bits(small_runs.stored(workdir, STEPS), undisturbed)
            shutil.rmtree(workdir)
            continue
        child.kill()
        child.wait()
        killed += 1
        reported = [line["step"] for line in small_runs.lines(workdir, "train")]
        latest.append(max(reported, default=0))
        assert max(reported, default=0) - newest_step(workdir) <= INTERVAL, "the newest checkpoint is too old"
    child = server.start("train", tmp_path / "log", *arguments)
    assert child.wait() == 0, child.said()
    small_runs.assert_same_bits(small_runs.stored(workdir, STEPS), undisturbed)
    assert [line["step"] for line in small_runs.lines(workdir, "train")] == list(range(1, STEPS + 1))
    # No partial file remains.
    assert newest_step(workdir) == STEPS
    kept = {path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()}
    assert len(kept) == 3 and not list(workdir.rglob("*.part")) and not list(workdir.rglob("*_temp*"))
    # At least one was killed during training, or the test would prove nothing.
    assert max(latest) > 0


def test_sigterm_saves_a_checkpoint_and_exits_with_143(server, folder, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    arguments = [f"--workdir={workdir}", *small_runs.flags(config(folder, checkpoint_steps=1000))]
    child = server.start("train", tmp_path / "log", *arguments)
    wait_for_step(workdir, 10, child)
    child.kill(signal.SIGTERM)
    asked = time.monotonic()
    assert child.wait() == 143, child.said()
    assert time.monotonic() - asked < 30  # the usual grace period
    step = newest_step(workdir)
    assert 10 <= step < STEPS and step == len(small_runs.lines(workdir, "train"))
    assert child.said().splitlines()[-1] == (
        f"train.py: stopped at step {step} of {STEPS}; the same command resumes from there"
    )
    child = server.start("train", tmp_path / "log", *arguments)
    assert child.wait() == 0, child.said()
    assert f"ckpt-{step}, step {step}" in child.said()
    small_runs.assert_same_bits(small_runs.stored(workdir, STEPS), undisturbed)


@pytest.mark.slow  # tests/commands/test_interruptions.py has the three signals, and the test before one in training.
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_an_interrupt_and_a_hangup_save_a_checkpoint_like_sigterm(number, status, server, folder, tmp_path):
    workdir = tmp_path / "run"
    arguments = [f"--workdir={workdir}", *small_runs.flags(config(folder, checkpoint_steps=1000))]
    child = server.start("train", tmp_path / "log", *arguments)
    wait_for_step(workdir, 4, child)
    child.kill(number)
    # As tools/experiments.py does.
    child.kill(signal.SIGTERM)
    assert child.wait() == status, child.said()
    step = newest_step(workdir)
    assert 4 <= step < STEPS and step == len(small_runs.lines(workdir, "train"))
    assert f"train.py: stopped at step {step} of {STEPS}; the same command resumes from there" in child.said()


def test_a_stop_in_the_last_step_takes_effect_before_the_evaluation(folder, tmp_path, monkeypatch):
    stop = stopping.Stop()
    monkeypatch.setattr(train, "_finish", lambda run: pytest.fail("The evaluation started."))
    original = loop.train

    def train_and_request(*args, **kwargs):
        step = original(*args, **kwargs)
        stop.request(signal.SIGTERM)
        return step

    monkeypatch.setattr(loop, "train", train_and_request)
    # A lock is released when its holder exits, however it exits, so its file is not in the way.
    (tmp_path / "run").mkdir()
    with files.exclusive_lock(tmp_path / "run" / "lock", "it"):
        pass
    with pytest.raises(stopping.Stopped):
        train.train(config(folder, epochs=1.0), str(tmp_path / "run"), stop=stop)
    assert newest_step(tmp_path / "run") == 3


def test_sigterm_before_the_first_step_exits_immediately(server, folder, tmp_path):
    child = server.start("train", tmp_path / "log", f"--workdir={tmp_path / 'run'}", *small_runs.flags(config(folder)))
    while child.is_alive() and "train: 24 images" not in child.said():
        time.sleep(0.002)
    child.kill(signal.SIGTERM)
    assert child.wait() == 143, child.said()
    assert "Traceback" not in child.said()
    assert newest_step(tmp_path / "run") <= 1


def test_a_work_directory_in_use_is_rejected(folder, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with files.exclusive_lock(workdir / "lock", "it"), pytest.raises(OSError) as caught:
        train.train(config(folder, epochs=1.0), str(workdir))
    assert str(caught.value) == (
        f"Another process is using the work directory {workdir}; wait for it to finish, or use another directory"
    )
    assert [path.name for path in workdir.iterdir()] == ["lock"]


def test_the_previous_checkpoint_replaces_a_damaged_one(folder, undisturbed_here, killed_here, capsys):
    newest = killed_here / "checkpoints" / "ckpt-15.data-00000-of-00001"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train.train(config(folder, keep_checkpoints=STEPS), str(killed_here))
    said = capsys.readouterr().out
    assert "warning: Expected a complete checkpoint. Received: " in said and "ckpt-15 (" in said
    # Checkpoints are saved after each epoch, too.
    assert "ckpt-12, step 12" in said
    assert_ended_here_as(undisturbed_here, killed_here)


def assert_ended_here_as(undisturbed_here, workdir):
    small_runs.assert_same_bits(small_runs.stored(workdir, STEPS), small_runs.stored(undisturbed_here, STEPS))
    assert [line["step"] for line in small_runs.lines(workdir, "train")] == list(range(1, STEPS + 1))


def test_a_full_disk_ends_the_run_in_one_line_and_it_resumes_with_space(folder, undisturbed_here, killed_here):
    with full_disk.full_disk(100_000), pytest.raises(OSError) as caught:
        train.train(config(folder, keep_checkpoints=STEPS), str(killed_here))
    assert str(caught.value).startswith("Could not save a checkpoint in ")
    assert str(caught.value).endswith("ckpt-15") and "\n" not in str(caught.value)
    train.train(config(folder, keep_checkpoints=STEPS), str(killed_here))
    assert_ended_here_as(undisturbed_here, killed_here)


@pytest.fixture(scope="module")
def restless_clock(tmp_path_factory):
    """A library that makes the clock of a process jump back and forth by ten seconds, twice per second."""
    compiler = shutil.which("cc")
    if not compiler or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = pathlib.Path(__file__).with_name("restless_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.slow
def test_a_jumping_clock_changes_nothing(restless_clock, folder, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    tool = pathlib.Path(__file__).resolve().parents[2] / "tools" / "train.py"
    command = [sys.executable, str(tool), f"--workdir={workdir}", *small_runs.flags(config(folder))]
    environment = {**os.environ, "LD_PRELOAD": str(restless_clock)}
    look = "import time\nfor _ in range(30): print(time.time() - time.monotonic()); time.sleep(0.05)"
    seen = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    ahead = [float(line) for line in seen.stdout.split()]
    assert max(ahead) - min(ahead) == pytest.approx(10, abs=1), "the clock stood still"
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    small_runs.assert_same_bits(small_runs.stored(workdir, STEPS), undisturbed)
    kept = sorted(path.name for path in (workdir / "checkpoints").glob("*.index"))
    assert kept == ["ckpt-33.index", "ckpt-36.index"]
    assert all(line["images_per_second"] > 0 for line in small_runs.lines(workdir, "train"))


@pytest.mark.slow
def test_a_lost_data_service_ends_the_run_in_one_line_and_it_resumes_without(server, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for name in ("one", "other"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for number in range(count):
                small_runs.write_picture(tmp_path / "pictures" / split / name / f"{number}.png", generator)
    prepare.prepare(sources.folder(tmp_path / "pictures"), tmp_path / "data", prepare.Options())
    of_the_data = {"source": "", "data_dir": str(tmp_path / "data"), "image_size": 256, "crop_size": 32}
    options = {**of_the_data, "color_noise": 0.0, "validation_fraction": 0.1, "checkpoint_steps": 1}
    whole = train.train(config("", **options, epochs=3.0), str(tmp_path / "whole"))

    (address,) = workers.free_addresses(1)
    serving = server.start("data_service", tmp_path / "log", f"--port={address.rpartition(':')[2]}")
    while serving.is_alive() and "data service at" not in serving.said():
        time.sleep(0.01)
    served = config("", **options, epochs=2.0, data_service=f"grpc://{address}")
    train.train(served, str(tmp_path / "run"))
    serving.kill()
    serving.wait()
    patient = service.from_service
    monkeypatch.setattr(service, "from_service", lambda *args, **kwargs: patient(*args, **kwargs, patience=4))
    with pytest.raises(ConnectionError) as caught:
        train.train(dataclasses.replace(served, epochs=3.0), str(tmp_path / "run"))
    assert str(caught.value) == (
        f"Expected a batch from the data service at grpc://{address} within 4 s. Received: none"
    )
    resumed = train.train(config("", **options, epochs=3.0), str(tmp_path / "run"))
    assert resumed["step"] == whole["step"] == 6
    assert resumed["evaluation"] == whole["evaluation"]
    small_runs.assert_same_bits(small_runs.stored(tmp_path / "run", 6), small_runs.stored(tmp_path / "whole", 6))
