"""Reads PyTorch's `.pth`, `.pth.tar` and `.pt` files with a state_dict, without PyTorch.

Two formats: a zip file with a pickle, `data.pkl`, and one entry for each storage (`torch.save` since version 1.6); and
a stream of pickles, followed by the storages (before). Both pickles are read by `restricted_pickle`.
"""

import os
import struct
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet_tf.weights import bfloat16
from alexnet_tf.weights import checks
from alexnet_tf.weights import contents
from alexnet_tf.weights import pickle_values
from alexnet_tf.weights import restricted_pickle
from alexnet_tf.weights import stored_zip

_WHAT = "a PyTorch state_dict"
_REMEDY = "load it in PyTorch, if you trust the file, and save model.state_dict()"
# Types of storages. NumPy has no bfloat16: its numbers are the upper halves of float32's.
_STORAGES = {
    **{"HalfStorage": "f2", "BFloat16Storage": "bf16", "FloatStorage": "f4", "DoubleStorage": "f8"},
    **{"CharStorage": "i1", "ShortStorage": "i2", "IntStorage": "i4", "LongStorage": "i8"},
    **{"ByteStorage": "u1", "BoolStorage": "b1"},
}
# The first three pickles of a stream: a number, the version, and the sizes of integers.
_STREAM_MAGIC, _STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001
# Far more than the pickle of any network, which has no numbers.
_MAX_PICKLE = 16 << 20
# Keys of the state_dict in a checkpoint with other entries.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
# Parts of names that wrappers add: DataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")


class _Storage:
    """A storage that a pickle refers to; its numbers are read on demand."""

    def __init__(self, kind: str, key: str, size: int):
        self.kind, self.key, self.size = kind, key, size

    @property
    def itemsize(self):
        return 2 if self.kind == "bf16" else np.dtype(self.kind).itemsize


