"""Layers in the layouts of several frameworks are recognized and become the same."""

import json

import mutations
import numpy as np
import pytest

from alexnet_tf.weights import contents
from alexnet_tf.weights import convert
from alexnet_tf.weights import layouts

CLASSES = 3
DENSE = ((9216, 8), (8, 6), (6,))


@pytest.fixture(autouse=True)
def narrow_dense_layers(monkeypatch):
    """The networks with few units, so that the tests need little memory."""
    narrow = [shapes._replace(kernels=(*shapes.kernels[:5], *DENSE)) for shapes in layouts.SHAPES]
    monkeypatch.setattr(layouts, "SHAPES", tuple(narrow))


def layers_of(network, towers="two"):
    """Random layers in the common layout."""
    kernels = next(each.kernels for each in layouts.SHAPES if (each.network, each.towers) == (network, towers))
    generator = np.random.default_rng(7)
    layers = {}
    for name, shape in zip(convert.LAYERS, kernels):
        shape = shape if len(shape) > 1 else (*shape, CLASSES)
        layers[name] = convert.Layer(
            generator.normal(size=shape).astype(np.float32), generator.normal(size=shape[-1]).astype(np.float32)
        )
    return layers


def caffe(layers, order=("relu", "lrn", "max_pool"), alpha=2e-5, bias=1.0):
    """The contents of a Caffe model: output-first, BGR, fc6 channel by channel."""
    arrays, operations = {}, []
    for name, (kernel, offset) in layers.items():
        if name == "conv1":
            kernel = kernel[:, :, ::-1]
        if name in convert.CONVOLUTIONS:
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            kernel = (convert.channels_first(kernel) if name == "fc6" else kernel).T
        arrays[f"{name}/0"], arrays[f"{name}/1"] = kernel, offset
        kind = "convolution" if name in convert.CONVOLUTIONS else "dense"
        operations.append(contents.Operation(kind, name, (f"{name}/0", f"{name}/1")))
        if name in ("conv1", "conv2"):
            lrn = {"size": 5, "alpha": alpha, "beta": 0.75, "bias": bias}
            operations += [contents.Operation(each, each, (), lrn if each == "lrn" else {}) for each in order]
    return contents.Contents("Caffe model", arrays, tuple(operations))


def torchvision(layers):
    return contents.Contents("PyTorch state_dict", convert.to_torchvision(layers))


def theano(layers):
    """The contents of convnets-keras's file: turned kernels, and groups as separate layers."""
    arrays = {}
    for name, (kernel, offset) in layers.items():
        if name in convert.CONVOLUTIONS:
            stored = kernel[::-1, ::-1].transpose(3, 2, 0, 1)
            number = name[-1]
            if number in "245":
                half = len(offset) // 2
                for group, part in ((1, slice(0, half)), (2, slice(half, None))):
                    arrays[f"conv_{number}_{group}/conv_{number}_{group}_W"] = stored[part]
                    arrays[f"conv_{number}_{group}/conv_{number}_{group}_b"] = offset[part]
            else:
                arrays[f"conv_{number}/conv_{number}_W"], arrays[f"conv_{number}/conv_{number}_b"] = stored, offset
        else:
            number = int(name[-1]) - 5
            kernel = convert.channels_first(kernel) if name == "fc6" else kernel
            arrays[f"dense_{number}/dense_{number}_W"], arrays[f"dense_{number}/dense_{number}_b"] = kernel, offset
    return contents.Contents("HDF5", arrays)


def same(found, layers):
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        np.testing.assert_array_equal(found[name].kernel, layer.kernel, err_msg=name)
        np.testing.assert_array_equal(found[name].bias, layer.bias, err_msg=name)
        assert found[name].kernel.dtype == np.float32 and found[name].kernel.flags.c_contiguous


@pytest.mark.parametrize(
    "recipe, order", [("caffe", ("relu", "lrn", "max_pool")), ("caffenet", ("relu", "max_pool", "lrn"))]
)
def test_caffe(recipe, order):
    layers = layers_of("alexnet")
    found = layouts.recognize(caffe(layers, order))
    same(found.layers, layers)
    assert (found.network, found.towers, found.recipe, found.num_classes) == ("alexnet", "two", recipe, CLASSES)
    assert found.normalization == layouts.CAFFE_NORMALIZATION and found.preprocessing.mean is None


def test_torchvision():
    layers = layers_of("alexnet_owt", "one")
    found = layouts.recognize(torchvision(layers))
    same(found.layers, layers)
    assert (found.network, found.recipe) == ("alexnet_owt", "")
    assert found.preprocessing == layouts.TORCHVISION_PREPROCESSING


