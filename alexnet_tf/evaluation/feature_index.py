"""Images whose features are nearest to those of a query, by Euclidean distance (paper section 6.1).

An index is a directory:

* ``features.npy``: float16 or float32 ``[images, units]``, read through a memory map, so that it may be larger than
  memory;
* ``images.json``: label, name and place in the data set of each image;
* ``manifest.json``: sizes, names of classes, what the features are of. Written last: a directory without it is no
  index;
* ``approximate.faiss``: where `build_approximate` was called, what makes a search in a million images quick.

What a search answers are distances between the stored features and the queries, taken in float64. The exact search
answers the nearest, of equally near ones those of lower index. It needs one pass over the features, however many
queries there are, and nothing but NumPy and TensorFlow. The approximate one, by faiss, reads some hundreds of features
a query: those that are nearest by what is left of them in the directions in which features differ most.
"""

import importlib.util
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation import errors
from alexnet_tf.utils import files

DTYPES = ("float16", "float32")
METHODS = ("auto", "exact", "approximate")
# From so many images on a search is approximate if nothing else is said.
APPROXIMATE_FROM = 1_000_000

MANIFEST = "manifest.json"
FEATURES = "features.npy"
IMAGES = "images.json"
APPROXIMATE = "approximate.faiss"
_VERSION = 1

# Elements of a block of features: 64 MiB in float32.
_ELEMENTS = 2**24
# Queries that are compared with a block at a time.
_QUERIES = 1024
# float16 keeps 11 bits: what a row of features may lose, as a share of its length, is a little more than rounding.
_MOST_LOST = 2.0**-10

# Of the approximate index (BUILD_NOTES.md says how they were chosen): directions that are kept, of how many features
# they are found in how many rounds, and candidates whose distances are taken for each answer.
_DIRECTIONS, _SAMPLE, _ROUNDS, _CANDIDATES = 128, 4096, 6, 32


class Images(NamedTuple):
    """What is known of the images of an index, in its order."""

    labels: np.ndarray  # int64 [images]
    names: list  # of str
    places: np.ndarray  # int64 [images], of each in its split of the data set


class Answer(NamedTuple):
    """What a search found, the nearest first."""

    distances: np.ndarray  # float32 [queries, k], Euclidean
    indices: np.ndarray  # int64 [queries, k]


def write(directory, batches, images, *, units, class_names, facts, dtype="float16", progress=None):
    """Writes an index, each file aside and renamed; one that is there is an index until the new one is whole.

    Args:
      directory: made if it is not there.
      batches: iterable of float ``[batch, units]``, the features of `images` in their order.
      images: `Images`.
      units: int.
      class_names: list of str.
      facts: dict for JSON: what the features are of.
      dtype: "float16" or "float32".
      progress: called with the number of features written so far.

    Raises:
      ValueError: without images, for other counts, for features that are no numbers, or that lose more in float16 than
        rounding takes, as large ones (above 65504) and very small ones (all below some 1e-4) do.
      OSError: for what cannot be written, or another program at work there.
    """
    count = len(images.labels)
    if dtype not in DTYPES:
        raise ValueError(f"Expected dtype to be one of {', '.join(DTYPES)}. Received: {dtype}")
    if not count:
        raise ValueError("Expected at least one image to index. Received: none")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    manifest = {"version": _VERSION, "count": count, "units": units, "dtype": dtype}
    manifest |= {"class_names": list(class_names), "facts": facts}
    listed = {"labels": images.labels.tolist(), "names": list(images.names), "places": images.places.tolist()}
    with (
        files.exclusive_lock(directory / ".lock", str(directory)),
        files.atomic_write(directory / FEATURES, "wb") as file,
    ):
        header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": (count, units)}
        np.lib.format.write_array_header_1_0(file, header)
        _write_features(file, batches, count, units, dtype, progress)
        with files.atomic_write(directory / IMAGES) as images_file:
            # In one piece: `json.dump` takes several times as long for a million names.
            images_file.write(json.dumps(listed))
            images_file.flush()
            # From here on the old index is none, as its images are not those of its features.
            for name in (MANIFEST, APPROXIMATE):
                (directory / name).unlink(missing_ok=True)
    files.write_json(directory / MANIFEST, manifest)


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
    """Features as they are stored, little-endian; raises where they are no numbers or lose too much."""
    _check_finite(batch)
    with np.errstate(over="ignore", under="ignore"):
        stored = batch.astype(np.dtype(dtype).newbyteorder("<"))
    lost = np.linalg.norm(stored.astype(np.float64) - batch, axis=1)
    if not (lost <= _MOST_LOST * np.linalg.norm(batch.astype(np.float64), axis=1)).all():
        raise ValueError(
            "Expected features that float16 holds, of some 1e-4 to 65504; take dtype float32 for these. "
            f"Received: largest ones from {np.abs(batch).max(axis=1).min():.3g} to {np.abs(batch).max():.3g}"
        )
    return stored


