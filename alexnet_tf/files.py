"""Files that are whole or not there."""

import contextlib
import fcntl
import json
import os


@contextlib.contextmanager
def whole(path, mode="w"):
    """Opens a file to be written aside, which gets its name when the block ends without an error.

    Args:
      path: the final name.
      mode: "w" for text in UTF-8, "wb" for bytes.

    Yields:
      The open file. After an error nothing is left of it, and what was at `path` before still is.
    """
    aside = f"{path}.part"
    try:
        with open(aside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(aside)
        raise


@contextlib.contextmanager
def locked(path, what):
    """Holds a file for as long as this process, and those that it hands the file's number to, are alive.

    Args:
      path: of the file, which stays.
      what: what is kept from others, for the error.

    Yields:
      The file's number.

    Raises:
      BlockingIOError: if another process holds it.
    """
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"Expected {what} for this program alone. Received: another one at work") from None
        yield file.fileno()


def write_json(path, values):
    """Writes figures for machines."""
    with whole(path) as file:
        json.dump(values, file, indent=2)
        file.write("\n")
