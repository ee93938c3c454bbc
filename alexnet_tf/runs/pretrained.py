"""The trained networks that the package contains, by name, such as ``pretrained:tiny_imagenet_small``."""

import functools
import os
import pathlib
import shutil
import tempfile

from alexnet_tf.runs import packed_runs
from alexnet_tf.utils import checksums
from alexnet_tf.weights import packed

PREFIX = "pretrained:"
_DIRECTORY = pathlib.Path(packed.__file__).parent


def names() -> list[str]:
    """Returns the names of the trained networks, without the prefix."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.safetensors"))


def find(workdir: str | os.PathLike) -> str:
    """Returns the directory of a run: `workdir` itself, or that of a trained network by name.

    A trained network is unpacked on its first use, into ``alexnet_tf`` in the user's cache directory
    (``$XDG_CACHE_HOME``, or ``~/.cache``).

    Args:
      workdir: the directory of a run, or ``pretrained:NAME``.

    Raises:
      FileNotFoundError: if there is no trained network of this name.
      OSError: if the cache directory cannot be written.
    """
    workdir = os.fsdecode(workdir)
    if not workdir.startswith(PREFIX):
        return workdir
    name = workdir.removeprefix(PREFIX)
    if name not in names():
        raise FileNotFoundError(f"Expected {PREFIX}NAME with one of {', '.join(names())}. Received: {workdir}")
    file = _DIRECTORY / f"{name}.safetensors"
    # Another version of the package may have other weights of the same name.
    directory = os.path.join(_cache(), f"{name}-{_checksum(file)[:12]}")
    if not os.path.isdir(directory):
        _unpack(file, directory)
    return directory


# A run asks for its initial network several times.
@functools.cache
def _checksum(file):
    return checksums.of_file(file)


def _cache():
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "alexnet_tf")


def _unpack(file, directory):
    """Unpacks a file to a new directory, which another process may create at the same time."""
    parent = os.path.dirname(directory)
    try:
        os.makedirs(parent, exist_ok=True)
        part = tempfile.mkdtemp(prefix=".unpacking-", dir=parent)
    except OSError as error:
        raise OSError(
            f"Cannot unpack {file.stem} to {parent}: {error.strerror}; name another directory in XDG_CACHE_HOME"
        ) from None
    try:
        packed_runs.unpack(file, part)
        try:
            os.rename(part, directory)
        except OSError:
            if not os.path.isdir(directory):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