class _Tensor:
    """A tensor: numbers of a storage."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def set_state(self, state: Any) -> None:
        """Ignores attributes."""


def _tensor(storage, offset, shape, strides, *_):
    refuse = pickle_values.Refused
    for sizes in (shape, strides):
        if not isinstance(sizes, tuple) or checks.shape_problem(sizes):
            raise refuse("a tensor with an impossible shape or stride")
    if not isinstance(storage, _Storage) or type(offset) is not int or len(shape) != len(strides):
        raise refuse("a tensor without a storage")
    count = checks.number_of_values(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides)) if count else offset
    # As many numbers as the tensor has: a stride of 0 would repeat them without an end.
    if offset < 0 or last >= storage.size + (count == 0) or offset + count > storage.size:
        raise refuse(f"a tensor of shape {list(shape)} beyond its storage of {storage.size:,} numbers")
    return _Tensor(storage, offset, shape, strides)


def _parameter(data, *_):
    return data


_CALLS: Mapping[str, Callable] = {
    **pickle_values.CALLS,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda sizes=(): sizes,
}


class _Storages:
    """The storages of one file, by key."""

    def __init__(self):
        self.by_key = {}

    def persistent(self, identity):
        """Returns the storage that a persistent id of a pickle names."""
        refuse = pickle_values.Refused
        if isinstance(identity, tuple) and identity[:1] == ("module",):
            raise refuse("a whole network, a Python object", _REMEDY)
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise refuse("a reference to what is not a storage")
        _, kind, key, _, size, *view = identity
        kind = kind.name.rpartition(".")[2] if isinstance(kind, pickle_values.Name) else ""
        if kind not in _STORAGES:
            raise refuse(f"a storage of type {kind[:40]!r}", "save a state_dict of float32 tensors")
        if view not in ([], [None]):
            raise refuse("a view of a storage", "open it in PyTorch and save model.state_dict() again")
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise refuse("a storage without a key and a size")
        storage = self.by_key.setdefault(key, _Storage(_STORAGES[kind], key, size))
        if (storage.kind, storage.size) != (_STORAGES[kind], size):
            raise refuse(f"two storages of the key {key!r}")
        return storage


def _numbers(storage, order, read_into):
    """Returns the numbers of a storage.

    Args:
      storage: the storage.
      order: of bytes, "<" or ">".
      read_into: reads the bytes of the storage into memory of their size.
    """
    if storage.kind == "bf16":
        return bfloat16.read(storage.size, order, read_into)
    found = np.empty(storage.size, order + storage.kind)
    read_into(memoryview(found.view(np.uint8)))
    return found


def _array(tensor, numbers):
    if 0 in tensor.shape:
        return np.empty(tensor.shape, numbers.dtype)
    strides = tuple(stride * numbers.itemsize for stride in tensor.strides)
    return np.ndarray(tensor.shape, numbers.dtype, numbers, tensor.offset * numbers.itemsize, strides)


def _state(value, path):
    """Returns the tensors of a checkpoint by name, and the names of its other entries."""
    ignored = []
    for _ in range(checks.MAX_DEPTH):
        if not isinstance(value, dict):
            raise checks.error(_WHAT, path, "a pickle of another value", _REMEDY)
        key = next((key for key in _STATE_KEYS if isinstance(value.get(key), dict)), None)
        if key is None:
            break
        ignored += [str(name) for name in value if name != key]
        value = value[key]
    tensors = {str(name): each for name, each in value.items() if isinstance(each, _Tensor)}
    if not tensors:
        raise checks.error(_WHAT, path, "a checkpoint without tensors by name", _REMEDY)
    ignored += [str(name) for name in value if str(name) not in tensors]
    return tensors, ignored


def _plain_name(name):
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _plain_names(tensors):
    """Returns tensors by names without the parts of wrappers, and these parts; the names as they are if they clash."""
    plain = {_plain_name(name): tensor for name, tensor in tensors.items()}
    if len(plain) != len(tensors):
        return tensors, []
    parts = {part for name in tensors for part in name.split(".")}
    return plain, [f"{part}." for part in _WRAPPERS if part in parts]


def read(path: str | os.PathLike) -> contents.Contents:
    """Returns the tensors of a state_dict.

    The state_dict is the file's value, or in its entry "state_dict", "model_state_dict" or "model"; other entries, such
    as "epoch" and "optimizer", are ignored, and their numbers are not read. Names are normalized: the parts that
    DataParallel and torch.compile add are removed, so that "module.features.0.weight" and "features.module.0.weight"
    become "features.0.weight". Types are the file's, but for bfloat16, which is returned as float32 of the same values.

    Args:
      path: path of the file, in either format of `torch.save`.

    Returns:
      Contents whose metadata may have "removed_from_names" (list of str, such as ["module."]), "ignored_entries" (list
      of str) and "converted_types" (list of str, ["bfloat16"]).

    Raises:
      FormatError: if the file is damaged, is not a state_dict, such as a whole network or a TorchScript program, or has
        objects or calls.
    """
    with checks.open_file(path, _WHAT) as file:
        is_zip = bytes(checks.read_at(file, 0, 4)) == b"PK\3\4"
        value, order, read_storage = (_open_zip if is_zip else _open_stream)(file, path)
        tensors, ignored = _state(value, path)
        tensors, removed = _plain_names(tensors)
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        total = sum(storage.size * storage.itemsize for storage in storages.values())
        if total > checks.size_of(file):
            raise checks.error(_WHAT, path, f"storages of {total:,} bytes, more than it has", checks.DOWNLOAD_AGAIN)
        numbers = {key: _numbers(storage, order, read_storage(storage)) for key, storage in storages.items()}
        arrays = {name: _array(tensor, numbers[tensor.storage.key]) for name, tensor in tensors.items()}
        return checks.result(
            path,
            _WHAT,
            checks.size_of(file),
            "PyTorch state_dict",
            arrays,
            removed_from_names=removed,
            ignored_entries=[name[:80] for name in ignored[:50]],
            converted_types=["bfloat16"] * any(storage.kind == "bf16" for storage in storages.values()),
        )


def _open_zip(file, path):
    """Returns the value of a zip file's pickle, the order of bytes, and a function that reads storages."""
    archive = stored_zip.StoredZip(file, path, _WHAT)
    names = list(archive.entries)
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise checks.error(_WHAT, path, "a TorchScript program", "save model.state_dict() with torch.save")
    archive.check_stored()
    if len(pickles) != 1:
        raise checks.error(_WHAT, path, "a zip file without data.pkl; extract it and name the file with the weights")
    if archive.entries[pickles[0]].size > _MAX_PICKLE:
        raise checks.error(_WHAT, path, f"a pickle of {archive.entries[pickles[0]].size:,} bytes", _REMEDY)
    folder = pickles[0].removesuffix("data.pkl")
    storages = _Storages()
    value, _ = _load(archive.read(pickles[0]), 0, path, storages)
    entry = archive.entries.get(f"{folder}byteorder")
    is_big = entry is not None and entry.size == 3 and bytes(archive.read(entry.name)) == b"big"

    def read_storage(storage):
        name = f"{folder}data/{storage.key}"
        entry = archive.entries.get(name)
        if entry is None or entry.size != storage.size * storage.itemsize:
            size = "no entry" if entry is None else f"an entry of {entry.size:,} bytes"
            received = f"{size} for a storage of {storage.size:,} numbers, {name!r}"
            raise checks.error(_WHAT, path, received, checks.DOWNLOAD_AGAIN)
        return lambda target: archive.read_into(name, target)

    return value, ">" if is_big else "<", read_storage


