"""The registry: every network is complete, trains, and is documented."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import source_code
import symbolic_networks
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.models import registry
from alexnet_tf.reporting import kernels
from alexnet_tf.runs import builders
from alexnet_tf.runs import costs

DOCUMENTS = [*source_code.ROOT.glob("*.md"), *source_code.ROOT.glob("docs/*.md")]

every_network = pytest.mark.parametrize("network", registry.NETWORKS.values(), ids=list(registry.NETWORKS))
# Of the networks after AlexNet, those whose steps are traced in ordinary tests; that of 50 layers takes ten seconds.
STEPPED = ("cifar10_mlp", "vgg_a_lrn", "cifar10_resnet_20")


def configuration(network, **changes):
    """A configuration of a network with the smallest images that it accepts."""
    size = min(network.crop_sizes)
    values = {"network": network.name, "image_size": size, "crop_size": size, "batch_size": 2}
    # With few kernels before ReLUs, no image passes some layers of GoogLeNet.
    if "width" in network.options and network.name != "googlenet":
        values["width"] = 1 / 4
    return config.Config(**values | changes).resolved()


def parts(layer_name):
    """A layer's name in the paper: without its tower."""
    return layer_name.removesuffix("_a").removesuffix("_b")


@every_network
def test_network_has_its_stated_parameters_arithmetic_and_depth(network):
    side = registry.SIDES[network.num_classes]
    arguments = {"num_classes": network.num_classes, "image_size": side, "jit_compile": False, **network.arguments}
    model = symbolic_networks.build(registry.load_class(network), **arguments)
    assert isinstance(model, keras.Model)
    assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == network.parameters
    assert costs.multiply_adds(model) == network.multiply_adds
    assert symbolic_networks.depth(model) == network.depth


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(network, id=name, marks=[pytest.mark.slow] * ("width" in network.options and name not in STEPPED))
        for name, network in registry.NETWORKS.items()
    ],
)
def test_network_takes_a_training_step(network):
    run_config = configuration(network, initialization="he", input_scale=0.02)
    model = builders.build_training_model(run_config, 3, jit_compile=False)
    trainer = builders.build_trainer(run_config, model, builders.blank_statistics(run_config))
    size = run_config.crop_size
    batch = {
        "crops": tf.constant(np.random.default_rng(1).integers(0, 256, [2, size, size, 3], dtype=np.uint8)),
        "offsets": tf.zeros([2, 2], tf.int32),
        "flips": tf.zeros([2, 2], tf.bool),
        "labels": tf.constant([1, 2], tf.int64),
        "noise": tf.zeros([2, 3]),
    }
    before = [variable.numpy() for variable in model.trainable_variables]
    assert np.isfinite(trainer.step(batch, builders.initial_rates(run_config)).loss)
    for variable, value in zip(model.trainable_variables, before):
        assert np.all(np.isfinite(variable.numpy())) and np.any(variable.numpy() != value), variable.path


@every_network
def test_options_and_towers_are_fields_of_the_configuration(network):
    fields = {field.name: field for field in dataclasses.fields(config.Config)}
    assert set(network.options) <= set(fields)
    assert network.name in fields["network"].metadata["choices"]
    assert network.has_towers == ("towers" in network.options)
    assert network.default_views in ("ten", "center")


@every_network
def test_options_reach_the_network_whose_first_layers_read_images_and_whose_last_distinguishes_classes(network):
    changes = {"activation": "tanh", "normalization": "group", "pooling": "nonoverlapping", "shortcuts": "C"}
    run_config = configuration(network, **{name: changes[name] for name in network.options if name in changes})
    model = symbolic_networks.build(builders.build_model, run_config, 3, jit_compile=False)
    received = model.get_config()
    assert {name: received[name] for name in network.options} == {
        name: getattr(run_config, name) for name in network.options
    }
    assert (received["num_classes"], received["image_size"]) == (3, run_config.crop_size)
    assert {name: received[name] for name in network.arguments} == network.arguments
    with_kernels = [layer.name for layer in model.layers if hasattr(layer, "kernel")]
    first = [name for name in with_kernels if parts(name) == parts(with_kernels[0])]
    assert [name for name in with_kernels if name in network.first_layers] == first
    shapes = [model.get_layer(name).kernel.shape for name in first]
    of_images = [kernels.as_images(np.empty(shape), min(network.crop_sizes)) for shape in shapes]
    assert all(each.shape[2] == 3 for each in of_images)
    assert with_kernels[-1] == network.last_layer and model.get_layer(network.last_layer).kernel.shape[-1] == 3