def _check_finite(features):
    """Raises for features whose distances float32 cannot express."""
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(np.square(features).sum(axis=1))
    if not is_finite.all():
        raise ValueError(
            f"Expected features that are numbers. Received: {np.count_nonzero(~is_finite)} of {len(features)} with "
            "some that are none or too large, as of a network whose learning diverged"
        )


class Index:
    """Features on the disk; see `open_index`."""

    def __init__(self, directory, manifest, features, images):
        self.directory = pathlib.Path(directory)
        self.manifest = manifest
        self.features = features  # np.memmap, float16 or float32 [images, units]
        self.images = images

    def __len__(self):
        return len(self.features)

    @property
    def class_names(self):
        return self.manifest["class_names"]

    @property
    def facts(self):
        return self.manifest["facts"]

    @property
    def has_approximate(self):
        return "approximate" in self.manifest

    def search(self, queries, k, *, method="auto", left_out=None):
        """The nearest images.

        Args:
          queries: float32 ``[queries, units]``.
          k: int, how many for each.
          method: "exact"; "approximate", after `build_approximate`; "auto" as `choose_method` says.
          left_out: int ``[queries]``, of each query an index that is no answer, such as its own; -1 for none.

        Returns:
          `Answer`.

        Raises:
          ValueError: for other shapes, queries that are no numbers, or a `k` above the number of images.
          ModuleNotFoundError: where an approximate search lacks faiss.
        """
        count, units = self.features.shape
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != units:
            raise ValueError(f"Expected queries [queries, {units}]. Received: {list(queries.shape)}")
        _check_finite(queries)
        spare = 0 if left_out is None else 1
        if not 1 <= k <= count - spare:
            besides = " beside the query itself" if spare else ""
            raise ValueError(f"Expected k to be 1 to the {count - spare} images{besides}. Received: {k}")
        if choose_method(method, count) == "exact":
            answer = exact(self.features, queries, k + spare)
        else:
            answer = approximate(self.features, self._read_approximate(), queries, k + spare)
        return _without(answer, left_out) if spare else answer

    def _read_approximate(self):
        faiss = _faiss()
        path = self.directory / APPROXIMATE
        expected = self.manifest.get("approximate", {}).get("bytes")
        size = path.stat().st_size if path.is_file() else None
        if expected is None or size != expected:
            # A memory map of a file that is too short ends the process.
            wanted = "an approximate index, from build_approximate," if expected is None else f"{expected} bytes"
            raise ValueError(f"Expected {wanted} in {path}. Received: {'none' if size is None else f'{size} bytes'}")
        try:
            found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"Expected an index of faiss in {path}. Received: {str(error).splitlines()[0]}") from None
        if (found.ntotal, found.d) != self.features.shape:
            raise ValueError(f"Expected {path} of {self.features.shape}. Received: {found.ntotal, found.d}")
        return found


def open_index(directory):
    """Opens an index that is there.

    Args:
      directory: where `write` wrote it.

    Returns:
      `Index`.

    Raises:
      FileNotFoundError: if there is none, or one that was not written to its end.
      ValueError: for one that is damaged.
    """
    directory = pathlib.Path(directory)
    if not (directory / MANIFEST).is_file():
        raise FileNotFoundError(f"Expected an index of features, with its {MANIFEST}, in {directory}. Received: none")
    manifest = _read_json(directory / MANIFEST, ("version", "count", "units", "dtype", "class_names", "facts"))
    if manifest["version"] != _VERSION:
        raise ValueError(f"Expected {directory / MANIFEST} of version {_VERSION}. Received: {manifest['version']}")
    listed = _read_json(directory / IMAGES, Images._fields)
    expected = (manifest["dtype"], (manifest["count"], manifest["units"]))
    try:
        features = np.load(directory / FEATURES, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        received = str(error).splitlines()[0]
        raise ValueError(f"Expected features {expected[1]} in {directory / FEATURES}. Received: {received}") from None
    if (features.dtype, features.shape) != expected:
        found = f"{features.dtype} {features.shape}"
        raise ValueError(f"Expected {expected[0]} {expected[1]} in {directory / FEATURES}. Received: {found}")
    try:
        images = Images(np.array(listed["labels"], np.int64), listed["names"], np.array(listed["places"], np.int64))
        lengths = {len(column) for column in images}
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"Expected lists of images in {directory / IMAGES}. Received: {error}") from None
    if lengths != {manifest["count"]}:
        found = ", ".join(map(str, sorted(lengths)))
        raise ValueError(f"Expected {directory / IMAGES} of {manifest['count']} images. Received: {found}")
    return Index(directory, manifest, features, images)


