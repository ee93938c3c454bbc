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


def read_json(path):
    """What is in a file in JSON.

    Raises:
      OSError: for a file that cannot be read.
      ValueError: for one of no JSON, or of lists in lists in lists beyond what Python reads, naming it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}. Received: {str(error).splitlines()[0]}") from None


def write_json(path, values):
    """Writes figures for machines."""
    with whole(path) as file:
        json.dump(values, file, indent=2)
        file.write("\n")
