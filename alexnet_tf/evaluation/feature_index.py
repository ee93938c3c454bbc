"""An index of image features on disk, searched by Euclidean distance (paper section 6.1).

An index is a directory:

* ``features.npy``: float16 or float32 ``[images, units]``, read through a memory map, so it may be larger than memory;
* ``images.json``: label, name and position in the data set of each image;
* ``manifest.json``: sizes, class names, and metadata about the features. It is written last: a directory without it
  is not an index;
* ``approximate.faiss``: written by `build_approximate`, for a fast search of a million images.

`alexnet_tf.evaluation.nearest` has the searches.
"""

import json
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from alexnet_tf.evaluation import nearest
from alexnet_tf.utils import files

DTYPES = ("float16", "float32")

MANIFEST = "manifest.json"
FEATURES = "features.npy"
IMAGES = "images.json"
APPROXIMATE = "approximate.faiss"
_VERSION = 1

# Largest relative error of an image's features in float16, which keeps 11 bits: a little more than rounding.
_MAX_RELATIVE_ERROR = 2.0**-10


class Images(NamedTuple):
    """The images of an index, in its order."""

    labels: np.ndarray  # int64 [images]
    names: list[str]
    places: np.ndarray  # int64 [images], the position of each in its split of the data set


def write(
    directory: str | pathlib.Path,
    batches: Iterable[np.ndarray],
    images: Images,
    *,
    units: int,
    class_names: Sequence[str],
    metadata: dict[str, Any],
    dtype: str = "float16",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes an index; an existing index remains valid until the new one is complete.

    Args:
      directory: created if it does not exist.
      batches: iterable of float ``[batch, units]``, the features of `images` in their order.
      images: `Images`.
      units: int.
      class_names: list of str.
      metadata: dict for JSON that describes the features.
      dtype: "float16" or "float32".
      progress: called with the number of features written so far.

    Raises:
      ValueError: without images; if the counts do not match; for features that are NaN or infinite, or that lose more
        precision in float16 than by rounding, as large ones (above 65504) and very small ones (all below some 1e-4) do.
      OSError: if the index cannot be written, or another process is writing it.
    """
    count = len(images.labels)
    if dtype not in DTYPES:
        raise ValueError(f"Expected dtype to be one of {', '.join(DTYPES)}. Received: {dtype}")
    if not count:
        raise ValueError("Expected at least one image to index. Received: none")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    manifest = {"version": _VERSION, "count": count, "units": units, "dtype": dtype}
    manifest |= {"class_names": list(class_names), "facts": metadata}
    with (
        files.exclusive_lock(directory / ".lock", str(directory)),
        files.atomic_write(directory / FEATURES, "wb") as file,
    ):
        header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": (count, units)}
        np.lib.format.write_array_header_1_0(file, header)
        _write_features(file, batches, count, units, dtype, progress)
        _replace_images(directory, images)
    files.write_json(directory / MANIFEST, manifest)


def _replace_images(directory, images):
    """Writes the list of images, and invalidates the old index, whose features no longer match it."""
    listed = {"labels": images.labels.tolist(), "names": list(images.names), "places": images.places.tolist()}
    with files.atomic_write(directory / IMAGES) as file:
        # `json.dump` writes piece by piece and takes several times as long for a million names.
        file.write(json.dumps(listed))
        file.flush()
        for name in (MANIFEST, APPROXIMATE):
            (directory / name).unlink(missing_ok=True)


def _write_features(file, batches, count, units, dtype, progress):
    written = 0
    for batch in batches:
        batch = np.asarray(batch, np.float32)
        written += len(batch)
        if batch.ndim != 2 or batch.shape[1] != units or written > count:
            raise ValueError(f"Expected features [{count}, {units}]. Received: {list(batch.shape)}, image {written}")
        file.write(_stored(batch, dtype).tobytes())
        if progress:
            progress(written)
    if written != count:
        raise ValueError(f"Expected features of {count} images. Received: {written}")


def _stored(batch, dtype):
    """Returns features in the stored dtype, little-endian; raises if they are not finite or lose too much precision."""
    nearest.check_finite(batch)
    with np.errstate(over="ignore", under="ignore"):
        stored = batch.astype(np.dtype(dtype).newbyteorder("<"))
    error = np.linalg.norm(stored.astype(np.float64) - batch, axis=1)
    if not (error <= _MAX_RELATIVE_ERROR * np.linalg.norm(batch.astype(np.float64), axis=1)).all():
        raise ValueError(
            "Expected features in the range of float16, from about 1e-4 to 65504; use dtype float32 for these. "
            f"Received: images with largest features {np.abs(batch).max(axis=1).min():.3g} to {np.abs(batch).max():.3g}"
        )
    return stored


class Index:
    """An index that was opened by `open_index`.

    Attributes:
      directory: ``pathlib.Path``.
      features: ``np.memmap``, float16 or float32 ``[images, units]``.
      images: `Images`.
    """

    def __init__(self, directory: str | pathlib.Path, manifest: dict[str, Any], features: np.ndarray, images: Images):
        self.directory = pathlib.Path(directory)
        self.features = features
        self.images = images
        self._manifest = manifest

    def __len__(self) -> int:
        return len(self.features)

    @property
    def class_names(self) -> list[str]:
        return self._manifest["class_names"]

    @property
    def metadata(self) -> dict[str, Any]:
        """What `write` was given as `metadata`."""
        return self._manifest["facts"]

    @property
    def has_approximate(self) -> bool:
        """Whether `build_approximate` was called."""
        return "approximate" in self._manifest

    def search(
        self, queries: np.ndarray, k: int, *, method: str = "auto", exclude: Sequence[int] | None = None
    ) -> nearest.Neighbors:
        """Finds the nearest images of each query.

        Args:
          queries: float32 ``[queries, units]``.
          k: int, the number of neighbors of each query.
          method: "exact", "approximate" (after `build_approximate`), or "auto", see `nearest.choose_method`.
          exclude: int ``[queries]``, for each query the index of an image that is not returned, such as its own; -1 for
            none.

        Returns:
          `nearest.Neighbors`.

        Raises:
          ValueError: for other shapes, queries that are not finite, or a `k` above the number of images.
          ModuleNotFoundError: for an approximate search without faiss.
        """
        count, units = self.features.shape
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != units:
            raise ValueError(f"Expected queries [queries, {units}]. Received: {list(queries.shape)}")
        nearest.check_finite(queries)
        spare = 0 if exclude is None else 1
        if not 1 <= k <= count - spare:
            others = " other than the query" if spare else ""
            raise ValueError(f"Expected k to be from 1 to {count - spare}, the number of images{others}. Received: {k}")
        if nearest.choose_method(method, count) == "exact":
            found = nearest.exact(self.features, queries, k + spare)
        else:
            found = nearest.approximate(self.features, self._read_approximate(), queries, k + spare)
        return nearest.exclude(found, exclude) if spare else found

    def build_approximate(self, progress: Callable[[int], None] | None = None) -> None:
        """Adds ``approximate.faiss`` to the index, for approximate searches.

        Args:
          progress: called with the number of features added so far.

        Raises:
          ModuleNotFoundError: without faiss.
          OSError: if it cannot be written.
        """
        faiss = nearest.load_faiss()
        index = nearest.faiss_index(self.features, progress)
        path = self.directory / APPROXIMATE
        with files.atomic_write(path, "wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        directions = min(nearest.DIRECTIONS, self.features.shape[1])
        self._manifest["approximate"] = {"bytes": path.stat().st_size, "directions": directions}
        files.write_json(self.directory / MANIFEST, self._manifest)

    def _read_approximate(self):
        faiss = nearest.load_faiss()
        path = self.directory / APPROXIMATE
        expected = self._manifest.get("approximate", {}).get("bytes")
        size = path.stat().st_size if path.is_file() else None
        if expected is None or size != expected:
            # Checked first: a memory map of a truncated file would end the process.
            wanted = "an approximate index, from build_approximate," if expected is None else f"{expected} bytes"
            raise ValueError(f"Expected {wanted} in {path}. Received: {'none' if size is None else f'{size} bytes'}")
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"Expected a faiss index in {path}. Received: {str(error).splitlines()[0]}") from None
        if (index.ntotal, index.d) != self.features.shape:
            raise ValueError(
                f"Expected a faiss index {self.features.shape} in {path}. Received: {index.ntotal, index.d}"
            )
        return index


def open_index(directory: str | pathlib.Path) -> Index:
    """Opens an index.

    Args:
      directory: as in `write`.

    Returns:
      `Index`.

    Raises:
      FileNotFoundError: if there is no index, or an incomplete one.
      ValueError: if the index is damaged.
    """
    directory = pathlib.Path(directory)
    if not (directory / MANIFEST).is_file():
        raise FileNotFoundError(f"Expected an index of features, with its {MANIFEST}, in {directory}. Received: none")
    manifest = files.read_json(directory / MANIFEST, ("version", "count", "units", "dtype", "class_names", "facts"))
    if manifest["version"] != _VERSION:
        raise ValueError(f"Expected {directory / MANIFEST} of version {_VERSION}. Received: {manifest['version']}")
    features = _open_features(directory / FEATURES, manifest)
    return Index(directory, manifest, features, _read_images(directory / IMAGES, manifest["count"]))


def _open_features(path, manifest):
    dtype, shape = manifest["dtype"], (manifest["count"], manifest["units"])
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        received = str(error).splitlines()[0]
        raise ValueError(f"Expected features {shape} in {path}. Received: {received}") from None
    if (features.dtype, features.shape) != (dtype, shape):
        raise ValueError(f"Expected {dtype} {shape} in {path}. Received: {features.dtype} {features.shape}")
    return features


def _read_images(path, count):
    listed = files.read_json(path, Images._fields)
    try:
        images = Images(np.array(listed["labels"], np.int64), listed["names"], np.array(listed["places"], np.int64))
        lengths = {len(column) for column in images}
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"Expected lists of images in {path}. Received: {error}") from None
    if lengths != {count}:
        received = ", ".join(map(str, sorted(lengths)))
        raise ValueError(f"Expected {count} images in {path}. Received: {received}")
    return images
