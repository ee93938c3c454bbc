import damaged_weights
import numpy as np
import pytest
import reference_operations

from alexnet_tf.weights import contents
from alexnet_tf.weights import onnx_model

onnx = pytest.importorskip("onnx", reason="ONNX models are written with onnx")

from onnx import helper  # noqa: E402 (onnx may be missing)
from onnx import numpy_helper  # noqa: E402


def weights():
    random = np.random.default_rng(0)
    shapes = {
        **{"conv1_w_0": [8, 3, 5, 5], "conv1_b_0": [8], "conv2_w_0": [6, 4, 3, 3], "conv2_b_0": [6]},
        **{"fc3_w_0": [7, 96], "fc3_b_0": [7], "fc4_w_0": [7, 5], "fc4_b_0": [5]},
    }
    return {name: random.normal(0, 2, shape).astype(np.float32) for name, shape in shapes.items()}


def tensors(arrays, *, raw):
    if raw:
        return [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    kinds = {"f": onnx.TensorProto.FLOAT, "i": onnx.TensorProto.INT64, "d": onnx.TensorProto.DOUBLE}
    return [
        helper.make_tensor(name, kinds[np.asarray(array).dtype.char.replace("l", "i")], array.shape, array.ravel())
        for name, array in arrays.items()
    ]


def nodes(*, old):
    """A network of two groups: in the style of the model zoo's AlexNets (old), or of PyTorch's exporter."""
    make = helper.make_node
    found = [
        make("Conv", ["data_0", "conv1_w_0", "conv1_b_0"], ["c1"], kernel_shape=[5, 5], strides=[2, 2]),
        make("Relu", ["c1"], ["r1"]),
        make("LRN", ["r1"], ["n1"], "norm1", size=5, alpha=0.01, beta=0.75, bias=2.0),
        make("MaxPool", ["n1"], ["p1"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 0, 0]),
        make("Conv", ["p1", "conv2_w_0", "conv2_b_0"], ["c2"], "conv2", group=2, pads=[1, 1, 1, 1]),
        make("Relu", ["c2"], ["r2"]),
    ]
    if old:
        return [
            *found,
            make("Reshape", ["r2", "shape"], ["f"]),
            make("Gemm", ["f", "fc3_w_0", "fc3_b_0"], ["g"], "fc3", transB=1),
            make("Dropout", ["g"], ["d", "mask"], ratio=0.25),
            make("MatMul", ["d", "fc4_w_0"], ["m"], "fc4"),
            make("Add", ["fc4_b_0", "m"], ["a"]),
            make("Softmax", ["a"], ["prob_1"]),
        ]
    return [
        *found,
        make("Identity", ["fc3_b_0"], ["same_bias"]),
        make("Flatten", ["r2"], ["f"], axis=1),
        make("Constant", [], ["rate"], value=numpy_helper.from_array(np.float32(0.25), "value")),
        make("Gemm", ["f", "fc3_w_0", "same_bias"], ["g"], "fc3", alpha=1.0, beta=1.0, transB=1),
        make("Dropout", ["g", "rate"], ["d"]),
        make("Gemm", ["d", "fc4_w_0", "fc4_b_0"], ["a"], "fc4", transB=0),
        make("Softmax", ["a"], ["prob_1"], axis=1),
    ]


def model(*, old=True, raw=True, arrays=None):
    arrays = arrays or weights()
    if old:
        arrays["shape"] = np.array([1, 96])
    images = helper.make_tensor_value_info("data_0", onnx.TensorProto.FLOAT, [1, 3, 21, 21])
    result = helper.make_tensor_value_info("prob_1", onnx.TensorProto.FLOAT, [1, 5])
    # Before IR version 4 initializers were inputs, too.
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
    also = [helper.make_tensor_value_info(name, kinds[name], arrays[name].shape) for name in arrays] if old else []
    graph = helper.make_graph(nodes(old=old), "small", [*also, images], [result], tensors(arrays, raw=raw))
    opset = helper.make_opsetid("", 8 if old else 17)
    return helper.make_model(graph, producer_name="tests", ir_version=3 if old else 8, opset_imports=[opset])


def write(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("raw", [True, False])
def test_model_is_read_to_the_bit(tmp_path, old, raw):
    written = model(old=old, raw=raw)
    onnx.checker.check_model(written, full_check=True)
    found = onnx_model.read(write(tmp_path, written))
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    assert found.format == "ONNX model"
    assert list(found.arrays) == [*expected, *([] if old else ["rate"])]
    for name, array in expected.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
    assert found.metadata == {"producer": "tests", "opset": 8 if old else 17, "input_size": [21, 21]}
    flat = "Reshape" if old else "Flatten"
    assert [operation.kind for operation in found.operations] == [
        *("convolution", "relu", "lrn", "max_pool", "convolution", "relu", flat, "dense", "dropout", "dense"),
        "softmax",
    ]
    by_name = {operation.name: operation for operation in found.operations}
    assert by_name["conv2"] == contents.Operation(
        "convolution",
        "conv2",
        ("conv2_w_0", "conv2_b_0"),
        {"groups": 2, "kernel_size": [3, 3], "strides": [1, 1], "padding": [1, 1, 1, 1]},
    )
    assert by_name["norm1"].attributes == pytest.approx({"size": 5, "alpha": 0.002, "beta": 0.75, "bias": 2}, rel=1e-6)
    assert by_name["fc3"].parameters == ("fc3_w_0", "fc3_b_0") and by_name["fc3"].attributes == {"transposed": True}
    assert by_name["fc4"].parameters == ("fc4_w_0", "fc4_b_0") and by_name["fc4"].attributes == {"transposed": False}
    assert found.operations[8].attributes == {"rate": 0.25}


@pytest.mark.parametrize("old", [True, False])
def test_operations_compute_what_onnxruntime_computes(tmp_path, old):
    onnxruntime = pytest.importorskip("onnxruntime")
    written = model(old=old)
    written.graph.output.append(helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 5]))
    path = write(tmp_path, written)
    images = np.random.default_rng(1).normal(0, 60, [1, 3, 21, 21]).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (computed,) = session.run(["a"], {"data_0": images})
    found = onnx_model.read(path)
    found = contents.Contents(found.format, found.arrays, found.operations[:-1])
    expected = reference_operations.run(found, np.float64(images))
    np.testing.assert_allclose(computed, expected, atol=1e-4 * expected.std())


