"""What all readers of weight files check, and the form of their errors."""

import os
import stat
from collections.abc import Iterable
from collections.abc import Mapping
from typing import IO

import numpy as np

from alexnet_tf.utils import escaping
from alexnet_tf.utils import schema
from alexnet_tf.weights import contents

# Far more than any AlexNet has, and little enough to keep in memory.
MAX_ARRAYS, MAX_NAME, MAX_DEPTH = 5_000, 500, 16
DOWNLOAD_AGAIN = "the file is damaged; download it again"


def error(what: str, path: str | os.PathLike, received: object, remedy: str = "") -> contents.FormatError:
    """Returns the error for a file that is not as expected.

    Args:
      what: what was expected, such as "a PyTorch state_dict".
      path: the path of the file.
      received: what the file has instead.
      remedy: what to do, for the end of the message.

    Returns:
      A `contents.FormatError` of one line.
    """
    return contents.FormatError(escaping.one_line(schema.error(what, path, received, remedy)))


def another_kind(path: str | os.PathLike, what: str, received: object, remedy: str) -> contents.FormatError:
    """Returns the error for a file that is damaged or not of a format; arguments as of `error`."""
    name, problem = escaping.one_line(os.fspath(path)), escaping.one_line(received)
    return contents.FormatError(f"Expected {name} to be {what}. Received: {problem}; {remedy}")


def open_file(path: str | os.PathLike, what: str) -> IO[bytes]:
    """Opens a weight file, unbuffered; `what` and `path` are as for `error`.

    Raises:
      FormatError: if there is no file, or it is empty, a directory or a device.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise error(what, path, "no file of this name; check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise error(what, path, "a directory; give the path of a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise error(what, path, "a pipe or a device; save its data in a file first")
    if not status.st_size:
        raise error(what, path, "an empty file; download it again")
    return open(path, "rb", buffering=0)


def size_of(file: IO[bytes]) -> int:
    """Returns the number of bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def read_into(file: IO[bytes], offset: int, target: memoryview) -> bool:
    """Reads bytes of a file from `offset` on until `target` is full; returns False if the file ends before."""
    done = 0
    if target:
        file.seek(offset)
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            return False
        done += count
    return True


def read_at(file: IO[bytes], offset: int, size: int) -> memoryview:
    """Returns up to `size` bytes of a file from `offset` on, read-only; fewer if the file ends before."""
    data = bytearray(max(0, min(size, size_of(file) - offset)))
    return memoryview(data if read_into(file, offset, memoryview(data)) else b"").toreadonly()


def number_of_values(shape: tuple[int, ...]) -> int:
    """Returns the product of the sizes of an array's axes, an int of any size."""
    product = 1
    for size in shape:
        product *= int(size)
    return product


def shape_problem(shape: object) -> str:
    """Returns what is wrong with the shape of an array; empty if nothing is."""
    if not isinstance(shape, (tuple, list)) or any(type(size) is not int for size in shape):
        return "an array whose shape is not a tuple of integers"
    if len(shape) > 8 or any(not 0 <= size < 2**40 for size in shape):
        return f"an array of shape {str(list(shape))[:80]}"
    if number_of_values(tuple(size for size in shape if size)) >= 2**48:
        return f"an array of shape {list(shape)}"
    return ""


def check_names(path: str | os.PathLike, what: str, arrays: Iterable[str]) -> None:
    """Checks that the names of arrays can be printed in a line; `path` and `what` are as for `error`.

    Raises:
      FormatError: for the first name that cannot.
    """
    for name in arrays:
        if not name or len(name) > MAX_NAME or escaping.one_line(name) != name:
            raise error(what, path, f"an array of the name {name[:40]!r}; rename it")


def result(
    path: str | os.PathLike, what: str, file_size: int, format: str, arrays: Mapping[str, np.ndarray], **metadata
) -> contents.Contents:
    """Returns the contents of a file after checks that apply to every format.

    Args:
      path, what: as for `error`.
      file_size: bytes of the file.
      format, arrays: as in `contents.Contents`.
      **metadata: entries of `Contents.metadata`; those that are empty or None are omitted.

    Raises:
      FormatError: if there is no array, or there are more than any network has, or names that cannot be printed in a
        line, or the same bytes of the file are used many times.
    """
    if not arrays:
        raise error(what, path, "no numeric array; name a file with weights")
    if len(arrays) > MAX_ARRAYS:
        raise error(what, path, f"more than {MAX_ARRAYS:,} arrays; save the weights only")
    check_names(path, what, arrays)
    total = sum(array.nbytes for array in arrays.values())
    # Twice for bfloat16, which becomes float32, and twice for shared weights.
    if total > 4 * file_size:
        raise error(what, path, f"arrays of {total:,} bytes in a file of {file_size:,}", DOWNLOAD_AGAIN)
    return contents.Contents(format, dict(arrays), metadata={name: value for name, value in metadata.items() if value})
