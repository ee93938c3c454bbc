"""Each network of the registry: ours, Keras's training step of the same network, and torch's (row networks)."""

import dataclasses
import functools

import keras
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.benchmarks import hardware
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import network_peers
from alexnet_tf.benchmarks import sides
from alexnet_tf.benchmarks import training_step
from alexnet_tf.models import registry
from alexnet_tf.runs import builders
from alexnet_tf.runs import costs

# Largest batch on a CPU, where larger ones of VGG would take minutes per step.
MAX_CPU_BATCH = 16
STEP, FORWARD = "step", "forward"
KERAS = "Keras"


def networks(request: measuring.Request) -> measuring.Result:
    """A training step and the forward pass of one network; the results of several networks can be merged.

    Args:
      request: `measuring.Request`, whose configuration names the network and its sizes. Batches on a CPU are at most
        `MAX_CPU_BATCH`.

    Returns:
      `measuring.Result`.
    """
    run_config = _with_batch(request.config.resolved())
    name, size = run_config.network, run_config.crop_size
    model = _build(run_config)
    trainer = builders.build_trainer(run_config, model, builders.blank_statistics(run_config))
    images, labels = _images_and_labels(run_config)
    predict = tf.function(functools.partial(model, training=False))
    measured = {
        _side(name, STEP, sides.OURS): sides.training_step(
            run_config, trainer, num_classes=registry.find(name).num_classes
        ),
        _side(name, FORWARD, sides.OURS): sides.repeat(len(labels), predict, images),
    }
    notes = ["auxiliary heads are in neither side; ours includes preprocessing from uint8"]
    torch_builds = _torch_builds(run_config, notes)
    gflop = 1e-9 * costs.training_flops(model)
    with measuring.in_subprocesses((keras_sides, run_config), (matrix_product, name, gflop), *torch_builds) as theirs:
        rates = sides.interleave(request, measured | theirs)
    ratios = [measuring.Ratio(_side(name, STEP, sides.OURS), _side(name, STEP, KERAS), 1.0)]
    ratios.append(measuring.Ratio(_side(name, FORWARD, sides.OURS), _side(name, FORWARD, KERAS)))
    ratios.append(measuring.Ratio(_side(name, STEP, sides.OURS), _side(name, STEP, "tf.matmul")))
    if torch_builds:
        pairs = [[_side(name, what, side) for side in (sides.OURS, sides.TORCH)] for what in (STEP, FORWARD)]
        ratios += [measuring.Ratio(*pair) for pair in pairs]
    values = [
        measuring.Value(f"{name} at {size} x {size}, forward", 2e-9 * costs.multiply_adds(model), "GFLOP per image"),
        measuring.Value(f"{name}, peak memory, batch {run_config.batch_size}", training_step.peak_memory() / 1e6, "MB"),
    ]
    description = (
        f"batches of {run_config.batch_size}, {run_config.precision}; tf.matmul as images of as much arithmetic"
    )
    return measuring.Result(description, "images/s", rates, ratios, notes, values)


def _side(name, what, side):
    return f"{name} {what}, {side}"


def _with_batch(run_config):
    if tf.config.list_physical_devices("GPU"):
        return run_config
    return dataclasses.replace(run_config, batch_size=min(run_config.batch_size, MAX_CPU_BATCH))


def _build(run_config):
    return builders.build_model(run_config, registry.find(run_config.network).num_classes, devices=None)


def _images_and_labels(run_config):
    num_classes = registry.find(run_config.network).num_classes
    return map(tf.constant, sides.images_and_labels(run_config.batch_size, run_config.crop_size, num_classes))


def keras_sides(run_config: config.Config) -> dict[str, measuring.Side]:
    """Sides for another process: ``train_on_batch`` and ``predict_on_batch`` of the same network."""
    model = _build(run_config)
    model.compile(
        optimizer=network_peers.keras_optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # On a CPU, compiling the step with XLA takes minutes and makes it slower.
        jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,
    )
    images, labels = _images_and_labels(run_config)
    calls = {STEP: (model.train_on_batch, images, labels), FORWARD: (model.predict_on_batch, images)}
    return {
        _side(run_config.network, what, KERAS): sides.repeat(run_config.batch_size, *call)
        for what, call in calls.items()
    }


def matrix_product(name: str, gflop: float) -> dict[str, measuring.Side]:
    """Sides for another process: a product of matrices, in images whose training step has as much arithmetic."""
    (product,) = hardware.matrix_product(gflop).values()
    return {_side(name, STEP, "tf.matmul"): product}


def _torch_builds(run_config, notes):
    name = run_config.network
    builds = sides.torch_builds(notes, torch_sides, run_config)
    if not builds:
        return []
    from alexnet_tf.benchmarks import torch_networks

    is_known = torch_networks.has(name) or (name == "alexnet" and run_config.crop_size == 224)
    if not is_known:
        notes.append(f"{sides.TORCH}: no {name}")
    return builds if is_known else []


def torch_sides(run_config: config.Config) -> dict[str, measuring.Side]:
    """Sides for another process: the training step and the forward pass of the network in torch."""
    import torch

    from alexnet_tf.benchmarks import torch_alexnet
    from alexnet_tf.benchmarks import torch_networks

    name = run_config.network
    if name == "alexnet":
        model = torch_alexnet.build()
    else:
        num_classes = registry.find(name).num_classes
        model = torch_networks.build(name, num_classes, run_config.crop_size, width=run_config.width)
    model.to(torch_alexnet.device())
    images, labels = (torch.from_numpy(each.numpy()) for each in _images_and_labels(run_config))
    images, labels = (each.to(torch_alexnet.device()) for each in (images.permute(0, 3, 1, 2), labels))
    step = torch_alexnet.train_step(model)
    calls = {
        STEP: (lambda *batch: step(*batch).item(), images, labels),
        FORWARD: (torch_networks.predict(model), images),
    }
    return {_side(name, what, sides.TORCH): sides.repeat(len(labels), *call) for what, call in calls.items()}
