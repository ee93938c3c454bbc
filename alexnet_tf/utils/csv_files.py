"""Tables as CSV files (RFC 4180, with line feeds), written atomically."""

import contextlib
import csv
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from alexnet_tf.utils import files
from alexnet_tf.utils import pathnames


@contextlib.contextmanager
def open_table(path: str | os.PathLike, header: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], None]]:
    r"""Opens a table, which gets its name when the block ends without an error.

    The file is UTF-8. All texts are quoted, so that commas, quotes and line breaks are read back as they are; numbers
    are not. A byte of a file name that is not UTF-8 is written as ``\xe9``, and None as an empty text.

    Args:
      path: of the file.
      header: names of the columns.

    Yields:
      A function that writes a row of texts and numbers.
    """
    with files.atomic_write(path) as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")

        def write(row):
            writer.writerow([_text(each) if isinstance(each, str) else each for each in row])

        write(header)
        yield write


def _text(value):
    if pathnames.is_text(value):
        return value
    try:
        return pathnames.printable(value)
    except UnicodeEncodeError:
        # Half a character, which stands for no byte.
        return value.encode(errors="backslashreplace").decode()


def check(path: str | os.PathLike) -> None:
    """Checks the path of a table before work whose result could not be written.

    Raises:
      OSError: if it is a directory, or in one that does not exist.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f"Expected the name of a CSV file. Received: the directory {path}")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise FileNotFoundError(f"Expected a CSV file in an existing directory. Received: {path}")
