"""The training step against textbook networks and against itself (rows P1, P1b, P2, P7, P8, P11, P13, P17, growth
and operations)."""

import dataclasses
import pathlib
import re
import resource
import sys

import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import hardware
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import network_peers
from alexnet_tf.benchmarks import sides
from alexnet_tf.models import placement
from alexnet_tf.profiling import executed_graph
from alexnet_tf.profiling import operation_counts
from alexnet_tf.profiling import placement_report
from alexnet_tf.runs import builders
from alexnet_tf.training import loop

PARAMETERS = 60_965_224
# Transferred between the devices in a step at the paper's batch size, excluding the input; it grows with the batch.
MAX_TRANSFERRED_BYTES = 61e6
TRANSFER_BATCH = 128
# Of the first version that was counted on a GPU.
MAX_KERNELS = 190
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def keras_training(batch_size: int) -> dict[str, measuring.Side]:
    """Sides for another process: the training steps of the Keras networks, the textbook's and the expert's."""
    models = {sides.KERAS: network_peers.keras_alexnet(), sides.EXPERT: network_peers.expert_keras_alexnet()}
    # On the GPU if there is one, as ours.
    images, labels = map(tf.constant, sides.images_and_labels(batch_size))
    return {name: sides.repeat(batch_size, model.train_on_batch, images, labels) for name, model in models.items()}


def torch_training(batch_size: int) -> dict[str, measuring.Side]:
    """Sides for another process: the training step of the torch network in its two memory layouts."""
    import torch

    from alexnet_tf.benchmarks import torch_alexnet

    device = torch_alexnet.device()
    images, labels = (torch.from_numpy(each).to(device) for each in sides.images_and_labels(batch_size))
    layouts = {sides.TORCH: torch.contiguous_format, sides.TORCH_CHANNELS_LAST: torch.channels_last}
    found = {}
    for name, layout in layouts.items():
        step = torch_alexnet.train_step(torch_alexnet.build().to(device, memory_format=layout))
        batch = images.permute(0, 3, 1, 2).contiguous(memory_format=layout), labels
        found[name] = sides.repeat(batch_size, lambda step=step, batch=batch: step(*batch).item())
    return found


def textbooks(request: measuring.Request) -> measuring.Result:
    """P1, P1b and P2: our training step; that of the network in Keras, as the textbook and as an expert write it; and
    that in torch, in the faster of its two memory layouts.

    Args:
      request: `measuring.Request`; the batch size is the configuration's.

    Returns:
      `measuring.Result`.
    """
    run_config = request.config.resolved()
    ours = {sides.OURS: sides.training_step(run_config, sides.shared_trainer(run_config))}
    ratios = [measuring.Ratio(sides.OURS, sides.KERAS, 5.0), measuring.Ratio(sides.OURS, sides.EXPERT, 1.25)]
    notes = ["ours includes preprocessing from uint8; the others receive preprocessed images"]
    torch_builds = sides.torch_builds(notes, torch_training, run_config.batch_size)
    with measuring.in_subprocesses((keras_training, run_config.batch_size), *torch_builds) as theirs:
        rates = sides.interleave(request, ours | theirs)
    if torch_builds:
        layouts = sorted((sides.TORCH, sides.TORCH_CHANNELS_LAST), key=lambda side: -np.median(rates[side]))
        # The target is over the faster one.
        ratios += [measuring.Ratio(sides.OURS, side, target) for side, target in zip(layouts, (4.0, None))]
    description = f"training steps of the full network, batches of {run_config.batch_size}, {run_config.precision}"
    return measuring.Result(description, "images/s", rates, ratios, notes)


def precisions(request: measuring.Request) -> measuring.Result:
    """P7: our training step in float32 and with bfloat16 products.

    Args:
      request: `measuring.Request`; its precision is ignored.

    Returns:
      `measuring.Result`.

    Raises:
      NotRunError: if the processor has no bfloat16 instructions.
    """
    hardware.require_bfloat16()
    names = ("bfloat16", "float32")
    configs = {name: dataclasses.replace(request.config, precision=name).resolved() for name in names}
    measured = {
        "bfloat16": sides.training_step(configs["bfloat16"], sides.build_trainer(configs["bfloat16"])),
        "float32": sides.training_step(configs["float32"], sides.shared_trainer(configs["float32"])),
    }
    description = f"training steps, batches of {request.config.batch_size}"
    ratios = [measuring.Ratio(*names, 1.7)]
    return measuring.Result(description, "images/s", sides.interleave(request, measured), ratios)


