"""Reads and writes a run as one small file: a .safetensors file with the configuration in its metadata."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import numpy as np

from alexnet_tf.utils import schema
from alexnet_tf.weights import contents
from alexnet_tf.weights import safetensors_file
from alexnet_tf.weights import writers

# The key of the file's metadata.
_KEY = "alexnet_tf_run"
_WHAT, _REMEDY = "a packed run", "pack the run again"
_STATISTICS = "statistics/"
_DESCRIPTION = schema.Object(
    {
        "configuration": schema.Map(schema.Text()),
        "classes": schema.List(schema.Text()),
        "class_words": schema.Map(schema.Text()),
        "step": schema.Number(low=0, high=2**53, integer=True),
        "num_examples": schema.Number(low=0, high=2**53, integer=True),
        "card": schema.Map(),
        "arrays": schema.Text(),  # a checksum of the file's arrays
        schema.SEAL: schema.Text(),
    }
)
DTYPES = ("float16", "float32")


class Packed(NamedTuple):
    """A run without its optimizer and its logs."""

    configuration: dict[str, str]  # flags that differ from the defaults, as in a flagfile
    classes: list[str]  # names; empty without a classifier
    class_words: dict[str, str]  # of names that are identifiers
    step: int
    num_examples: int  # training images
    card: dict[str, Any]  # data, errors and whatever else a user should know, for JSON
    weights: dict[str, np.ndarray]  # by the path of the variable; float32
    statistics: dict[
        str, np.ndarray
    ]  # "mean_image" ([size, size, 3], or [1, 1, 3] for a constant), "directions", "standard_deviations"


def error(path: str | os.PathLike, received: str) -> ValueError:
    """Returns the error for a packed run that is damaged or contradicts itself."""
    return schema.error(_WHAT, path, received, _REMEDY)


def is_packed(path: str | os.PathLike) -> bool:
    """Returns whether a file looks like a packed run. It may be damaged all the same."""
    try:
        with open(path, "rb") as file:
            return f'"{_KEY}"'.encode() in file.read(1 << 16)
    except OSError:
        return False


def write(path: str | os.PathLike, run: Packed, dtype: str = "float16") -> None:
    """Writes a packed run, atomically.

    Args:
      path: of the file.
      run: its weights must be finite in `dtype`.
      dtype: of the weights, one of `DTYPES`.

    Raises:
      ValueError: for another dtype, or weights that are not finite in it.
      OSError: if the file cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"Expected dtype to be one of {', '.join(DTYPES)}. Received: {dtype}")
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(dtype) for name, array in run.weights.items()}
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(f"Expected weights that are finite in {dtype}. Received: NaN or infinity in {wrong[0]}")
    for name, array in run.statistics.items():
        # A mean image needs no more precision than pixels have.
        arrays[_STATISTICS + name] = array.astype(dtype if name == "mean_image" else np.float32)
    values = run._asdict()
    description = {name: values[name] for name in Packed._fields if name not in ("weights", "statistics")}
    description = schema.sealed({**description, "arrays": _checksum(arrays)})
    writers.write_safetensors(path, arrays, {_KEY: json.dumps(description, ensure_ascii=False)})


def read(path: str | os.PathLike) -> Packed:
    """Reads a file of `write`.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is damaged, or another kind of file.
    """
    found = safetensors_file.read(path)
    text = found.metadata.get("safetensors", {}).get(_KEY)
    if text is None:
        raise contents.FormatError(f"Expected {_WHAT} in {path}. Received: a safetensors file without {_KEY}")
    description = schema.parse(text, _DESCRIPTION, _WHAT, path, _REMEDY)
    schema.check_seal(description, _WHAT, path, _REMEDY)
    values = {name: value for name, value in description.items() if name in Packed._fields}
    if _checksum(found.arrays) != description["arrays"]:
        raise error(path, "arrays that differ from those that were written")
    arrays = {"weights": {}, "statistics": {}}
    for name, array in found.arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise error(path, f"{name} with values that are not finite numbers")
        kind = "statistics" if name.startswith(_STATISTICS) else "weights"
        arrays[kind][name.removeprefix(_STATISTICS)] = array.astype(np.float32)
    return Packed(**values, **arrays)


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
