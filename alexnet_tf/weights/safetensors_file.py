"""Reads `.safetensors` files; the library safetensors checks the header."""

import json
import os

import numpy as np
import safetensors

from alexnet_tf.weights import bfloat16
from alexnet_tf.weights import checks
from alexnet_tf.weights import contents

_WHAT = "a safetensors file"
_KINDS = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "bf16", "BOOL": "b1"},
    **{"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
}
# Room for `checks.MAX_ARRAYS` arrays.
_MAX_HEADER = 2 << 20


def read(path: str | os.PathLike) -> contents.Contents:
    """Returns the arrays of a safetensors file, in the order of the file.

    Types are the file's, but for bfloat16, which is returned as float32 of the same values.

    Args:
      path: path of the file.

    Returns:
      Contents whose metadata may have "safetensors" (dict of str, the file's own metadata) and "converted_types" (list
      of str, ["bfloat16"]).

    Raises:
      FormatError: if the header is damaged or does not fit the file, or has types of numbers that NumPy does not have.
    """
    with checks.open_file(path, _WHAT) as file:
        header, start = _header(file, path)
        own = header.pop("__metadata__", {})
        places = sorted(header, key=lambda name: header[name]["data_offsets"])
        for name in places:
            if (kind := header[name]["dtype"]) not in _KINDS:
                raise checks.error(_WHAT, path, f"{name!r} of type {kind}; save it as float32")
            if problem := checks.shape_problem(header[name]["shape"]):
                raise checks.error(_WHAT, path, problem, checks.DOWNLOAD_AGAIN)
        arrays = {name: _array(file, path, start, header[name]) for name in places}
        return checks.result(
            path,
            _WHAT,
            checks.size_of(file),
            "safetensors",
            arrays,
            safetensors=own,
            converted_types=["bfloat16"] * any(header[name]["dtype"] == "BF16" for name in places),
        )


def _header(file, path):
    """Returns the header, checked by the library against the size of the file, and where the numbers begin."""
    length = int.from_bytes(checks.read_at(file, 0, 8), "little")
    if length > _MAX_HEADER:
        raise checks.error(_WHAT, path, f"a header of {length:,} bytes", checks.DOWNLOAD_AGAIN)
    try:
        with safetensors.safe_open(path, framework="np"):
            pass
        header = json.loads(bytes(checks.read_at(file, 8, length)), object_pairs_hook=_without_duplicates)
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise checks.error(_WHAT, path, error, checks.DOWNLOAD_AGAIN) from None
    return header, 8 + length


def _without_duplicates(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that occurs twice in the header")
    return found


def _array(file, path, start, entry):
    shape, kind = entry["shape"], _KINDS[entry["dtype"]]
    begin, end = entry["data_offsets"]
    size = checks.number_of_values(shape)
    if size * (2 if kind == "bf16" else np.dtype(kind).itemsize) != end - begin:
        raise checks.error(_WHAT, path, f"an array of shape {shape} with {end - begin:,} bytes", checks.DOWNLOAD_AGAIN)

    def read_into(target):
        if not checks.read_into(file, start + begin, target):
            raise checks.error(_WHAT, path, "an incomplete file", checks.DOWNLOAD_AGAIN)

    if kind == "bf16":
        return bfloat16.read(size, "<", read_into).reshape(shape)
    found = np.empty(size, kind)
    read_into(memoryview(found.view(np.uint8)))
    return found.reshape(shape)
