import io
import zlib

import damaged_weights
import numpy as np
import pytest
import reference_operations

from alexnet_tf.weights import contents
from alexnet_tf.weights import mat_file
from alexnet_tf.weights import matconvnet

scipy_io = pytest.importorskip("scipy.io", reason="MATLAB's files are written with SciPy")

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "conv1/0": RANDOM.normal(0, 3, [5, 5, 3, 8]).astype(np.float32),
    "conv1/1": RANDOM.normal(0, 3, [1, 8]).astype(np.float32),
    "conv2/0": RANDOM.normal(0, 3, [3, 3, 4, 6]).astype(np.float32),
    "conv2/1": RANDOM.normal(0, 3, [1, 6]).astype(np.float32),
    "fc3/0": RANDOM.normal(0, 3, [4, 4, 6, 7]).astype(np.float32),
    "fc3/1": RANDOM.normal(0, 3, [1, 7]).astype(np.float32),
}
MEAN = RANDOM.uniform(0, 255, [21, 21, 3]).astype(np.float32)


def cell(values):
    array = np.empty([1, len(values)], object)
    array[0] = values
    return array


def weights(name):
    array = np.empty([1, 2], object)
    array[0, 0], array[0, 1] = ARRAYS[f"{name}/0"], ARRAYS[f"{name}/1"]
    return array


def layers(*, old=False):
    def convolution(name, **fields):
        own = {"filters": ARRAYS[f"{name}/0"], "biases": ARRAYS[f"{name}/1"]} if old else {"weights": weights(name)}
        return {"type": "conv", "name": name, **own, **fields}

    return [
        convolution("conv1", stride=2.0, pad=0.0),
        {"type": "relu", "name": "relu1"},
        {"type": "normalize", "name": "norm1", "param": np.array([5, 1, 0.01 / 5, 0.75])},
        {"type": "pool", "name": "pool1", "pool": np.array([3.0, 3]), "stride": 2.0, "pad": 0.0, "method": "max"},
        convolution("conv2", stride=np.array([1.0, 1]), pad=np.array([1.0, 1, 1, 1])),
        {"type": "relu", "name": "relu2"},
        convolution("fc3", stride=1.0, pad=0.0),
        {"type": "softmax", "name": "prob"},
    ]


def variables(**options):
    classes = {"name": cell(["n01", "n02"]), "description": cell(["tench, Tinca tinca", "gold\u00adfish"])}
    normalization = {"averageImage": MEAN, "imageSize": np.array([21.0, 21, 3, 1])}
    return {"layers": cell(layers(**options)), "meta": {"normalization": normalization, "classes": classes}}


def saved(values, *, packed=True):
    file = io.BytesIO()
    scipy_io.savemat(file, values, do_compression=packed)
    return file.getvalue()


def write(tmp_path, content):
    path = tmp_path / "net.mat"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", ["today", "net", "old"])
