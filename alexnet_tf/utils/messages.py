"""What errors say, in one line."""

import re

# What TensorFlow puts before a message, the class of an error that came through a Python function in a graph, and the
# operation's name at its end.
_BEFORE = re.compile(r"^(\{\{.*?\}\} ?|Error in user-defined function passed to .*? with iterator: \S+: )+")
_PYTHON_CLASS = re.compile(r"^(\w+\.)*\w+Error: ")
_BEHIND = re.compile(r" \[Op:\w*\].*$")


def first_line(error):
    """The first line of an error's message without what TensorFlow adds; the error's class if it says nothing.

    Args:
      error: an exception.

    Returns:
      A string of one line.
    """
    text = str(getattr(error, "message", error) or "")
    line = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return _BEHIND.sub("", _PYTHON_CLASS.sub("", _BEFORE.sub("", line.strip())))


def other_values(what, names, expected, received, flag):
    """The message that something was begun with other values.

    Args:
      what: what was begun.
      names: of the values that differ.
      expected, received: dicts from names to values.
      flag: the flag that names another place to begin in.

    Returns:
      A string of one line.
    """
    first, second = (", ".join(f"{name}={values.get(name)}" for name in names) for values in (expected, received))
    return f"Expected {what}: {first}. Received: {second}; take another --{flag}, or these values"
