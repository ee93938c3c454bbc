"""Which format a weight file has, by its bytes, and its reader."""

import importlib
import os
from collections.abc import Mapping

from alexnet_tf.weights import checks
from alexnet_tf.weights import contents
from alexnet_tf.weights import stored_zip

_WHAT = "a weight file"
# The modules of this package that read each format.
READERS: Mapping[str, str] = {
    "torch": "torch_state",
    "numpy": "numpy_dict",
    "pickle": "pickled_arrays",
    "safetensors": "safetensors_file",
    "caffe": "caffe_model",
    "onnx": "onnx_model",
    "hdf5": "hdf5_weights",
    "matconvnet": "matconvnet",
}
_FORMATS = (
    "PyTorch (.pth), NumPy (.npy, .npz), pickled arrays, safetensors, Caffe (.caffemodel), ONNX, Keras (.h5) or "
    "MatConvNet (.mat)"
)
# The first pickle of torch.save's stream: a number.
_TORCH_STREAM = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_BEGINNINGS = {
    _TORCH_STREAM: "torch",
    b"\x93NUMPY": "numpy",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"MATLAB 5.0 MAT-file": "matconvnet",
    **{bytes([0x80, protocol]): "pickle" for protocol in range(2, 6)},
}
_EXTRACT = "an archive; extract it and name the weight file in it"
_REFUSED = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file; run git lfs pull, or download the file itself",
    b"MATLAB 7.3 MAT-file": "a MAT-file of version 7.3; save it in MATLAB with save(..., '-v7')",
    **dict.fromkeys(
        (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"\x28\xb5\x2f\xfd", b"Rar!"), _EXTRACT
    ),
}
_BEGINNING = 1024


def detect(path: str | os.PathLike) -> str:
    """Returns the format of a weight file, a key of `READERS`; the name of the file does not matter.

    Args:
      path: path of the file.

    Raises:
      FormatError: if the file has no format of these; the message says what it seems to be, and what to do.
    """
    with checks.open_file(path, _WHAT) as file:
        size = checks.size_of(file)
        start = bytes(checks.read_at(file, 0, _BEGINNING))
        for magic, received in _REFUSED.items():
            if start.startswith(magic):
                raise checks.error(_WHAT, path, received)
        for magic, name in _BEGINNINGS.items():
            if start.startswith(magic):
                return name
        if start[257:262] == b"ustar":
            raise checks.error(_WHAT, path, _EXTRACT)
        if start.startswith((b"PK\3\4", b"PK\5\6")):
            return _format_of_zip(file, path)
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
            return "safetensors"
        if name := _format_of_protobuf(file, size):
            return name
    raise checks.error(_WHAT, path, _description(start))


def read(path: str | os.PathLike) -> contents.Contents:
    """Returns the contents of a weight file of any format of `READERS`.

    Args:
      path: path of the file.

    Raises:
      FormatError: as `detect`, and if the file is damaged or has anything but weights.
      ImportError: if the library of the format is not installed.
    """
    return importlib.import_module(f"alexnet_tf.weights.{READERS[detect(path)]}").read(path)


def _format_of_zip(file, path):
    names = list(stored_zip.StoredZip(file, path, _WHAT).entries)
    if any(name.endswith("/data.pkl") for name in names) or any(name.endswith("/constants.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "numpy"
    if "model.weights.h5" in names:
        raise checks.error(_WHAT, path, "a .keras file; load it with Keras, and save its arrays with numpy.savez")
    raise checks.error(_WHAT, path, _EXTRACT)


def _format_of_protobuf(file, size):
    """Returns "onnx" or "caffe" if the fields of a file, up to its damage if any, are those of such a message.

    Neither has a magic number. ONNX's ModelProto has a version (field 1, a number) and a graph (7); Caffe's
    NetParameter has a name (1, text) and layers (100, and 2 before 2014).
    """
    found, position = set(), 0
    for _ in range(checks.MAX_ARRAYS):
        head = bytes(checks.read_at(file, position, 20))
        tag, place = _varint(head, 0)
        length, place = _varint(head, place) if place else (0, 0)
        if not place:
            break
        number, wire = tag >> 3, tag & 7
        if wire not in (0, 2) or not number:
            break
        found.add((number, wire))
        position += place + (length if wire == 2 else 0)
        if position >= size:
            break
    if {(1, 0), (7, 2)} <= found:
        return "onnx"
    is_caffe = not found.isdisjoint({(2, 2), (100, 2)}) and (1, 0) not in found
    return "caffe" if is_caffe and all(number in (*range(1, 9), 100) for number, _ in found) else ""


def _varint(data, position):
    """Returns a number of a protobuf message and the position after it; 0 and 0 if there is none."""
    value = 0
    for count, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    return 0, 0


def _description(start):
    """Returns what a file of no known format seems to be, and what to do."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page; download the file itself, not the page about it"
    if not start.strip(b"\0"):
        return "zeros; download the file again"
    if all(32 <= byte < 127 or byte in b"\t\r\n\f" for byte in start):
        return "text; name the file with the weights (a .prototxt has none)"
    return f"other data; its format should be {_FORMATS}"
