"""An index of image features on disk, searched by Euclidean distance (paper section 6.1).

An index is a directory:

* ``features.npy``: float16 or float32 ``[images, units]``, read through a memory map, so it may be larger than memory;
* ``images.json``: label, name and position in the data set of each image;
* ``manifest.json``: sizes, class names, metadata about the features, and a checksum of each file. It is written last: a
  directory without it is not an index;
* ``approximate.faiss``: written by `build_approximate`, for a fast search of a million images.

`alexnet_tf.evaluation.nearest` has the searches.
"""

import io
import json
import pathlib
import tokenize
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import google_crc32c
import numpy as np

from alexnet_tf.evaluation import nearest
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import schema

DTYPES = ("float16", "float32")

MANIFEST = "manifest.json"
FEATURES = "features.npy"
IMAGES = "images.json"
APPROXIMATE = "approximate.faiss"
_VERSION = 1
_BLOCK_BYTES = 2**24

_WHAT = "the manifest of an index"
_REMEDY = "delete the directory, so that the index is built again"
_COUNT = schema.Number(low=0, integer=True)
_MANIFEST = schema.Object(
    {
        "version": schema.Number(),
        "count": schema.Number(low=1, integer=True),
        "units": schema.Number(low=1, integer=True),
        "dtype": schema.Text(DTYPES),
        "class_names": schema.List(schema.Text()),
        "facts": schema.Map(),
    },
    {
        "approximate": schema.Object({"bytes": _COUNT, "directions": _COUNT}),
        "checksums": schema.Map(schema.Text()),
    },
)
_IMAGES = schema.Object(
    {"labels": schema.List(_COUNT), "names": schema.List(schema.Text()), "places": schema.List(_COUNT)}
)

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
    with files.exclusive_lock(directory / ".lock", str(directory)):
        with files.atomic_write(directory / FEATURES, "wb") as file:
            checksum = google_crc32c.Checksum()

            def write_bytes(content):
                file.write(content)
                checksum.update(content)

            write_bytes(header((count, units), dtype))
            _write_features(write_bytes, batches, count, units, dtype, progress)
            of_images = _replace_images(directory, images)
        manifest["checksums"] = {FEATURES: checksum.digest().hex(), IMAGES: of_images}
        files.write_json(directory / MANIFEST, schema.sealed(manifest))


def header(shape: Sequence[int], dtype: str) -> bytes:
    """Returns the first bytes of an .npy file, as many whatever the first size of the array's shape is."""
    file = io.BytesIO()
    fields = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def _replace_images(directory, images):
    """Writes the list of images, and invalidates the old index, whose features no longer match it.

    Returns:
      The checksum of the list.
    """
    listed = {"labels": images.labels.tolist(), "names": list(images.names), "places": images.places.tolist()}
    # `json.dump` writes piece by piece and takes several times as long for a million names.
    content = json.dumps(listed).encode()
    with files.atomic_write(directory / IMAGES, "wb") as file:
        file.write(content)
        file.flush()
        for name in (MANIFEST, APPROXIMATE):
            (directory / name).unlink(missing_ok=True)
    return google_crc32c.Checksum(content).digest().hex()


def _write_features(write_bytes, batches, count, units, dtype, progress):
    written = 0
    for batch in batches:
        batch = np.asarray(batch, np.float32)
        written += len(batch)
        if batch.ndim != 2 or batch.shape[1] != units or written > count:
            raise ValueError(f"Expected features [{count}, {units}]. Received: {list(batch.shape)}, image {written}")
        write_bytes(_stored(batch, dtype).tobytes())
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
        largest = np.abs(batch).max(axis=1)
        raise ValueError(
            "Expected features in the range of float16, from about 1e-4 to 65504; use dtype float32 for these. "
            f"Received: images with largest features {messages.significant(largest.min())} to "
            f"{messages.significant(largest.max())}"
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
        self._manifest.setdefault("checksums", {})[APPROXIMATE] = _checksum(path)
        self._manifest = schema.sealed(self._manifest)
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
        _check_checksum(path, self._manifest)
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
    path = directory / MANIFEST
    manifest = schema.read_json(path, _MANIFEST, _WHAT, _REMEDY)
    if manifest["version"] != _VERSION:
        raise ValueError(f"Expected {path} of version {_VERSION}. Received: {manifest['version']}; {_REMEDY}")
    features = _open_features(directory / FEATURES, manifest)
    images = _read_images(directory / IMAGES, manifest)
    # Last, as the errors above say more about what is wrong.
    schema.check_seal(manifest, _WHAT, path, _REMEDY)
    for name in (FEATURES, IMAGES):
        _check_checksum(directory / name, manifest)
    return Index(directory, manifest, features, images)


def _open_features(path, manifest):
    dtype, shape = manifest["dtype"], (manifest["count"], manifest["units"])
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    # The last three for a header that is not the description of an array.
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise schema.error(f"features {shape}", path, error, _REMEDY) from None
    if not isinstance(features, np.ndarray):
        raise schema.error(f"features {shape}", path, "an archive", _REMEDY)
    if (features.dtype, features.shape) != (dtype, shape):
        raise schema.error(f"{dtype} {shape}", path, f"{features.dtype} {features.shape}", _REMEDY)
    return features


def _read_images(path, manifest):
    listed = schema.read_json(path, _IMAGES, "the images of an index", _REMEDY)
    lengths = {len(listed[name]) for name in Images._fields}
    if lengths != {manifest["count"]}:
        received = ", ".join(map(str, sorted(lengths)))
        raise schema.error(f"{manifest['count']} images", path, received, _REMEDY)
    images = Images(np.array(listed["labels"], np.int64), listed["names"], np.array(listed["places"], np.int64))
    if images.labels.max() >= len(manifest["class_names"]):
        received = f"the label {images.labels.max()}"
        raise schema.error(f"labels below {len(manifest['class_names'])}", path, received, _REMEDY)
    return images


def _checksum(path):
    """Returns the CRC-32C of a file as hexadecimal digits; it takes as long as reading the file."""
    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum.update(block)
    return checksum.digest().hex()


def _check_checksum(path, manifest):
    """Raises ValueError unless a file is as it was written; an index of version 0.1 has no checksums."""
    expected = manifest.get("checksums", {}).get(path.name)
    if expected is not None and _checksum(path) != expected:
        raise schema.error("the bytes that were written", path, "others", _REMEDY)
