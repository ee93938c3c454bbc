import io
import struct
import zipfile

import numpy as np
import pytest
import weight_files

from alexnet_tf.weights import contents
from alexnet_tf.weights import numpy_dict


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy_header(text):
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dictionaries_of_layers_are_read_equal_to_the_bit(tmp_path, protocol):
    path = tmp_path / "weights.npy"
    path.write_bytes(weight_files.npy_dictionary(weight_files.layers(), protocol))
    found = numpy_dict.read(path)
    expected = {
        f"{layer}/{number}": each for layer, two in weight_files.layers().items() for number, each in enumerate(two)
    }
    assert list(found.arrays) == list(expected) and found.format == "NumPy arrays"
    for name, array in expected.items():
        assert found.arrays[name].dtype == array.dtype and found.arrays[name].tobytes() == array.tobytes()


def test_dictionaries_that_numpy_saves_are_read(tmp_path):
    path = tmp_path / "weights.npy"
    pair = np.empty(2, object)
    pair[:] = [np.ones((2, 2)), np.zeros(3)]
    np.save(path, {"conv1": {"weights": np.ones(3), "biases": np.zeros(2)}, "fc8": pair}, allow_pickle=True)
    found = numpy_dict.read(path).arrays
    assert {name: array.shape for name, array in found.items()} == {
        "conv1/weights": (3,),
        "conv1/biases": (2,),
        "fc8/0": (2, 2),
        "fc8/1": (3,),
    }


def test_dictionaries_of_python_2_are_read(tmp_path):
    # As cPickle of Python 2 writes {"conv1": [array]}: strings of bytes for names, types and numbers.
    kernel = (40 * np.random.default_rng(0).standard_normal((5, 5, 3, 8))).astype(np.float32)
    bias = np.arange(8, dtype=np.float32)

    def string(data):
        return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<I", len(data))) + data

    def array(shape, number, items):
        start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R(K\1" + shape
        return start + number + b"\x89" + items + b"tb"

    float32 = b"cnumpy\ndtype\nU\2f4K\0K\1\x87R(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    objects = b"cnumpy\ndtype\nU\2O8K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
    arrays = array(b"(K\5K\5K\3K\x08t", float32, string(kernel.tobytes())) + array(
        b"K\x08\x85", float32, string(bias.tobytes())
    )
    content = b"\x80\x02" + array(b")", objects, b"]}U\5conv1](" + arrays + b"esa") + b"."
    path = tmp_path / "weights.npy"
    path.write_bytes(npy_header(b"{'descr': '|O8', 'fortran_order': False, 'shape': (), }   \n") + content)
    found = numpy_dict.read(path).arrays
    assert list(found) == ["conv1/0", "conv1/1"]
    np.testing.assert_array_equal(found["conv1/0"], kernel, strict=True)
    np.testing.assert_array_equal(found["conv1/1"], bias, strict=True)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_equal_to_the_bit(tmp_path, save):
    path = tmp_path / "weights.npz"
    others = {
        "columns": np.asfortranarray(np.random.default_rng(0).standard_normal((20, 30))),
        "big": np.random.default_rng(0).standard_normal(9).astype(">f4"),
        "number": np.float16(3),
        "empty": np.zeros((0, 3), np.uint8),
        "a/b": np.ones(3, bool),
    }
    expected = {**weight_files.arrays(), **others}
    save(path, **expected)
    found = numpy_dict.read(path).arrays
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize(
    "content, message",
    [
        (npz(a=np.array([{}], object)), "'a.npy' of type object"),
        (npz(a=np.array(["text"])), "an unknown .npy header"),
        (npz(a=np.zeros(2, "M8[s]")), "an unknown .npy header"),
        (npz(a=np.zeros(2, [("x", "f4")])), "an unknown .npy header"),
        (npz(a=np.zeros(2, complex)), "an unknown .npy header"),
        (weight_files.zip_file([("a.npy", npy_header(b"")), ("b.txt", b"")]), "a zip file of other files"),
        (weight_files.zip_file([]), "a zip file of other files"),
        (npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }") + bytes(4), "a single array"),
        (weight_files.npy_dictionary([np.ones(3)]), "a pickle of another value"),
        (weight_files.npy_dictionary({"a": 1}), "no numeric array"),
        (weight_files.npy_dictionary({"a": np.ones(1)}) + b"a", "1 bytes after its end"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "weights.npy"
    path.write_bytes(content)
    with pytest.raises(contents.FormatError, match=message):
        numpy_dict.read(path)


def test_hostile_headers_are_refused(tmp_path):
    texts = {
        "huge": b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999, 999999999999999), }",
        "long": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000,), }",
        "short": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }",
        "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        "nested": b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 2000 + b")" * 2000 + b", }",
        "call": b"__import__('os').system('touch /tmp/touched')",
        "digits": b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 3000 + b",), }",
        "type": b"{'descr': '<f9', 'fortran_order': False, 'shape': (1,), }",
        "comma": b"{'descr': 'f4,f4', 'fortran_order': False, 'shape': (1,), }",
        "control": b"{'descr': '\x1b[31m', 'fortran_order': False, 'shape': (1,), }",
    }
    versions = {}
    for name, text in texts.items():
        content = npy_header(text) + bytes(12)
        versions[name] = content
        versions[f"{name} in a zip file"] = weight_files.zip_file([("a.npy", content)])
    length = b"\x93NUMPY\2\0" + b"\xff" * 4
    versions["length"] = length
    versions["length in a zip file"] = weight_files.zip_file([("a.npy", length)])
    path = tmp_path / "weights.npy"
    assert weight_files.reads_or_refuses(path, versions, numpy_dict.read) == len(versions)


