"""Small weight files in the formats of other frameworks, written without them, and their damaged versions."""

import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile

import mutations
import numpy as np
import pytest

from alexnet_tf.weights import contents

_STORAGES = {
    **{"f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage", "u1": "ByteStorage"},
    "bf16": "BFloat16Storage",
}


def arrays(seed=0):
    """Returns synthetic weights of a small network by PyTorch's names, large enough for activations of thousands."""
    generator = np.random.default_rng(seed)
    shapes = {"features.0": (8, 3, 5, 5), "features.3": (6, 4, 3, 3), "classifier.1": (10, 54), "classifier.4": (3, 10)}
    found = {}
    for name, shape in shapes.items():
        found[f"{name}.weight"] = (40 * generator.standard_normal(shape)).astype(np.float32)
        found[f"{name}.bias"] = (300 * generator.standard_normal(shape[0])).astype(np.float32)
    return found


def layers(seed=0):
    """Returns the same weights as ``{layer: [kernel, bias]}``."""
    found = {}
    for name, array in arrays(seed).items():
        found.setdefault(name.rpartition(".")[0], []).append(array)
    return found


class Storage:
    """A storage of PyTorch: numbers in a file."""

    def __init__(self, kind, data, size):
        self.kind, self.data, self.size = kind, data, size


class Tensor:
    """A tensor of PyTorch, pickled as PyTorch does; of a whole array, or of a storage."""

    def __init__(self, array=None, *, storage=None, offset=0, shape=None, strides=None):
        if storage is None:
            storage = Storage(array.dtype.str[1:], np.ascontiguousarray(array).tobytes(), array.size)
            shape = array.shape
        self.storage, self.offset, self.shape = storage, offset, shape
        self.strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        self.strides = self.strides if strides is None else strides

    def __reduce_ex__(self, protocol):
        function = sys.modules["torch._utils"]._rebuild_tensor_v2
        hooks = collections.OrderedDict()
        return function, (self.storage, self.offset, tuple(self.shape), self.strides, False, hooks)


@contextlib.contextmanager
def _stand_ins():
    """Puts modules of PyTorch's names, with what its pickles name, in the place of PyTorch."""
    torch, utilities = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in _STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utilities._rebuild_tensor_v2 = _rebuild_tensor_v2
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utilities)
        yield torch


def _torch_pickle(value, view):
    """Returns PyTorch's pickle of a value, and the storages in it, by key."""
    with _stand_ins() as torch:
        file, storages = io.BytesIO(), {}

        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                if not isinstance(value, Storage):
                    return None
                key = next((key for key, each in storages.items() if each is value), str(len(storages)))
                storages[key] = value
                return "storage", getattr(torch, _STORAGES[value.kind]), key, "cpu", value.size, *view

        Pickler(file, protocol=2).dump(value)
        return file.getvalue(), storages


def torch_zip(value, *, extra=(), skip=(), compression=zipfile.ZIP_STORED):
    """Returns the file that ``torch.save(value)`` writes; `extra` are further entries, `skip` names of missing ones."""
    content, storages = _torch_pickle(value, ())
    entries = [("archive/data.pkl", content), ("archive/byteorder", b"little")]
    entries += [(f"archive/data/{key}", storage.data) for key, storage in storages.items()]
    entries = [entry for entry in [*entries, ("archive/version", b"3\n")] if entry[0] not in skip]
    return zip_file([*entries, *extra], compression)


