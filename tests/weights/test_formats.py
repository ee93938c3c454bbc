import gzip
import io
import os
import pickle
import sys
import tarfile
import types

import numpy as np
import pytest
import weight_files

from alexnet_tf.weights import contents
from alexnet_tf.weights import formats


def npz():
    file = io.BytesIO()
    np.savez(file, **weight_files.arrays())
    return file.getvalue()


def field(number, data):
    """Returns a field of a protobuf message."""

    def varint(value):
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    if isinstance(data, int):
        return varint(number << 3) + varint(data)
    return varint(number << 3 | 2) + varint(len(data)) + data


STATE = {name: weight_files.Tensor(array) for name, array in weight_files.arrays().items()}
CAFFE = field(1, b"AlexNet") + field(100, b"layer" * 1000) + field(100, b"layer")
ONNX = field(1, 8) + field(2, b"caffe2") + field(7, b"graph" * 100) + field(8, b"")
FILES = {
    "torch zip": (weight_files.torch_zip(STATE), "torch"),
    "torch stream": (weight_files.torch_stream(STATE), "torch"),
    "npy": (weight_files.npy_dictionary(weight_files.layers()), "numpy"),
    "npz": (npz(), "numpy"),
    "pickle": (pickle.dumps(weight_files.layers(), 3), "pickle"),
    "safetensors": (
        weight_files.safetensors_file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a"),
        "safetensors",
    ),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "hdf5"),
    "matconvnet": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(100), "matconvnet"),
    "onnx": (ONNX, "onnx"),
    "onnx, incomplete": (ONNX[:-50], "onnx"),
    "caffe": (CAFFE, "caffe"),
    "caffe, V1 layers": (field(1, b"AlexNet") + field(2, b"layer") + field(3, b"data") + field(4, 10), "caffe"),
    "caffe, incomplete": (CAFFE[:100], "caffe"),
}


@pytest.mark.parametrize("name", FILES)
def test_formats_are_detected_by_their_bytes(tmp_path, name):
    path = tmp_path / "weights"
    content, expected = FILES[name]
    path.write_bytes(content)
    assert formats.detect(path) == expected


@pytest.mark.parametrize("name", ["torch zip", "torch stream", "npy", "npz", "pickle", "safetensors"])
def test_files_are_read_by_the_reader_of_their_format(tmp_path, name):
    path = tmp_path / "weights"
    path.write_bytes(FILES[name][0])
    assert len(formats.read(path).arrays) == (1 if name == "safetensors" else 8)


def test_readers_are_modules_with_a_function_read(tmp_path, monkeypatch):
    reader = types.ModuleType("alexnet_tf.weights.caffe_model")
    reader.read = lambda path: ("read", path)
    monkeypatch.setitem(sys.modules, reader.__name__, reader)
    path = tmp_path / "weights"
    path.write_bytes(CAFFE)
    assert formats.read(path) == ("read", path)


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a pointer of Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page; download the file itself"),
        (b"<html>", "a web page"),
        (gzip.compress(b"a", mtime=0), "an archive; extract it"),
        (tar(), "an archive; extract it"),
        (weight_files.zip_file([("weights.pth", b"a")]), "an archive; extract it"),
        (
            weight_files.zip_file([("model.weights.h5", b"a"), ("config.json", b"{}")]),
            "a .keras file; load it with Keras",
        ),
        (b'name: "AlexNet"\nlayer {\n}\n', "text; name the file with the weights"),
        (b"MATLAB 7.3 MAT-file", "save it in MATLAB with save"),
        (bytes(2000), "zeros; download the file again"),
        (bytes(range(200, 256)), "other data; its format should be PyTorch"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "other data"),
        (b"PK\3\4", "an incomplete zip file"),
    ],
)
def test_other_files_are_refused_with_what_to_do(tmp_path, content, message):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(contents.FormatError, match=message) as error:
        formats.read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_paths_that_are_not_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "": "a directory; give the path of a file in it",
        "missing": "no file of this name; check the path",
        "pipe": "a pipe or a device",
        "nul\0": "no file of this name",
    }.items():
        with pytest.raises(contents.FormatError, match=message):
            formats.read(os.path.join(tmp_path, name))


@pytest.mark.parametrize("name", ["caffe", "onnx", "torch zip", "safetensors"])
def test_damaged_files_are_refused_or_detected(tmp_path, name):
    path = tmp_path / "weights"
    for version in weight_files.damaged(FILES[name][0]):
        path.write_bytes(version)
        try:
            assert formats.detect(path) in formats.READERS
        except contents.FormatError as error:
            assert "\n" not in str(error)
