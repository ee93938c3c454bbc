"""Tests of the programs from the command line."""

import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import forks
import numpy as np
import pytest
import small_runs
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.commands import __main__ as console_command
from alexnet_tf.commands import prepare
from alexnet_tf.commands import program
from alexnet_tf.utils import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]


PROGRAMS = console_command.PROGRAMS


def command(name, *arguments):
    return [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]


def run(name, *arguments, **options):
    return subprocess.run(command(name, *arguments), capture_output=True, text=True, cwd=ROOT, timeout=300, **options)


def small_net(folder, **changes):
    """Returns the arguments of eight of ten steps with a small network."""
    own = {"batch_size": 2, "epochs": 0.8, "drop_epochs": (), "checkpoint_steps": 3, "image_size": 40}
    return small_runs.flags(small_runs.make_config(folder, **own | changes))


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_lists_the_flags_that_a_program_uses(name, no_tensorflow):
    done = run(name, "--help", env=no_tensorflow)
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    listed = re.findall(r"^  --(\w+)", done.stdout, flags=re.M)
    assert len(listed) == len(set(listed))
    module = PROGRAMS[name]
    assert set(module.FLAGS) | {"traceback", "flagfile"} <= set(listed)
    of_configuration = set(program.ALL_FIELDS) & set(listed) - set(module.FLAGS)
    if name in ("train", "placement", "experiments", "benchmark"):
        assert of_configuration == set(program.ALL_FIELDS) - set(module.FLAGS)
        assert "paper 5" in done.stdout and "original #145" in done.stdout
    elif name in ("evaluate", "figures", "neighbours", "features"):
        assert of_configuration == set(program.RUN_FIELDS)
    elif name == "prepare":
        assert of_configuration == set(prepare.FIELDS)
    elif name in ("analyze", "baseline"):
        assert of_configuration == set(PROGRAMS[name].FIELDS)
    else:
        assert not of_configuration


def test_programs_and_the_configuration_have_different_flags():
    for name, module in PROGRAMS.items():
        if name not in ("export", "weights", "predict", "explain", "demo", "profile_report", "data_service"):
            assert not set(module.FLAGS) & set(program.ALL_FIELDS), name


