"""Files of AlexNet's size are read in seconds, in little more memory than their size; ``-m slow -s`` prints figures."""

import os
import subprocess
import sys

import caffe_files
import h5py
import numpy as np
import pytest

SHAPES = {
    **{"conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3)},
    **{"conv5": (256, 192, 3, 3), "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096)},
}
PROGRAM = """
import importlib, os, re, sys, time
module, path = importlib.import_module("alexnet_tf.weights." + sys.argv[1]), sys.argv[2]
# A child's ru_maxrss begins with that of the process that forked it.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before, start = peak(), time.monotonic()
found = module.read(path)
print(time.monotonic() - start, (peak() - before) / os.path.getsize(path), sum(a.size for a in found.arrays.values()))
"""


def layers():
    random = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        yield name, random.standard_normal(shape, np.float32), random.standard_normal(shape[:1], np.float32)


def caffe_model(path):
    net = caffe_files.message("Net")
    for name, kernel, bias in layers():
        net.layer.add(name=name, type="Convolution", blobs=[caffe_files.blob(kernel), caffe_files.blob(bias)])
    path.write_bytes(net.SerializeToString())


def onnx_model(path):
    onnx = pytest.importorskip("onnx")
    arrays = [(name, array) for name, *both in layers() for name, array in zip((name, f"{name}_b"), both)]
    graph = onnx.GraphProto(initializer=[onnx.numpy_helper.from_array(array, name) for name, array in arrays])
    path.write_bytes(onnx.ModelProto(graph=graph).SerializeToString())


def hdf5_weights(path):
    with h5py.File(path, "w") as file:
        for name, kernel, bias in layers():
            file[f"{name}/kernel"], file[f"{name}/bias"] = kernel, bias


def matconvnet(path):
    scipy_io = pytest.importorskip("scipy.io")
    cells = np.empty([1, len(SHAPES)], object)
    for number, (name, kernel, bias) in enumerate(layers()):
        both = np.empty([1, 2], object)
        both[0, 0], both[0, 1] = kernel.reshape(*kernel.shape, *[1] * (4 - kernel.ndim)).transpose(2, 3, 1, 0), bias
        cells[0, number] = {"type": "conv", "name": name, "weights": both}
    scipy_io.savemat(path, {"layers": cells}, do_compression=True)


@pytest.mark.slow
@pytest.mark.parametrize("write", [caffe_model, onnx_model, hdf5_weights, matconvnet])
def test_large_file_is_read_in_seconds_and_in_its_size(tmp_path, write):
    path = tmp_path / "weights"
    write(path)
    call = [sys.executable, "-c", PROGRAM, write.__name__, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = subprocess.run(call, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, share, count = map(float, output.split())
    print(f"\n{write.__name__}: {path.stat().st_size:,} bytes in {seconds:.2f} s and {share:.2f} times its size")
    path.unlink()
    assert count == 60_965_224 and seconds < 20 and 0.9 < share < 1.5
