"""Frozen layers and rates of layers: what is traced, what changes, and what a run keeps."""

import collections
import dataclasses
import os
import re

import numpy as np
import pytest
import small_runs
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.benchmarks import sides
from alexnet_tf.runs import builders
from alexnet_tf.runs import costs
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import export
from alexnet_tf.runs import report
from alexnet_tf.runs import restore
from alexnet_tf.runs import summary_contents
from alexnet_tf.runs import train
from alexnet_tf.training import distribution

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
SMALL = config.Config(
    recipe="original",
    image_size=40,
    crop_size=32,
    initialization="he",
    input_scale=0.02,
    batch_size=8,
    learning_rate=0.001,
    devices=(),
)


def built(strategy=None, jit_compile=False, **changes):
    """A trainer of a small AlexNet and its configuration. XLA's compiling of normalizations takes seconds."""
    run_config = dataclasses.replace(SMALL, **changes).resolved()
    model = builders.build_model(run_config, 5, jit_compile=jit_compile)
    return builders.build_trainer(run_config, model, builders.blank_statistics(run_config), strategy), run_config


def stepped(steps=3, **changes):
    """The weights of all layers before and after some steps, by path."""
    trainer, run_config = built(**changes)
    before = {variable.path: variable.numpy() for variable in trainer.model.variables}
    for _ in range(steps):
        trainer.step(sides.synthetic_batch(run_config, 5), builders.initial_rates(run_config))
    return before, {variable.path: variable.numpy() for variable in trainer.model.variables}


def operations(**changes):
    """Counts the operations in the traced training step by kind."""
    trainer, run_config = built(jit_compile=True, **changes)
    graph = summary_contents.step_graph(trainer, sides.synthetic_batch(run_config, 5), run_config)
    found = collections.Counter(operation.type for operation in graph.get_operations())
    # Preprocessing, six normalizations and the keys of four dropout layers are compiled functions; each other one is
    # the gradient of a normalization.
    found["normalization gradient"] = found["PartitionedCall"] - 11
    return found


GRADIENT_KINDS = ("Conv2DBackpropFilter", "MaxPoolGrad", "ReluGrad", "normalization gradient", "MatMul")


def counted(*frozen, devices=()):
    """Counts gradients in the traced training step by kind."""
    found = operations(devices=devices, freeze=frozen)
    return [found[kind] for kind in GRADIENT_KINDS]


def test_backward_pass_ends_at_the_lowest_trained_layer():
    assert counted() == [10, 6, 14, 6, 15]
    # The gradients of the lowest layer's inputs are missing too.
    assert counted(*CONVOLUTIONS) == [0, 0, 4, 0, 13]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [(), ("/CPU:0", "/CPU:1")], ids=["one_device", "two_devices"])
