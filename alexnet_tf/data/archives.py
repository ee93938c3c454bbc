"""Files in tar archives, read by index without unpacking the archives.

The headers of an archive are read once. Only the names, offsets and sizes of its files are kept.
"""

import os
import tarfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Limit on decompressed data: a photograph that is itself compressed, or a file of a compressed archive.
MAX_DECOMPRESSED_BYTES = 64 * 2**20


class Members(NamedTuple):
    """Regular files in a tar archive, sorted by their names without folders."""

    names: list[str]  # as in the archive
    offsets: np.ndarray  # int64 [members]: from the start of the file that is or contains the archive
    sizes: np.ndarray  # int64 [members]: in bytes


class Locations(NamedTuple):
    """Where the examples of a split are."""

    names: list[str]  # one per example
    paths: list  # archives
    file_of: np.ndarray  # int16 [examples]: index into paths
    offsets: np.ndarray  # int64 [examples]
    sizes: np.ndarray  # int64 [examples]: in bytes


def members(
    path: str | os.PathLike, *, suffix: str, start: int = 0, size: int | None = None, name: str | None = None
) -> Members:
    """Finds the files in an uncompressed tar archive by reading its headers.

    Links, folders, devices, sparse files and files whose names begin with a dot are ignored.

    Args:
      path: a file that is or contains the archive.
      suffix: suffix of the names to find, in lowercase, such as ".jpeg"; matched without regard to case.
      start: int, offset of the archive in the file.
      size: int, size of the archive in bytes; None for the rest of the file.
      name: the archive's name in error messages; None for `path`.

    Returns:
      `Members`.

    Raises:
      ValueError: if this is not an archive, it is truncated or damaged, or it contains a name twice.
    """
    name = name or str(path)
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size if size is None else start + size
        found, last = [], ""
        try:
            for member in _headers(file, start, end):
                base = base_name(member.name)
                if member.isreg() and not member.issparse() and base[:1] != "." and base.lower().endswith(suffix):
                    found.append((base, member.name, member.offset_data, member.size))
                last = member.name
        except (tarfile.TarError, ValueError, OverflowError) as error:
            where = f"truncated or damaged after {last}" if last else f"without a valid member ({first_line(error)})"
            raise ValueError(
                f"Expected {name} to be a complete, uncompressed tar archive. Received: {end - start} bytes, {where}; "
                "download or copy it again"
            ) from None
    found.sort()
    for (base, *_), (following, *_) in zip(found, found[1:]):
        if base == following:
            raise ValueError(f"Expected every name in {name} once. Received: {base} twice")
    offsets, sizes = (np.array([entry[column] for entry in found], np.int64) for column in (2, 3))
    return Members([entry[1] for entry in found], offsets, sizes)


def _headers(file, start, end):
    """Yields the ``tarfile.TarInfo`` of every member of the archive between two offsets of a file.

    Raises:
      tarfile.TarError, ValueError, OverflowError: if the archive is truncated or damaged.
    """
    file.seek(start)
    # "r:" accepts uncompressed archives only: members of compressed ones have no offset.
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            # Otherwise the archive would keep every member, a kilobyte each.
            archive.members.clear()
            if member.size < 0 or member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{member.name} is incomplete")
            yield member
        # tarfile takes a damaged or missing header for the end of the archive; a block of zeros marks the real end.
        mark = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
        if archive.offset + tarfile.BLOCKSIZE > end or mark != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end marker")


def base_name(name: str) -> str:
    """Returns a member's name without its folders."""
    return name.rpartition("/")[2]


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def reader(locations: Locations) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function that reads the bytes of an example.

    Gzip-compressed examples are decompressed.

    Args:
      locations: `Locations` of the examples.

    Returns:
      A function that maps an index, scalar int64 tensor, to a scalar string tensor.
    """

    def fetch(index):
        path, size = locations.paths[locations.file_of[index]], int(locations.sizes[index])
        # Opened for each example: there can be a thousand archives, and a process may open about as many files.
        descriptor = os.open(path, os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, int(locations.offsets[index]))
        finally:
            os.close(descriptor)
        name = locations.names[index]
        if len(content) != size:
            raise ValueError(f"Expected {size} bytes of {name} in {path}. Received: {len(content)}")
        return _decompressed(content, f"{name} in {path}") if content[:2] == b"\x1f\x8b" else content

    return lambda index: tf.ensure_shape(tf.numpy_function(fetch, [index], tf.string, stateful=False), [])


def _decompressed(content, where):
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    received = "a truncated one"
    try:
        plain = stream.decompress(content, MAX_DECOMPRESSED_BYTES + 1)
        if len(plain) > MAX_DECOMPRESSED_BYTES:
            received = "more"
        elif stream.eof:
            return plain
    except zlib.error as error:
        received = first_line(error)
    raise ValueError(
        f"Expected {where} to be a complete gzip file of at most {MAX_DECOMPRESSED_BYTES} bytes. Received: {received}"
    )
