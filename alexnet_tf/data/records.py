"""TFRecord files that are read by index, with the checksums of each record verified as it is read.

The format is TensorFlow's: length (8 bytes), its checksum (4), the data, their checksum (4); little-endian, masked
CRC-32C. TensorFlow's own reader reads records in sequence only.
"""

import hashlib
import os
import struct
import threading
import weakref
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import google_crc32c
import numpy as np

from alexnet_tf.utils import files

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
OVERHEAD = _HEADER.size + _FOOTER.size

# Files that are kept open, as a process may have about a thousand. Further files are opened for each record.
_MAX_OPEN_FILES = 500


class DamagedRecordError(ValueError):
    """A record differs from what was written."""


def masked_checksum(data: bytes) -> int:
    """Returns the CRC-32C of bytes, masked as in TFRecord files."""
    checksum = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write(path: str | os.PathLike, payloads: Iterable[bytes]) -> tuple[np.ndarray, str]:
    """Writes a TFRecord file atomically: it gets its name once it is complete and on disk.

    Args:
      path: the final name.
      payloads: iterable of bytes.

    Returns:
      The offset of each record in the file, int64 ``[records]``, and the file's SHA-256 as hexadecimal digits.

    Raises:
      OSError: if the disk is full; no partial file remains.
    """
    digest = hashlib.sha256()
    places = []
    position = 0
    with files.atomic_write(path, "wb") as file:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            record = b"".join(
                [length, _FOOTER.pack(masked_checksum(length)), payload, _FOOTER.pack(masked_checksum(payload))]
            )
            file.write(record)
            digest.update(record)
            places.append(position)
            position += len(record)
        file.flush()
        os.fsync(file.fileno())
    return np.array(places, np.int64), digest.hexdigest()


def check(record: bytes, where: str) -> bytes:
    """Verifies the checksums of a record and returns its data.

    Args:
      record: bytes, including header and footer.
      where: the record's name in error messages.

    Returns:
      Bytes.

    Raises:
      DamagedRecordError: if a checksum does not match.
    """
    length, checksum = _HEADER.unpack_from(record)
    payload = record[_HEADER.size : -_FOOTER.size]
    if length != len(payload) or checksum != masked_checksum(record[:8]):
        raise DamagedRecordError(f"Expected a record of {len(payload)} bytes. Received: a damaged header at {where}")
    if _FOOTER.unpack_from(record, len(record) - _FOOTER.size)[0] != masked_checksum(payload):
        raise DamagedRecordError(f"Expected the bytes that were written. Received: a wrong checksum at {where}")
    return payload


class Records:
    """The records of several files as one sequence.

    Args:
      paths: list of files.
      file_of: int ``[records]``, the index into `paths` of each record.
      places: int64 ``[records]``, the offset of each record in its file.
      lengths: int ``[records]``, the number of bytes of each record's data.
      name_of: maps an index to the record's name in error messages.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        file_of: np.ndarray,
        places: np.ndarray,
        lengths: np.ndarray,
        name_of: Callable[[int], str],
    ):
        self._paths = [os.fspath(path) for path in paths]
        self._file_of = file_of
        self._places = places
        self._lengths = lengths
        self._name_of = name_of
        self._open = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._open)

    def __len__(self):
        return len(self._places)

    def read(self, index: int) -> bytes:
        """Reads the data of one record.

        Raises:
          DamagedRecordError: if they differ from what was written; the message names the record and the file.
          OSError: if the file cannot be read.
        """
        number = int(self._file_of[index])
        size = int(self._lengths[index]) + OVERHEAD
        descriptor, is_kept = self._descriptor(number)
        try:
            record = os.pread(descriptor, size, int(self._places[index]))
        finally:
            if not is_kept:
                os.close(descriptor)
        if len(record) != size:
            where = self._where(index, number)
            raise DamagedRecordError(f"Expected {size} bytes. Received: {len(record)}, the file ends at {where}")
        try:
            return check(record, "")
        except DamagedRecordError as error:
            # The name is looked up only for an error, as the lookup takes longer than the check.
            raise DamagedRecordError(f"{error}{self._where(index, number)}") from None

    def _where(self, index, number):
        return f"{self._name_of(int(index))} in {self._paths[number]}"

    def _descriptor(self, number):
        """Returns the descriptor of an open file, and whether it stays open."""
        with self._lock:
            if number in self._open:
                return self._open[number], True
            descriptor = os.open(self._paths[number], os.O_RDONLY)
            if len(self._open) < _MAX_OPEN_FILES:
                self._open[number] = descriptor
            return descriptor, number in self._open


def _close_all(descriptors):
    for descriptor in descriptors.values():
        os.close(descriptor)
