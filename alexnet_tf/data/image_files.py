"""Finds image files that a user names by folders, patterns, lists or one by one."""

import glob
import os
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_tf.data import folders
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames
from alexnet_tf.utils import text_files

LIST_SUFFIX = ".txt"


class Found(NamedTuple):
    """The image files that were found."""

    paths: list[str]
    notes: tuple[str, ...]  # a line for each kind of file or folder that is not read


def find(requests: Sequence[str]) -> Found:
    """Finds image files.

    Args:
      requests: each is a folder, searched with all folders below it for files with a suffix of an image; a text file
        that ends in .txt, with one path per line; a pattern such as ``photographs/*/*.jpg``, in which ``**`` stands for
        any folders; or an image file. A file of that name comes before a pattern.

    Returns:
      `Found`, in the order of the requests and sorted within each folder and pattern. A file that is named twice is
      there twice.

    Raises:
      FileNotFoundError: for a request that matches nothing.
      ValueError: for a list in another encoding than UTF-8.
    """
    paths, notes = [], []
    for request in requests:
        if os.path.isdir(request):
            unread = folders.Unread()
            found = list(folders.below(request, unread))
            notes += map(messages.printable, unread.lines(request))
            expected = f"images ({', '.join(folders.IMAGE_SUFFIXES)}) in {request}"
        elif os.path.exists(request):
            found = _listed(request) if request.lower().endswith(LIST_SUFFIX) else [request]
            expected = f"a path of an image on each line of {request}"
        else:
            found = sorted(path for path in _matches(request) if not os.path.isdir(path))
            expected = f"a folder, an image, a list of images (*{LIST_SUFFIX}) or a pattern that matches images"
        if not found:
            received = "none" if os.path.exists(request) else messages.printable(request)
            raise FileNotFoundError(f"Expected {messages.printable(expected)}. Received: {received}")
        paths += found
    return Found(paths, tuple(notes))


def find_or_keep(requests: Sequence[str]) -> Found:
    """Finds image files as `find` does, but keeps paths of single files, which may not exist: their reader reports it.

    Raises:
      FileNotFoundError, ValueError: as `find`, for a folder, a list or a pattern.
    """
    paths, notes = [], []
    for request in requests:
        is_list = request.lower().endswith(LIST_SUFFIX) and os.path.isfile(request)
        is_pattern = pathnames.has_patterns(request) and not os.path.lexists(request)
        found = find([request]) if is_list or is_pattern or os.path.isdir(request) else Found([request], ())
        paths += found.paths
        notes += found.notes
    return Found(paths, tuple(notes))


def _matches(pattern):
    try:
        return glob.glob(pattern, recursive=True) if pathnames.has_patterns(pattern) else []
    except ValueError:
        return []


def _listed(path):
    """Returns the paths in a list, which are relative to the current directory as those on a command line."""
    # Names of files may have any bytes.
    text = text_files.read(path, "a list of images", errors="surrogateescape")
    return [pathnames.expand(line) for line in map(str.strip, text.split("\n")) if line]
