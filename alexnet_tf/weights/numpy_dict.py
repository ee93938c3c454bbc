"""Reads NumPy's files: `.npz`, and `.npy` with a dictionary of arrays by layer, such as `bvlc_alexnet.npy`.

NumPy unpickles such a dictionary only with `allow_pickle`, which runs what the file says. `restricted_pickle` does not.
"""

import os
import re
import struct

import numpy as np

from alexnet_tf.weights import checks
from alexnet_tf.weights import contents
from alexnet_tf.weights import pickled_arrays
from alexnet_tf.weights import restricted_pickle
from alexnet_tf.weights import stored_zip

_WHAT = "NumPy arrays by name"
_REMEDY = "if you trust the file, load it in Python and save its arrays with numpy.savez"
_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 4096
_KINDS = frozenset("fiub")
# Type, order and shape, in the only form that NumPy writes for plain types.
_HEADER = re.compile(
    rb"\{'descr': '([<>|](?:[fiu][1248]|b1|O8?))', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,15}L?(?:, \d{1,15}L?){0,7},?)?)\), \} *\n?"
)


def read(path: str | os.PathLike) -> contents.Contents:
    """Returns the arrays of an `.npz` file, or of the dictionary in an `.npy` file.

    Names of an `.npz` are those of the arrays. Those of a dictionary are its keys joined by slashes: "conv1/0" and
    "conv1/1" for the kernel and the bias in ``{"conv1": [kernel, bias]}``. The dictionary may have been written by
    Python 2 or 3; its arrays are views of the file's bytes, read-only.

    Args:
      path: path of the file.

    Raises:
      FormatError: if the file is damaged, or has objects or calls, or is a single array.
    """
    with checks.open_file(path, _WHAT) as file:
        if bytes(checks.read_at(file, 0, 2)) == b"PK":
            arrays = _read_npz(stored_zip.StoredZip(file, path, _WHAT), path)
        else:
            arrays = _read_npy(checks.read_at(file, 0, checks.size_of(file)), path)
        return checks.result(path, _WHAT, checks.size_of(file), "NumPy arrays", arrays)


def _read_npz(archive, path):
    names = [name for name in archive.entries if name.endswith(".npy")]
    if not names or len(names) < len(archive.entries):
        raise checks.error(_WHAT, path, "a zip file of other files; extract it and name the file with the weights")
    archive.check_total(names)
    arrays = {}
    for name in names:
        data = archive.read(name)
        dtype, shape, order, start = _header(data, path)
        if dtype.kind not in _KINDS:
            raise checks.error(_WHAT, path, f"{name!r} of type {dtype}", _REMEDY)
        if checks.number_of_values(shape) * dtype.itemsize != len(data) - start:
            raise checks.error(_WHAT, path, f"{name!r} of another size than its header's", checks.DOWNLOAD_AGAIN)
        arrays[name.removesuffix(".npy")] = np.frombuffer(data[start:], dtype).reshape(shape, order=order)
    return arrays


def _read_npy(data, path):
    dtype, shape, _, start = _header(data, path)
    if dtype.kind != "O" or shape != ():
        received = f"a single array of shape {list(shape)}; save arrays by name with numpy.savez"
        raise checks.error(_WHAT, path, received)
    value, end = restricted_pickle.load(data, start, path=path, what=_WHAT, remedy=_REMEDY)
    if end != len(data):
        raise checks.error(_WHAT, path, f"{len(data) - end:,} bytes after its end", checks.DOWNLOAD_AGAIN)
    return pickled_arrays.named_arrays(value, path, _WHAT)


def _header(data, path):
    """Returns type, shape and order of the array in an `.npy` file, and where its numbers begin."""
    version = data[6] if len(data) > 12 and bytes(data[:6]) == _MAGIC else 0
    if version not in (1, 2, 3):
        raise checks.error(_WHAT, path, "no .npy header", checks.DOWNLOAD_AGAIN)
    form, start = ("<H", 10) if version == 1 else ("<I", 12)
    (length,) = struct.unpack_from(form, data, 8)
    if length > min(_MAX_HEADER, len(data) - start):
        raise checks.error(_WHAT, path, f"a header of {length:,} bytes", checks.DOWNLOAD_AGAIN)
    match = _HEADER.fullmatch(bytes(data[start : start + length]))
    if match is None:
        raise checks.error(_WHAT, path, "an unknown .npy header", checks.DOWNLOAD_AGAIN)
    descr, is_fortran, sizes = (group.decode("ascii") for group in match.groups())
    shape = tuple(int(size.strip(" L")) for size in sizes.split(",") if size.strip())
    if problem := checks.shape_problem(shape):
        raise checks.error(_WHAT, path, problem, checks.DOWNLOAD_AGAIN)
    return np.dtype(descr), shape, "F" if is_fortran == "True" else "C", start + length
