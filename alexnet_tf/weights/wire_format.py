"""Reads messages of protocol buffers from a file, field by field, into memory of the size of the arrays.

A parser that makes an object of every field needs a hundred times the size of a file of empty messages. Here a message
is an index of its fields' places; values are read when they are asked for, arrays directly into NumPy's memory.
https://protobuf.dev/programming-guides/encoding/
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alexnet_tf.weights import checks
from alexnet_tf.weights import contents

# A network of a few dozen layers has hundreds.
MAX_FIELDS = 50_000
# Of a name, and of a list of integers such as a shape.
MAX_TEXT, MAX_INTEGERS = 4096, 100_000

_BLOCK = 1 << 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}


class _Span(NamedTuple):
    """Bytes of a file: of a string, a message or a packed array."""

    start: int
    end: int


class _Run(NamedTuple):
    """Successive fields of a fixed size, each with its tag: `count` values of `size` bytes, `stride` bytes apart."""

    start: int
    count: int
    size: int
    stride: int


class _Source:
    """A file of a known size whose places are read at random."""

    def __init__(self, file, path, what):
        self._file = file
        self._path = path
        self._what = what
        self.size = os.fstat(file.fileno()).st_size
        self._block_start, self._block = 0, b""
        self._num_fields = 0

    def error(self, problem):
        remedy = "download or copy it again, or check its format"
        return checks.another_kind(self._path, self._what, problem, remedy)

    def count_field(self):
        self._num_fields += 1
        if self._num_fields > MAX_FIELDS:
            raise self.error(f"more than {MAX_FIELDS:,} fields")

    def read_into(self, start, memory):
        view = memoryview(memory).cast("B")
        self._file.seek(start)
        while len(view):
            count = self._file.readinto(view)
            if not count:
                raise self.error("a file that became shorter")
            view = view[count:]

    def read(self, start, end):
        data = bytearray(end - start)
        self.read_into(start, data)
        return bytes(data)

    def varint(self, position, end):
        """Returns an integer of up to 64 bits and the position after it."""
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise self.error(f"an integer cut off at byte {position}")
            if not self._block_start <= position < self._block_start + len(self._block):
                self._block = self.read(position, min(position + _BLOCK, self.size))
                self._block_start = position
            byte = self._block[position - self._block_start]
            value |= (byte & 127) << shift
            position += 1
            if byte < 128:
                return value & (2**64 - 1), position
        raise self.error(f"an integer of more than 64 bits at byte {position}")


class Message:
    """A message within a file; a field that occurs several times has several values."""

    def __init__(self, source: _Source, spans: list[_Span]):
        self._source = source
        self._fields: dict[int, list[int | _Span | _Run]] = {}
        for start, end in spans:
            while start < end:
                start = self._index_field(start, end)

    def _index_field(self, start, end):
        source = self._source
        source.count_field()
        tag, position = source.varint(start, end)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29 or kind not in (_VARINT, _BYTES, *_SIZES):
            raise source.error(f"bytes that are not a field at byte {start}")
        if kind == _VARINT:
            value, position = source.varint(position, end)
        elif kind == _BYTES:
            length, position = source.varint(position, end)
            value = _Span(position, position + length)
            position += length
        else:
            value = self._run(start, position, end, _SIZES[kind])
            position = value.start + (value.count - 1) * value.stride + value.size
        if position > end:
            raise source.error(f"a field of {position - start:,} bytes in {end - start:,}")
        self._fields.setdefault(number, []).append(value)
        return position

    def _run(self, start, position, end, size):
        """Returns the fields with the same tag that follow each other without a gap."""
        stride = position - start + size
        if position + size > end:
            return _Run(position, 1, size, stride)
        tag = np.frombuffer(self._source.read(start, position), np.uint8)
        count, per_block = 1, _BLOCK // stride
        while available := min((end - start) // stride - count, per_block):
            first = start + count * stride
            block = np.frombuffer(self._source.read(first, first + available * stride), np.uint8)
            equal = (block.reshape(-1, stride)[:, : tag.size] == tag).all(1)
            same = available if equal.all() else int(equal.argmin())
            count += same
            if same < available:
                break
        return _Run(position, count, size, stride)

    def _spans(self, number):
        values = self._fields.get(number, [])
        if not all(isinstance(value, _Span) for value in values):
            raise self._source.error(f"a number in the place of a message (field {number})")
        return values

    def has(self, number: int) -> bool:
        """Returns whether a field occurs."""
        return number in self._fields

    def error(self, problem: str) -> contents.FormatError:
        """Returns an error that names the file."""
        return self._source.error(problem)

    def messages(self, number: int) -> Iterator["Message"]:
        """Yields the messages of a repeated field."""
        for span in self._spans(number):
            yield Message(self._source, [span])

    def message(self, number: int) -> "Message":
        """Returns the message of a field; one without fields if it does not occur."""
        return Message(self._source, self._spans(number))

    def texts(self, number: int) -> list[str]:
        """Returns the strings of a repeated field."""
        found = []
        for start, end in self._spans(number):
            if end - start > MAX_TEXT:
                raise self._source.error(f"a name of {end - start:,} bytes")
            try:
                found.append(self._source.read(start, end).decode())
            except UnicodeDecodeError:
                raise self._source.error(f"a name that is not UTF-8 at byte {start}") from None
        return found

    def text(self, number: int, default: str = "") -> str:
        return (self.texts(number) or [default])[-1]

    def integers(self, number: int) -> list[int]:
        """Returns the signed integers of a repeated field, packed or not."""
        found = []
        for value in self._fields.get(number, []):
            if isinstance(value, _Run):
                raise self._source.error(f"a float in the place of an integer (field {number})")
            if isinstance(value, int):
                found.append(value)
                continue
            position, end = value
            if end - position > 10 * MAX_INTEGERS:
                raise self._source.error(f"a list of integers of {end - position:,} bytes")
            while position < end:
                item, position = self._source.varint(position, end)
                found.append(item)
            if len(found) > MAX_INTEGERS:
                raise self._source.error(f"a list of more than {MAX_INTEGERS:,} integers")
        return [item - 2**64 if item >= 2**63 else item for item in found]

    def integer(self, number: int, default: int = 0) -> int:
        return (self.integers(number) or [default])[-1]

    def floating(self, number: int, default: float = 0.0) -> float:
        values = self._fields.get(number, [])
        if not values:
            return default
        if not isinstance(values[-1], _Run) or values[-1].size != 4:
            raise self._source.error(f"an integer in the place of a float (field {number})")
        run = values[-1]
        start = run.start + (run.count - 1) * run.stride
        return float(np.frombuffer(self._source.read(start, start + 4), "<f4")[0])

    def array(self, number: int, dtype: np.typing.DTypeLike) -> np.ndarray:
        """Returns a vector of the numbers of a repeated field, packed or not, or of the bytes of a field."""
        dtype = np.dtype(dtype)
        values = self._fields.get(number, [])
        total = 0
        for value in values:
            if isinstance(value, int) or (isinstance(value, _Run) and value.size != dtype.itemsize):
                raise self._source.error(f"another type of number than {dtype} (field {number})")
            length = value.count * value.size if isinstance(value, _Run) else value.end - value.start
            if length % dtype.itemsize:
                raise self._source.error(f"an array of {length:,} bytes, not a multiple of {dtype.itemsize}")
            total += length // dtype.itemsize
        result = np.empty(total, dtype)
        filled = 0
        for value in values:
            if isinstance(value, _Run):
                filled = self._fill_from_run(result, filled, value)
            else:
                count = (value.end - value.start) // dtype.itemsize
                self._source.read_into(value.start, result[filled : filled + count])
                filled += count
        return result

    def _fill_from_run(self, result, filled, run):
        for first in range(0, run.count, _BLOCK):
            count = min(_BLOCK, run.count - first)
            # The last value has no tag after it.
            block = np.zeros(count * run.stride, np.uint8)
            length = (count - 1) * run.stride + run.size
            self._source.read_into(run.start + first * run.stride, block[:length])
            values = np.ascontiguousarray(block.reshape(count, run.stride)[:, : run.size])
            result[filled : filled + count] = values.view(result.dtype)[:, 0]
            filled += count
        return filled


@contextlib.contextmanager
def open_message(path: str | os.PathLike, what: str) -> Iterator[Message]:
    """Opens the message that a file consists of; it can be read within the block.

    Args:
      path: of the file.
      what: what it should be, with an article, for messages.

    Raises:
      contents.FormatError: if it is missing, damaged or not a file.
      OSError: if it cannot be read.
    """
    with checks.open_file(path, what) as file:
        source = _Source(file, os.fspath(path), what)
        yield Message(source, [_Span(0, source.size)])
