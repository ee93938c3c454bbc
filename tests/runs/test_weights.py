"""Weights and networks of runs in files of other programs: read again equal, and computing the same."""

import dataclasses
import hashlib
import json
import pathlib
import sys

import keras
import numpy as np
import onnx
import pytest
import safetensors
import safetensors.numpy
import untrained_runs

import alexnet_tf.export
from alexnet_tf.export import onnx_network
from alexnet_tf.export import parity
from alexnet_tf.models import alexnet_owt
from alexnet_tf.runs import restore
from alexnet_tf.runs import weights
from alexnet_tf.weights import convert
from alexnet_tf.weights import layouts

CLASS_NAMES = untrained_runs.CLASS_NAMES
CONFIG = dataclasses.replace(untrained_runs.CONFIG, image_size=40, crop_size=32, precision="bfloat16")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the two-tower network for 32 x 32 crops, trained in bfloat16."""
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "small", CONFIG)


@pytest.fixture(scope="module")
def network(run):
    """The network of the run in float32."""
    config = dataclasses.replace(CONFIG, precision="float32")
    return restore.restore_network(config, CLASS_NAMES, run, jit_compile=False)[0]


def expected(network):
    return {variable.path: variable.numpy() for variable in network.weights}


def assert_equal(found, arrays):
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_safetensors_have_our_names_and_the_description(run, network, tmp_path):
    path = weights.export_weights(run, tmp_path / "a" / "ours.safetensors")
    assert_equal(safetensors.numpy.load_file(path), expected(network))
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["description"])["classes"] == CLASS_NAMES


def test_npz(run, network, tmp_path):
    with np.load(weights.export_weights(run, tmp_path / "ours.npz"), allow_pickle=False) as found:
        assert_equal(dict(found), expected(network))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_keras(run, network, tmp_path):
    path = weights.export_weights(run, tmp_path / "ours.keras")
    loaded = keras.saving.load_model(path)
    assert_equal({variable.path: variable.numpy() for variable in loaded.weights}, expected(network))
    images = np.random.default_rng(0).normal(0, 1, [2, 32, 32, 3]).astype(np.float32)
    np.testing.assert_allclose(loaded(images), network(images), rtol=1e-5, atol=1e-5)


def test_onnx_computes_the_same_and_has_the_preprocessing(run, network, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    path = weights.export_weights(run, tmp_path / "ours.onnx")
    said = capsys.readouterr().out
    assert said.startswith(f"weights {path}: ") and said.count("\n") == 1
    assert "onnxruntime's logits for 8 random images differ from the network's by at most" in said
    contents = pathlib.Path(path).read_bytes()
    model = onnx.load_model_from_string(contents)
    described = {each.key: each.value for each in model.metadata_props}
    stored = json.loads(pathlib.Path(f"{path}.json").read_text())
    assert stored.pop("sha256") == hashlib.sha256(contents).hexdigest()
    assert json.loads(described["preprocessing"]) == stored["preprocessing"]
    assert json.loads(described["classes"]) == CLASS_NAMES

    # From pixels, with what the files say.
    preprocessing = stored["preprocessing"]
    mean_image = np.load(tmp_path / preprocessing["mean_image"])
    pixels = np.random.default_rng(1).integers(0, 256, [3, 40, 40, 3])
    crop = slice(4, 36)
    assert (preprocessing["image_size"], preprocessing["crop_size"], preprocessing["crop"]) == (40, 32, "center")
    images = ((pixels - mean_image)[:, crop, crop] * preprocessing["scale"]).astype(np.float32)
    np.testing.assert_array_equal(mean_image, restore.read_statistics(run).mean_image)
    found = onnx_network.run(contents, images)["logits"]
    assert parity.relative_difference(found, network(images).numpy()) < 1e-5


def test_without_onnxruntime_nothing_is_compared(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_network, "run", lambda model, images: None)
    weights.export_weights(run, tmp_path / "ours.onnx")
    assert "not checked (pip install onnxruntime)" in capsys.readouterr().out


def test_a_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_network, "run", lambda model, images: {"logits": np.ones([len(images), 2], np.float32)})
    with pytest.raises(
        ValueError, match="^Expected onnxruntime's logits to differ from the network's by at most 0.0001 of "
    ):
        weights.export_weights(run, tmp_path / "ours.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "file, names, message",
    [
        ("a.h5", "ours", r"^Expected a file name that ends with .onnx, .safetensors, .keras, .npz. Received: \S+a.h5$"),
        ("a.npz", "caffe", "^Expected names to be one of ours, torchvision. Received: caffe$"),
        ("a.onnx", "torchvision", "^Expected names=ours for .onnx. Received: torchvision; use .safetensors or .npz$"),
        ("a.npz", "torchvision", "^Expected the network alexnet_owt for torchvision's names. Received: alexnet$"),
    ],
)
def test_invalid_arguments_are_rejected(run, tmp_path, file, names, message):
    with pytest.raises(ValueError, match=message):
        weights.export_weights(run, tmp_path / file, names=names)
    assert not list(tmp_path.iterdir())


def test_directory_is_rejected(run, tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(IsADirectoryError, match="^Expected the name of a file. Received: the directory "):
        weights.export_weights(run, tmp_path / "a.npz")


def test_weights_that_are_not_finite_are_rejected(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, network="cifar10_26")
    run = untrained_runs.make_run(tmp_path / "run", config)
    restored = restore.open_run

    def spoiled(*args, **kwargs):
        opened = restored(*args, **kwargs)
        bias = opened.model.get_layer("conv1").bias
        bias.assign(np.full(bias.shape, np.nan, np.float32))
        return opened

    monkeypatch.setattr(restore, "open_run", spoiled)
    with pytest.raises(ValueError, match="^Expected finite weights. Received: NaN or infinity in conv1/bias; "):
        weights.export_weights(run, tmp_path / "a.npz")


def narrow_owt(monkeypatch, rate=0.5):
    """A network of torchvision's order with fewer kernels."""
    kernels, units, classes = (4, 6, 8, 5, 3), 10, 3
    reads = (3, *kernels[:-1])
    shapes = [(size, size, *each) for size, each in zip((11, 5, 3, 3, 3), zip(reads, kernels))]
    shapes = layouts.Shapes("alexnet_owt", "one", (*shapes, (36 * kernels[-1], units), (units, units), (units,)))
    monkeypatch.setattr(layouts, "SHAPES", (shapes,))
    monkeypatch.setattr(alexnet_owt, "KERNELS", kernels)
    monkeypatch.setattr(alexnet_owt, "UNITS", units)
    return alexnet_owt.AlexNetOWT(classes, dropout=rate, seed=0)