def test_network_is_read_to_the_bit(tmp_path, packed, form):
    values = variables(old=form == "old")
    if form == "old":
        values.update(values.pop("meta"))
    values = {"net": values} if form == "net" else values
    found = matconvnet.read(write(tmp_path, saved(values, packed=packed)))
    assert found.format == "MatConvNet model" and list(found.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == np.float32
        if name.endswith("/0"):
            np.testing.assert_array_equal(found.arrays[name], array)
        else:
            np.testing.assert_array_equal(found.arrays[name].ravel(), array.ravel())
    by_name = {operation.name: operation for operation in found.operations}
    assert by_name["norm1"].attributes == {"size": 5, "alpha": 0.002, "beta": 0.75, "bias": 1}
    assert by_name["pool1"] == contents.Operation(
        "max_pool", "pool1", (), {"kernel_size": [3, 3], "strides": [2, 2], "padding": [0, 0, 0, 0]}
    )
    assert by_name["conv2"].attributes == {
        **{"groups": 2, "kernel_size": [3, 3], "strides": [1, 1], "padding": [1, 1, 1, 1]},
    }
    assert found.metadata["input_size"] == [21, 21]
    assert found.metadata["class_names"] == ["n01", "n02"]
    assert found.metadata["class_descriptions"] == ["tench, Tinca tinca", "gold\u00adfish"]
    np.testing.assert_array_equal(found.metadata["mean"], MEAN)


def test_operations_compute_what_caffe_files_compute(tmp_path):
    """The same network in Caffe's layout, which OpenCV confirms."""
    found = matconvnet.read(write(tmp_path, saved(variables())))
    arrays = {
        name: array.transpose(3, 2, 0, 1) if name.endswith("/0") else array.ravel()
        for name, array in found.arrays.items()
    }
    images = RANDOM.normal(0, 60, [1, 3, 21, 21])
    result = reference_operations.run(contents.Contents("", arrays, found.operations), images)
    assert result.shape == (1, 7, 1, 1) and result.std() > 0


def test_paddings_in_matconvnets_order(tmp_path):
    values = layers()
    values[0]["pad"] = np.array([1.0, 2, 3, 4])
    values[3]["pad"] = np.array([1.0, 2])
    found = matconvnet.read(write(tmp_path, saved({"layers": cell(values)})))
    assert found.operations[0].attributes["padding"] == [1, 3, 2, 4]
    assert found.operations[3].attributes["padding"] == [1, 2, 1, 2]


@pytest.mark.parametrize("packed", [True, False])
def test_values_are_those_that_scipy_reads(tmp_path, packed):
    values = {
        "small": np.array([[1.0, 2, 3]]),
        "fractions": RANDOM.normal(size=[3, 4, 2]),
        **{kind: RANDOM.integers(0, 100, [2, 3]).astype(kind) for kind in ("int8", "uint16", "int64", "uint32")},
        "text": "some words",
        "rows": np.array(["ab", "abc"]),
        "empty": np.zeros([0, 3]),
    }
    content = saved(values, packed=packed)
    read = mat_file.read(write(tmp_path, content))
    expected = scipy_io.loadmat(io.BytesIO(content))
    for name in values:
        if name == "text":
            assert read[name] == "some words"
        elif name == "rows":
            assert read[name] == ["ab", "abc"]
        else:
            assert read[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(read[name], expected[name])


def element(kind, data):
    return np.array([kind, len(data)], "<u4").tobytes() + data + bytes(-len(data) % 8)


def matrix(kind, shape, *parts, name=b"a"):
    flags = element(6, np.array([kind, 0], "<u4").tobytes())
    return element(14, flags + element(5, np.array(shape, "<i4").tobytes()) + element(1, name) + b"".join(parts))


def packed(content):
    data = zlib.compress(content)
    return np.array([15, len(data)], "<u4").tobytes() + data


HEADER = b"MATLAB 5.0".ljust(124) + b"\0\1IM"


def nested(depth):
    content = element(14, b"")
    for _ in range(depth):
        content = matrix(1, [1, 1], content)
    return content


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file"),
        (b"MATLAB", "cut off"),
        (b"MATLAB 5.0".ljust(128), "another header"),
        (HEADER + matrix(17, [1, 1], element(1, b"MCOS")), "an object of MATLAB.*ONNX"),
        (HEADER + matrix(16, [1, 1]), "a function of MATLAB"),
        (HEADER + matrix(3, [1, 1]), "an object of MATLAB"),
        (HEADER + matrix(5, [1, 1]), "a sparse matrix"),
        (HEADER + nested(40), "more than 32 deep"),
        (HEADER + packed(nested(40)), "more than 32 deep"),
        # A bomb: 64 MB of zeros, a thousand times smaller.
        (HEADER + packed(matrix(6, [1000, 8000], element(9, bytes(64_000_000)))), "arrays of more than"),
        # Zeros of a byte become numbers of eight.
        (HEADER + packed(matrix(6, [1000, 900], element(2, bytes(900_000)))), "arrays of more than"),
        (HEADER + matrix(6, [2**30, 2**30], element(9, bytes(8))), "numbers of shape"),
        (HEADER + matrix(6, [-1, -1], element(9, bytes(8))), "header is damaged"),
        (HEADER + matrix(1, [2**30, 2**30]), "more than 50,000 values"),
        (HEADER + matrix(2, [2**30, 1], element(5, b"\x20\0\0\0"), element(1, b"")), "more than 50,000 values"),
        (HEADER + np.array([14, 2**31], "<u4").tobytes(), "a variable of"),
        (HEADER + np.array([14, 16, 6, 2**31], "<u4").tobytes() + bytes(8), "numbers of 2,147,483,648 bytes"),
        (HEADER + packed(np.array([14, 2**31, 6, 2**31], "<u4").tobytes()), "numbers of 2,147,483,648 bytes"),
        (HEADER + matrix(6, [1, 1], element(9, bytes(8))) * 2, "two variables"),
        (HEADER + matrix(6, [1, 1], element(9, bytes(8))), "the variables a"),
        (HEADER + packed(matrix(6, [1, 1], element(9, bytes(8))))[:-4], "a variable of"),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, message):
    damaged_weights.check_refused(matconvnet.read, tmp_path / "hostile.mat", content, message)


@pytest.mark.parametrize(
    "layer, message",
    [
        ({"type": "conv", "name": "a", "weights": "text"}, "weights of a that are not arrays"),
        ({"type": "conv", "name": "a", "pad": 0.0}, "without a kernel"),
        ({"type": "normalize", "name": "a", "param": np.array([5.0, 1])}, "constants of a"),
        ({"type": np.array([1.0]), "name": "a"}, "without a type"),
        ({"type": "dagnn.Conv", "name": "a", "block": np.array([1.0])}, "a DagNN"),
        ({"name": "a"}, "the variables layers"),
    ],
)
def test_other_networks_are_refused(tmp_path, layer, message):
    content = saved({"layers": cell([layers()[0] if "block" not in layer else layer, layer])})
    damaged_weights.check_refused(matconvnet.read, tmp_path / "other.mat", content, message)


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_are_refused_or_read(tmp_path, packed):
    content = saved(variables(), packed=packed)
    refused = damaged_weights.check_mutations(matconvnet.read, tmp_path / "damaged.mat", content, 100)
    # A compressed array has a checksum.
    assert refused > (95 if packed else 25)