def test_help_takes_less_than_a_second_of_computing():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("train", "--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_help_may_be_read_in_part():
    pipeline = f'"{sys.executable}" "{ROOT}/tools/train.py" --help | true'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", pipeline], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_flags_without_effect_are_named():
    done = forks.run("evaluate", "--batch_size=4", "--nodeterministic", "--epochs=3", "--workdir=/nowhere")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == "evaluate.py: no effect in this program: --batch_size, --epochs"
    assert second.startswith("evaluate.py: Expected a run with its config.flags in /nowhere.")


def console(*arguments, **options):
    command = [sys.executable, "-m", "alexnet_tf.commands", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_console_command_lists_and_starts_programs(no_tensorflow, tmp_path):
    no_tensorflow["PYTHONPATH"] += os.pathsep + str(ROOT)
    done = console("--help", env=no_tensorflow, cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr
    assert re.findall(r"^  (\w+)  ", done.stdout, flags=re.M) == [*PROGRAMS]
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert console("train", "--help", env=no_tensorflow, cwd=tmp_path).stdout == run("train", "--help").stdout
    for arguments, received in ((["nothing"], "nothing"), ([], "no program")):
        done = console(*arguments, env=no_tensorflow, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == f"alexnet-tf: Expected one of {', '.join(PROGRAMS)}, or --help. Received: {received}\n"
    done = console("train", "--flagfile=quickstart", "--batch_size=many", env=no_tensorflow, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("alexnet-tf train: ") and "batch_size" in done.stderr


def test_every_program_has_a_tool():
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert tools == set(PROGRAMS)


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--learning_rat=1"], 2, "Unknown command line flag 'learning_rat'"),
        (["--batch_size=many"], 2, "batch_size"),
        (
            ["--flagfile=/nowhere.flags"],
            2,
            "Expected a flagfile. Received: /nowhere.flags; searched /nowhere.flags",
        ),
        (
            ["--workdir=runs/none", "--source=elpv", "--initialize_from=/nowhere"],
            1,
            "Expected a checkpoint in /nowhere/che",
        ),
        (["surplus"], 2, "Expected flags only. Received: surplus"),
        ([], 2, "Expected --workdir"),
        (["--batch_size=0"], 1, "Expected batch_size to be 1 to 65536 or auto. Received: 0"),
        (["--recipe=vgg"], 1, "Expected recipe to be paper | original | caffe | caffenet. Received: 'vgg'"),
        (["--workdir=runs/none", "--source=folder:/nowhere"], 1, "DIR/train/CLASS/IMAGE"),
        (["--workdir=runs/none", "--data_dir=/nowhere"], 1, "/tools/prepare.py, with its manifest.json, in /nowhere"),
        (
            ["--workdir=runs/none", "--data_dir=a", "--source=elpv"],
            1,
            "Expected either source or data_dir. Received: source=elpv, data_dir=a",
        ),
    ],
)
def test_invalid_input_is_reported_in_one_line(arguments, status, message):
    done = forks.run("train", *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (ROOT / "runs" / "none").exists()


@pytest.mark.parametrize(
    "cores, gpus, flags, expected",
    [
        (2, 0, {}, (1, 2)),
        (2, 0, {"intra_op_threads": 2}, (2, 2)),
        (2, 0, {"intra_op_threads": 3, "inter_op_threads": 1}, (3, 1)),
        (2, 1, {}, (0, 0)),
        (1, 0, {}, (0, 0)),
        (16, 0, {}, (0, 0)),
        (16, 0, {"inter_op_threads": 4}, (0, 4)),
    ],
)
def test_threads_depend_on_cores_and_flags(cores, gpus, flags, expected, monkeypatch):
    monkeypatch.setattr(machine, "available_cores", lambda: cores)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"] * gpus)
    assert program.threads(config.Config(**flags)) == expected


@pytest.fixture
def photographs(tmp_path):
    """Ten training and two validation images of each of two classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 2)):
        for name in ("one", "other"):
            directory = tmp_path / "photographs" / split / name
            directory.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (256, 256, 3), dtype=np.uint8)
                (directory / f"{number}.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return tmp_path / "photographs"


def steps_reported(workdir):
    return len(small_runs.lines(workdir, "train"))


@pytest.mark.slow
def test_killed_run_resumes_with_identical_bits(photographs, tmp_path):
    arguments = small_net(photographs)
    whole = forks.run("train", f"--workdir={tmp_path / 'whole'}", *arguments, report=False)
    assert whole.returncode == 0, whole.stderr

    workdir = tmp_path / "killed"
    killed = forks.server().start("train", tmp_path / "log", f"--workdir={workdir}", *arguments)
    deadline = time.monotonic() + 300
    while steps_reported(workdir) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    assert not (workdir / "checkpoints" / "ckpt-8.index").exists()

    # In a process of its own, as a user starts it.
    resumed = run("train", f"--workdir={workdir}", *arguments)
    assert resumed.returncode == 0 and not resumed.stderr, resumed.stderr
    assert "resumed from" in resumed.stdout
    small_runs.assert_same_bits(small_runs.stored(workdir, 8), small_runs.stored(tmp_path / "whole", 8))
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] != "warning"] == list(range(1, 9))

    # The last lines of the output say where the results are.
    assert str(workdir / "report.html") in resumed.stdout
    evaluated = forks.run("evaluate", f"--workdir={workdir}")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "validation: 4 images, each evaluated once" in evaluated.stdout


def test_nonfinite_loss_is_reported_in_one_line(photographs, tmp_path):
    done = forks.run(
        "train",
        f"--workdir={tmp_path / 'run'}",
        *small_net(photographs, network="cifar10_26", epochs=3.0, learning_rate=10.0, weight_decay=1.0),
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("train.py: Expected a finite loss. Received: ") and "at step " in line
    assert line.endswith("Start again with a new --workdir and a tenth of the --learning_rate")
    # A report of this run will not be without warnings.
    (warning,) = small_runs.lines(tmp_path / "run", "warning")
    assert line == f"train.py: {warning['text']}"


def test_prepared_data_can_be_trained_on_and_a_flipped_bit_is_reported(photographs, tmp_path):
    (photographs / "train" / "one" / "text.jpg").write_text("no photograph")
    data_dir = tmp_path / "prepared"
    done = forks.run("prepare", f"--source=folder:{photographs}", f"--data_dir={data_dir}", "--shard_examples=12")
    assert done.returncode == 0, done.stderr
    assert "train: 20 images in 2 shards" in done.stdout and "validation: 4 images in 1 shards" in done.stdout
    assert (
        "skipped 1 train files that could not be read" in done.stdout
        and "text.jpg: Expected a JPEG, PNG, GIF, BMP or WebP. Received: " in done.stdout
    )
    done = forks.run("prepare", "--verify", f"--data_dir={data_dir}")
    assert done.returncode == 0 and "all 24 images are undamaged" in done.stdout

    options = [
        *small_net(photographs, batch_size=4, cache="none", image_size=256, crop_size=64),
        "--source=",
        f"--data_dir={data_dir}",
    ]
    done = forks.run("train", f"--workdir={tmp_path / 'run'}", *options, "--epochs=1")
    assert done.returncode == 0, done.stderr
    assert "train: 20 images of 2 classes" in done.stdout
    done = forks.run("evaluate", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0 and "validation: 4 images, each evaluated once" in done.stdout

    shard = data_dir / "prepared-train.tfrecord-00001-of-00002"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    verified = forks.run("prepare", "--verify", f"--data_dir={data_dir}")
    trained = forks.run("train", f"--workdir={tmp_path / 'run'}", *options, "--epochs=2")
    for done in (verified, trained):
        assert done.returncode == 1
        (line,) = done.stderr.strip().splitlines()
        assert str(shard) in line and "wrong checksum at train/" in line


def test_placement_prints_the_report(tmp_path):
    small = ["--image_size=36", "--crop_size=32", "--batch_size=2", "--num_classes=2"]
    done = forks.run(
        "placement", "--devices=/CPU:0,/CPU:1", *small, f"--json={tmp_path / 'account.json'}", optimized=True
    )
    assert done.returncode == 0, done.stderr
    assert "50.0" in done.stdout
    assert json.loads((tmp_path / "account.json").read_text())


@pytest.fixture
def pictures(tmp_path):
    """Images of 32 x 32 pixels of two classes, one of them bright: 20 for training and 4 for testing."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 2)):
        for brightness, name in enumerate(("dark", "bright")):
            directory = tmp_path / "pictures" / split / name
            directory.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 128, (32, 32, 3), dtype=np.uint8) + np.uint8(100 * brightness)
                (directory / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return tmp_path / "pictures"


@pytest.fixture
def experiment(tmp_path, pictures):
    """The first arguments of tools/experiments.py, with a flagfile of a small experiment."""
    path = tmp_path / "pictures.flags"
    path.write_text(
        "# Claim: a small net learns.\n# Command: python tools/train.py --flagfile=FILE --source=folder:DIR\n"
        "# Expected: none (synthetic)\n# Band: none\n# Data: pictures\n# Cost: two steps.\n"
        "--flagfile=flags/cifar10_26.flags\n--normalization=none\n"
        "--batch_size=10\n--epochs=1\n--drop_epochs=\n--report_steps=1\n"
    )
    places = [f"--workdir={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}", f"--source=folder:{pictures}"]
    return [f"--flagfiles={path}", *places]


@pytest.fixture
def no_tensorflow(tmp_path):
    """The environment of a process that cannot import TensorFlow."""
    directory = tmp_path / "modules"
    directory.mkdir()
    (directory / "tensorflow.py").write_text("raise RuntimeError('TensorFlow was loaded')")
    return {**os.environ, "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"}


@pytest.mark.slow
def test_experiments_run_once_and_produce_a_table(experiment, no_tensorflow, tmp_path):
    done = run("experiments", *experiment, "--seeds=0,1", f"--table={tmp_path / 'table.md'}")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert table in done.stdout and "done (2 of 2 seeds)" in table and "pictures (20 train, 4 test)" in table
    results = [json.loads((tmp_path / "results" / f"pictures-{seed}.json").read_text()) for seed in (0, 1)]
    assert [result["step"] for result in results] == [2, 2]
    assert results[0]["curve"]["train_loss"] != results[1]["curve"]["train_loss"]
    figures = json.loads((tmp_path / "runs" / "pictures-1" / "train.json").read_text())
    assert figures["evaluation"]["test"].pop("confusions") is not None
    assert results[1]["errors"] == figures["evaluation"]

    # Neither listing nor collecting imports TensorFlow.
    (tmp_path / "results" / "pictures-0.json").unlink()
    said = run("experiments", *experiment, "--seeds=0,1,2", "--list", env=no_tensorflow)
    assert said.stdout.splitlines() == [
        "pictures seed 0: trained",
        "pictures seed 1: done",
        "pictures seed 2: not run",
    ]
    again = run("experiments", *experiment, "--seeds=0,1", env=no_tensorflow)
    assert again.returncode == 0 and table in again.stdout, again.stderr
    assert json.loads((tmp_path / "results" / "pictures-0.json").read_text()) == results[0]
    collected = run(
        "experiments", *experiment, "--seeds=0,1,2", "--harvest", "--index=1", "--count=2", env=no_tensorflow
    )
    assert collected.returncode == 0 and "done (2 of 3 seeds)" in collected.stdout, collected.stderr
    # Training does, and reports the error.
    failed = run("experiments", *experiment, "--seeds=1,2", env=no_tensorflow)
    assert failed.returncode == 1
    assert "seed 2 failed: RuntimeError: TensorFlow was loaded" in failed.stdout
    last = failed.stderr.splitlines()[-1]
    assert last == "experiments.py: Expected all 2 runs to finish. Received: 1 failed"


def wait_for_end_of_group(group, timeout=60):
    """Waits until no process of a killed group is left: the last one still holds the lock of its run."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise TimeoutError(f"Processes of the group {group} are left after {timeout} s")


@pytest.mark.slow  # tests/experiments/test_runner.py stops and kills a program that stands in for training.
def test_killed_experiment_resumes(experiment, tmp_path):
    arguments = [*experiment, "--epochs=60", "--checkpoint_steps=5"]
    workdir = tmp_path / "runs" / "pictures-0"

    def begin(steps):
        begun = subprocess.Popen(
            command("experiments", *arguments),
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 300
        while steps_reported(workdir) < steps and time.monotonic() < deadline:
            time.sleep(0.02)
        return begun

    # A signal to this process alone stops the run as well.
    asked = begin(10)
    asked.send_signal(signal.SIGTERM)
    said = asked.communicate(timeout=120)[1].splitlines()
    assert asked.returncode == 143
    assert re.match(r"alexnet-tf train: stopped\b.*; the same command resumes", said[-2])
    assert said[-1] == "experiments.py: stopped; the same command resumes"
    stood = steps_reported(workdir)
    # Kills the process group, as when a machine goes down.
    killed = begin(stood + 10)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    wait_for_end_of_group(killed.pid)
    assert stood + 10 <= steps_reported(workdir) < 120 and not (workdir / "train.json").exists()
    assert run("experiments", *arguments, "--list").stdout == "pictures seed 0: started\n"
    done = run("experiments", *arguments)
    assert done.returncode == 0 and "resumed from" in done.stdout, done.stderr
    assert "| pictures, with checkpoint_steps=5, epochs=60.0 |" in done.stdout and "not as written" in done.stdout
    result = json.loads((tmp_path / "results" / "pictures-0.json").read_text())
    assert result["overrides"] == {"epochs": 60.0, "checkpoint_steps": 5}
    assert result["images_seen"] == 1200 and result["curve"]["epoch"] == list(range(1, 61))


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--flagfiles="], 2, "Expected --flagfiles. Received: none"),
        (["--workdir="], 2, "Expected --workdir. Received: none"),
        (["--results="], 2, "Expected --results. Received: none"),
        (["--learning_rat=1"], 2, "Unknown command line flag 'learning_rat'"),
        (["surplus"], 2, "Expected flags only. Received: surplus"),
        (["--count=0"], 2, "count"),
        (["--index=2", "--count=2"], 1, "Expected index to be 0 to 1, less than count. Received: 2"),
        (["--seed=1"], 1, "Expected --seeds. Received: --seed=1"),
        (["--seeds=one"], 1, "Expected seeds to be distinct non-negative integers, separated by commas. Received: one"),
        (["--threshold=60"], 2, "threshold"),
        (
            ["--list", "--table=table.md"],
            1,
            "Expected --list without flags that write something, as it only prints",
        ),
        (
            ["--list", "--gap_images=5"],
            1,
            "Expected --list without flags that write something, as it only prints. Received: gap_images",
        ),
        (
            ["--collect", "--size_figure=sizes.png"],
            1,
            "Expected experiments that differ in training_images, and otherwise at most in epochs, for --size_figure. "
            "Received: pictures",
        ),
        (["--table=tests"], 1, "Expected --table to be a file. Received: tests, a directory"),
        (["--flagfiles=/nowhere/x.flags"], 1, "/nowhere/x.flags"),
        (["--batch_size=0"], 1, "pictures.flags: Expected batch_size to be 1 to 65536 or auto. Received: 0"),
        (["--results=README.md"], 1, "Expected --results to be writable. Received: README.md"),
    ],
)
def test_invalid_input_to_experiments_is_reported_in_one_line(experiment, arguments, status, message, tmp_path):
    done = forks.run("experiments", *experiment, *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "results").exists()
