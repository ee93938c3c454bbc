"""The networks as Keras models: saved, loaded, cut, cloned, frozen, quantized, trained with `fit` and exported."""

import copy
import json
import pathlib
import re

import keras
import keras_layer_test
import numpy as np
import pytest
import source_code
import tensorflow as tf

import alexnet_tf
from alexnet_tf.models import alexnet
from alexnet_tf.models import cifar10
from alexnet_tf.models import layers
from alexnet_tf.models import normalizations
from alexnet_tf.models import placement
from alexnet_tf.models import pooling
from alexnet_tf.models import tower_layers

# Keras and NumPy 2 cause it whenever a variable is saved.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DEVICES = ("/CPU:0", "/CPU:1")
IMAGES = np.random.default_rng(0).normal(0, 50, (4, 32, 32, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0])

# Compiled by XLA only where that matters: it takes seconds.
SMALL = {"image_size": 32, "jit_compile": False}
NETWORKS = {
    "one_device": lambda **options: alexnet.AlexNet(3, **SMALL | options),
    "two_devices": lambda **options: alexnet.AlexNet(3, "original", DEVICES, **SMALL | options),
    "batch": lambda **options: alexnet.AlexNet(3, devices=DEVICES, normalization="batch", **SMALL | options),
    "group": lambda **options: alexnet.AlexNet(3, towers="one", normalization="group", **SMALL | options),
    "cifar10": lambda **options: cifar10.Cifar10Net("cifar10_18", 3, **SMALL | options),
}


def of_networks(*names):
    return pytest.mark.parametrize("make", [NETWORKS[name] for name in names], ids=names)


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), loss, metrics=["accuracy"])
    return model


def reloaded(model, directory):
    model.save(directory / "model.keras")
    return keras.saving.load_model(directory / "model.keras")


def assert_same_answers(received, expected):
    for a, b in zip(tf.nest.flatten(received(IMAGES)), tf.nest.flatten(expected(IMAGES)), strict=True):
        np.testing.assert_array_equal(a, b)


def headed(model):
    """A model with a new head on the penultimate layer, as for transfer learning."""
    features = keras.Model(model.input, model.layers[-2].input)
    features.trainable = False
    inputs = keras.Input([32, 32, 3])
    return keras.Model(inputs, keras.layers.Dense(5, name="head")(features(inputs)))


CUTS = {
    "features": lambda model: keras.Model(model.input, model.layers[-2].input),
    "several_outputs": lambda model: keras.Model(model.input, [layer.output for layer in model.layers[1:6]]),
    "new_head": headed,
    "clone": keras.models.clone_model,
    "sequence": lambda model: keras.Sequential([keras.Input([32, 32, 3]), model, keras.layers.Softmax()]),
}


@pytest.mark.parametrize(
    "name, cut",
    [
        *(("two_devices", cut) for cut in CUTS),
        *((name, "clone") for name in ("one_device", "batch", "group")),
        ("cifar10", "new_head"),
    ],
)
def test_models_of_the_layers_are_saved_and_loaded(name, cut, tmp_path):
    model = CUTS[cut](NETWORKS[name](seed=1))
    loaded = reloaded(model, tmp_path)
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert_same_answers(loaded, model)


@of_networks("two_devices", "cifar10")
def test_weights_and_json_are_saved_separately(make, tmp_path):
    model = make(seed=1)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.model_from_json(model.to_json())
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert type(loaded) is type(model)
    assert_same_answers(loaded, model)


def test_a_model_can_be_copied_in_memory():
    model = NETWORKS["two_devices"](seed=1)
    assert_same_answers(copy.deepcopy(model), model)


def test_layers_of_a_loaded_model_are_on_their_devices(tmp_path):
    loaded = reloaded(keras.models.clone_model(NETWORKS["two_devices"]()), tmp_path)
    assert [loaded.get_layer(f"conv1_{tower}").device for tower in "ab"] == list(DEVICES)
    assert loaded.get_layer("conv1_b").kernel.value.device.endswith("CPU:1")
    assert isinstance(loaded.get_layer("conv1_a"), tower_layers.Conv2D)