def _read_json(path, fields):
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}. Received: {str(error).splitlines()[0]}") from None
    missing = [field for field in fields if not isinstance(values, dict) or field not in values]
    if missing:
        raise ValueError(f"Expected {', '.join(fields)} in {path}. Received: no {', no '.join(missing)}")
    return values


def choose_method(method, count):
    """How `count` images are searched: "exact" or "approximate".

    Args:
      method: "exact" and "approximate" stay; "auto" is exact below `APPROXIMATE_FROM` images.
      count: int.

    Raises:
      ValueError: for another method.
    """
    if method not in METHODS:
        raise ValueError(f"Expected method to be one of {', '.join(METHODS)}. Received: {method}")
    if method != "auto":
        return method
    return "exact" if count < APPROXIMATE_FROM else "approximate"


def exact(features, queries, k):
    """The nearest features, of equally near ones those of lower index, in one pass.

    A product of matrices in float32 says what cannot be among the nearest, with regard to the most that it can be
    wrong by; the distances of the rest are taken in float64. Memory for a block of features and for the answers is all
    that it needs.

    Args:
      features: float16 or float32 ``[images, units]``, such as a memory map.
      queries: float32 ``[queries, units]``.
      k: int, at most the number of images.

    Returns:
      `Answer`.
    """
    count, units = features.shape
    squares = np.full([len(queries), k], np.inf)
    indices = np.full([len(queries), k], count, np.int64)
    lengths = np.square(queries).sum(axis=1)
    rows = max(1, _ELEMENTS // units)
    for first in range(0, count, rows):
        tensor = _tensor(features[first : first + rows])
        # A view of it: the way back into a tensor would be a copy.
        block = tensor.numpy()
        # Without a second block for the squares, which costs as much as all the rest.
        block_lengths = np.einsum("ij,ij->i", block, block)
        for begin in range(0, len(queries), _QUERIES):
            part = slice(begin, begin + _QUERIES)
            products = _products(tensor, queries[part])
            sums = lengths[part, None] + block_lengths
            near, places = _candidates(products, sums, units, squares[part, -1], min(k, len(block)))
            found = _squares(queries[part], block, near, places)
            squares[part], indices[part] = _merged(squares[part], indices[part], near, found, places + first)
    return Answer(np.sqrt(squares).astype(np.float32), indices)


def _float32(block):
    return _tensor(block).numpy()


def _tensor(block):
    # TensorFlow converts float16 nine times as fast as NumPy.
    with tf.device("/CPU:0"):
        return tf.cast(np.asarray(block), tf.float32)


def _products(block, queries):
    """The products of queries and features, float32 ``[queries, rows]``."""
    # On the CPU float32 is float32; a GPU may multiply in TF32.
    with tf.device("/CPU:0"):
        return tf.matmul(block, queries, transpose_b=True).numpy().T


def _candidates(products, sums, units, farthest, k):
    """Pairs that may be near: their numbers of the query and of the feature in the block, int64 ``[pairs]`` each.

    Args:
      products: float32 ``[queries, rows]``.
      sums: float32 ``[queries, rows]``, of the squared lengths of query and feature.
      units: int.
      farthest: float64 ``[queries]``, squared distances beyond which nothing is near.
      k: int, how many there must be at least, unless they are farther.
    """
    squares = sums - 2 * products
    # A sum of n rounded products, in any order, is wrong by at most n u |x| |y|, u = 2^-24; |x| |y| <= (x^2 + y^2) / 2.
    error = sums * np.float32((units + 4) * 2.0**-23)
    # The k-th of those at most so far away cannot be farther.
    bound = np.minimum(np.partition(squares + error, k - 1, axis=1)[:, k - 1], farthest)
    return np.nonzero(squares - error <= bound[:, None])


def _squares(queries, block, near, places):
    """The squared distances of pairs, float64 ``[pairs]``."""
    squares = np.empty(len(near))
    for part in errors.chunks(len(near), block.shape[1]):
        difference = block[places[part]].astype(np.float64) - queries[near[part]]
        squares[part] = np.square(difference, out=difference).sum(axis=1)
    return squares


def _merged(squares, indices, near, found, found_indices):
    """The nearest of those that are known and of others: squares and indices, both ``[queries, k]``."""
    count, k = squares.shape
    rows = np.concatenate([np.repeat(np.arange(count), k), near])
    squares = np.concatenate([squares.ravel(), found])
    indices = np.concatenate([indices.ravel(), found_indices])
    order = np.lexsort([indices, squares, rows])
    # A query's pairs stand together, the nearest first.
    first = np.searchsorted(rows[order], np.arange(count))
    chosen = order[first[:, None] + np.arange(k)]
    return squares[chosen], indices[chosen]


def _without(answer, left_out):
    """An answer with one less, for each query: without its own `left_out`, or without the last."""
    is_kept = answer.indices != np.asarray(left_out)[:, None]
    is_kept[is_kept.all(axis=1), -1] = False
    return Answer(*(values[is_kept].reshape(len(values), -1) for values in answer))


def build_approximate(index, progress=None):
    """Adds to an index what an approximate search needs.

    Of each image faiss keeps the `_DIRECTIONS` coordinates in which the features differ most, 8 bits each.

    Args:
      index: `Index`; it has the approximate index from now on.
      progress: called with the number of features taken up so far.

    Raises:
      ModuleNotFoundError: without faiss.
      OSError: for what cannot be written.
    """
    faiss = _faiss()
    features = index.features
    count, units = features.shape
    sample = np.sort(np.random.default_rng(0).permutation(count)[:_SAMPLE])
    sample = _float32(features[sample])
    directions = _directions(sample, min(_DIRECTIONS, units))
    reduction = faiss.LinearTransform(units, directions.shape[1], False)
    faiss.copy_array_to_vector(directions.T.ravel(), reduction.A)
    reduction.is_trained = True
    within = faiss.IndexScalarQuantizer(directions.shape[1], faiss.ScalarQuantizer.QT_8bit)
    within.train(reduction.apply(sample))
    rows = max(1, _ELEMENTS // units)
    for first in range(0, count, rows):
        within.add(reduction.apply(_float32(features[first : first + rows])))
        if progress:
            progress(min(first + rows, count))
    with files.atomic_write(index.directory / APPROXIMATE, "wb") as file:
        faiss.write_index(faiss.IndexPreTransform(reduction, within), faiss.PyCallbackIOWriter(file.write))
    size = (index.directory / APPROXIMATE).stat().st_size
    index.manifest["approximate"] = {"bytes": size, "directions": directions.shape[1]}
    files.write_json(index.directory / MANIFEST, index.manifest)


def _directions(features, count):
    """Nearly the subspace of the first principal components: an orthonormal basis, float32 ``[units, count]``.

    By subspace iteration, in seconds; the components themselves take LAPACK minutes and give the same distances.
    """
    with tf.device("/CPU:0"):
        centred = features - features.mean(axis=0)
        basis = tf.random.stateless_normal([features.shape[1], count], seed=[0, 0])
        for _ in range(_ROUNDS):
            basis, _ = tf.linalg.qr(tf.matmul(centred, tf.matmul(centred, basis), transpose_a=True))
        return basis.numpy()


def approximate(features, candidates, queries, k):
    """The nearest features of those that an index of faiss proposes.

    Args:
      features, queries, k: as in `exact`.
      candidates: an index of faiss, of the same features.

    Returns:
      `Answer`, whose distances are as in `exact`; some of the nearest may be missing.
    """
    wanted = min(_CANDIDATES * k, len(features))
    answer = Answer(np.empty([len(queries), k], np.float32), np.empty([len(queries), k], np.int64))
    unanswered = []
    for number, proposed in enumerate(candidates.search(queries, wanted)[1]):
        # In the order of the disk; -1 stands where there are no more.
        places = np.sort(proposed[proposed >= 0])
        if len(places) < k:
            unanswered.append(number)
            continue
        block = _float32(features[places])
        squares = _squares(queries[number][None], block, np.zeros(len(places), np.int64), np.arange(len(places)))
        nearest = np.argsort(squares, kind="stable")[:k]
        answer.distances[number], answer.indices[number] = np.sqrt(squares[nearest]), places[nearest]
    if unanswered:
        answer.distances[unanswered], answer.indices[unanswered] = exact(features, queries[unanswered], k)
    return answer


def recall(found, right):
    """The share of the right answers that were found.

    Args:
      found, right: int64 ``[queries, k]``, indices of a search and of an exact one.

    Returns:
      Float in [0, 1].
    """
    return float(np.mean([len(np.intersect1d(*pair)) for pair in zip(found, right)]) / right.shape[1])


def require_faiss():
    """Says in time that no approximate search is possible.

    Raises:
      ModuleNotFoundError: where faiss is not installed.
    """
    if importlib.util.find_spec("faiss") is None:
        raise ModuleNotFoundError(
            "Expected faiss-cpu for an approximate search: pip install -e '.[neighbours]', or take method exact. "
            "Received: none"
        )


def _faiss():
    require_faiss()
    import faiss

    return faiss
