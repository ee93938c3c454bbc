"""Files of arrays and pickles of the size of AlexNet: time and memory of reading them, each in a process."""

import collections
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import weight_files
from safetensors import numpy as safetensors

SHAPES = [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)]
SHAPES += [(4096, 9216), (4096, 4096), (1000, 4096)]

# Prints seconds, and the peak of memory above that before reading, in bytes.
PROGRAM = """
import re, sys, time
from alexnet_tf.weights import formats, numpy_dict, pickled_arrays, safetensors_file, torch_state
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before, start = peak(), time.perf_counter()
found = formats.read(sys.argv[1])
print(time.perf_counter() - start, peak() - before, sum(array.size for array in found.arrays.values()))
"""


def _half(array):
    """Returns a tensor of bfloat16 of the size of an array."""
    storage = weight_files.Storage("bf16", array.view("<u2")[..., 1::2].tobytes(), array.size)
    return weight_files.Tensor(storage=storage, shape=array.shape)


def _write(path, name, arrays):
    layers = {}
    for key, array in arrays.items():
        layers.setdefault(key.rpartition(".")[0], []).append(array)
    tensors = collections.OrderedDict((key, weight_files.Tensor(array)) for key, array in arrays.items())
    if name in ("zip.pth", "stream.pth"):
        path.write_bytes((weight_files.torch_zip if name == "zip.pth" else weight_files.torch_stream)(tensors))
    elif name == "bfloat16.pth":
        path.write_bytes(weight_files.torch_zip({key: _half(array) for key, array in arrays.items()}))
    elif name == "dictionary.npy":
        path.write_bytes(weight_files.npy_dictionary(layers, 3))
    elif name == "protocol_2.npy":
        path.write_bytes(weight_files.npy_dictionary(layers, 2))
    elif name == "arrays.ckpt":
        path.write_bytes(pickle.dumps(layers, 3))
    elif name == "weights.safetensors":
        safetensors.save_file(arrays, path)
    else:
        (np.savez if name == "stored.npz" else np.savez_compressed)(path, **arrays)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *["zip.pth", "stream.pth", "bfloat16.pth", "dictionary.npy", "protocol_2.npy", "stored.npz", "compressed.npz"],
        *["arrays.ckpt", "weights.safetensors"],
    ],
)
def test_large_files_are_read_in_little_time_and_memory(tmp_path, name):
    generator = np.random.default_rng(0)
    arrays = {}
    for number, shape in enumerate(SHAPES):
        arrays[f"{number}.weight"] = generator.standard_normal(shape, dtype=np.float32)
        arrays[f"{number}.bias"] = generator.standard_normal(shape[0], dtype=np.float32)
    path = tmp_path / name
    _write(path, name, arrays)
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], cwd=root, capture_output=True, text=True, check=True)
    seconds, memory, count = map(float, done.stdout.split())
    size = path.stat().st_size
    path.unlink()
    print(f"\n{name}: {size / 1e6:.1f} MB, {seconds:.2f} s, memory {memory / size:.2f} times the file")
    assert count == 61_100_840
    assert seconds < 20 and memory < 3 * size
