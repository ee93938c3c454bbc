"""Atomic writes and locks."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from collections.abc import Iterator
from typing import IO
from typing import Any

# What a write raises, without the file's name, if the disk, a quota or the largest size of a file is exhausted.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A list of numbers and null in indented JSON.
_NUMBERS = re.compile(r"\[\n(?:\s+(?:-?\d[^\s,]*|null),?\n)+\s*\]")


@contextlib.contextmanager
def named_if_full(path: str | os.PathLike) -> Iterator[None]:
    """Adds the name of a file to an error within the block that says that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file that replaces `path` when the block ends without an error.

    The content is on disk before the file gets its name, and the name before this returns, so that after a power cut
    there is either the old file or the complete new one.

    Args:
      path: the final path; the temporary file is `path` with ``.part`` appended. A link of that name is replaced, not
        followed.
      mode: "w" for text in UTF-8, "wb" for bytes.

    Yields:
      The open file. After an error it is removed, and an earlier file at `path` is unchanged.

    Raises:
      OSError: naming the file, if it cannot be written.
    """
    temporary = f"{os.fspath(path)}.part"
    descriptor = create(temporary)
    ours = os.fstat(descriptor)
    try:
        with named_if_full(path), open(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        if not _is_at(ours, temporary):
            raise OSError(f"Expected {path} to be written by one process. Received: two; run one at a time")
        os.replace(temporary, path)
        sync_directory(os.path.dirname(path))
    except BaseException:
        if _is_at(ours, temporary):
            os.remove(temporary)
        raise


def create(path: str | os.PathLike) -> int:
    """Returns the descriptor of a new file, in place of one that a killed process left or of a link."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _is_at(status, path):
    """Returns whether the file with this ``os.stat_result`` is the one at a path."""
    try:
        return os.path.samestat(status, os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def sync_directory(path: str | os.PathLike) -> None:
    """Waits until the names in a directory are on disk; the current directory if `path` is empty."""
    descriptor = os.open(path or os.curdir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some file systems, of networks and of FUSE, have no such call for directories.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(paths: Iterable[str | os.PathLike]) -> None:
    """Waits until files that a library has written, and their names, are on disk.

    Args:
      paths: of files, and of directories with everything below them. Links are not followed.

    Raises:
      OSError: if a file cannot be written.
    """
    directories = set()
    for path in map(os.fspath, paths):
        directories.add(os.path.dirname(path))
        if os.path.isdir(path):
            for folder, _, names in os.walk(path):
                directories.add(folder)
                for name in names:
                    _sync_file(os.path.join(folder, name))
        else:
            _sync_file(path)
    for directory in directories:
        sync_directory(directory)


def _sync_file(path):
    if os.path.islink(path):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive_lock(path: str | os.PathLike, what: str | os.PathLike) -> Iterator[int]:
    """Locks a file for the block, or until this process and the children that inherit the descriptor have exited.

    Args:
      path: the lock file; created if missing, never removed or changed. A link is not followed.
      what: the directory that the lock protects, for the error message.

    Yields:
      The descriptor of the lock file, an int, to pass to child processes.

    Raises:
      BlockingIOError: if another process holds the lock.
      OSError: if `path` is a link or another thing that is not a file.
    """
    descriptor = _open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"Another process is using {what}; wait for it to finish, or use another directory"
            ) from None
        yield descriptor
    finally:
        os.close(descriptor)


def _open_lock(path):
    if not os.path.islink(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise OSError(f"Expected the lock {path} to be a file. Received: a link or a special file; remove it")


def digest(parts: Iterable[bytes]) -> str:
    """Returns a SHA-256, in hexadecimal digits, that depends on every part and on where parts end."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def write_json(path: str | os.PathLike, values: Any, *, short_lists: bool = False) -> None:
    """Writes a value as an indented JSON file, atomically.

    Args:
      path: of the file.
      values: the value.
      short_lists: whether a list of numbers is on one line, as for matrices.
    """
    with atomic_write(path) as file:
        if short_lists:
            # No text of JSON has a line break in it, so only lists match.
            file.write(
                _NUMBERS.sub(lambda match: f"[{' '.join(match[0][1:-1].split())}]", json.dumps(values, indent=2))
            )
        else:
            json.dump(values, file, indent=2)
        file.write("\n")
