"""TFRecord files that are written with checksums and read by index, each record checked as it is read.

The format is TensorFlow's: length (8 bytes), its checksum (4), the data, their checksum (4); little-endian, CRC-32C,
masked. TensorFlow's own reader goes from record to record; a file that is read at any place needs this one.
"""

import hashlib
import os
import struct
import threading
import weakref

import google_crc32c
import numpy as np

from alexnet_tf.utils import files

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
OVERHEAD = _HEADER.size + _FOOTER.size

# More files than this are opened anew for each record, as a process may hold about a thousand.
_MOST_OPEN = 500


class DamagedRecordError(ValueError):
    """A record is not what was written."""


def masked_checksum(data):
    """The CRC-32C of bytes, masked as TFRecord asks, so that a checksum of checksums is one too."""
    checksum = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write(path, payloads):
    """Writes a TFRecord file aside, which gets its name when it is whole and on the disk.

    Args:
      path: the final name.
      payloads: iterable of bytes.

    Returns:
      The place of each record in the file, int64 ``[records]``, and the SHA-256 of the file as hexadecimal digits.

    Raises:
      OSError: for a disk that takes no more; nothing is left then.
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


def check(record, where):
    """The data of a whole record.

    Args:
      record: bytes, header and footer included.
      where: what the record is called in a message.

    Returns:
      Bytes.

    Raises:
      DamagedRecordError: if a checksum does not fit.
    """
    length, checksum = _HEADER.unpack_from(record)
    payload = record[_HEADER.size : -_FOOTER.size]
    if length != len(payload) or checksum != masked_checksum(record[:8]):
        raise DamagedRecordError(f"Expected a record of {len(payload)} bytes. Received: a damaged header at {where}")
    if _FOOTER.unpack_from(record, len(record) - _FOOTER.size)[0] != masked_checksum(payload):
        raise DamagedRecordError(f"Expected the bytes that were written. Received: a wrong checksum at {where}")
    return payload


class Records:
    """The records of several files as one list.

    Args:
      paths: list of files.
      file_of: int ``[records]``, the index into `paths` of each record.
      places: int64 ``[records]``, where in its file each begins.
      lengths: int ``[records]``, bytes of each one's data.
      name_of: maps an index to what the record is called in messages.
    """

    def __init__(self, paths, file_of, places, lengths, name_of):
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

    def read(self, index):
        """The data of one record, bytes.

        Raises:
          DamagedRecordError: if they are not what was written, naming record and file.
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
            # The name is looked up only here: it costs more than the check.
            raise DamagedRecordError(f"{error}{self._where(index, number)}") from None

    def _where(self, index, number):
        return f"{self._name_of(int(index))} in {self._paths[number]}"

    def _descriptor(self, number):
        """An open file, and whether it stays open."""
        with self._lock:
            if number in self._open:
                return self._open[number], True
            descriptor = os.open(self._paths[number], os.O_RDONLY)
            if len(self._open) < _MOST_OPEN:
                self._open[number] = descriptor
            return descriptor, number in self._open


def _close_all(descriptors):
    for descriptor in descriptors.values():
        os.close(descriptor)