def two_devices(request: measuring.Request) -> measuring.Result:
    """P8: our training step on two devices and on one, the bytes transferred between the two, and the work of each.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.

    Raises:
      NotRunError: in a process, or with a configuration, that has one device.
    """
    run_config = request.config.resolved()
    if not placement.choose_devices(run_config.devices):
        raise measuring.NotRunError("needs two devices, such as --devices=/CPU:0,/CPU:1")
    on_two = sides.build_trainer(run_config)
    batch = sides.synthetic_batch(run_config, sides.NUM_CLASSES)
    rates = builders.initial_rates(run_config)
    # Before any other step: only a function's first run can be observed.
    report = placement_report.placement_report(on_two.step, batch, rates)
    on_one = dataclasses.replace(run_config, devices=())
    measured = {
        "one device": sides.training_step(on_one, sides.shared_trainer(on_one)),
        "two devices": sides.training_step(run_config, on_two),
    }
    return measuring.Result(
        f"training steps, batches of {run_config.batch_size}, {run_config.precision}",
        "images/s",
        sides.interleave(request, measured),
        [measuring.Ratio("one device", "two devices", 1.05, measuring.AT_MOST)],
        [f"devices {', '.join(run_config.devices)}"],
        _placement_values(run_config.batch_size, report),
    )


def _placement_values(batch_size, report):
    """Returns the bytes transferred, and the first device's share of the work that both have.

    fc8 is excluded from the shares, as it is on the first device only.
    """
    target = MAX_TRANSFERRED_BYTES / 1e6 * batch_size / TRANSFER_BATCH
    transferred = placement_report.transferred_bytes(report, is_input=False) / 1e6
    values = [
        measuring.Value("transferred per step, excluding the input", transferred, "MB", target, measuring.AT_MOST)
    ]
    device = report.devices[0]
    for name, quantity, only in (
        ("FLOP forward", "flops", {"phase": "forward"}),
        ("FLOP backward", "flops", {"phase": "backward"}),
        ("parameters updated", "parameters", {}),
    ):
        total = placement_report.total(report, quantity, exclude=("fc8",), **only)
        share = 100 * placement_report.total(report, quantity, exclude=("fc8",), device=device, **only) / total
        values.append(measuring.Value(f"{name} on {device}, without fc8", share, "%", 50.0, measuring.EXACTLY))
    return values


def keras_update() -> dict[str, measuring.Side]:
    """Sides for another process: the update of all parameters by Keras's optimizer."""
    variables = network_peers.keras_alexnet().trainable_variables
    optimizer = network_peers.keras_optimizer()
    optimizer.build(variables)

    @tf.function
    def update(*gradients):
        optimizer.apply(gradients, variables)

    return {sides.KERAS: sides.repeat(1, update, *_gradients(variables))}


def _gradients(variables):
    generator = tf.random.Generator.from_seed(0)
    return [generator.normal(variable.shape, stddev=1e-3) for variable in variables]


def update(request: measuring.Request) -> measuring.Result:
    """P11: the update of all parameters with momentum and weight decay, by Keras's optimizer and by ours.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.
    """
    run_config = request.config.resolved()
    optimizer = sides.shared_trainer(run_config).optimizer
    learning_rates = builders.initial_rates(run_config)

    @tf.function
    def our_update(learning_rates, *gradients):
        optimizer.apply(gradients, learning_rates)

    ours = {sides.OURS: sides.repeat(1, our_update, learning_rates, *_gradients(optimizer.variables))}
    with measuring.in_subprocesses((keras_update,)) as theirs:
        rates = sides.interleave(request, ours | theirs)
    ratios = [measuring.Ratio(sides.OURS, sides.KERAS, 1.8)]
    return measuring.Result("updates of all parameters, float32", "updates/s", rates, ratios)


