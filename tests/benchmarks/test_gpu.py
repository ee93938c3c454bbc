"""The row gpu: its processes and what becomes of them, without a GPU; `test_gpu_steps.py` has the steps."""

import dataclasses
import json
import os
import sys
import time

import pytest

from alexnet_tf import config
from alexnet_tf.benchmarks import gpu
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import report
from alexnet_tf.benchmarks import rows

COMMAND = ["benchmark"]


class Processes:
    """Stands in for `gpu.run`: a process of the benchmark measures 1,000 images/s for each image of its batch."""

    def __init__(self, monkeypatch):
        self.started = []
        self.problems = {}  # by a part of the command
        self.seconds = 20.0  # of each process
        self.now = 0.0
        monkeypatch.setattr(gpu, "missing", lambda: "")
        monkeypatch.setattr(gpu, "run", self.run)
        monkeypatch.setattr(gpu.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: name)

    def run(self, command, output, errors, seconds):
        self.started.append(command)
        self.now += min(self.seconds, seconds)
        if problems := [problem for part, problem in self.problems.items() if part in " ".join(command)]:
            return problems[0]
        if "-P" in command:
            asked = json.loads(command[-1])
            lines = [
                {"side": gpu.torch_side(precision, size), "rates": [100.0 * size]}
                for size in asked["batches"]
                for precision in asked["precisions"]
            ]
            lines[0] = {"side": lines[0]["side"], "problem": "out of memory"}
            output.write_text("\n".join(map(json.dumps, lines)) + '\n{"side": "cut o')
            return ""
        flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in command[1:])
        sizes = [int(size) for size in flags["batches"].split(",")]
        setting = gpu.Setting(
            flags["precision"], flags["compile"], flags["deterministic"] == "true", int(flags["steps_per_call"])
        )
        sides = [gpu.side(setting, size) for size in sizes]
        ratios = []
        if flags["data_dir"]:
            sides = [f"from raw records, {sides[0]}", f"synthetic, {sides[0]}"]
            ratios = [measuring.Ratio(*sides, gpu.DATA_TARGET)]
        rates = {name: [1000.0 * size] for name, size in zip(sides, sizes * 2)}
        found = measuring.Result(gpu.DESCRIPTION, "images/s", rates, ratios, ["device: synthetic"])
        report.write({"gpu": found.to_dict()}, flags["json"])
        return ""


@pytest.fixture
def processes(monkeypatch):
    return Processes(monkeypatch)


def measure(tmp_path, **options):
    return gpu.measure_in_processes(COMMAND, tmp_path, gpu.Options(**{"batches": (2, 4, 64)} | options), log=str)


def test_each_setting_has_a_process_with_its_flags(processes, tmp_path):
    found = measure(tmp_path, data_dirs=("raw",))
    assert all(
        command[0] == "benchmark" and "--here" in command for command in processes.started if "-P" not in command
    )
    flags = [[flag for flag in command if "=" in flag] for command in processes.started]
    of = lambda name: [
        next((flag.partition("=")[2] for flag in each if flag.startswith(f"--{name}=")), "") for each in flags
    ]
    assert of("batches") == ["2,64,4"] * 4 + ["64", ""] + ["2,64"] * 8
    assert of("precision") == [*["bfloat16", "float32"] * 2, "bfloat16", "", *["bfloat16", "float32"] * 4]
    assert of("compile") == ["step"] * 2 + ["islands"] * 2 + ["step", ""] + ["step"] * 4 + ["islands"] * 4
    assert of("deterministic") == ["false"] * 5 + [""] + (["true"] * 2 + ["false"] * 2) * 2
    assert of("steps_per_call") == ["1"] * 5 + [""] + (["1"] * 2 + ["8"] * 2) * 2
    assert of("data_dir") == [""] * 4 + ["raw"] + [""] * 9
    assert len(found["rates"]) == 4 * 3 + 2 + 5 + 8 * 2
    assert found["medians"]["float32, islands, deterministic, batch 64"] == 64_000
    assert found["notes"] == ["device: synthetic", "torch, bfloat16, batch 64: out of memory"]


def test_fastest_settings_are_compared_with_the_targets_and_with_torch(processes, tmp_path):
    found = measure(tmp_path, data_dirs=("raw",))
    values = {each["name"]: each for each in found["values"]}
    assert list(values) == [
        "P14: fastest: float32, step, batch 64",
        "the same / torch's fastest: torch, float32, batch 64",
        "P14: fastest: bfloat16, step, batch 64",
        "the same / torch's fastest: torch, bfloat16, batch 4",
    ]
    assert [each["value"] for each in values.values()] == [64_000, 10, 64_000, 160]
    assert [each["target"] for each in values.values()] == [25_000, None, 35_000, None]
    (ratio,) = found["ratios"]
    assert ratio["target"] == 0.9 and ratio["median"] == 1
    lines = report.lines("gpu", found)
    assert "gpu: bfloat16, islands, batch 4: 4000 images/s" in lines
    assert "gpu: P14: fastest: bfloat16, step, batch 64: 64000 images/s, target 35000" in lines
    assert max(map(len, lines)) < 130


