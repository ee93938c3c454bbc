"""An interpreter of pickles that hold arrays only: nothing in a pickle is imported or called.

Python's own unpickler imports what a pickle names and calls it, and takes the memory that a pickle asks for. This one
reads the opcodes itself. The name of a class or function becomes a `pickle_values.Name`. A call looks the name up in
the reader's table of functions, which only rearrange what was read: arrays of NumPy and JAX, ordered dictionaries. Any
other call, any object, and opcodes that weight files do not need are refused. Bytes are views of the buffer, lengths
are checked against it before they are used, and copies and opcodes are limited.
"""

import os
import struct
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from alexnet_tf.weights import checks
from alexnet_tf.weights import pickle_values

# An AlexNet has some 300 opcodes, ResNet-152 with its optimizer some 20,000. Each takes up to some 100 bytes.
_MAX_OPCODES = 200_000
# Strings and bytes up to this length are copied, longer ones stay views; the sum of all copies is limited.
_MAX_COPY, _MAX_COPIES = 256, 4 << 20
# Values in nested dictionaries and lists, which may be reached in several ways.
_MAX_VALUES = 20_000


class _Machine:
    """The stack, the memo and the position of one pickle."""

    def __init__(self, view, start, calls, persistent, remedy):
        self.view, self.position = view, start
        self.calls, self.persistent, self.remedy = calls, persistent, remedy
        self.stack, self.marks, self.memo = [], [], {}
        self.copied = 0

    def run(self):
        for _ in range(_MAX_OPCODES):
            opcode = self.take(1)[0]
            if opcode == 0x2E:  # STOP
                return self.pop()
            operation = _OPCODES.get(opcode)
            if operation is None:
                raise pickle_values.Refused(f"opcode {bytes([opcode])!r}, which arrays do not need", self.remedy)
            operation(self)
        raise pickle_values.Refused(f"more than {_MAX_OPCODES:,} opcodes", self.remedy)

    def take(self, size):
        if size > len(self.view) - self.position:
            raise pickle_values.Refused("an incomplete pickle")
        self.position += size
        return self.view[self.position - size : self.position]

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self):
        """Returns the text up to the next newline, at most 200 characters."""
        line, newline, _ = bytes(self.view[self.position : self.position + 200]).partition(b"\n")
        if not newline:
            raise pickle_values.Refused("the name of a class without an end")
        self.position += len(line) + 1
        return line.decode("utf-8")

    def push(self, value):
        self.stack.append(value)

    def pop(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise pickle_values.Refused("a pickle that takes more than it has")
        return self.stack.pop()

    def discard(self):
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def top(self, kind):
        value = self.pop()
        self.stack.append(value)
        if not isinstance(value, kind):
            raise pickle_values.Refused("a pickle that adds items to what has none")
        return value

    def pop_mark(self):
        if not self.marks:
            raise pickle_values.Refused("a pickle that takes more than it has")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def copy_of(self, view):
        self.copied += len(view)
        if self.copied > _MAX_COPIES:
            raise pickle_values.Refused(f"more than {_MAX_COPIES:,} bytes of short texts", self.remedy)
        return bytes(view)

    def push_bytes(self, form):
        view = self.take(self.number(form))
        self.push(self.copy_of(view) if len(view) <= _MAX_COPY else view.toreadonly())

    def push_string(self, form):
        """Pushes a string of Python 2, which may be text or data: a text if it is short."""
        self.push_bytes(form)
        value = self.pop()
        self.push(value.decode("latin-1") if isinstance(value, bytes) else value)

    def push_text(self, form):
        view = self.take(self.number(form))
        self.push(self.copy_of(view).decode("utf-8") if len(view) <= _MAX_COPY else pickle_values.LongText(view))

    def push_tuple(self, size):
        items = [self.pop() for _ in range(size)]
        self.push(tuple(reversed(items)))

    def mark(self):
        self.marks.append(len(self.stack))

    def append(self):
        item = self.pop()
        self.top(list).append(item)

    def appends(self):
        items = self.pop_mark()
        self.top(list).extend(items)

    def set_item(self):
        value, key = self.pop(), self.pop()
        self.top(dict)[pickle_values.key(key)] = value

    def set_items(self):
        items = self.pop_mark()
        if len(items) % 2:
            raise pickle_values.Refused("a dictionary with a key and no value")
        self.top(dict).update((pickle_values.key(key), value) for key, value in zip(items[::2], items[1::2]))

    def put(self, number):
        value = self.pop()
        self.memo[number] = value
        self.push(value)

    def get(self, number):
        if number not in self.memo:
            raise pickle_values.Refused("a pickle that refers to what it has not stored")
        self.push(self.memo[number])

    def long(self):
        size = self.number("<B")
        if size > 16:
            raise pickle_values.Refused("a number of more than 16 bytes", self.remedy)
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def name(self):
        self.push(pickle_values.Name(f"{self.line()}.{self.line()}"))

    def name_of_texts(self):
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise pickle_values.Refused("a class without a name")
        self.push(pickle_values.Name(f"{module}.{name}"))

    def call(self):
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, pickle_values.Name) or not isinstance(arguments, tuple):
            raise pickle_values.Refused("a call of what is not a function", self.remedy)
        if name.name not in self.calls:
            raise pickle_values.Refused(f"an object or a call of {name.name[:80]!r}, not only arrays", self.remedy)
        try:
            self.push(self.calls[name.name](*arguments))
        except TypeError:
            raise pickle_values.Refused(f"unexpected arguments of {name.name}") from None

    def new_object(self):
        self.pop()
        name = self.pop()
        name = name.name[:80] if isinstance(name, pickle_values.Name) else "an unknown class"
        raise pickle_values.Refused(f"an object or a call of {name!r}, not only arrays", self.remedy)

    def build(self):
        state = self.pop()
        value = self.pop()
        self.push(value)
        if not hasattr(value, "set_state"):
            raise pickle_values.Refused("attributes of an unknown object", self.remedy)
        value.set_state(state)

    def persistent_id(self):
        if self.persistent is None:
            raise pickle_values.Refused("a reference to data outside of the pickle", self.remedy)
        self.push(self.persistent(self.pop()))