def operations(request: measuring.Request) -> measuring.Result:
    """Row operations: what a device is given to do in a step, see `operation_counts`; on a CPU, about a GPU.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`, without rates.
    """
    run_config = dataclasses.replace(request.config.resolved(), compile="islands")
    step = sides.build_trainer(run_config).step
    batch, rates = sides.synthetic_batch(run_config, sides.NUM_CLASSES), builders.initial_rates(run_config)
    counts = operation_counts.count(executed_graph.run(step, batch, rates))
    notes = [f"on the host: {number} {name}" for name, number in sorted(counts.host_kernels.items())]
    if not tf.config.list_physical_devices("GPU"):
        notes.append("counted in the graph of a CPU; not measured on a GPU")
    values = [
        measuring.Value("kernels", counts.kernels, "", MAX_KERNELS, measuring.AT_MOST),
        measuring.Value("calls of XLA's programs", counts.xla_calls, ""),
        measuring.Value("kernels on the host", sum(counts.host_kernels.values()), "", 0, measuring.AT_MOST),
        measuring.Value("transposes", counts.transposes, ""),
    ]
    return measuring.Result(f"operations of a step, {run_config.precision}", "", {}, [], notes, values)


def traces(request: measuring.Request) -> measuring.Result:
    """P13: how often TensorFlow traces the training step while the learning rate drops.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`, without rates.
    """
    run_config = dataclasses.replace(
        request.config, schedule="epochs", drop_epochs=(1.0, 2.0), batch_size=min(8, request.config.batch_size)
    ).resolved()
    traced = sides.build_trainer(run_config)
    schedule = builders.build_schedule(run_config)
    batch = sides.synthetic_batch(run_config, sides.NUM_CLASSES)
    steps = loop.train(
        traced,
        [batch] * 4,
        steps=4,
        steps_per_epoch=1,
        learning_rates=lambda progress: builders.learning_rates(run_config, schedule, progress),
    )
    values = [measuring.Value("traces of the step", traced.traces, "", 1.0, measuring.EXACTLY)]
    return measuring.Result(f"{steps} steps with two drops of the learning rate", "", {}, [], values=values)


def frozen(request: measuring.Request) -> measuring.Result:
    """P17: our training step with the convolutional layers frozen, and the full step.

    Args:
      request: `measuring.Request`; its `freeze` is ignored.

    Returns:
      `measuring.Result`.
    """
    full = dataclasses.replace(request.config, freeze=()).resolved()
    names = (f"{CONVOLUTIONS[0]} to {CONVOLUTIONS[-1]} frozen", "all layers trained")
    configs = dict(zip(names, (dataclasses.replace(full, freeze=CONVOLUTIONS), full)))
    builds = dict(zip(names, (sides.build_trainer, sides.shared_trainer)))
    measured = {name: sides.training_step(configs[name], builds[name](configs[name])) for name in names}
    return measuring.Result(
        f"training steps of the full network, batches of {full.batch_size}, {full.precision}",
        "images/s",
        sides.interleave(request, measured),
        [measuring.Ratio(*names, 2.0)],
    )


def growth(request: measuring.Request) -> measuring.Result:
    """The speed of a training step and the peak memory of this process, at one batch size.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`; those of several batch sizes can be merged.
    """
    run_config = request.config.resolved()
    size = run_config.batch_size
    side = f"batch {size}"
    rates = sides.interleave(request, {side: sides.training_step(run_config, sides.shared_trainer(run_config))})
    values = [
        measuring.Value(f"step, batch {size}", size / float(np.median(rates[side])), "s"),
        measuring.Value(f"peak memory, batch {size}", peak_memory() / 1e6, "MB"),
    ]
    description = f"training steps of the full network by batch size, {run_config.precision}"
    return measuring.Result(description, "images/s", rates, [], values=values)


def peak_memory() -> int:
    """Returns the peak resident memory of this process in bytes."""
    try:
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        # Not on Linux, where this would include the memory of the parent process before exec.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
    return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[1])