def test_output_layers_include_those_of_auxiliary_heads():
    """With other classes, a run that starts from another one initializes them at random."""
    (network,) = (network for network in registry.NETWORKS.values() if network.auxiliary_weight)
    run_config = config.Config(network=network.name, initialize_from="runs/before").resolved()
    model = symbolic_networks.build(builders.build_training_model, run_config, 3, jit_compile=False)
    kernels_by_layer = {each.path.split("/")[0]: each for each in model.weights if each.path.endswith("/kernel")}
    assert {name for name, each in kernels_by_layer.items() if each.shape[-1] == 3} == set(network.output_layers)
    assert run_config.new_layers == network.output_layers
    assert run_config.new_layers == ("fc", "fc_auxiliary4a", "fc_auxiliary4d")
    # Only training has the heads, so an option that holds for every use of the network cannot name them.
    builders.check_layers("new_layers", run_config.new_layers, model, include_heads=True)
    with pytest.raises(
        ValueError, match="^Expected freeze to name layers among .* Received: fc_auxiliary4a, fc_auxiliary4d$"
    ):
        builders.check_layers("freeze", run_config.new_layers, model)


@every_network
def test_network_is_documented(network):
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert network.name in text.replace("`", " ").replace(".flags", " ").split() or f"`{network.name}`" in text
    assert (source_code.ROOT / "flags" / f"{network.name}.flags").is_file()


@every_network
def test_recorded_errors_have_a_data_set_and_lie_between_0_and_1(network):
    # The paper has the plain networks for CIFAR-10 as curves; the multilayer perceptron is ours.
    assert bool(network.recorded_errors) != network.name.startswith(("cifar10_plain", "cifar10_mlp"))
    for errors in network.recorded_errors:
        assert bool(errors.dataset) != bool(errors.class_names)
        stated = [error for error in (errors.top5_error, errors.top1_error) if error is not None]
        assert stated == sorted(stated) and 0 < stated[0] and stated[-1] < 1


def test_unknown_network():
    with pytest.raises(
        ValueError, match="^Expected network to be one of alexnet, alexnet_owt, cifar10_26, .*Received: 'vgg'$"
    ):
        registry.find("vgg")


def test_refused_options():
    assert registry.refused_options("alexnet") == ("width", "shortcuts")
    assert registry.refused_options("cifar10_18") == (
        "conv1_stddev",
        "towers",
        "communication",
        "removed_layer",
        "sixth_convolution",
        "bottleneck",
        "width",
        "shortcuts",
    )
    assert registry.networks_with("towers") == ("alexnet",)
    assert registry.networks_with("activation") == (
        "alexnet",
        "alexnet_owt",
        "cifar10_26",
        "cifar10_19",
        "cifar10_18",
        "cifar10_mlp",
        "vgg_a",
        "vgg_a_lrn",
        "vgg_b",
        "vgg_d",
        "vgg_e",
    )
    assert registry.networks_with("shortcuts")[-2:] == ("cifar10_resnet_20", "cifar10_resnet_56")


def test_only_networks_with_auxiliary_heads_have_a_weight_for_them():
    weights = {name: network.auxiliary_weight for name, network in registry.NETWORKS.items()}
    assert {name: weight for name, weight in weights.items() if weight} == {"googlenet": 0.3}


@pytest.mark.parametrize(
    "name, towers, expected",
    [("alexnet", "two", True), ("alexnet", "one", False), ("alexnet", "half", False), ("cifar10_18", "two", False)],
)
def test_only_two_towers_are_split(name, towers, expected):
    assert registry.is_split(name, towers) == expected
