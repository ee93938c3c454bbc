"""Writes features of many images as .npy files in a directory, and resumes after an interruption.

The directory of a finished computation has for each layer ``LAYER.npy``, float32 ``[images, ...]``, to be read with
``np.load(path, mmap_mode="r")``, and ``images.json``: the names of the images in the order of the rows, and those that
were skipped. It is written last. ``request.json`` has what the features depend on; another request is refused.

Until then the rows are in ``LAYER.npy.part``, and ``progress.json`` has how many of them are on disk.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_tf.evaluation import feature_index
from alexnet_tf.utils import files
from alexnet_tf.utils import schema

REQUEST, PROGRESS, IMAGES = "request.json", "progress.json", "images.json"
_VERSION = 1
# Between records of the progress, each of which waits for the disk.
_SECONDS = 2.0
_REMEDY = "delete the directory to start over"
_COUNT = schema.Number(low=0, integer=True)
_SKIPPED = schema.List(schema.Object({"place": _COUNT, "name": schema.Text(), "reason": schema.Text()}))
_REQUEST = schema.Object({"version": _COUNT, "count": _COUNT, "shapes": schema.Map(), "features": schema.Map()})
_PROGRESS = schema.Object({"done": _COUNT, "rows": _COUNT, "skipped": _SKIPPED})
_IMAGES = schema.Object({"names": schema.List(schema.Text()), "skipped": _SKIPPED})


class Writer:
    """Writes the features of images in their order; `open_writer` returns it.

    Attributes:
      directory: ``pathlib.Path``.
      done: int, how many images are written or skipped.
      skipped: list of dicts with the place, name and reason of each image that was skipped.
      is_complete: bool, whether `finish` was called.
    """

    def __init__(self, directory: pathlib.Path, shapes: Mapping[str, Sequence[int]], count: int):
        self.directory = directory
        self.done = 0
        self.skipped: list[dict[str, Any]] = []
        self.is_complete = (directory / IMAGES).is_file()
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._count = count
        self._rows = 0
        self._files = {}
        self._recorded_at = time.monotonic()
        if self.is_complete:
            self.skipped = schema.read_json(directory / IMAGES, _IMAGES, "the images of features", _REMEDY)["skipped"]
            self.done = count
        else:
            self._open()

    def path(self, name: str) -> pathlib.Path:
        """Returns the path of a layer's array."""
        return self.directory / f"{name}.npy"

    def _part(self, name):
        return self.directory / f"{name}.npy.part"

    def _open(self):
        """Opens the arrays at the rows that are surely on disk."""
        path = self.directory / PROGRESS
        if path.exists():
            progress = schema.read_json(path, _PROGRESS, "the progress of features", _REMEDY)
            schema.check_seal(progress, "the progress of features", path, _REMEDY)
            self.done, self._rows, self.skipped = (progress[name] for name in ("done", "rows", "skipped"))
            if self.done != self._rows + len(self.skipped) or self.done > self._count:
                raise schema.error(f"the progress of {self._count} images", path, f"{self.done}", _REMEDY)
        for name, shape in self._shapes.items():
            part = self._part(name)
            if self.done == self._count and not part.exists() and self.path(name).exists():
                # Was being finished.
                continue
            header = feature_index.header((0, *shape), "float32")
            size = len(header) + 4 * self._rows * int(np.prod(shape, dtype=np.int64))
            if self._rows and (part.is_symlink() or not part.is_file() or part.stat().st_size < size):
                raise schema.error(f"at least {size} bytes", part, "fewer, or a link", _REMEDY)
            file = open(part, "r+b") if self._rows else os.fdopen(files.create(part), "wb")
            self._files[name] = file
            file.truncate(size)
            file.write(header)
            file.seek(size)

    def add(self, features: Mapping[str, np.ndarray], skipped: Sequence[Mapping[str, Any]]) -> None:
        """Writes a batch.

        Args:
          features: float32 ``[rows, ...]`` of each layer.
          skipped: the images of the batch without features, as in the attribute `skipped`.

        Raises:
          ValueError: for features that are NaN or infinite.
          OSError: if they cannot be written.
        """
        rows = {len(array) for array in features.values()}
        for name, array in features.items():
            if array.shape[1:] != self._shapes[name] or len(rows) != 1:
                raise ValueError(f"Expected features {self._shapes[name]} of {name}. Received: {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(
                    f"Expected finite features. Received: NaN or infinity in {name}; the training of this network may "
                    "have diverged"
                )
        for name, array in features.items():
            with files.named_if_full(self._part(name)):
                self._files[name].write(np.ascontiguousarray(array, "<f4").data)
        self._rows += rows.pop() if rows else 0
        self.skipped += map(dict, skipped)
        self.done = self._rows + len(self.skipped)
        if time.monotonic() - self._recorded_at >= _SECONDS:
            self._record()

    def _record(self):
        """Records the progress once the rows are on disk."""
        for name, file in self._files.items():
            with files.named_if_full(self._part(name)):
                file.flush()
                os.fsync(file.fileno())
        progress = {"done": self.done, "rows": self._rows, "skipped": self.skipped}
        files.write_json(self.directory / PROGRESS, schema.sealed(progress))
        self._recorded_at = time.monotonic()

    def finish(self, images: Mapping[str, Any]) -> None:
        """Gives the arrays their names and writes ``images.json``.

        Args:
          images: for JSON, with the ``names`` of the images in the order of the rows.

        Raises:
          OSError: if they cannot be written.
        """
        if len(images["names"]) != self._rows or self.done != self._count:
            raise ValueError(f"Expected {self._count} images. Received: {self.done}, {len(images['names'])} with names")
        for name, file in self._files.items():
            file.seek(0)
            file.write(feature_index.header((self._rows, *self._shapes[name]), "float32"))
        self._record()
        for name, file in self._files.items():
            file.close()
            os.replace(self._part(name), self.path(name))
        files.sync_directory(self.directory)
        files.write_json(self.directory / IMAGES, {**images, "skipped": self.skipped})
        (self.directory / PROGRESS).unlink()
        self.is_complete = True

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()


