"""Paths as users write them, as TensorFlow takes them and as messages show them."""

import atexit
import contextlib
import functools
import hashlib
import os
import re
import shutil
import tempfile
import unicodedata

# What TensorFlow and TFDS take for a pattern where they look for files.
_PATTERN = re.compile(r"[*?\[\]\\]")
# A home directory at the start of a path, or after the kind of a data source, as in folder:~/images.
_HOME = re.compile(r"([a-z0-9_]+:)?(~.*)", re.DOTALL)


def expand(path: str) -> str:
    """Returns a path with the home directory in place of a leading ``~`` or ``~USER``, as a shell does.

    Shells leave ``--flag=~/x`` and ``folder:~/x`` as they are, and no shell reads flagfiles. A path that begins with
    ``./~``, and the name of an unknown user, stay as well.

    Args:
      path: a path, or a data source such as ``folder:~/images``.
    """
    match = _HOME.fullmatch(path)
    return f"{match[1] or ''}{os.path.expanduser(match[2])}" if match else path


def has_patterns(path: str) -> bool:
    """Returns whether TensorFlow takes a path for a pattern."""
    return bool(_PATTERN.search(path))


def without_patterns(directory: str | os.PathLike) -> str:
    """Returns a path of a directory that TensorFlow does not take for a pattern.

    Some of TensorFlow's functions look for files with a pattern and then open the path itself, so there is no way to
    escape ``[``: a checkpoint in ``runs/lr[0.1]`` cannot be read, and removing it would remove that of ``runs/lr0``.

    Args:
      directory: path of a directory that exists.

    Returns:
      The path itself, or that of a temporary link to it, which is removed when the process exits. The link is made
      anew if it has disappeared, so call this before each use.
    """
    path = os.fspath(directory)
    if not has_patterns(path):
        return path
    target = os.path.abspath(path)
    link = os.path.join(_links(), hashlib.sha256(os.fsencode(target)).hexdigest()[:16])
    with contextlib.suppress(FileExistsError):
        os.symlink(target, link)
    return link


def _links():
    """Returns this process's directory of links."""
    if not os.path.isdir(_create_links(os.getpid())):
        # Removed by a cleaner of temporary files.
        _create_links.cache_clear()
    return _create_links(os.getpid())


@functools.cache
def _create_links(process):
    parent = tempfile.gettempdir()
    directory = tempfile.mkdtemp(prefix="alexnet_tf-", dir="/tmp" if _PATTERN.search(parent) else parent)
    # A forked child exits, too.
    atexit.register(lambda: os.getpid() == process and shutil.rmtree(directory, ignore_errors=True))
    return directory


def composed(name: str) -> str:
    """Returns a name with accents as part of their letters; some systems write them as characters after these."""
    return unicodedata.normalize("NFC", name)


def is_text(path: str) -> bool:
    """Returns whether a path is UTF-8. The name of a file on Linux may consist of any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in path)


def printable(path: str | os.PathLike) -> str:
    r"""Returns a path as UTF-8, with ``\xe9`` in place of a byte that is not."""
    return os.fsencode(path).decode(errors="backslashreplace")
