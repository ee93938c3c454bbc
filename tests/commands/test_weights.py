"""Tests of tools/weights.py from the command line."""

import dataclasses

import forks
import numpy as np
import pytest
import untrained_runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = dataclasses.replace(untrained_runs.CONFIG, network="cifar10_26", image_size=36, crop_size=32)
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "small", config)


def test_export_writes_a_file_and_prints_one_line(run, tmp_path):
    done = forks.run("weights", "export", f"--workdir={run}", f"--file={tmp_path}/a.npz")
    assert done.returncode == 0 and not done.stderr, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"weights {tmp_path}/a.npz: 0.6 MB, cifar10_26 of {run}/checkpoints/ckpt-7 (newest); ")
    assert line.endswith(f"; preprocessing in {tmp_path}/a.npz.json")
    with np.load(tmp_path / "a.npz") as arrays:
        assert len(arrays) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.npz.json", "a.npz.mean.npy"]


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "weights.py: Expected an action: "),
        (["write"], 2, "or --help. Received: write"),
        (["--workdir=runs/none", "export"], 2, "or --help. Received: --workdir=runs/none"),
        (["export"], 2, "weights.py export: Expected --workdir"),
        (["export", "--workdir=runs/none"], 2, "weights.py export: Expected --file"),
        (["export", "--workdir=runs/none", "--file=a.npz", "more"], 2, "Expected flags only. Received: more"),
        (["export", "--workdir=runs/none", "--file=a.npz", "--names=caffe"], 2, "--names=caffe"),
        (["export", "--workdir=runs/none", "--file=a.npz"], 1, "Expected a run with its config.flags in runs/none"),
        (["export", "--workdir=runs/none", "--file=a.pb"], 1, "Expected a file name that ends with .onnx, "),
    ],
)
def test_invalid_input_is_reported_in_one_line(arguments, status, message):
    done = forks.run("weights", *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_help_of_an_action_lists_its_flags():
    done = forks.run("weights", "export", "--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--workdir", "--file", "--names", "--flagfile"))


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--format=pb"], 2, "--format=pb"),
        (["--format=onnx", "--views=ten"], 2, "no --views=ten with --format=onnx, which classifies the center crop"),
        (["--format=litert", "--top=3"], 2, "no --top=3 with --format=litert, which returns all probabilities"),
        (["--format=onnx", "--max_pixels=3"], 2, "no --max_pixels=3 with --format=onnx, which decodes no image files"),
        (["--format=onnx", "--precision=bfloat16"], 1, "one of float32, float16 for onnx. Received: bfloat16"),
    ],
)
def test_flags_that_a_format_cannot_follow_are_reported(run, tmp_path, arguments, status, message):
    done = forks.run("export", f"--workdir={run}", f"--export_dir={tmp_path / 'out'}", *arguments)
    assert done.returncode == status and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_single_file_is_exported_in_one_line(run, tmp_path, format):
    done = forks.run("export", f"--workdir={run}", f"--export_dir={tmp_path / 'out'}", f"--format={format}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"export {tmp_path}/out/alexnet.")
