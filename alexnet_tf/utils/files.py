"""Atomic writes, locks and JSON files."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from collections.abc import Sequence
from typing import IO
from typing import Any


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file that replaces `path` when the block ends without an error.

    Args:
      path: the final path; the temporary file is `path` with ``.part`` appended.
      mode: "w" for text in UTF-8, "wb" for bytes.

    Yields:
      The open file. After an error it is removed, and an earlier file at `path` is unchanged.
    """
    temporary = f"{path}.part"
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


@contextlib.contextmanager
def exclusive_lock(path: str | os.PathLike, what: str | os.PathLike) -> Iterator[int]:
    """Locks a file for the block, or until this process and the children that inherit the descriptor have exited.

    Args:
      path: the lock file; created if missing, never removed.
      what: the directory that the lock protects, for the error message.

    Yields:
      The descriptor of the lock file, an int, to pass to child processes.

    Raises:
      BlockingIOError: if another process holds the lock.
    """
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"Another process is using {what}; wait for it to finish, or use another directory"
            ) from None
        yield file.fileno()


def read_json(path: str | os.PathLike, fields: Sequence[str] = ()) -> Any:
    """Returns the value stored in a JSON file.

    Args:
      path: path of the file.
      fields: names of required fields. If there are any, the value must be an object that has them.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is not JSON, is nested deeper than Python's parser allows, or lacks a field; the message names
        the file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}. Received: {str(error).splitlines()[0]}") from None
    missing = [field for field in fields if not isinstance(value, dict) or field not in value]
    if missing:
        raise ValueError(f"Expected {', '.join(fields)} in {path}, but {', '.join(missing)} is missing")
    return value


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Writes a value as an indented JSON file, atomically."""
    with atomic_write(path) as file:
        json.dump(values, file, indent=2)
        file.write("\n")