def zip_file(entries, compression=zipfile.ZIP_STORED):
    """Returns a zip file of pairs of names and bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries:
            information = zipfile.ZipInfo(name)
            information.compress_type = compression
            # PyTorch aligns the numbers by an extra field.
            information.extra = struct.pack("<HH", 0x4246, 7) + b"Z" * 7
            archive.writestr(information, data)
    return file.getvalue()


def torch_stream(value, *, sizes=None, system=None):
    """Returns the file that ``torch.save(value, _use_new_zipfile_serialization=False)`` writes.

    Args:
      value: the value.
      sizes: of the storages, by key, in place of the true ones.
      system: entries of the dictionary of the system in place of the true ones.
    """
    content, storages = _torch_pickle(value, (None,))
    information = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {**information, **(system or {})})]
    parts += [content, pickle.dumps(sorted(storages), 2)]
    for key in sorted(storages):
        parts += [struct.pack("<q", (sizes or {}).get(key, storages[key].size)), storages[key].data]
    return b"".join(parts)


def npy_dictionary(value, protocol=2):
    """Returns the `.npy` file of an array without axes that holds a dictionary."""
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(file, header)
    array = np.empty((), object)
    array[()] = value
    pickle.dump(array, file, protocol)
    return file.getvalue()


def safetensors_file(header, data=b""):
    """Returns a safetensors file of a header, a str, and the bytes after it."""
    header = header.encode()
    return struct.pack("<Q", len(header)) + header + data


class Call:
    """Calls a function when Python unpickles it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def global_name(module, name, arguments=b"("):
    """Returns a pickle that calls any function, with the opcodes of its arguments after a mark."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"tR."


def deep(levels):
    """Returns a pickle of dictionaries in dictionaries."""
    return b"\x80\x02" + b"}U\1a" * levels + b"N" + b"s" * levels + b"."


# Pickles of little size that ask for much, or run something, or have no end.
HOSTILE_PICKLES = {
    "system": global_name("posix", "system", b"(U\x12touch /tmp/touched"),
    "eval": global_name("builtins", "eval", b"(U\x011"),
    "getattr": global_name("builtins", "getattr", b"(cos\npath\nU\x04join"),
    "import": global_name("antigravity", "geohash"),
    "numpy load": global_name("numpy", "load", b"(U\x01a"),
    "numpy function": global_name("numpy.core.multiarray", "fromfile", b"(U\x01a"),
    "torch load": global_name("torch.serialization", "load", b"(U\x01a"),
    "object": b"\x80\x02ccollections\nUserDict\n)\x81.",
    "instance": b"\x80\x02(ios\nsystem\n.",
    "extension": b"\x80\x02\x82\x01.",
    "state of a module": b"\x80\x02cos\npath\n}U\1aNsb.",
    "state of a dictionary": b"\x80\x02}}b.",
    "reduce of a result": b"\x80\x02ccollections\nOrderedDict\n)R)R.",
    "persistent": b"\x80\x02U\1aQ.",
    "text persistent": b"\x80\x02Pa\n.",
    "list in itself": b"\x80\x02}q\x00U\1a]q\x01h\x01ash\x00.",
    "dictionary in itself": b"\x80\x02}q\x00U\1ah\x00s.",
    "bytes without end": b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "text without end": b"\x80\x02X\xff\xff\xff\x7fa.",
    "string without end": b"\x80\x02T\xff\xff\xff\x7fa.",
    "memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "unset memo": b"\x80\x02j\xff\xff\xff\xff.",
    "number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "big number": b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
    "empty": b"\x80\x02.",
    "no mark": b"\x80\x02Nt.",
    "below the mark": b"\x80\x02N(\x85.",
    "odd items": b"\x80\x02}(Nu.",
    "items of nothing": b"\x80\x02NU\1aNs.",
    "list as key": b"\x80\x02}]Ns.",
    "not UTF-8": b"\x80\x02X\x01\0\0\0\xff.",
    "name that is not UTF-8": b"\x80\x02c\xff\n\xff\n.",
    "name without end": b"\x80\x02c" + b"a" * 1000,
    "text of protocol 0": b"\x80\x02S'a'\n.",
    "surrogate": b"\x80\x02}X\x03\0\0\0\xed\xa0\x80Ns.",
    "control characters": b"\x80\x02}U\x08a\x1b[31m\nbNs.",
}
# Others, of as many opcodes as are allowed.
LARGE_PICKLES = {
    "deep": deep(10_000),
    "deep tuples": b"\x80\x02N" + b"\x85" * 20_000 + b".",
    "wide and deep": b"\x80\x02"
    + b"}q\x00"
    + b"".join(
        b"}q%c(" % (level + 1) + b"".join(b"U\1%ch%c" % (97 + item, level) for item in range(20)) + b"u"
        for level in range(15)
    )
    + b".",
    "lists": b"\x80\x02" + b"]" * 210_000 + b".",
}


def hostile_arrays():
    """Returns pickles of arrays of NumPy whose parts contradict each other, by name."""
    start = b"\x80\x02}U\1ccnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    number = b"cnumpy\ndtype\nU\2%s\x89\x88\x87R(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89"

    def pickled(shape, data, kind=b"f4", state=b"K\1"):
        return start + b"(" + state + shape + number % kind + data + b"tbs."

    return {
        "huge shape": pickled(b"(J\0\0\0\x7fJ\0\0\0\x7fJ\0\0\0\x7ft", b"U\4aaaa"),
        "overflow": pickled(b"(" + b"\x8a\x05\0\0\0\0\x7f" * 4 + b"t", b"U\4aaaa"),
        "negative shape": pickled(b"J\xff\xff\xff\xff\x85", b"U\4aaaa"),
        "empty and huge": pickled(b"(K\0\x8a\x05\0\0\0\0\x7f\x8a\x05\0\0\0\0\x7ft", b"U\0"),
        "short data": pickled(b"K\2\x85", b"U\4aaaa"),
        "long data": pickled(b"K\2\x85", b"U\x0caaaaaaaaaaaa"),
        "many axes": pickled(b"(" + b"K\1" * 40 + b"t", b"U\4aaaa"),
        "text as shape": pickled(b"U\1a", b"U\4aaaa"),
        "truth as shape": pickled(b"\x88\x85", b"U\4aaaa"),
        "objects": pickled(b"K\1\x85", b"U\4aaaa", b"O8"),
        "dates": pickled(b"K\1\x85", b"U\4aaaa", b"M8"),
        "records": pickled(b"K\1\x85", b"U\4aaaa", b"V8"),
        "list as data": pickled(b"K\1\x85", b"]"),
        "numbers without data": start + b"s.",
        "another class": start.replace(b"numpy\nndarray", b"numpy\nmatrix") + b"s.",
        "state of one": start + b"K\1\x85bs.",
        "not latin-1": start.replace(b"}U\1c", b"}U\1a")
        + b"(K\1K\1\x85"
        + number % b"f4"
        + b"c_codecs\nencode\nX"
        + struct.pack("<I", 600)
        + "\u20ac".encode() * 200
        + b"X\6\0\0\0latin1\x86Rtbs.",
    }


def reads_or_refuses(path, versions, read, *, kinds=(contents.FormatError,)):
    """Reads a file in each version: it is read, or refused in one line that names it, in little memory.

    Args:
      path: of the file.
      versions: contents of the file; a dict, or a list.
      read: a reader.
      kinds: exceptions that refuse a file.

    Returns:
      The number of versions that were refused.
    """
    if not isinstance(versions, dict):
        versions = dict(enumerate(versions))
    refused = 0
    tracemalloc.start()
    try:
        for name, version in versions.items():
            path.write_bytes(version)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                found = read(path)
                assert all(np.asarray(array).dtype.kind in "fiub" for array in found.arrays.values()), name
                assert sum(array.nbytes for array in found.arrays.values()) <= 4 * len(version), name
                found = None
            except kinds as error:
                refused += 1
                message = str(error)
                assert "\n" not in message and "\x1b" not in message and path.name in message, (name, message)
                assert len(message) < 600 and "Received" in message, (name, message)
            peak = tracemalloc.get_traced_memory()[1] - before
            # The constant: a buffer for inflating, and the values of as many opcodes as are allowed.
            assert peak < 2 * len(version) + (48 << 20 if len(version) > 1 << 16 else 4 << 20), (name, peak)
    finally:
        tracemalloc.stop()
    assert not os.path.exists("/tmp/touched")
    return refused


def damaged(content, count=200):
    """Returns versions of a file with bytes changed, removed and added, and cut at many places."""
    cuts = [content[:place] for place in np.linspace(1, len(content) - 1, count // 4).astype(int)]
    return mutations.of_bytes(content, count - len(cuts)) + cuts
