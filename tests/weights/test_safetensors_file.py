import json
import struct

import numpy as np
import pytest
import weight_files
from safetensors import numpy as library

from alexnet_tf.weights import contents
from alexnet_tf.weights import safetensors_file


def header(**entries):
    return json.dumps(
        {name: {"dtype": kind, "shape": shape, "data_offsets": at} for name, (kind, shape, at) in entries.items()}
    )


def test_arrays_are_read_equal_to_the_bit(tmp_path):
    path = tmp_path / "weights.safetensors"
    kinds = {kind: np.arange(6).astype(kind).reshape(2, 3) for kind in ("f2", "f8", "i1", "i2", "i4", "i8", "u1", "u8")}
    expected = {**weight_files.arrays(), **kinds, "empty": np.zeros((0, 3), np.float32), "number": np.array(2.5)}
    library.save_file(expected, path, metadata={"format": "pt"})
    found = safetensors_file.read(path)
    assert set(found.arrays) == set(expected) and found.metadata == {"safetensors": {"format": "pt"}}
    for name, array in expected.items():
        np.testing.assert_array_equal(found.arrays[name], array, strict=True)


def test_arrays_are_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    text = header(b=("U8", [1], [1, 2]), c=("U8", [1], [0, 1]), a=("U8", [1], [2, 3]))
    path.write_bytes(weight_files.safetensors_file(text, b"abc"))
    assert list(safetensors_file.read(path).arrays) == ["c", "b", "a"]


def test_bfloat16_becomes_float32_of_the_same_values(tmp_path):
    path = tmp_path / "weights.safetensors"
    halves = np.arange(2**16).astype("<u2")
    text = header(a=("BF16", [256, 256], [0, 2**17]))
    path.write_bytes(weight_files.safetensors_file(text, halves.tobytes()))
    found = safetensors_file.read(path)
    assert found.arrays["a"].dtype == np.float32 and found.arrays["a"].shape == (256, 256)
    assert found.arrays["a"].tobytes() == (halves.astype(np.uint32) << 16).tobytes()
    assert found.metadata == {"converted_types": ["bfloat16"]}


def test_hostile_headers_are_refused(tmp_path):
    texts = {
        "overlap": header(a=("F32", [1], [0, 4]), b=("F32", [1], [0, 4])),
        "hole": header(a=("F32", [1], [0, 4]), b=("F32", [1], [8, 12])),
        "beyond": header(a=("F32", [2**40], [0, 2**42])),
        "shorter": header(a=("F32", [2], [0, 4])),
        "overflow": header(a=("F32", [2**62, 2**62], [0, 4])),
        "negative": header(a=("F32", [-1], [0, 4])),
        "backwards": header(a=("F32", [1], [4, 0])),
        "type": header(a=("F8_E4M3", [12], [0, 12])),
        "unknown type": header(a=("F99", [12], [0, 12])),
        "twice": header(a=("F32", [3], [0, 12]), b=("F32", [3], [0, 12])).replace('"b"', '"a"'),
        "nothing": "{}",
        "list": "[]",
        "deep": "[" * 100_000,
        "control": header(**{"a\x1b[31m": ("F32", [3], [0, 12])}),
        "long name": header(**{"a" * 1000: ("F32", [3], [0, 12])}),
        "many": header(**{str(number): ("F32", [0], [0, 0]) for number in range(6000)}),
    }
    versions = {name: weight_files.safetensors_file(text, bytes(12)) for name, text in texts.items()}
    versions["many"] = weight_files.safetensors_file(texts["many"])
    versions["length"] = struct.pack("<Q", 2**63) + b"{}"
    versions["length of the file"] = struct.pack("<Q", 100) + b"{}"
    versions["large header"] = weight_files.safetensors_file(" " * (3 << 20))
    versions["short"] = b"{}"
    path = tmp_path / "weights.safetensors"
    assert weight_files.reads_or_refuses(path, versions, safetensors_file.read) == len(versions)


def test_types_that_numpy_does_not_have_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weight_files.safetensors_file(header(a=("F8_E4M3", [12], [0, 12])), bytes(12)))
    with pytest.raises(contents.FormatError, match="'a' of type F8_E4M3; save it as float32"):
        safetensors_file.read(path)


def test_damaged_files_are_refused_or_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    library.save_file(weight_files.arrays(), path)
    refused = weight_files.reads_or_refuses(path, weight_files.damaged(path.read_bytes()), safetensors_file.read)
    assert refused > 100
