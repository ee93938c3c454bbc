"""Checksums of files that have none of their own, in a file next to them."""

import hashlib
import os
from collections.abc import Iterable

from alexnet_tf.utils import files
from alexnet_tf.utils import schema

FILE = "checksums.json"
_STRUCTURE = schema.Object({"files": schema.Map(schema.Text()), schema.SEAL: schema.Text()})


def of_file(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(directory: str | os.PathLike, names: Iterable[str]) -> None:
    """Writes the checksums of files in a directory, named relative to it, to `FILE` there."""
    values = {"files": {name: of_file(os.path.join(directory, name)) for name in names}}
    files.write_json(os.path.join(directory, FILE), schema.sealed(values))


def check(directory: str | os.PathLike, what: str, remedy: str) -> None:
    """Checks files against the checksums in their directory. A directory of an older version, without any, passes.

    Args:
      directory: of `write`.
      what: the files, such as "the files of an export", for the message.
      remedy: what to do, for the end of the message.

    Raises:
      ValueError: if a file is missing or has other bytes than those that were written.
    """
    path = os.path.join(directory, FILE)
    if not os.path.exists(path):
        return
    values = schema.read_json(path, _STRUCTURE, what, remedy)
    schema.check_seal(values, what, path, remedy)
    for name, expected in values["files"].items():
        each = os.path.join(directory, name)
        if not os.path.isfile(each):
            raise schema.error(what, directory, f"none named {name}", remedy)
        if of_file(each) != expected:
            raise schema.error(what, directory, f"{name} with other bytes than those that were written", remedy)