def _load(view, position, path, storages):
    return restricted_pickle.load(
        view,
        position,
        path=path,
        what=_WHAT,
        remedy=_REMEDY,
        calls=_CALLS,
        persistent=storages.persistent if storages else None,
    )


def _open_stream(file, path):
    """As `_open_zip`, for the stream of PyTorch before 1.6."""
    view = checks.read_at(file, 0, _MAX_PICKLE)
    values, position, storages = [], 0, _Storages()
    for number in range(5):
        value, position = _load(view, position, path, storages if number == 3 else None)
        if number == 0 and value != _STREAM_MAGIC:
            raise checks.error(_WHAT, path, "a pickle that torch.save has not written", _REMEDY)
        values.append(value)
    _, version, system, state, keys = values
    if version != _STREAM_VERSION or not isinstance(system, dict) or not isinstance(keys, list):
        raise checks.error(_WHAT, path, "an unknown version of torch.save", _REMEDY)
    order = "<" if system.get("little_endian", True) is True else ">"
    places = _places(file, path, position, storages.by_key, keys, order)

    def read_storage(storage):
        if storage.key not in places:
            raise checks.error(_WHAT, path, "a storage without numbers", checks.DOWNLOAD_AGAIN)

        def read(target):
            if not checks.read_into(file, places[storage.key], target):
                raise checks.error(_WHAT, path, "an incomplete file", checks.DOWNLOAD_AGAIN)

        return read

    return state, order, read_storage


def _places(file, path, position, storages, keys, order):
    """Returns where the numbers of each storage in a stream begin, by key, after checks of their sizes."""
    places = {}
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or key in places:
            raise checks.error(_WHAT, path, "numbers of an unknown storage", checks.DOWNLOAD_AGAIN)
        header = checks.read_at(file, position, 8)
        if len(header) < 8 or struct.unpack(f"{order}q", header)[0] != storage.size:
            raise checks.error(_WHAT, path, "a storage of another size than its tensors", checks.DOWNLOAD_AGAIN)
        places[key] = position + 8
        position += 8 + storage.size * storage.itemsize
        if position > checks.size_of(file):
            raise checks.error(_WHAT, path, "an incomplete file", checks.DOWNLOAD_AGAIN)
    if position != checks.size_of(file):
        raise checks.error(_WHAT, path, "bytes after the last storage", checks.DOWNLOAD_AGAIN)
    return places
