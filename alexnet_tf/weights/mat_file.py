"""Reads MATLAB's files of level 5 (``-v6`` and ``-v7``): numbers, texts, cells and structures.

Arrays are read, and unpacked, directly into their memory. Sizes are checked before that, so that a small file cannot
take more than twice its size. Objects and functions, which MATLAB would run, are refused.
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import io
import math
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet_tf.weights import checks

# Of arrays, cells and structures together, each of which is an object of Python.
MAX_VALUES = 50_000
MAX_DEPTH = 32
# What a file may unpack to, in addition to twice its size: texts shrink to a fraction.
_MARGIN = 1 << 20
_BLOCK = 1 << 16

_COMPRESSED, _MATRIX = 15, 14
# By number of data type, and by number of array class.
_STORED = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"},
    **{16: "u1", 17: "u2", 18: "u4"},
}
_NUMBERS = {
    **{6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"},
}
_CELL, _STRUCT, _TEXT = 1, 2, 4
_REFUSED = {3: "an object", 5: "a sparse matrix", 16: "a function", 17: "an object"}
_IS_COMPLEX = 0x800


class _File:
    """The bytes of a file, or of a compressed element in it, from beginning to end."""

    def __init__(self, file, path):
        self._file = file
        self._path = path
        self.size = os.fstat(file.fileno()).st_size
        self.order = "<"
        self._limit = 2 * self.size + _MARGIN
        self._memory = self._unpacked = self._num_values = 0
        self._packed = None

    def error(self, problem):
        what = "a MATLAB file of arrays, cells and structures"
        return checks.another_kind(self._path, what, problem, "download or copy it again, or save arrays instead")

    def take_memory(self, count):
        self._memory += count
        if self._memory > self._limit:
            raise self.error(f"arrays of more than {self._limit:,} bytes in a file of {self.size:,}")

    def count_values(self, count):
        self._num_values += count
        if self._num_values > MAX_VALUES:
            raise self.error(f"more than {MAX_VALUES:,} values")

    def position(self):
        return self._unpacked if self._packed else self._file.tell()

    def seek(self, position):
        self._file.seek(position)

    def begin_packed(self, count):
        """Reads the `count` bytes of a compressed element from now on."""
        self._packed, self._packed_left, self._tail = zlib.decompressobj(), count, b""

    def end_packed(self):
        """Checks that the compressed element ends here, and with it its checksum."""
        if self._some(1) or not self._packed.eof:
            raise self.error("a compressed array that does not end where its header says")
        self._packed = None

    def _some(self, count):
        """Returns up to `count` unpacked bytes; none at the end."""
        while not self._packed.eof:
            if not self._tail:
                self._tail = self._file.read(min(_BLOCK, self._packed_left))
                self._packed_left -= len(self._tail)
                if not self._tail:
                    break
            try:
                data = self._packed.decompress(self._tail, min(count, _BLOCK))
            except zlib.error as error:
                raise self.error(f"a damaged compressed array ({error})") from None
            self._tail = self._packed.unconsumed_tail
            if data:
                self._unpacked += len(data)
                if self._unpacked > self._limit:
                    raise self.error(f"an array that unpacks to more than {self._limit:,} bytes")
                return data
        return b""

    def read_into(self, memory):
        view = memoryview(memory).cast("B")
        while len(view):
            if self._packed:
                data = self._some(len(view))
                count = len(data)
                view[:count] = data
            else:
                count = self._file.readinto(view)
            if not count:
                raise self.error("a file that is cut off")
            view = view[count:]

    def read(self, count):
        data = bytearray(count)
        self.read_into(data)
        return bytes(data)


def read(path: str | os.PathLike) -> Mapping[str, Any]:
    """Returns the variables of a file by name.

    Numbers are arrays of MATLAB's shape and class, texts are `str` (a list of them for several rows), cells are lists
    in MATLAB's order, a structure is a dict, and an array of structures a list of them.

    Raises:
      contents.FormatError: if the file is damaged, or has other values.
      OSError: if it cannot be read.
    """
    with io.BufferedReader(checks.open_file(path, "a MATLAB file of arrays, cells and structures"), _BLOCK) as file:
        source = _File(file, os.fspath(path))
        header = source.read(128)
        orders = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
        if header[124:128] not in orders:
            raise source.error("another header")
        source.order = orders[header[124:128]]
        variables = {}
        while source.position() < source.size:
            name, value = _variable(source)
            if name in variables:
                raise source.error(f"two variables {name}")
            variables[name] = value
    return variables


def _variable(source):
    kind, count, data = _tag(source)
    end = source.position() + count
    if data is not None or end > source.size:
        raise source.error(f"a variable of {count:,} bytes at byte {source.position():,}")
    if kind == _COMPRESSED:
        source.begin_packed(count)
        kind, count, data = _tag(source)
        if kind != _MATRIX or data is not None:
            raise source.error("a compressed element that is not an array")
        found = _matrix(source, source.position() + count, 0)
        source.end_packed()
    elif kind == _MATRIX:
        found = _matrix(source, end, 0)
    else:
        raise source.error(f"an element of type {kind} in the place of a variable")
    source.seek(end)
    return found


def _tag(source):
    """Returns the type of an element, its size, and its data if they are in the tag."""
    first = source.read(8)
    word, count = np.frombuffer(first, source.order + "u4").tolist()
    if word >> 16:
        if word >> 16 > 4:
            raise source.error(f"a short element of {word >> 16} bytes")
        return word & 0xFFFF, word >> 16, first[4 : 4 + (word >> 16)]
    return word, count, None


def _values(source, end, dtype=None):
    """Reads an element of numbers, and the bytes that fill it up to a multiple of 8."""
    kind, count, data = _tag(source)
    if kind not in _STORED:
        raise source.error(f"an element of type {kind} in the place of numbers")
    stored = np.dtype(source.order + _STORED[kind])
    if count % stored.itemsize or (data is None and source.position() + count > end):
        raise source.error(f"numbers of {count:,} bytes at byte {source.position():,}")
    target = np.dtype(dtype) if dtype else stored.newbyteorder("=")
    source.take_memory(max(count, count // stored.itemsize * target.itemsize))
    if data is not None:
        values = np.frombuffer(data, stored)
    else:
        values = np.empty(count // stored.itemsize, stored)
        source.read_into(values)
        source.read(min(-count % 8, end - source.position()))
    if values.dtype != target:
        if stored.kind == "f" and target.kind != "f":
            raise source.error("fractions in the place of integers")
        values = values.astype(target)
    return values


def _matrix(source, end, depth):
    """Returns the name and the value of an array, which must end at `end`."""
    start = source.position()
    source.count_values(1)
    if depth > MAX_DEPTH:
        raise source.error(f"cells within cells, more than {MAX_DEPTH} deep")
    if start == end:
        return "", np.zeros([0, 0])
    flags = _values(source, end)
    shape = _values(source, end).tolist()
    name = _values(source, end).tobytes().decode("latin-1")
    if flags.dtype != np.uint32 or flags.size != 2 or not 1 <= len(shape) <= 8 or min(shape) < 0:
        raise source.error(f"an array whose header is damaged at byte {start:,}")
    kind, count = int(flags[0]) & 0xFF, math.prod(shape)
    if kind in _REFUSED:
        raise source.error(f"{_REFUSED[kind]} of MATLAB ({name or 'within another value'}), export ONNX there")
    if kind in _NUMBERS:
        value = _numbers(source, end, _NUMBERS[kind], shape, flags)
    elif kind == _TEXT:
        value = _text(source, end, shape)
    elif kind == _CELL:
        source.count_values(count)
        value = [_child(source, end, depth) for _ in range(count)]
    elif kind == _STRUCT:
        value = _structures(source, end, depth, count)
    else:
        raise source.error(f"an array of class {kind}")
    if source.position() != end:
        raise source.error(f"an array that ends at byte {source.position():,} instead of {end:,}")
    return name, value


def _numbers(source, end, dtype, shape, flags):
    if int(flags[0]) & _IS_COMPLEX:
        raise source.error("complex numbers")
    values = _values(source, end, dtype)
    if values.size != math.prod(shape):
        raise source.error(f"{values.size:,} numbers of shape {shape}")
    return values.reshape(shape, order="F")


def _text(source, end, shape):
    values = _values(source, end)
    source.take_memory(6 * values.nbytes)
    text = values.tobytes().decode({1: "utf-8", 2: "utf-16", 4: "utf-32"}[values.itemsize], "replace")
    if len(shape) != 2 or len(text) != math.prod(shape) or shape[0] < 2:
        return text
    source.count_values(shape[0])
    return [text[row :: shape[0]].rstrip() for row in range(shape[0])]


def _child(source, end, depth):
    kind, count, data = _tag(source)
    if kind != _MATRIX or data is not None or source.position() + count > end:
        raise source.error(f"an element of type {kind} in the place of an array")
    return _matrix(source, source.position() + count, depth + 1)[1]


def _structures(source, end, depth, count):
    (length, *_) = _values(source, end).tolist() or [0]
    names = _values(source, end).tobytes()
    if not 0 < length <= 64 or len(names) % length:
        raise source.error("a structure whose names are damaged")
    fields = [names[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(names), length)]
    source.count_values(count * max(len(fields), 1))
    found = [{field: _child(source, end, depth) for field in fields} for _ in range(count)]
    return found[0] if count == 1 else found
