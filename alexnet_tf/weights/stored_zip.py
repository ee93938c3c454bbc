"""Reads zip files of arrays, as PyTorch and NumPy write them: no entry is larger than the file can hold.

Python's `zipfile` takes memory for as many entries as a file claims, and unpacks without a limit.
"""

import os
import struct
import zlib
from collections.abc import Mapping
from typing import IO
from typing import NamedTuple

from alexnet_tf.weights import checks

_END, _END_64, _LOCATOR_64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_ENTRY, _LOCAL = b"PK\1\2", b"PK\3\4"
_MAX_ENTRIES, _MAX_DIRECTORY = 20_000, 8 << 20
_STORED, _DEFLATED = 0, 8
_CHUNK = 1 << 20


class Entry(NamedTuple):
    """One entry of a zip file."""

    name: str
    method: int  # 0 for stored
    checksum: int  # CRC-32
    packed_size: int
    size: int
    header: int  # offset of its local header


class StoredZip:
    """The entries of an open zip file."""

    def __init__(self, file: IO[bytes], path: str | os.PathLike, what: str):
        """Reads the directory of a zip file.

        Args:
          file: the open file.
          path, what: as for `checks.error`.

        Raises:
          FormatError: if the directory is damaged or does not fit the file, or has encrypted entries, two of a
            name, or paths that leave the archive.
        """
        self._file, self._path, self._what = file, path, what
        self._size = checks.size_of(file)
        self.entries: Mapping[str, Entry] = self._read_directory()

    def _error(self, received, remedy=checks.DOWNLOAD_AGAIN):
        return checks.error(self._what, self._path, received, remedy)

    def _read_directory(self):
        count, size, offset = self._end_of_directory()
        if count > _MAX_ENTRIES or size > _MAX_DIRECTORY:
            raise self._error(f"a zip file of {count:,} entries", "save the weights only")
        if offset + size > self._size:
            raise self._error("a zip file with a directory beyond its end")
        directory, entries, position = checks.read_at(self._file, offset, size), {}, 0
        for _ in range(count):
            entry, position = self._entry(directory, position)
            if entry.name in entries:
                raise self._error(f"two entries of the name {entry.name!r} in a zip file")
            entries[entry.name] = entry
        return entries

    def _end_of_directory(self):
        start = max(0, self._size - 22 - 65535)
        tail = bytes(checks.read_at(self._file, start, 22 + 65535))
        place = tail.rfind(_END)
        if place < 0 or len(tail) - place < 22:
            raise self._error("an incomplete zip file")
        count, size, offset = struct.unpack_from("<HII", tail, place + 10)
        locator = start + place - 20
        if locator >= 0 and bytes(checks.read_at(self._file, locator, 4)) == _LOCATOR_64:
            (where,) = struct.unpack("<Q", checks.read_at(self._file, locator + 8, 8))
            record = checks.read_at(self._file, where, 56)
            if len(record) < 56 or bytes(record[:4]) != _END_64:
                raise self._error("a zip file with a damaged end")
            count, size, offset = struct.unpack_from("<QQQ", record, 32)
        return count, size, offset

    def _entry(self, directory, position):
        """Returns the entry at a position of the directory, and the position after it."""
        if len(directory) - position < 46 or bytes(directory[position : position + 4]) != _ENTRY:
            raise self._error("a zip file with a damaged directory")
        flags, method, _, checksum, packed, size, *lengths = struct.unpack_from("<HHIIIIHHH", directory, position + 8)
        (header,) = struct.unpack_from("<I", directory, position + 42)
        start = position + 46
        end = start + sum(lengths)
        if end > len(directory):
            raise self._error("a zip file with a damaged directory")
        name = self._name(bytes(directory[start : start + lengths[0]]))
        extra = directory[start + lengths[0] : start + lengths[0] + lengths[1]]
        size, packed, header = self._long_sizes(extra, size, packed, header)
        if flags & 0x2041:
            raise self._error("an encrypted zip file", "decrypt it first")
        if method not in (_STORED, _DEFLATED):
            raise self._error(f"an entry of an unknown compression, {name!r}", "save the file without compression")
        if header + packed > self._size or (method == _STORED and size != packed):
            raise self._error(f"an entry larger than the file, {name!r}")
        return Entry(name, method, checksum, packed, size, header), end

    def _name(self, name):
        try:
            name = name.decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("a name in a zip file that is not UTF-8") from None
        if (
            len(name) > checks.MAX_NAME
            or name.startswith("/")
            or ".." in name.split("/")
            or "\\" in name
            or "\0" in name
        ):
            raise self._error(f"the path {name[:80]!r} in a zip file", "get the file from its authors")
        return name

    def _long_sizes(self, extra, *values):
        """Returns sizes and offset of an entry, those that do not fit 32 bits from its extra field."""
        values, place = list(values), 0
        while len(extra) - place >= 4:
            kind, length = struct.unpack_from("<HH", extra, place)
            if kind == 1:
                field = extra[place + 4 : place + 4 + length]
                long = [number for number, value in enumerate(values) if value == 0xFFFFFFFF]
                if len(field) < 8 * len(long):
                    raise self._error("a zip file with a damaged directory")
                for order, number in enumerate(long):
                    (values[number],) = struct.unpack_from("<Q", field, 8 * order)
                break
            place += 4 + length
        return values

    def check_total(self, names: list[str]) -> None:
        """Checks that entries are together at most twice as large as the file.

        Raises:
          FormatError: if they are larger: their compression, or overlapping entries, would exhaust the memory.
        """
        total = sum(self.entries[name].size for name in names)
        if total > 2 * self._size:
            raise self._error(f"entries of {total:,} bytes in a file of {self._size:,}", "save it without compression")

    def check_stored(self) -> None:
        """Checks that no entry is compressed.

        Raises:
          FormatError: naming the first that is.
        """
        for entry in self.entries.values():
            if entry.method != _STORED:
                raise self._error(f"the compressed entry {entry.name!r}", "save the file without compression")

    def read_into(self, name: str, target: memoryview) -> None:
        """Reads an entry into memory of its size, and compares its checksum.

        Raises:
          FormatError: if the entry is damaged or has another size.
        """
        entry = self.entries[name]
        header = checks.read_at(self._file, entry.header, 30)
        if len(header) < 30 or bytes(header[:4]) != _LOCAL:
            raise self._error(f"a damaged entry, {name!r}")
        start = entry.header + 30 + sum(struct.unpack_from("<HH", header, 26))
        if len(target) != entry.size or start + entry.packed_size > self._size:
            raise self._error(f"a damaged entry, {name!r}")
        complete = (
            checks.read_into(self._file, start, target)
            if entry.method == _STORED
            else self._inflate(start, entry.packed_size, target)
        )
        if not complete or zlib.crc32(target) != entry.checksum:
            raise self._error(f"the entry {name!r} with another checksum")

    def _inflate(self, start, size, target):
        decoder, done = zlib.decompressobj(-15), 0
        try:
            for offset in range(start, start + size, _CHUNK):
                packed = checks.read_at(self._file, offset, min(_CHUNK, start + size - offset))
                while packed and not decoder.eof:
                    found = decoder.decompress(packed, _CHUNK)
                    if done + len(found) > len(target):
                        return False
                    target[done : done + len(found)] = found
                    done += len(found)
                    packed = decoder.unconsumed_tail
        except zlib.error:
            return False
        return done == len(target)

    def read(self, name: str) -> memoryview:
        """Returns the bytes of an entry, read-only; see `read_into`."""
        data = memoryview(bytearray(self.entries[name].size))
        self.read_into(name, data)
        return data.toreadonly()
