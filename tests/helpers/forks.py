"""Processes that begin with TensorFlow loaded, so that a test may start, and kill, many of them."""

import atexit
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]

_SERVER = """
import gc, json, os, runpy, signal, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import alexnet_tf.runs.train
from alexnet_tf.runs import costs, report
# As in conftest.py.
costs.MATRIX_SIDES = {"CPU": 64, "GPU": 64}


def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


# Reaped rather than ignored, so that the time of the tests includes theirs.
signal.signal(signal.SIGCHLD, reap)
# No child needs to look through what is loaded when it collects garbage.
gc.freeze()
gc.set_threshold(10_000)
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    # TensorFlow is loaded and has calculated nothing yet: so long it may be forked.
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Where the tests run in the background, they ignore these.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number, name in ((1, order["output"]), (2, order["errors"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(order["directory"])
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding=order["encoding"])
    if not order["optimized"]:
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    if not order["report"]:
        report.write = lambda workdir, *others: os.path.join(workdir, "none")
    sys.argv = [order["tool"], *order["arguments"]]
    sys.path.insert(0, os.path.dirname(order["tool"]))
    status = 0
    try:
        runpy.run_path(order["tool"], run_name="__main__")
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    with open(order["output"] + ".part", "w") as ended:
        ended.write(str(status))
    os.replace(order["output"] + ".part", order["output"] + ".status")
    os._exit(status)
"""


class Server:
    """A process that forks; each fork runs a program of tools/ from its beginning."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("Expected a process that forks. Received: none")

    def start(
        self, tool, output, *arguments, errors=None, directory=ROOT, report=False, optimized=True, encoding="utf-8"
    ):
        """Starts a program.

        Args:
          tool: its name, such as "train", or the path of another program, without ``.py``.
          output: the file for what it says, written anew.
          *arguments: of its command line.
          errors: another file for what goes to standard error; None for the same one.
          directory: where it starts.
          report: whether a training writes a report, which takes a third of its time.
          optimized: whether Grappler optimizes graphs, as for users; it takes a fifth of the time of a small run.
          encoding: of what it says.

        Returns:
          A `Child`.
        """
        output = os.path.abspath(output)
        errors = os.path.abspath(errors or output)
        for old in (output, errors, f"{output}.status"):
            pathlib.Path(old).unlink(missing_ok=True)
        order = {"tool": str(ROOT / "tools" / f"{tool}.py"), "arguments": [str(each) for each in arguments]}
        order |= {"output": output, "errors": errors, "directory": str(directory)}
        order |= {"report": report, "optimized": optimized, "encoding": encoding}
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        return Child(int(self._process.stdout.readline()), output)

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


class Child:
    """A process that was forked; what it says is in a file."""

    def __init__(self, pid, output):
        self.pid = pid
        self._output = output
        self.status = None  # None while it runs, and of one that was killed

    def is_alive(self):
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self, number=signal.SIGKILL):
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def wait(self, timeout=600):
        """Waits for the end; returns the status."""
        deadline = time.monotonic() + timeout
        while self.is_alive():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"Expected an end. Received: none within {timeout} s\n{self.said()}")
            time.sleep(0.01)
        if os.path.exists(self._output + ".status"):
            with open(self._output + ".status") as file:
                self.status = int(file.read())
        return self.status

    def said(self):
        return pathlib.Path(self._output).read_text() if os.path.exists(self._output) else ""


@functools.lru_cache(maxsize=1)
def server():
    """The server of this test process, which ends with it."""
    started = Server()
    atexit.register(started.close)
    return started


def run(tool, *arguments, directory=ROOT, report=True, optimized=False, encoding="utf-8"):
    """Runs a program of tools/ to its end; the options are those of `Server.start`.

    Returns:
      A ``subprocess.CompletedProcess`` with both texts.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output, errors = (os.path.join(scratch, name) for name in ("output", "errors"))
        options = {"errors": errors, "directory": directory, "report": report}
        options |= {"optimized": optimized, "encoding": encoding}
        status = server().start(tool, output, *arguments, **options).wait()
        texts = [pathlib.Path(path).read_text(encoding="utf-8") for path in (output, errors)]
    return subprocess.CompletedProcess([tool, *arguments], status, *texts)
