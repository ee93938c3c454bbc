"""Reads weights in HDF5: files of Keras 1, 2 and 3, of Theano's users and of tf2cv.

Only arrays of numbers that are in the file are read. Links to other names or files, data in other files, and values
other than numbers are refused.
"""

import os

import h5py
import numpy as np

from alexnet_tf.utils import escaping
from alexnet_tf.weights import checks
from alexnet_tf.weights import contents

FORMAT = "HDF5 weights"
_WHAT = "an HDF5 file of arrays"
SIGNATURE = b"\x89HDF\r\n\x1a\n"

MAX_OBJECTS, MAX_DEPTH = 20_000, 32
# What the arrays may take, in addition to 1.5 times the size of the file: biases of zeros shrink to nothing.
_MARGIN = 1 << 20
# Filters of HDF5 that do not need a plugin: deflate, shuffle, fletcher32.
_FILTERS = {1, 2, 3}
# The state of an optimizer, which is as large as the weights or twice.
_SKIPPED = ("optimizer_weights", "optimizer")


def is_hdf5(path: str | os.PathLike) -> bool:
    """Returns whether a file has HDF5's signature, at its beginning or after a block of MATLAB's.

    Raises:
      contents.FormatError: if there is no such file.
      OSError: if it cannot be read.
    """
    with checks.open_file(path, "a weight file") as file:
        head = file.read(520)
    return head[:8] == SIGNATURE or head[512:520] == SIGNATURE


def read(path: str | os.PathLike) -> contents.Contents:
    """Reads the arrays of an HDF5 file.

    Arrays are named by their path, such as "conv_1/conv_1_W", in the order of Keras's lists where the file has them as
    texts of a fixed size, otherwise sorted. The state of an optimizer is not read.

    Raises:
      contents.FormatError: if the file is damaged, or has other things than arrays.
      OSError: if it cannot be read.
    """
    if not is_hdf5(path):
        raise _error(path, "another signature")
    reader = _Reader(path)
    try:
        with h5py.File(path, "r", locking=False, rdcc_nbytes=0) as file:
            reader.read_group(file, "", 0)
    # What h5py raises for damage depends on the place of the damage.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError) as error:
        if isinstance(error, contents.FormatError):
            raise
        raise _error(path, str(error).strip("'\"") or type(error).__name__) from None
    if not reader.arrays:
        raise _error(path, "a file without arrays")
    checks.check_names(path, _WHAT, reader.arrays)
    return contents.Contents(FORMAT, reader.in_order())


def _error(path, problem):
    problem = escaping.one_line(problem)[:300]
    return checks.another_kind(path, _WHAT, problem, "download or copy it again, or save only the weights")


class _Reader:
    """Collects the arrays below a group."""

    def __init__(self, path):
        self.arrays = {}
        self._path = path
        self._limit = os.stat(path).st_size * 3 // 2 + _MARGIN
        self._memory = 0
        # Addresses of objects, by which a cycle of links is noticed.
        self._seen = set()
        # Paths of arrays in Keras's order.
        self._order = []

    def in_order(self):
        """Returns the arrays: first those that Keras lists, in its order."""
        listed = [name for name in self._order if name in self.arrays]
        return {name: self.arrays[name] for name in dict.fromkeys([*listed, *self.arrays])}

    def _error(self, problem):
        return _error(self._path, problem)

    def read_group(self, group, name, depth):
        """Reads all arrays of a group and of the groups in it."""
        if depth > MAX_DEPTH:
            raise self._error(f"groups within groups, more than {MAX_DEPTH} deep")
        self._order += [f"{name}/{weight}" for weight in self._listed(group, "weight_names")]
        for key in self._names(group):
            if isinstance(key, bytes):
                raise self._error(f"a name that is not UTF-8 ({key!r})")
            place = f"{name}/{key}" if name else key
            link = group.id.links.get_info(key.encode("utf-8", "surrogateescape"))
            if link.type != h5py.h5l.TYPE_HARD:
                raise self._error(f"a link to another place ({place})")
            if not depth and key in _SKIPPED:
                continue
            item = group[key]
            info = h5py.h5o.get_info(item.id)
            if (address := (info.fileno, info.addr)) in self._seen:
                raise self._error(f"two names of one object ({place})")
            self._seen.add(address)
            if len(self._seen) > MAX_OBJECTS:
                raise self._error(f"more than {MAX_OBJECTS:,} groups and arrays")
            if isinstance(item, h5py.Group):
                self.read_group(item, place, depth + 1)
            elif isinstance(item, h5py.Dataset):
                self.arrays[place] = self._read_array(item, place)
            else:
                raise self._error(f"a type in the place of an array ({place})")

    def _names(self, group):
        """Returns the names in a group: first the layers that Keras lists, in its order."""
        if len(group.id) > MAX_OBJECTS:
            raise self._error(f"more than {MAX_OBJECTS:,} groups and arrays")
        names = list(group)
        listed = [name for name in self._listed(group, "layer_names") if name in names]
        return list(dict.fromkeys([*listed, *names]))

    def _listed(self, group, key):
        """Returns an attribute of texts of a fixed size; an empty list for others.

        Texts of any length could all be the same one of 100 MB, and HDF5's library reads a damaged one forever.
        """
        if not h5py.h5a.exists(group.id, key.encode()):
            return []
        attribute = h5py.h5a.open(group.id, key.encode())
        kind = attribute.get_type()
        if kind.get_class() != h5py.h5t.STRING or kind.is_variable_str():
            return []
        if len(attribute.shape) != 1 or attribute.shape[0] > MAX_OBJECTS or kind.get_size() > 4096:
            return []
        if attribute.shape[0] * kind.get_size() > self._limit:
            return []
        values = np.empty(attribute.shape, f"S{kind.get_size()}")
        attribute.read(values, mtype=kind)
        return [value.decode("utf-8", "replace") for value in values.tolist()]

    def _read_array(self, dataset, place):
        kind = dataset.id.get_type()
        if kind.get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) or dataset.dtype.kind not in "fiu":
            raise self._error(f"an array of {_class_name(kind)} ({place})")
        if dataset.dtype.itemsize > 8 or dataset.shape is None or len(dataset.shape) > 8:
            raise self._error(f"an array of another shape or type of number ({place})")
        properties = dataset.id.get_create_plist()
        if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
            raise self._error(f"an array in another file ({place})")
        count = dataset.size * dataset.dtype.itemsize
        filters = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
        if unknown := filters - _FILTERS:
            raise self._error(f"an array with filter {min(unknown)} of HDF5 ({place}); remove it with h5repack -f NONE")
        stored = dataset.id.get_storage_size()
        self._memory += count
        if self._memory > self._limit or (stored < count and 1 not in filters):
            raise self._error(f"an array of {count:,} bytes that are {stored:,} in the file ({place})")
        if dataset.chunks and np.prod(dataset.chunks, dtype=object) * dataset.dtype.itemsize > self._limit:
            raise self._error(f"an array in parts that are larger than itself ({place})")
        return dataset[()] if dataset.shape else np.asarray(dataset[()])


def _class_name(kind):
    names = {
        **{h5py.h5t.STRING: "texts", h5py.h5t.COMPOUND: "compound values", h5py.h5t.REFERENCE: "references"},
        **{h5py.h5t.VLEN: "lists", h5py.h5t.OPAQUE: "opaque values", h5py.h5t.ENUM: "named values"},
    }
    return names.get(kind.get_class(), "values that are not numbers")