def test_backward_pass_ends_at_any_layer(devices):
    assert counted(devices=devices) == [10, 6, 14, 6, 15]
    assert counted(*CONVOLUTIONS[:3], devices=devices) == [4, 2, 8, 0, 15]
    # On devices, the gradients of the lowest layer's inputs are traced, but nothing reads them.
    unread = 2 if devices else 0
    assert counted(*CONVOLUTIONS, devices=devices) == [0, 0, 4, 0, 13 + unread]
    assert counted(*CONVOLUTIONS, "fc6", "fc7", devices=devices) == [0, 0, 0, 0, 6 + unread // 2]


@pytest.mark.parametrize(
    "frozen, devices",
    [
        (CONVOLUTIONS, ()),
        (("conv2", "fc7"), ("/CPU:0", "/CPU:1")),
        (("fc8",), ()),
        pytest.param(CONVOLUTIONS, ("/CPU:0", "/CPU:1"), marks=pytest.mark.slow),
        pytest.param(("conv2", "fc7"), (), marks=pytest.mark.slow),
        pytest.param(("fc8",), ("/CPU:0", "/CPU:1"), marks=pytest.mark.slow),
    ],
)
def test_frozen_layers_keep_every_bit_and_the_others_train(frozen, devices):
    before, after = stepped(freeze=frozen, devices=devices)
    for path, value in after.items():
        is_frozen = re.sub("_[ab]/.*|/.*", "", path) in frozen
        assert (value.tobytes() == before[path].tobytes()) == is_frozen, path


def test_trained_layers_are_updated_as_without_freezing():
    """In the first step, the gradients do not depend on which layers are frozen."""
    _, full = stepped(1)
    before, frozen = stepped(1, freeze=("conv1", "conv2", "fc7"))
    for path, value in frozen.items():
        expected = before if path.startswith(("conv1", "conv2", "fc7")) else full
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_frozen_layers_have_no_velocity():
    trainer, _ = built(freeze=CONVOLUTIONS)
    assert len(trainer.optimizer.velocities) == len(trainer.optimizer.variables) == 10
    names = [variable.path for variable in trainer.model.trainable_variables]
    assert {name.split("/")[0] for name in names} == {"fc6_a", "fc6_b", "fc7_a", "fc7_b", "fc8"}


def test_two_devices_train_as_one_does():
    frozen = {"freeze": ("conv1", "conv3"), "layer_rates": ("conv2:0.5",)}
    _, one = stepped(**frozen)
    _, two = stepped(**frozen, devices=("/CPU:0", "/CPU:1"))
    for path, value in one.items():
        np.testing.assert_allclose(two[path], value, rtol=1e-5, atol=1e-6, err_msg=path)


def test_two_replicas_train_as_one_does():
    mirrored = distribution.start("mirrored")
    changes = {"freeze": ("conv1", "conv2"), "layer_rates": ("conv3:0.5",), "dropout": 0.0}
    changes |= {"initialize_from": "runs/before", "batch_size": 16}
    found = []
    for joined in (distribution.Distribution(), mirrored):
        with joined.scope():
            trainer, run_config = built(joined.strategy, **changes)
        rates, batch = builders.initial_rates(run_config), sides.synthetic_batch(run_config, 5)
        for each in joined.batches([batch] * 3):
            trainer.step(each, rates)
        found.append({variable.path: variable.numpy() for variable in trainer.model.variables})
    for path, value in found[0].items():
        np.testing.assert_allclose(found[1][path], value, rtol=1e-5, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("network", ["alexnet", "cifar10_18"])
def test_normalization_of_a_frozen_layer_is_frozen_and_infers(network):
    before, after = stepped(network=network, normalization="batch", freeze=("conv1",))
    own = [path for path in after if path.startswith(("conv1", "norm1"))]
    assert any("gamma" in path for path in own) and any("moving_mean" in path for path in own)
    for path, value in after.items():
        if path in own:
            np.testing.assert_array_equal(value, before[path], err_msg=path)
        elif "norm2" in path:
            assert (value != before[path]).any(), path


def test_dropout_goes_on():
    before, after = stepped(freeze=CONVOLUTIONS)
    states = [path for path in after if path.startswith("dropout")]
    assert len(states) == 4
    for path in states:
        assert (after[path] != before[path]).any(), path


def test_rates_of_layers_multiply_those_of_their_group():
    """The first update is the gradient times the rate: without decay, twice the rate moves twice as far."""
    plain = {"weight_decay": 0.0, "bias_weight_decay": 0.0}
    before, one = stepped(1, **plain)
    _, rated = stepped(1, **plain, layer_rates=("conv1:0.25", "fc8:4"))
    for path, value in one.items():
        factor = {"conv1": 0.25, "fc8": 4.0}.get(re.sub("_[ab]/.*|/.*", "", path), 1.0)
        if not path.startswith("dropout"):
            moved, expected = rated[path] - before[path], factor * (value - before[path])
            np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-7, err_msg=path)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"freeze": ("conv1", "conv9", "conv1_a")},
            "Expected freeze to name layers among conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8. "
            "Received: conv9, conv1_a",
        ),
        (
            {"layer_rates": ("fc9:2",)},
            "Expected layer_rates to name layers among conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8. Received: fc9",
        ),
        (
            {"freeze": (*CONVOLUTIONS, "fc6", "fc7", "fc8")},
            "Expected freeze to leave a layer to train. Received: all layers, conv1, conv2, conv3, conv4, conv5, fc6, "
            "fc7, fc8",
        ),
    ],
)
def test_layers_that_do_not_exist_and_a_network_that_is_all_frozen_are_rejected(changes, message):
    with pytest.raises(ValueError) as caught:
        built(**changes)
    assert str(caught.value) == message