def test_arrays_of_numpy_and_of_two_tower_widths_say_neither_recipe_nor_channels():
    for towers in ("two", "one"):
        layers = layers_of("alexnet", towers)
        arrays = {f"{name}/{number}": layer[number] for name, layer in layers.items() for number in (0, 1)}
        found = layouts.recognize(contents.Contents("NumPy", arrays))
        same(found.layers, layers)
        assert (found.towers, found.recipe, found.preprocessing) == (towers, None, None)
        turned = layouts.recognize(contents.Contents("NumPy", arrays), channels="BGR")
        np.testing.assert_array_equal(turned.layers["conv1"].kernel, layers["conv1"].kernel[:, :, ::-1])


def test_theano_has_turned_kernels_and_other_constants():
    layers = layers_of("alexnet")
    found = layouts.recognize(theano(layers))
    assert found.recipe == "caffenet" and found.normalization.alpha == 1e-4 and len(found.notes) == 1
    expected = convert.rescale_normalization(layers, found.normalization, layouts.CAFFE_NORMALIZATION)
    same(found.layers, expected)


def test_convolutions_alone():
    layers = {name: layer for name, layer in layers_of("alexnet_owt", "one").items() if name in convert.CONVOLUTIONS}
    arrays = {}
    for number, layer in enumerate(layers.values()):
        arrays[f"AlexNet_0/Conv_{number}/kernel"], arrays[f"AlexNet_0/Conv_{number}/bias"] = layer
    arrays["NetLinLayer_0/Conv_0/kernel"] = np.zeros([1, 1, 64, 1], np.float32)
    found = layouts.recognize(contents.Contents("pickled arrays", arrays))
    same(found.layers, layers)
    assert found.missing_layers == convert.DENSE and found.num_classes is None


def test_rescaled_normalization_computes_the_same():
    """In float64, with the formulas of the paper: conv1, LRN, conv2, LRN, conv3, all of 1 x 1."""
    generator = np.random.default_rng(3)
    shapes = {"conv1": (1, 1, 3, 9), "conv2": (1, 1, 9, 8), "conv3": (1, 1, 8, 4)}
    layers = {
        name: convert.Layer(generator.normal(0, 3, shape), generator.normal(0, 3, shape[-1]))
        for name, shape in shapes.items()
    }
    images = generator.normal(0, 100, [6, 3])

    def outputs(own, constants):
        x = images
        for name in own:
            x = np.maximum(x @ own[name].kernel[0, 0] + own[name].bias, 0)
            if name != "conv3":
                padded = np.pad(x**2, ((0, 0), (2, 2)))
                sums = sum(padded[:, shift : shift + x.shape[1]] for shift in range(5))
                x = x / (constants.bias + constants.alpha * sums) ** constants.beta
        return x

    own, other = convert.Normalization(5, 2.0, 1e-4, 0.75), layouts.CAFFE_NORMALIZATION
    expected = outputs(layers, own)
    np.testing.assert_allclose(outputs(convert.rescale_normalization(layers, own, other), other), expected, rtol=1e-5)
    assert np.abs(outputs(layers, other) - expected).max() > 0.1 * expected.max()


def test_deviation_is_folded_but_for_a_common_scale():
    layers = layers_of("alexnet_owt", "one")
    preprocessing = layouts.TORCHVISION_PREPROCESSING
    folded, scale = convert.fold_deviation(layers, preprocessing)
    pixels = np.random.default_rng(1).uniform(0, 255, [5, 11, 11, 3])
    kernel = layers["conv1"].kernel.astype(np.float64)
    expected = np.einsum("nhwc,hwco->no", (pixels - preprocessing.mean) / preprocessing.deviation, kernel)
    ours = np.einsum("nhwc,hwco->no", (pixels - preprocessing.mean) * scale, folded["conv1"].kernel.astype(np.float64))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    # The kernels keep their magnitude, and with it their learning rate.
    assert 0.9 < folded["conv1"].kernel.std() / kernel.std() < 1.1


@pytest.mark.parametrize("network, towers", [("alexnet", "two"), ("alexnet", "one"), ("alexnet_owt", "one")])
def test_variables_and_back_are_equal_to_the_bit(network, towers):
    layers = layers_of(network, towers)
    options = {"towers": towers, "dropout_readers": layouts.DROPOUT_READERS[network]}
    variables = convert.to_variables(layers, **options)
    same(convert.from_variables(variables, **options), layers)
    if towers == "two":
        np.testing.assert_array_equal(variables["conv2_b/kernel"], layers["conv2"].kernel[..., 128:])
        np.testing.assert_array_equal(variables["fc8/kernel"], 2 * layers["fc8"].kernel)
        # fc6 reads the maps of tower a, then those of tower b.
        np.testing.assert_array_equal(variables["fc6_a/kernel"][129], layers["fc6"].kernel[256 + 1, :4])
        np.testing.assert_array_equal(variables["fc6_a/kernel"][36 * 128], layers["fc6"].kernel[128, :4])


