"""A large file becomes a run in seconds, in less than three times its size; ``-m slow -s`` prints figures."""

import os
import subprocess
import sys

import caffe_files
import numpy as np
import onnx_alexnet
import pytest
import weight_files

from alexnet_tf.weights import convert
from alexnet_tf.weights import layouts

PROGRAM = """
import os, re, sys, time
import tensorflow as tf
from alexnet_tf.runs import import_weights
tf.zeros(1)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before, start = peak(), time.monotonic()
options = import_weights.Options(mean="122.68,116.67,104.01")
import_weights.import_weights(sys.argv[1], sys.argv[2], options)
print(time.monotonic() - start, (peak() - before) / os.path.getsize(sys.argv[1]))
"""


def random_layers(network):
    kernels = next(each.kernels for each in layouts.SHAPES if each.network == network)
    return onnx_alexnet.random_layers(dict(zip(convert.LAYERS, (*kernels[:-1], (4096, 1000)))), 1)


def caffe_model():
    arrays = caffe_files.arrays_of(random_layers("alexnet"))
    return caffe_files.model("v1", arrays, caffe_files.alexnet("caffe", 1000), [1, 3, 227, 227])


def torch_stream():
    own = {name: convert.Layer(*layer) for name, layer in random_layers("alexnet_owt").items()}
    arrays = convert.to_torchvision(own)
    return weight_files.torch_stream({name: weight_files.Tensor(value) for name, value in arrays.items()})


@pytest.mark.slow
@pytest.mark.parametrize("make", [caffe_model, torch_stream])
def test_large_file_is_imported_in_seconds_and_in_three_times_its_size(tmp_path, make):
    path = tmp_path / "weights"
    path.write_bytes(make())
    call = [sys.executable, "-c", PROGRAM, str(path), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = subprocess.run(call, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, share = np.float64(output.splitlines()[-1].split())
    print(f"\n{make.__name__}: {path.stat().st_size:,} bytes in {seconds:.2f} s and {share:.2f} times its size")
    path.unlink()
    assert seconds < 20 and 1 < share < 3