_OPCODES: Mapping[int, Callable[[_Machine], object]] = {
    ord(code): operation
    for code, operation in {
        "\x80": lambda machine: machine.take(1),  # PROTO
        "\x95": lambda machine: machine.take(8),  # FRAME
        "(": _Machine.mark,
        "0": _Machine.discard,
        "1": _Machine.pop_mark,
        "N": lambda machine: machine.push(None),
        "\x88": lambda machine: machine.push(True),
        "\x89": lambda machine: machine.push(False),
        "J": lambda machine: machine.push(machine.number("<i")),
        "K": lambda machine: machine.push(machine.number("<B")),
        "M": lambda machine: machine.push(machine.number("<H")),
        "\x8a": _Machine.long,
        "G": lambda machine: machine.push(machine.number(">d")),
        "T": lambda machine: machine.push_string("<I"),
        "U": lambda machine: machine.push_string("<B"),
        "B": lambda machine: machine.push_bytes("<I"),
        "C": lambda machine: machine.push_bytes("<B"),
        "\x8e": lambda machine: machine.push_bytes("<Q"),
        "\x96": lambda machine: machine.push_bytes("<Q"),
        "X": lambda machine: machine.push_text("<I"),
        "\x8c": lambda machine: machine.push_text("<B"),
        "\x8d": lambda machine: machine.push_text("<Q"),
        ")": lambda machine: machine.push_tuple(0),
        "t": lambda machine: machine.push(tuple(machine.pop_mark())),
        "\x85": lambda machine: machine.push_tuple(1),
        "\x86": lambda machine: machine.push_tuple(2),
        "\x87": lambda machine: machine.push_tuple(3),
        "]": lambda machine: machine.push([]),
        "a": _Machine.append,
        "e": _Machine.appends,
        "}": lambda machine: machine.push({}),
        "s": _Machine.set_item,
        "u": _Machine.set_items,
        "q": lambda machine: machine.put(machine.number("<B")),
        "r": lambda machine: machine.put(machine.number("<I")),
        "\x94": lambda machine: machine.put(len(machine.memo)),
        "h": lambda machine: machine.get(machine.number("<B")),
        "j": lambda machine: machine.get(machine.number("<I")),
        "c": _Machine.name,
        "\x93": _Machine.name_of_texts,
        "R": _Machine.call,
        "b": _Machine.build,
        "\x81": _Machine.new_object,
        "\x92": _Machine.new_object,
        "Q": _Machine.persistent_id,
    }.items()
}


def load(
    buffer: memoryview,
    start: int,
    *,
    path: str | os.PathLike,
    what: str,
    remedy: str,
    calls: Mapping[str, Callable] = pickle_values.CALLS,
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Reads one pickle of a protocol from 2 on.

    Args:
      buffer: the bytes of the file, or of its beginning.
      start: where the pickle begins.
      path, what: of the file, as for `checks.error`.
      remedy: what to do about a file with objects or calls.
      calls: functions that the pickle may "call", by the names that it uses; they must not run anything of the file.
      persistent: turns a persistent id into a value; without it they are refused.

    Returns:
      The value, of None, bool, int, float, str, `LongText`, bytes, memoryview, tuple, list, dict, `Name`, `Array` and
      what `calls` and `persistent` return, possibly with cycles; and the position after the pickle.

    Raises:
      FormatError: if the pickle is damaged, or has anything but arrays, or is larger than weights need.
    """
    machine = _Machine(buffer, start, calls, persistent, remedy)
    try:
        return machine.run(), machine.position
    except pickle_values.Refused as refused:
        raise checks.error(what, path, refused, refused.remedy) from None
    except UnicodeError:
        raise checks.error(what, path, "text that cannot be decoded", checks.DOWNLOAD_AGAIN) from None


def walk(
    value: Any, separator: str, leaves: type | tuple[type, ...], *, path: str | os.PathLike, what: str
) -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dictionaries, lists and tuples, with the names of their places.

    Args:
      value: the outermost dictionary.
      separator: between the parts of a name, such as "/" in "conv1/0".
      leaves: types of the values to yield; others are skipped.
      path, what: as for `checks.error`.

    Raises:
      FormatError: if there are cycles, more than `checks.MAX_DEPTH` levels, or more values than any network has.
    """
    pending, room = [("", value, 0)], _MAX_VALUES
    while pending:
        name, each, depth = pending.pop()
        if isinstance(each, pickle_values.Array) and isinstance(each.value, list):
            each = each.value
        if isinstance(each, leaves):
            yield name, each
        elif isinstance(each, (dict, list, tuple)):
            if depth == checks.MAX_DEPTH:
                raise checks.error(what, path, f"values in more than {checks.MAX_DEPTH} levels, or in themselves")
            room -= len(each)
            if room < 0:
                raise checks.error(what, path, f"more than {_MAX_VALUES:,} values; save the weights only")
            items = each.items() if isinstance(each, dict) else enumerate(each)
            inside = [(_inside(name, key, separator), item, depth + 1) for key, item in items]
            if any(len(longer) > checks.MAX_NAME for longer, _, _ in inside):
                raise checks.error(what, path, f"a name of more than {checks.MAX_NAME} characters; shorten it")
            pending += reversed(inside)


def _inside(name, key, separator):
    key = str(pickle_values.text(key))
    return f"{name}{separator}{key}" if name else key