def test_placed_classes_are_registered_once():
    assert placement.on_device(keras.layers.Conv2D) is tower_layers.Conv2D
    ours, keras_own = placement.on_device(layers.Dropout), placement.on_device(keras.layers.Dropout)
    names = [keras.saving.get_registered_name(each) for each in (ours, keras_own, layers.Dropout)]
    assert names == [
        "alexnet_tf>Placed(alexnet_tf>Dropout)",
        "alexnet_tf>Placed(Dropout)",
        "alexnet_tf>Dropout",
    ]
    for name, layer_class in zip(names, (ours, keras_own, layers.Dropout)):
        assert keras.saving.get_registered_object(name) is layer_class


@pytest.mark.parametrize("cut", [lambda model: model, keras.models.clone_model], ids=["alexnet", "clone"])
def test_a_model_saved_with_absent_devices_is_loaded_with_a_warning(cut, tmp_path, monkeypatch):
    model = cut(NETWORKS["two_devices"](seed=1))
    model.save(tmp_path / "model.keras")
    present = tf.config.list_logical_devices
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: present(kind)[:1])
    with pytest.warns(UserWarning, match="saved with layers on /CPU:1, which is not present; TensorFlow places them"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("conv1_b").device is None
    assert_same_answers(loaded, model)


@pytest.mark.parametrize("device", ["/CPU:1", "/cpu:1", "/device:CPU:1", "CPU:1", "/CPU", None])
def test_present_devices_are_kept(device):
    assert placement.present_device(device) == device


@pytest.mark.parametrize("device", ["/CPU:2", "/GPU:98", "/TPU:0"])
def test_absent_devices_are_replaced(device):
    with pytest.warns(UserWarning, match=f"{device}, which is not present"):
        assert placement.present_device(device) is None


# Keras's own tests of layers

LAYERS = {
    "Conv2D": (keras.layers.Conv2D, {"filters": 2, "kernel_size": 3}, (2, 4, 4, 3)),
    "Dense": (keras.layers.Dense, {"units": 2}, (2, 3)),
    "Activation": (keras.layers.Activation, {"activation": "relu"}, (2, 3)),
    "MaxPooling2D": (pooling.MaxPooling2D, {"pool_size": 2}, (2, 4, 4, 3)),
    "KerasMaxPooling2D": (keras.layers.MaxPooling2D, {"pool_size": 2}, (2, 4, 4, 3)),
    "ZeroPadding2D": (keras.layers.ZeroPadding2D, {"padding": 1}, (2, 4, 4, 3)),
    "Flatten": (keras.layers.Flatten, {}, (2, 4, 4, 3)),
    "ChannelRange": (layers.ChannelRange, {"start": -2, "stop": 0}, (2, 4, 4, 3)),
    "Concatenate": (keras.layers.Concatenate, {}, ((2, 3), (2, 4))),
    "BatchNormalization": (keras.layers.BatchNormalization, {}, (2, 4, 4, 3)),
    "FanOut": (placement.FanOut, {"readers": 2}, (2, 3)),
    "LocalResponseNormalization": (normalizations.LocalResponseNormalization, {"depth_radius": 1}, (2, 4, 4, 3)),
    "SameMapNormalization": (normalizations.SameMapNormalization, {"size": 3}, (2, 4, 4, 3)),
    "GroupNormalization": (normalizations.GroupNormalization, {"group_channels": 2}, (2, 4, 4, 6)),
    "Dropout": (layers.Dropout, {"rate": 0.3, "seed": 1}, (2, 3)),
}


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning")
@pytest.mark.parametrize("device", ["plain", pytest.param(None, marks=pytest.mark.slow), "/CPU:1"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_passes_the_test_of_keras(name, device):
    layer_class, arguments, shape = LAYERS[name]
    if device != "plain":
        layer_class, arguments = placement.on_device(layer_class), {**arguments, "device": device}
    elif layer_class.__module__.startswith("keras."):
        pytest.skip("Keras tests its own layers")
    # Keras cannot train on a list of outputs here.
    is_trained = name != "FanOut"
    keras_layer_test.run_layer_test(layer_class, arguments, input_shape=shape, run_training_check=is_trained)


def test_every_placed_layer_is_tested():
    placed = {
        name for name, value in vars(tower_layers).items() if hasattr(value, "from_config") and value is not keras
    }
    assert placed == set(LAYERS)


# State in saved files


@of_networks("two_devices", "batch", "cifar10")
@pytest.mark.parametrize(
    "freeze",
    [
        lambda model: setattr(model, "trainable", False),
        lambda model: [setattr(layer, "trainable", False) for layer in model.layers[:8]],
        lambda model: [setattr(model, "trainable", False), setattr(model.layers[-2], "trainable", True)],
    ],
    ids=["model", "layers", "all_layers_but_one"],
)
def test_frozen_layers_stay_frozen(make, freeze, tmp_path):
    model = make(seed=1)
    everything = len(model.trainable_variables)
    freeze(model)
    assert len(model.trainable_variables) < everything
    loaded = reloaded(model, tmp_path)
    assert loaded.trainable == model.trainable
    assert [layer.trainable for layer in loaded.layers] == [layer.trainable for layer in model.layers]
    assert [each.path for each in loaded.trainable_variables] == [each.path for each in model.trainable_variables]
    again = type(model).from_config(json.loads(json.dumps(loaded.get_config())))
    assert [layer.trainable for layer in again.layers] == [layer.trainable for layer in model.layers]


def test_a_frozen_layer_of_a_compiled_model_is_not_trained_after_loading(tmp_path):
    model = NETWORKS["cifar10"](seed=1)
    model.get_layer("conv1").trainable = False
    compiled(model).fit(IMAGES, LABELS, verbose=0)
    loaded = reloaded(model, tmp_path)
    before = {variable.path: variable.numpy() for variable in loaded.variables}
    loaded.fit(IMAGES, LABELS, verbose=0)
    changed = {path for path, value in before.items() if np.any(value != value_of(loaded, path))}
    assert not any(path.startswith("conv1") for path in changed) and "fc10/kernel" in changed


def value_of(model, path):
    (variable,) = (variable for variable in model.variables if variable.path == path)
    return variable.numpy()


@of_networks("two_devices", "cifar10")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_the_global_dtype_policy_is_kept(make, policy, tmp_path, keras_setting):
    keras_setting("dtype_policy", policy)
    model = make(seed=1)
    model.save(tmp_path / "model.keras")
    keras_setting("dtype_policy", "float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config()["dtype"] == policy
    policies = [[layer.dtype_policy.name for layer in each.layers[1:]] for each in (loaded, model)]
    assert policies[0] == policies[1] and policy in policies[0]
    assert_same_answers(loaded, model)


def test_a_policy_that_is_an_object_is_saved(tmp_path):
    model = NETWORKS["two_devices"](dtype=keras.dtype_policies.DTypePolicy("mixed_bfloat16"))
    assert reloaded(model, tmp_path).get_config()["dtype"] == "mixed_bfloat16"


@of_networks("two_devices", "batch", "group", "cifar10")
def test_settings_of_the_machine_do_not_change_a_network(make, keras_setting):
    expected = make(seed=1, dtype="float32")
    keras_setting("image_data_format", "channels_first")
    keras_setting("floatx", "float64")
    received = make(seed=1, dtype="float32")
    configs = [[layer.get_config() for layer in model.layers] for model in (expected, received)]
    assert configs[0] == configs[1]
    assert_same_answers(received, expected)


@pytest.mark.parametrize(
    "options",
    [{"pooling": "nonoverlapping"}, {"sixth_convolution": True}, {"towers": "half"}, {"communication": "fc8"}],
    ids=str,
)
@pytest.mark.parametrize("image_size", [32, 224])
def test_every_layer_states_its_data_format(options, image_size, keras_setting):
    keras_setting("image_data_format", "channels_first")
    if image_size == 224 and options != {"pooling": "nonoverlapping"}:
        pytest.skip("The layers are those of the smaller network")
    model = alexnet.AlexNet(2, image_size=image_size, **options)
    stated = [layer.data_format for layer in model.layers if hasattr(layer, "data_format")]
    assert len(stated) > 8 and set(stated) == {"channels_last"}


# Quantization


@pytest.mark.parametrize(
    "name, mode",
    [
        ("two_devices", "int8"),
        ("cifar10", "int4"),
        pytest.param("two_devices", "int4", marks=pytest.mark.slow),
        pytest.param("cifar10", "int8", marks=pytest.mark.slow),
    ],
)
def test_quantize_reports_what_it_did_and_is_saved(name, mode, tmp_path):
    model = NETWORKS[name](seed=1)
    expected = model(IMAGES).numpy()
    done, kept = ("fc6_a, fc6_b", "conv1_a, conv1_b") if name == "two_devices" else ("fc10", "conv1, conv2, conv3")
    with pytest.warns(UserWarning) as caught:
        model.quantize(mode)
    (message,) = [str(each.message) for each in caught if each.category is UserWarning]
    assert re.fullmatch(rf"\w+ is quantized to {mode} in {done}.*\. Layers that keep .*: {kept}.*\.", message)
    received = model(IMAGES).numpy()
    # A few percent of the largest logit for 8 bits, a third for 4.
    assert 0 < np.max(np.abs(received - expected)) < (0.05 if mode == "int8" else 0.4) * np.max(np.abs(expected))
    loaded = reloaded(model, tmp_path)
    np.testing.assert_array_equal(loaded(IMAGES), received)


def test_quantization_stays_on_the_device_of_the_layer():
    model = NETWORKS["two_devices"](seed=1)
    with pytest.warns(UserWarning, match="quantized to int8 in fc7_b. Layers that keep their precision: conv1_a"):
        model.quantize("int8", filters="fc7_b")
    layer = model.get_layer("fc7_b")
    assert [variable.value.device[-5:] for variable in layer.variables] == ["CPU:1"] * 3
    assert layer(np.ones([1, *layer.input.shape[1:]], np.float32)).device.endswith("CPU:1")


def test_quantization_of_no_layer_is_reported():
    model = NETWORKS["one_device"]()
    with pytest.warns(UserWarning, match="quantized to int8 in no layer"):
        model.quantize("int8", filters=["conv"])


# README


def python_example():
    text = pathlib.Path(source_code.ROOT / "README.md").read_text(encoding="utf-8")
    example, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return example


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = python_example()
    stated = "num_classes=1000"
    assert stated in example
    small = example.replace(stated, f"num_classes=3, image_size=32, jit_compile=False, devices={DEVICES}").replace(
        "0.01", "1e-4"
    )
    names = {"images": tf.constant(IMAGES), "labels": tf.constant(LABELS)}
    exec(small, names)  # noqa: S102
    model = names["model"]
    assert isinstance(model, alexnet_tf.AlexNet) and model.compiled
    exported = tf.saved_model.load("exported")
    np.testing.assert_allclose(exported.serve(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
    assert np.all(np.isfinite(model(IMAGES))) and np.any(model(IMAGES) != names["logits"])
    assert model.optimizer.iterations == 1


@pytest.mark.parametrize(
    "make",
    [pytest.param(NETWORKS["two_devices"], marks=pytest.mark.slow), NETWORKS["cifar10"]],
    ids=["two_devices", "cifar10"],
)
def test_a_loaded_model_evaluates_and_trains_like_the_saved_one(make, tmp_path):
    model = compiled(make(seed=1, dropout=0.0) if make is not NETWORKS["cifar10"] else make(seed=1))
    model.fit(IMAGES, LABELS, verbose=0)
    loaded = reloaded(model, tmp_path)
    assert loaded.evaluate(IMAGES, LABELS, verbose=0) == model.evaluate(IMAGES, LABELS, verbose=0)
    for each in (model, loaded):
        each.fit(IMAGES, LABELS, shuffle=False, verbose=0)
    # The momentum was saved, too.
    for received, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-7)


def test_layers_on_devices_do_not_support_xla():
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        NETWORKS["two_devices"]().compile("sgd", "mse", jit_compile=True)
    assert not tower_layers.Dense(1, device="/CPU:1").supports_jit and tower_layers.Dense(1).supports_jit


def test_a_network_on_one_device_trains_with_xla():
    model = NETWORKS["one_device"](seed=1, jit_compile=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4), loss, jit_compile=True)
    assert model.jit_compile
    assert np.isfinite(model.fit(IMAGES, LABELS, verbose=0).history["loss"][0])