@contextlib.contextmanager
def open_writer(
    directory: str | os.PathLike, shapes: Mapping[str, Sequence[int]], count: int, features: Mapping[str, Any]
) -> Iterator[Writer]:
    """Opens a directory to write features to; a context manager.

    Args:
      directory: created if it does not exist.
      shapes: the shape of one image's features, by layer.
      count: the number of images.
      features: for JSON, what the features depend on.

    Yields:
      A `Writer`, at the place where an earlier call with the same arguments was interrupted.

    Raises:
      ValueError: if the directory has other files, features of another request or damaged files.
      OSError: if the directory cannot be written, or another process is writing to it.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    shapes = {name: list(shape) for name, shape in shapes.items()}
    request = {"version": _VERSION, "count": count, "shapes": shapes, "features": dict(features)}
    with files.exclusive_lock(directory / ".lock", str(directory)):
        _check_request(directory, request)
        writer = Writer(directory, shapes, count)
        try:
            yield writer
        finally:
            writer.close()


def _check_request(directory, request):
    """Raises ValueError if a directory has anything but features of a request; writes the request to an empty one."""
    path = directory / REQUEST
    if not path.exists():
        others = sorted(entry.name for entry in os.scandir(directory) if entry.name not in (".lock", f"{REQUEST}.part"))
        if others:
            raise ValueError(f"Expected a new directory, or one with features. Received: {directory} with {others[0]}")
        files.write_json(path, request)
        return
    found = schema.read_json(path, _REQUEST, "the request of features", _REMEDY)
    before, now = ({**each["features"], "layers": each["shapes"], "count": each["count"]} for each in (found, request))
    if differing := [name for name in now if before.get(name) != now[name]]:
        raise ValueError(
            f"Expected {directory} to have features of the same run, layers and images. Received: features that differ "
            f"in {', '.join(differing)}; use another --out, or delete the directory to start over"
        )
