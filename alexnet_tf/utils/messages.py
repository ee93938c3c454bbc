"""One-line error messages, and the commands that they suggest."""

import os
import pathlib
import re
import shlex
import sys
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from alexnet_tf.utils import escaping

# Lines that TensorFlow puts before the message of an operation that failed inside a graph.
_BOILERPLATE = re.compile(
    r'Graph execution error:|Detected at node .*|<stack traces unavailable>|File ".*|\d+ root error\(s\) found\.'
)
# What TensorFlow puts before and after the message on its line: the function or node, the list number, and the class of
# an error raised in a Python function; the place in the graph and the name of the operation.
_PREFIX = re.compile(
    r"^(\{\{.*?\}\} ?|\(\d+\) [A-Z_]+: +|Error in user-defined function passed to .*? with iterator: \S+: )+"
)
_PYTHON_CLASS = re.compile(r"^(\w+\.)*\w+Error: ")
_SUFFIX = re.compile(r"\s*\[\[\{\{.*$|\s*\[Op:\w*\].*$")

_TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"


def program(name: str) -> str:
    """Returns the command of another program of this package, as the user of this process would type it.

    Args:
      name: of the program, such as "evaluate".

    Returns:
      ``python tools/evaluate.py``, with the path to the folder as in the command of this process, if that is one of a
      checkout's ``tools/``; otherwise the console command, ``alexnet-tf evaluate``.
    """
    folder = os.path.dirname(sys.argv[0])
    if folder and pathlib.Path(folder).resolve() == _TOOLS:
        return f"python {shlex.quote(os.path.join(folder, name + '.py'))}"
    return f"alexnet-tf {name}"


def first_line(error: BaseException) -> str:
    """Returns the first informative line of an error's message, without what TensorFlow adds to it.

    Args:
      error: an exception, of Python or TensorFlow.

    Returns:
      A string of one line; the name of the error's class if there is no message.
    """
    text = str(getattr(error, "message", error) or "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = next((line for line in lines if not _BOILERPLATE.fullmatch(line)), lines[0] if lines else "")
    return _SUFFIX.sub("", _PYTHON_CLASS.sub("", _PREFIX.sub("", line))) or type(error).__name__


def significant(value: float) -> str:
    """Formats a number with three significant digits, and without an exponent unless it is below 0.0001.

    Args:
      value: a number.
    """
    return f"{float(f'{value:.3g}'):,.10g}"


def epochs(value: float) -> str:
    """Formats a number of epochs with at most two decimals, and without an exponent below a million.

    Args:
      value: a number.
    """
    return f"{round(value, 2):g}"


def printable(text: str) -> str:
    """Returns a text with escapes in place of line breaks, control characters and bytes that are not UTF-8."""
    return text if text.isprintable() else repr(text)[1:-1]


def different_values(
    what: str, names: Iterable[str], previous: Mapping[str, Any], requested: Mapping[str, Any], flag: str
) -> str:
    """Returns the message for a directory whose content was made with other values than those requested.

    Args:
      what: what was made, such as "runs/quickstart was trained".
      names: names of the values that differ.
      previous: the values that it was made with, by name.
      requested: the values of this call, by name.
      flag: the flag that names the directory.

    Returns:
      A string of one line, such as "runs/quickstart was trained with different values: batch_size=64 (not 128); use the
      previous values or a new --workdir".
    """
    pairs = escaping.one_line(", ".join(f"{name}={previous.get(name)} (not {requested.get(name)})" for name in names))
    return f"{what} with different values: {pairs}; use the previous values or a new --{flag}"
