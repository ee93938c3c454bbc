"""The values that a pickle of arrays builds, and the functions that it may call; none of them is NumPy's or PyTorch's.

They rearrange what the pickle has: bytes become arrays, pairs become dictionaries. Anything else is `Refused`.
"""

import codecs
import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet_tf.weights import checks

# Types of numbers by NumPy's names, without the order of bytes.
_NUMBERS = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1".split())
_OBJECTS = frozenset(("O", "O4", "O8"))


class Refused(Exception):
    """What is wrong with a pickle, and what to do about it; functions that a pickle calls raise it, too."""

    def __init__(self, received: str, remedy: str = checks.DOWNLOAD_AGAIN):
        super().__init__(received)
        self.remedy = remedy


@dataclasses.dataclass(frozen=True)
class Name:
    """The name of a class or a function in a pickle, such as "collections.OrderedDict". Nothing is imported."""

    name: str


class LongText:
    """A long text, in which Python 3 writes bytes for older protocols: one character for each byte."""

    def __init__(self, view: memoryview):
        self._view = view
        self._bytes = None

    def to_bytes(self) -> bytes:
        """Returns the bytes; the same object at each call."""
        if self._bytes is None:
            decoder, found = codecs.getincrementaldecoder("utf-8")(), bytearray()
            for start in range(0, len(self._view), 1 << 20):
                found += decoder.decode(self._view[start : start + (1 << 20)]).encode("latin-1")
            decoder.decode(b"", final=True)
            self._bytes = found
        return self._bytes


class Array:
    """A NumPy array that a pickle builds.

    Attributes:
      value: the array; the list of its objects if it is one of objects; None until it has its data.
    """

    value: np.ndarray | list | None = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array without its shape, type and data")
        _, shape, number, is_fortran, data = state
        self.value = _array(data, number, shape, "F" if is_fortran in (True, 1) else "C")


class _NumberType:
    """A NumPy dtype that a pickle builds."""

    def __init__(self, name: str):
        self.name, self.order = name, "<"

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[2:5] not in ((), (None,) * 3):
            raise Refused("a structured type of numbers", "save arrays of numbers")
        order = text(state[1])
        if order not in ("<", ">", "|", "="):
            raise Refused("an unknown order of bytes")
        self.order = "<" if order in "|=" else order


class Dictionary(dict):
    """A dictionary that a pickle builds by a call; attributes that follow are ignored."""

    def set_state(self, state: Any) -> None:
        """Ignores attributes, such as PyTorch's `_metadata`."""


def text(value: Any) -> Any:
    """Returns a text of Python 2 as a str, and any other value unchanged."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _array(data, number, shape, order):
    if not isinstance(number, _NumberType):
        raise Refused("an array without a type of numbers")
    if isinstance(shape, int):
        shape = (shape,)
    if problem := checks.shape_problem(shape):
        raise Refused(problem)
    if number.name in _OBJECTS:
        if not isinstance(data, list) or len(data) != checks.number_of_values(shape):
            raise Refused("an array of objects of another size")
        return data
    if isinstance(data, (LongText, str)):
        data = data.to_bytes() if isinstance(data, LongText) else data.encode("latin-1")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise Refused("an array without data")
    dtype = np.dtype(number.order + number.name)
    needed = checks.number_of_values(shape) * dtype.itemsize
    if needed != len(data):
        raise Refused(f"an array of shape {list(shape)} and type {dtype} with {len(data):,} bytes, not {needed:,}")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _new_array(kind, shape, code):
    if kind != Name("numpy.ndarray"):
        raise Refused("a subclass of numpy.ndarray", "save plain NumPy arrays")
    return Array()


def _array_of_buffer(data, number, shape, order):
    found = Array()
    found.value = _array(data, number, shape, "F" if order == "F" else "C")
    return found


def _number_type(name, *_):
    if text(name) not in _NUMBERS | _OBJECTS:
        raise Refused(f"an array of type {str(text(name))[:40]!r}", "save arrays of float32")
    return _NumberType(text(name))


def _scalar(number, data):
    found = Array()
    found.value = _array(data, number, (), "C")
    return found


def _encode(text, encoding):
    if encoding not in ("latin1", "latin-1") or not isinstance(text, (str, LongText)):
        raise Refused("text in an unknown encoding")
    return text.to_bytes() if isinstance(text, LongText) else text.encode("latin-1")


def _jax_array(function, arguments, state, _):
    if not isinstance(function, Name) or not isinstance(arguments, tuple) or "_reconstruct" not in function.name:
        raise Refused("a JAX array without data")
    found = _new_array(*arguments)
    found.set_state(state)
    return found


def _dictionary(items=()):
    if isinstance(items, dict):
        return items
    found = Dictionary()
    if items != ():
        if not isinstance(items, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in items):
            raise Refused("a dictionary of unknown items")
        found.update((key(name), value) for name, value in items)
        # Not to be copied again and again.
        items.clear()
    return found


def key(value: Any) -> str | bytes | int:
    """Returns a key of a dictionary; refuses those that a file could make collide."""
    # Integers below 2**60 are their own hashes.
    if type(value) in (str, bytes) or (type(value) is int and abs(value) < 2**60):
        return value
    raise Refused("a dictionary whose keys are not text", "save a dictionary of arrays by name")


# What may be called, by name.
CALLS: Mapping[str, Callable] = {
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "numpy._core.numeric._frombuffer": _array_of_buffer,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": _number_type,
    "_codecs.encode": _encode,
    # No bytes, by Python 3 for protocol 2.
    "__builtin__.bytes": lambda: b"",
    "collections.OrderedDict": _dictionary,
    "flax.core.frozen_dict.FrozenDict": _dictionary,
    "jax._src.array._reconstruct_array": _jax_array,
    "jax._src.device_array.reconstruct_device_array": _jax_array,
    "jax.interpreters.xla.reconstruct_device_array": _jax_array,
}