def torchvision_logits(state, images):
    """Runs torchvision's network with onnxruntime, in PyTorch's layouts and without scaling of dropout in inference."""
    nodes = []

    def add(operator, x, parameters=(), **attributes):
        nodes.append(onnx.helper.make_node(operator, [x, *parameters], [f"x{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    x = "images"
    for place, padding in ((0, 2), (3, 2), (6, 1), (8, 1), (10, 1)):
        own = [f"features.{place}.{name}" for name in ("weight", "bias")]
        x = add("Relu", add("Conv", x, own, strides=[1 if place else 4] * 2, pads=[padding] * 4))
        if place in (0, 3, 10):
            x = add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    x = add("Flatten", x)
    for place in (1, 4, 6):
        x = add("Gemm", x, [f"classifier.{place}.{name}" for name in ("weight", "bias")], transB=1)
        x = add("Relu", x) if place < 6 else x
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "torchvision",
        [value("images", 1, images.shape)],
        [value(x, 1, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in state.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return onnx_network.run(model.SerializeToString(), images)[x]


def test_torchvision_weights_compute_the_same_in_its_network(monkeypatch):
    pytest.importorskip("onnxruntime")
    network = narrow_owt(monkeypatch)
    for number, variable in enumerate(network.weights):
        drawn = np.random.default_rng(number).normal(0, 0.2, variable.shape)
        variable.assign(drawn.astype(np.float32))
    images = np.random.default_rng(0).normal(0, 1, [2, 224, 224, 3]).astype(np.float32)
    found = torchvision_logits(weights.to_torchvision(network), np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    assert parity.relative_difference(found, network(images, training=False).numpy()) < 1e-5


def test_torchvision_names_layout_and_scale(monkeypatch):
    network = narrow_owt(monkeypatch)
    arrays = weights.to_torchvision(network)
    assert [*arrays][:2] == ["features.0.weight", "features.0.bias"] and len(arrays) == 16
    assert arrays["features.3.weight"].shape == (6, 4, 5, 5)
    own = {variable.path: variable.numpy() for variable in network.weights}
    np.testing.assert_array_equal(arrays["features.3.weight"].transpose(2, 3, 1, 0), own["conv2/kernel"])
    # [out, map, row, column] of torchvision; [row, column, map, out] of ours.
    fc6 = arrays["classifier.1.weight"].reshape(10, 3, 6, 6).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(fc6.reshape(108, 10), own["fc6/kernel"] / 2)
    np.testing.assert_array_equal(arrays["classifier.4.weight"].T, own["fc7/kernel"] / 2)
    np.testing.assert_array_equal(arrays["classifier.6.weight"].T, own["fc8/kernel"])


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_torchvision_weights_return_to_the_bit(monkeypatch, rate):
    network = narrow_owt(monkeypatch, rate)
    layers_again = {}
    for theirs, name in convert.TORCHVISION_NAMES.items():
        array = weights.to_torchvision(network)
        kernel, bias = array[f"{theirs}.weight"], array[f"{theirs}.bias"]
        kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
        layers_again[name] = convert.Layer(convert.channels_last(kernel) if name == "fc6" else kernel, bias)
    again = convert.to_variables(layers_again, towers="one", dropout_readers=("fc6", "fc7"), dropout=rate)
    assert_equal(again, {variable.path: variable.numpy() for variable in network.weights})


def test_without_onnx_its_files_only_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "alexnet_tf.export.onnx_network")
    monkeypatch.delattr(alexnet_tf.export, "onnx_network")
    with pytest.raises(ModuleNotFoundError, match="^Expected the package onnx for ONNX files; pip install onnx$"):
        weights.export_weights(run, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
    weights.export_weights(run, tmp_path / "a.npz")
