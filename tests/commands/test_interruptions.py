"""Signals, and output that nobody reads: in processes without TensorFlow, and programs that write files in this one."""

import dataclasses
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import small_runs
import untrained_runs

from alexnet_tf.commands import export
from alexnet_tf.commands import figures
from alexnet_tf.commands import neighbours
from alexnet_tf.commands import prepare
from alexnet_tf.commands import program
from alexnet_tf.data import records
from alexnet_tf.evaluation import feature_index
from alexnet_tf.export import deployment
from alexnet_tf.reporting import kernels

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A program whose body is in the place of BODY. Background processes of a shell ignore SIGINT.
SCRIPT = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
from absl import flags
import rich.console
from alexnet_tf.commands import program
from alexnet_tf.training import stopping
parsed = program.parse(["test.py", *sys.argv[1:]], "A test.", flags.FlagValues(), arguments="FILE")
stop = stopping.Stop("stopped; nothing is left")
def kill(number):
    os.kill(os.getpid(), number)
def finish():
    open(sys.argv[1], "w").write("done")
def main():
BODY
program.call(parsed, main, stop)
"""


def script(body):
    return [sys.executable, "-c", SCRIPT.replace("BODY", "".join(f"    {line}\n" for line in body.splitlines()))]


def run(body, path="none", **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*script(body), str(path)], text=True, timeout=100, env=environment, **options)


@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGHUP", 129), ("SIGTERM", 143)])
def test_a_signal_ends_a_program_with_one_line(name, status):
    # The second signal comes while the first one takes effect, as from a shell and from a parent process.
    body = f"try:\n    kill(signal.{name})\nfinally:\n    kill(signal.SIGTERM)\n    print('cleaned up')"
    done = run(body, capture_output=True)
    assert (done.returncode, done.stdout) == (status, "cleaned up\n")
    assert done.stderr == "test.py: stopped; nothing is left\n"


def test_a_deferred_stop_lets_the_work_end_and_a_second_interrupt_does_not():
    first = "with stop.deferred():\n    kill(signal.SIGINT)\n    print('saved')\nraise stop.stopped('stopped at 5')"
    done = run(first, capture_output=True)
    assert (done.returncode, done.stdout) == (130, "saved\n")
    assert done.stderr.split("\n") == [
        "",
        "stopping after this step; Ctrl-C again stops at once",
        "test.py: stopped at 5",
        "",
    ]
    done = run(first.replace("print", "kill(signal.SIGINT)\n    print"), capture_output=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.endswith("test.py: stopped at once\n")


def test_an_ignored_hangup_stays_ignored(tmp_path):
    body = "import signal\nkill(signal.SIGHUP)\nfinish()"
    command = [*script(body), str(tmp_path / "out")]
    command[2] = command[2].replace("signal.SIG_DFL", "signal.SIG_IGN")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, timeout=100, env=environment).returncode == 0
    assert (tmp_path / "out").read_text() == "done"


# Each way to print; more than a pipe's buffer holds, and less than Python's.
PRINTS = """
print("first", flush=True)
sys.stdin.readline()
print("second " * 20000)
rich.console.Console(soft_wrap=True).print("third")
print("fourth", file=sys.stderr)
print("fifth")
finish()
"""


def begin(path, output):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*script(PRINTS), str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment)


def test_a_reader_that_goes_away_does_not_end_a_program(tmp_path):
    reader, writer = os.pipe()
    process = begin(tmp_path / "out", writer)
    os.close(writer)
    assert os.read(reader, 5) == b"first"
    os.close(reader)
    process.communicate(b"\n", timeout=100)
    assert process.returncode == 0
    assert (tmp_path / "out").read_text() == "done"


def test_a_terminal_that_is_closed_does_not_end_a_program(tmp_path):
    terminal, device = pty.openpty()
    process = begin(tmp_path / "out", device)
    os.close(device)
    assert os.read(terminal, 5) == b"first"
    os.close(terminal)
    process.communicate(b"\n", timeout=100)
    assert process.returncode == 0
    assert (tmp_path / "out").read_text() == "done"


def test_a_program_without_standard_output_writes_nowhere_else(tmp_path):
    body = "file = open(sys.argv[1], 'w')\nprint('lost')\nos.write(1, b'lost')\nfile.write('done')"
    done = run(body, tmp_path / "out", stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_text() == "done"


def test_a_full_disk_is_still_an_error():
    with open("/dev/full", "w") as full:
        done = run("print('a line')", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "test.py: [Errno 28] No space left on device"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_runs.make_pictures(tmp_path_factory.mktemp("pictures") / "small", per_class=6)


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    """A run of a small network."""
    changes = {"source": f"folder:{folder}", "normalization": "none", "validation_fraction": 0.0, "schedule": "linear"}
    run_config = dataclasses.replace(untrained_runs.SMALL, **changes)
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "run", run_config, ["bright", "dark"])


def entries(directory):
    return sorted(path.relative_to(directory).as_posix() for path in pathlib.Path(directory).rglob("*"))


# Each program, and the function during which it is stopped: after some files were begun.
STOPPED = {
    "prepare": (prepare, records, "masked_checksum", ["--source=folder:FOLDER", "--data_dir=OUT"]),
    "export": (export, deployment, "write_card", ["--workdir=WORKDIR", "--export_dir=OUT"]),
    "neighbours": (neighbours, feature_index, "_stored", ["--workdir=WORKDIR", "--index_dir=OUT"]),
    "figures": (figures, kernels, "tile", ["--workdir=WORKDIR"]),
}


@pytest.mark.parametrize("name", STOPPED)
def test_sigterm_leaves_nothing_half_written(name, folder, workdir, tmp_path, monkeypatch, capsys):
    command, module, function, arguments = STOPPED[name]
    original = getattr(module, function)

    def killed(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        # Any thread may receive the signal, and this one is told a little later.
        time.sleep(10)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, killed)
    # These would change the settings of this process.
    monkeypatch.setattr(program, "set_up_process", lambda run_config: None)
    places = {"FOLDER": folder, "WORKDIR": workdir, "OUT": tmp_path / "out"}
    for placeholder, place in places.items():
        arguments = [argument.replace(placeholder, str(place)) for argument in arguments]
    before = entries(workdir)
    with pytest.raises(SystemExit) as caught:
        command.main([f"{name}.py", *arguments])
    assert caught.value.code == 143
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}.py: stopped; nothing half-written remains, and the same command ")
    left = [path for path in entries(tmp_path / "out") if not os.path.basename(path).endswith("lock")]
    assert left == ([".progress", ".progress/request.json"] if name == "prepare" else [])
    assert [path for path in entries(workdir) if path not in before] == (["figures"] if name == "figures" else [])


def test_handlers_are_restored(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)]
    parsed = program.parse(["test.py"], "A test.", prepare.FLAGS)
    program.call(parsed, lambda: print(np.float32(1)))
    assert capsys.readouterr().out == "1.0\n"
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)]
