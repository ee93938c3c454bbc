import os

import caffe_files
import damaged_weights
import numpy as np
import pytest
import reference_operations

from alexnet_tf.weights import caffe_model
from alexnet_tf.weights import contents

ARRAYS = caffe_files.weights()


def write(tmp_path, content, name="model.caffemodel"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", ["today", "v1", "v0"])
def test_model_is_read_to_the_bit_in_each_form(tmp_path, form):
    found = caffe_model.read(write(tmp_path, caffe_files.model(form, ARRAYS)))
    assert found.format == "Caffe model" and list(found.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == np.float32
        shape = array.shape if form == "today" else (1,) * (4 - array.ndim) + array.shape
        assert found.arrays[name].shape == shape
        np.testing.assert_array_equal(found.arrays[name].reshape(array.shape), array)
    assert [operation.name for operation in found.operations] == [name for name, _, _ in caffe_files.LAYERS]
    by_name = {operation.name: operation for operation in found.operations}
    assert by_name["conv2"] == contents.Operation(
        "convolution",
        "conv2",
        ("conv2/0", "conv2/1"),
        {"groups": 2, "kernel_size": [3, 3], "strides": [1, 1], "padding": [1, 1, 1, 1]},
    )
    # Caffe divides alpha by the window's size.
    normalization = {"size": 5, "alpha": 0.002, "beta": 0.75, "bias": 1}
    assert by_name["norm1"].attributes == pytest.approx(normalization, rel=1e-6)
    assert by_name["pool1"].kind == "max_pool" and by_name["pool1"].attributes["strides"] == [2, 2]
    assert by_name["drop3"].attributes == {"rate": 0.25}
    assert [by_name[name].kind for name in ("relu1", "fc3", "prob")] == ["relu", "dense", "softmax"]
    assert found.metadata == {"network_name": "small", "input_size": [21, 21]}


# OpenCV does not read V0.
@pytest.mark.parametrize("form", ["today", "v1"])
def test_operations_compute_what_opencv_computes(tmp_path, form):
    dnn = pytest.importorskip("cv2.dnn", reason="OpenCV reads Caffe models")
    content = caffe_files.model(form, ARRAYS)
    found = caffe_model.read(write(tmp_path, content))
    images = np.random.default_rng(1).normal(0, 60, caffe_files.INPUT).astype(np.float32)
    network = dnn.readNetFromCaffe(*(np.frombuffer(each, np.uint8) for each in (caffe_files.description(), content)))
    network.setInput(images)
    computed = network.forward("fc3")
    found = contents.Contents(found.format, found.arrays, found.operations[:-1])
    expected = reference_operations.run(found, np.float64(images))
    np.testing.assert_allclose(computed, expected, atol=1e-4 * expected.std())


def test_numbers_with_a_tag_each_and_doubles_and_parts(tmp_path):
    kernel = np.random.default_rng(0).normal(size=[300, 1, 33, 11]).astype(np.float32)
    unpacked = caffe_files.message("UnpackedBlob", data=kernel.ravel(), shape={"dim": kernel.shape})
    net = caffe_files.message("Net", name="a")
    layer = net.layer.add(name="conv1", type="Convolution")
    layer.blobs.add().MergeFromString(unpacked.SerializeToString())
    layer.blobs.append(caffe_files.blob(np.float64([1 / 3, 2]), double=True))
    # Two packed parts and a single number.
    parts = [caffe_files.message("BlobProto", data=values).SerializeToString() for values in ([1, 2], [3])]
    single = caffe_files.message("UnpackedBlob", data=[4], shape={"dim": [4]}).SerializeToString()
    found = caffe_model.read(write(tmp_path, _with_blob(layer, b"".join([*parts, single]))))
    np.testing.assert_array_equal(found.arrays["conv1/0"], kernel)
    assert found.arrays["conv1/1"].dtype == np.float64
    np.testing.assert_array_equal(found.arrays["conv1/1"], [1 / 3, 2])
    np.testing.assert_array_equal(found.arrays["conv1/2"], [1, 2, 3, 4])


def _with_blob(layer, blob):
    """Returns a model of one layer, with the bytes of a blob at its end."""
    layer = layer.SerializeToString() + b"\x3a" + bytes([len(blob)]) + blob
    length, size = b"", len(layer)
    while size:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
    return b"\xa2\x06" + length + layer


def test_preprocessing_of_a_data_layer(tmp_path):
    net = caffe_files.message("Net")
    net.layer.add(name="data", type="Data", transform_param={"crop_size": 227, "mean_value": [104, 117, 123]})
    net.layer.add(name="conv1", type="Convolution", blobs=[caffe_files.blob(np.ones([1, 3, 1, 1], np.float32))])
    found = caffe_model.read(write(tmp_path, net.SerializeToString()))
    assert found.metadata["input_size"] == [227, 227]
    np.testing.assert_array_equal(found.metadata["mean"], [104, 117, 123])


def test_padding_and_strides_of_two_directions(tmp_path):
    net = caffe_files.message("Net")
    net.layer.add(
        name="conv1",
        type="Convolution",
        convolution_param={"kernel_size": [3, 5], "pad_h": 1, "pad_w": 2, "stride_h": 4, "stride_w": 3},
        blobs=[caffe_files.blob(np.ones([1, 3, 3, 5], np.float32))],
    )
    (operation,) = caffe_model.read(write(tmp_path, net.SerializeToString())).operations
    assert operation.attributes == {"groups": 1, "kernel_size": [3, 5], "strides": [4, 3], "padding": [1, 2, 1, 2]}


@pytest.mark.parametrize("legacy", [True, False])
def test_mean_image(tmp_path, legacy):
    image = np.random.default_rng(0).uniform(0, 255, [3, 5, 4]).astype(np.float32)
    path = write(tmp_path, caffe_files.blob(image, legacy=legacy).SerializeToString(), "mean.binaryproto")
    mean = caffe_model.read_mean(path)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, image.transpose(1, 2, 0))


def test_mean_image_that_is_not_one(tmp_path):
    path = tmp_path / "mean.binaryproto"
    for array in (np.ones([3, 4], np.float32), np.ones([1, 5, 5], np.float32), np.full([3, 2, 2], np.nan, np.float32)):
        damaged_weights.check_refused(caffe_model.read_mean, path, caffe_files.blob(array).SerializeToString())
    damaged_weights.check_mutations(
        lambda path: contents.Contents("", {"mean": caffe_model.read_mean(path)}),
        path,
        caffe_files.blob(np.ones([3, 5, 5], np.float32)).SerializeToString(),
        60,
    )


def of_layer(*blobs, **fields):
    return caffe_files.message("Net", layer=[{"name": "conv1", "type": "Convolution", "blobs": blobs} | fields])


@pytest.mark.parametrize(
    "shape, count", [([2, 3], 5), ([2**62, 4], 8), ([-1, -4], 4), ([0], 0), ([], 4), ([1] * 70, 1), ([2**31] * 3, 4)]
)
def test_lying_shapes_are_refused(tmp_path, shape, count):
    lying = caffe_files.message("BlobProto", data=np.ones(count, np.float32), shape={"dim": shape})
    damaged_weights.check_refused(
        caffe_model.read, tmp_path / "lying.caffemodel", of_layer(lying).SerializeToString(), "values of shape"
    )


def test_hostile_files_are_refused(tmp_path):
    path = tmp_path / "hostile.caffemodel"
    one = caffe_files.blob(np.ones([1], np.float32))
    nested = b""
    for _ in range(10_000):
        size = len(nested)
        nested = b"\x12" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + nested
    net = of_layer(one)
    net.layer.append(net.layer[0])
    normalization = of_layer(one).layer[0]
    normalization.type, normalization.lrn_param.local_size = "LRN", 0
    for content, message in (
        (b"", "an empty file"),
        (b"\xa2\x06\x00" * 200_000, "more than 50,000 fields"),
        (b"\x12\x00" * 200_000, "more than 50,000 fields"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "a field of"),
        (b"\xa2\x06" + b"\xff" * 11, "more than 64 bits"),
        (b"\x0b" * 100, "not a field"),
        (b"\x0a" + b"\x81\x80\x02" + b"a" * 32_769, "a name of"),
        (b"\x0a\x02\xff\xfe", "not UTF-8"),
        (b"\x9d\x06\x00\x00\x00\x00" * 40_000, "without weights"),
        (nested, "without weights"),
        (net.SerializeToString(), "two layers conv1"),
        (caffe_files.message("Net", layer=[normalization]).SerializeToString(), "normalization over 0"),
        (of_layer(one, name="a\x1b[31m\nb").SerializeToString(), "an array of the name"),
        (caffe_files.message("Net", layer=[{"name": "a\x1b[31m\nb"}]).SerializeToString(), "without weights"),
    ):
        damaged_weights.check_refused(caffe_model.read, path, content, message)


@pytest.mark.parametrize("form", ["today", "v1", "v0"])
def test_damaged_files_are_refused_or_read(tmp_path, form):
    content = caffe_files.model(form, ARRAYS)
    refused = damaged_weights.check_mutations(caffe_model.read, tmp_path / "damaged.caffemodel", content)
    # Most bytes are weights.
    assert refused > 60


def test_special_files_and_missing_ones(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(contents.FormatError, match="a pipe or a device"):
        caffe_model.read(tmp_path / "pipe")
    with pytest.raises(contents.FormatError, match="no file"):
        caffe_model.read(tmp_path / "missing")