def test_training_flops_exclude_what_is_not_computed():
    model = builders.build_model(SMALL.resolved(), 5)
    full = costs.training_flops(model)
    forward = {
        layer.name: 2 * int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:-1]))
        for layer in model.layers
        if hasattr(layer, "kernel")
    }
    of = lambda *names: sum(value for name, value in forward.items() if name.startswith(names))
    assert full == 3 * sum(forward.values()) - of("conv1")
    builders.freeze_layers(model, CONVOLUTIONS)
    assert costs.training_flops(model) == of("conv") + 2 * of("fc6") + 3 * of("fc7", "fc8")
    model = builders.build_model(SMALL.resolved(), 5)
    builders.freeze_layers(model, ("conv2",))
    assert costs.training_flops(model) == full - of("conv2")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return small_runs.make_pictures(tmp_path_factory.mktemp("pictures"))


def small_run(pictures, **changes):
    values = {"freeze": ("conv1", "conv2"), "checkpoint_steps": 1, "keep_checkpoints": 12, "normalization": "batch"}
    return small_runs.make_config(pictures, **{**values, **changes})


def test_resumed_run_equals_an_uninterrupted_one(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write", lambda workdir, *others: os.path.join(workdir, "none"))
    run_config = small_run(pictures)
    train.train(run_config, str(tmp_path / "entire"))
    small_runs.killed_copy(tmp_path / "entire", tmp_path / "parts", step=6)
    train.train(run_config, str(tmp_path / "parts"))
    entire = small_runs.stored(tmp_path / "entire", 12)
    small_runs.assert_same_bits(small_runs.stored(tmp_path / "parts", 12), entire)
    layers = {name.split(".S")[0].removeprefix("variables/") for name in entire if "velocity" in name}
    assert layers == {"conv3", "fc10"}
    first = small_runs.stored(tmp_path / "entire", 1)
    for name, value in entire.items():
        if name.startswith(("variables/conv1", "variables/conv2", "variables/norm")):
            np.testing.assert_array_equal(value, first[name], err_msg=name)
    with pytest.raises(ValueError, match="was trained with different values: freeze="):
        train.train(dataclasses.replace(run_config, freeze=()), str(tmp_path / "entire"))


def test_run_with_frozen_layers_is_reported_evaluated_and_exported(pictures, tmp_path, capsys):
    workdir = str(tmp_path / "run")
    # Also the first layer, whose kernels TensorBoard and the report show, and the last.
    train.train(small_run(pictures, freeze=("conv1", "fc10"), epochs=1.0), workdir)
    frozen = re.search(r"Frozen: conv1, norm1, fc10, with [\d,]+ of the [\d,]+ weights\.", capsys.readouterr().out)
    with open(os.path.join(workdir, "report.md"), encoding="utf-8") as file:
        page = file.read()
    assert frozen and frozen[0] in page
    assert "conv1, fc10" in page and "--freeze=conv1,fc10" in page
    tags = collections.Counter()
    for name in os.listdir(os.path.join(workdir, "tensorboard")):
        for record in tf.data.TFRecordDataset(os.path.join(workdir, "tensorboard", name)):
            tags.update(value.tag for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value)
    assert tags["weights/conv1"] == tags["weights/conv2"] > 0 and tags["conv1_kernels"]
    assert tags["update_over_weights/conv2"] and not tags["update_over_weights/conv1"]
    evaluate.evaluate(workdir, "test")
    run = restore.open_run(workdir)
    assert [layer.name for layer in run.model.layers if not layer.trainable] == ["conv1", "norm1", "fc10"]
    export.export_run(workdir, str(tmp_path / "served"))