def test_hostile_pickles_are_refused(tmp_path):
    path = tmp_path / "weights.npy"
    pickles = {**weight_files.HOSTILE_PICKLES, **weight_files.hostile_arrays()}
    header = npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (), }")
    versions = {name: header + content for name, content in pickles.items()}
    assert weight_files.reads_or_refuses(path, versions, numpy_dict.read) == len(versions)


def test_zip_bombs_are_refused(tmp_path):
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(16 << 20, np.uint8))
    overlapping = bytearray(npz(a=np.zeros(1000), b=np.zeros(1000), c=np.zeros(1000)))
    # Every entry of the directory is the first one.
    for name in (b"b.npy", b"c.npy"):
        struct.pack_into("<I", overlapping, overlapping.rindex(name) - 4, 0)
    lying = bytearray(file.getvalue())
    struct.pack_into("<I", lying, lying.rindex(b"PK\1\2") + 24, 1000)
    versions = {"bomb": file.getvalue(), "lying": bytes(lying)}
    path = tmp_path / "weights.npz"
    assert weight_files.reads_or_refuses(path, versions, numpy_dict.read) == 2
    path.write_bytes(bytes(overlapping))
    assert set(numpy_dict.read(path).arrays) == {"a", "b", "c"}


@pytest.mark.parametrize("form", ["npy", "npz", "compressed"])
def test_damaged_files_are_refused_or_read(tmp_path, form):
    path = tmp_path / "weights.npz"
    arrays = weight_files.arrays()
    if form == "npy":
        path.write_bytes(weight_files.npy_dictionary(weight_files.layers()))
    else:
        (np.savez if form == "npz" else np.savez_compressed)(path, **arrays)
    refused = weight_files.reads_or_refuses(path, weight_files.damaged(path.read_bytes()), numpy_dict.read)
    assert refused > (60 if form == "npy" else 150)


def test_encrypted_entries_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    content = bytearray(npz(a=np.ones(3)))
    content[content.rindex(b"PK\1\2") + 8] = 1
    path.write_bytes(content)
    assert zipfile.is_zipfile(path)
    with pytest.raises(contents.FormatError, match="encrypted"):
        numpy_dict.read(path)
