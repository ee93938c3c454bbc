"""What an error says, in one line."""

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