def test_a_process_that_fails_leaves_a_note(processes, tmp_path, monkeypatch):
    processes.problems = {"--precision=bfloat16": "exit status -6: no message", "-P": "stopped after 100 s"}
    monkeypatch.setattr(gpu, "MODES", ("islands",))
    found = measure(tmp_path, batches=(2, 4))
    names = ["islands", "islands, deterministic", "islands, 8 steps a call"]
    failed = [f"bfloat16, {name}: exit status -6: no message" for name in names]
    assert [note for note in found["notes"] if note != "device: synthetic"] == [
        failed[0],
        "torch: stopped after 100 s",
        *failed[1:],
    ]
    assert set(found["rates"]) == {f"float32, {name}, batch {size}" for name in names for size in (2, 4)}
    assert [each["name"] for each in found["values"]] == ["P14: fastest: float32, islands, batch 4"]


def test_a_process_that_is_stopped_leaves_what_it_has_measured(processes, tmp_path, monkeypatch):
    def stopped(command, *others):
        processes.run([flag.replace("2,64,4", "2") for flag in command], *others)
        return "stopped after 75 s"

    monkeypatch.setattr(gpu, "run", stopped)
    monkeypatch.setattr(gpu, "PRECISIONS", ("float32",))
    found = measure(tmp_path)
    assert found["medians"]["float32, step, batch 2"] == 2000
    assert found["notes"][1:4] == [
        "float32, step: stopped after 75 s",
        "float32, step, batch 64: not measured",
        "float32, step, batch 4: not measured",
    ]


def test_no_process_is_started_when_the_time_is_over(processes, tmp_path):
    processes.seconds = 110.0
    found = measure(tmp_path)
    assert len(processes.started) == 6 and processes.now == gpu.SECONDS < 8 * 60
    assert found["notes"][-7] == "float32, step, deterministic: no time left"
    assert all(note.endswith("no time left") for note in found["notes"][-7:])


def test_without_torch_the_row_says_so(processes, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    found = measure(tmp_path)
    assert "torch: not installed; --torch_python names a Python that has it" in found["notes"]
    assert not any("-P" in command for command in processes.started)
    measure(tmp_path, torch_python="/torch/python")
    assert [command[0] for command in processes.started if "-P" in command] == ["/torch/python"]


def test_without_a_gpu_the_row_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "missing", lambda: "there is no GPU that TensorFlow can use")
    monkeypatch.setattr(gpu, "run", None)
    ((name, found),) = rows.measure_in_processes(["gpu"], COMMAND, tmp_path)
    assert report.lines(name, found) == ["gpu: not run: there is no GPU that TensorFlow can use"]


def test_setting_is_that_of_the_configuration():
    run_config = config.Config(
        precision="bfloat16", compile="islands", deterministic=False, steps_per_call=8
    ).resolved()
    setting = gpu.setting_of(run_config)
    assert setting.name == "bfloat16, islands, 8 steps a call"
    assert setting.flags == [
        "--precision=bfloat16",
        "--compile=islands",
        "--deterministic=false",
        "--steps_per_call=8",
    ]
    deterministic = dataclasses.replace(run_config, deterministic=True, steps_per_call=1)
    assert gpu.setting_of(deterministic).name == "bfloat16, islands, deterministic"


@pytest.mark.parametrize(
    "program, problem",
    [
        ("print('{}')", ""),
        (
            "import sys; print('first', file=sys.stderr); sys.exit('Expected more. Received: less')",
            "exit status 1: Expected more. Received: less",
        ),
        ("import os; os.abort()", "exit status -6: no message"),
    ],
)
def test_end_of_a_process_is_explained(program, problem, tmp_path):
    output = tmp_path / "output.txt"
    assert gpu.run([sys.executable, "-c", program], output, tmp_path / "errors.txt", 60.0) == problem
    assert output.read_text() == ("" if problem else "{}\n")


def test_process_is_ended_with_its_children(tmp_path):
    program = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    output = tmp_path / "output.txt"
    assert gpu.run([sys.executable, "-c", program], output, tmp_path / "errors.txt", 2.0) == "stopped after 2 s"
    child = int(output.read_text())
    for _ in range(100):
        if not is_running(child):
            break
        time.sleep(0.1)
    assert not is_running(child)


def is_running(process):
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            # One that is a zombie has ended, and waits for the process that has inherited it.
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