def test_arrays_of_our_own_are_recognized_by_the_paths_of_variables():
    layers = layers_of("alexnet")
    variables = convert.to_variables(layers, towers="two", dropout_readers=layouts.DROPOUT_READERS["alexnet"])
    metadata = {"safetensors": {"description": json.dumps(DESCRIPTION)}}
    found = layouts.recognize(contents.Contents("safetensors", variables, metadata=metadata))
    same(found.layers, layers)
    assert (found.recipe, found.class_names) == ("original", ("a", "b", "c"))
    assert found.preprocessing == convert.Preprocessing((1.0, 2.0, 3.0), (2.0, 2.0, 2.0))
    without = layouts.recognize(contents.Contents("NumPy", variables))
    same(without.layers, layers)
    assert without.recipe is None and without.preprocessing is None
    with pytest.raises(ValueError, match="import the .safetensors file of the same run"):
        layouts.recognize(contents.Contents("ONNX model", {}, metadata={"producer": "alexnet_tf"}))


DESCRIPTION = {
    "names": "ours",
    "network": {"name": "alexnet", "recipe": "original"},
    "preprocessing": {"scale": 0.5, "mean_color": [1.0, 2.0, 3.0]},
    "classes": ["a", "b", "c"],
}


def test_a_damaged_description_is_one_line():
    content = json.dumps(DESCRIPTION).encode()
    for version in mutations.of_json(content, 300) + mutations.of_bytes(content, 20):
        metadata = {"safetensors": {"description": version.decode("utf-8", "replace")}}
        try:
            found = layouts._own_description(contents.Contents("safetensors", {}, metadata=metadata))
        except ValueError as error:
            assert str(error).startswith("Expected the description of an export in its metadata. Received: ")
            assert "\n" not in str(error) and "\x1b" not in str(error)
            continue
        # Any other structure is that of another program, and has no description.
        assert not found or layouts._OWN_DESCRIPTION.problem(found, "") == ""


@pytest.mark.parametrize("change", [{"network": [1]}, {"preprocessing": {"scale": 0}}, {"classes": "abc"}])
def test_a_description_of_another_structure_is_refused(change):
    metadata = {"safetensors": {"description": json.dumps(DESCRIPTION | change)}}
    with pytest.raises(ValueError, match="^Expected the description of an export in its metadata. Received: "):
        layouts._own_description(contents.Contents("safetensors", {}, metadata=metadata))


def changed(layers, name, kernel):
    return {**layers, name: convert.Layer(kernel, layers[name].bias)}


def test_other_networks_are_refused():
    layers = layers_of("alexnet_owt", "one")
    arrays = dict(torchvision(layers).arrays)

    def refused(message, own):
        with pytest.raises(ValueError, match=message):
            layouts.recognize(contents.Contents("PyTorch state_dict", own))

    sobel = {
        **arrays,
        "features.0.weight": np.zeros([96, 2, 11, 11], np.float32),
        "features.1.running_mean": np.ones(96),
    }
    refused("batch normalization and a first layer that reads 2 channels \\(Sobel filters\\)$", sobel)
    refused("an fc6 of 5 x 5 positions, as in TF-Slim's", {"fc6/weights": np.zeros([5, 5, 256, 4096], np.float32)})
    refused("Received: 1 arrays, such as layer1 \\[4\\]$", {"layer1": np.zeros(4)})
    refused(
        "Received: a file without conv5$", {name: array for name, array in arrays.items() if "features.10" not in name}
    )
    other = changed(layers, "conv2", np.zeros([3, 3, 64, 192], np.float32))
    refused(
        "alexnet_owt's shape \\[5, 5, 64, 192\\] in conv2. Received: \\[3, 3, 64, 192\\]$", torchvision(other).arrays
    )
    broken = changed(layers, "conv3", np.full([3, 3, 192, 384], np.nan, np.float32))
    refused("finite weights in conv3", torchvision(broken).arrays)


def test_other_normalizations_are_refused():
    found = caffe(layers_of("alexnet"))
    wide = [
        each if each.kind != "lrn" else contents.Operation("lrn", "n", (), {**each.attributes, "size": 3})
        for each in found.operations
    ]
    with pytest.raises(ValueError, match="over 5 channels with beta 0.75. Received: size=3, "):
        layouts.recognize(contents.Contents(found.format, found.arrays, tuple(wide)))