def test_other_types_of_numbers(tmp_path):
    arrays = {
        dtype: np.arange(6).reshape(2, 3).astype(dtype)
        for dtype in ("float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool")
    }
    raw = helper.make_graph([], "g", [], [], tensors(arrays, raw=True))
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
    del kinds["float16"]
    fields = [helper.make_tensor(name, kinds[name], [2, 3], arrays[name].ravel()) for name in kinds]
    for graph in (raw, helper.make_graph([], "g", [], [], fields)):
        found = onnx_model.read(write(tmp_path, helper.make_model(graph)))
        for name, array in found.arrays.items():
            assert array.dtype == name
            np.testing.assert_array_equal(array, arrays[name])


def with_tensor(**fields):
    tensor = onnx.TensorProto(name="conv1_w_0", data_type=1, **fields)
    return onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString()


@pytest.mark.parametrize(
    "content, message",
    [
        (
            with_tensor(dims=[2], external_data=[{"key": "location", "value": "/etc/passwd"}]),
            "in another file.*onnx.save",
        ),
        (with_tensor(dims=[2], data_location=1), "in another file"),
        (with_tensor(dims=[2**40], raw_data=b"1234"), "values of shape"),
        (with_tensor(dims=[-1, -1], raw_data=b"1234"), "values of shape"),
        (with_tensor(dims=[1] * 80, raw_data=b"1234"), "values of shape"),
        (with_tensor(dims=[2], raw_data=b"123"), "not a multiple"),
        (with_tensor(dims=[2**20]), "0 values of shape"),
        (onnx.ModelProto().SerializeToString() + b"\x3a\x00", "without weights"),
        (b"\x3a\x00" * 200_000, "more than 50,000 fields"),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, message):
    damaged_weights.check_refused(onnx_model.read, tmp_path / "hostile.onnx", content, message)


def test_tensors_that_are_not_numbers_or_too_many_are_refused(tmp_path):
    path = tmp_path / "hostile.onnx"

    def check(graph, message):
        damaged_weights.check_refused(onnx_model.read, path, onnx.ModelProto(graph=graph).SerializeToString(), message)

    text = onnx.TensorProto(name="a", data_type=8, dims=[1], string_data=[b"a"])
    check(onnx.GraphProto(initializer=[text]), "data type 8")
    one = onnx.TensorProto(name="a", data_type=1, dims=[1], float_data=[1])
    check(onnx.GraphProto(initializer=[one, one]), "two arrays a")
    check(onnx.GraphProto(initializer=[one], sparse_initializer=[onnx.SparseTensorProto()]), "sparse")
    check(onnx.GraphProto(node=[onnx.NodeProto(op_type="LRN")], initializer=[one]), "normalization over 0")
    # Each byte would become an integer of eight.
    many = onnx.TensorProto(name="a", data_type=7, dims=[2_000_000], int64_data=[1] * 2_000_000)
    check(onnx.GraphProto(initializer=[many]), "list of integers")
    large = onnx.TensorProto(name="a", data_type=3, dims=[1], int32_data=[1000])
    check(onnx.GraphProto(initializer=[large]), "too large for int8")


@pytest.mark.parametrize("old", [True, False])
def test_damaged_files_are_refused_or_read(tmp_path, old):
    content = model(old=old).SerializeToString()
    assert damaged_weights.check_mutations(onnx_model.read, tmp_path / "damaged.onnx", content) > 60
    # The structure alone, without most of the weights.
    arrays = {name: array[:0] for name, array in weights().items()}
    content = model(old=old, arrays=arrays).SerializeToString()
    damaged_weights.check_mutations(onnx_model.read, tmp_path / "damaged.onnx", content)
