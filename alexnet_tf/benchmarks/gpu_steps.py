"""Training steps on a GPU in one setting, at several batch sizes (row gpu); `gpu` starts a process for each setting."""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.benchmarks import gpu
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import sides
from alexnet_tf.data import loading
from alexnet_tf.data import pipeline
from alexnet_tf.data import sampling
from alexnet_tf.models import placement
from alexnet_tf.runs import builders
from alexnet_tf.runs import costs
from alexnet_tf.runs import dataset
from alexnet_tf.runs import devices
from alexnet_tf.training import trainer
from alexnet_tf.utils import messages

# Of the product that the steps are compared with, large enough for the full rate of any GPU.
MATRIX_SIDE = 8192
# A setting has little time, so its turns are shorter than those of other rows.
MAX_ROUNDS, MAX_SECONDS = 5, 0.4
# Steps at the start of a turn that are not counted: their batches were prefetched in another side's turn.
PREFETCHED = 12
# Steps before the first turn, in which images are decoded into memory.
FILLING_STEPS = 100


def measure(request: measuring.Request) -> measuring.Result:
    """Row gpu in the setting of this process, on synthetic images or, if there is a data set, on both.

    Args:
      request: `measuring.Request`. The first data set is used. Without batch sizes, that of the configuration is
        measured; with a data set, only the first one is. Results are kept after each.

    Returns:
      `measuring.Result`. A batch size that does not fit the device's memory is a note.

    Raises:
      NotRunError: without a GPU.
      ValueError, OSError: as `prepared.open_data_dir`.
    """
    if reason := gpu.missing():
        raise measuring.NotRunError(reason)
    # The targets are those of one GPU.
    run_config = dataclasses.replace(request.config, devices=()).resolved()
    mode = "step" if builders.compiles_step(run_config) else "islands"
    run_config = dataclasses.replace(run_config, compile=mode)
    sizes = request.batches or (run_config.batch_size,)
    request = request._replace(
        rounds=min(request.rounds, MAX_ROUNDS), seconds=min(request.seconds, MAX_SECONDS), batches=sizes
    )
    if request.data_dirs:
        return _compare_with_data(request, dataclasses.replace(run_config, batch_size=sizes[0]))
    return _measure_synthetic(request, run_config)


def _measure_synthetic(request, run_config):
    setting = gpu.setting_of(run_config)
    step_trainer = sides.build_trainer(run_config)
    gflop = 1e-9 * costs.training_flops(step_trainer.model)
    product = matrix_product(run_config.precision, request)
    values = [
        measuring.Value(f"{setting.name}: tf.matmul, {sides.product(MATRIX_SIDE, MATRIX_SIDE)}", product, "GFLOP/s")
    ]
    rates, notes = {}, devices.describe(run_config)[:1]
    if run_config.precision == "float32":
        notes.append(f"float32 products {'with' if run_config.tf32 else 'without'} TensorFloat-32")
    for size in request.batches:
        name = gpu.side(setting, size)
        try:
            (found,) = _measure_batch(request, dataclasses.replace(run_config, batch_size=size), step_trainer)
        except tf.errors.OpError as error:
            notes.append(f"{name}: {_problem(error)}")
        else:
            rates[name] = found.rates
            share = 100 * statistics.median(found.rates) * gflop / product
            values.append(measuring.Value(f"{name}: share of tf.matmul", share, "%"))
            values.append(measuring.Value(f"{name}: first step, compiled", found.first_seconds, "s"))
        request.keep(_result(rates, notes, values))
    return _result(rates, notes, values)


def _result(rates, notes, values, ratios=()):
    return measuring.Result(gpu.DESCRIPTION, "images/s", dict(rates), list(ratios), list(notes), list(values))


def _problem(error):
    message = messages.first_line(error)
    is_memory = isinstance(error, tf.errors.ResourceExhaustedError) or "out of memory" in message.lower()
    return "out of memory" if is_memory else message


def _measure_batch(request, run_config, step_trainer):
    call = calls(step_trainer, run_config, sides.synthetic_batch(run_config, sides.NUM_CLASSES))
    amount = run_config.batch_size * run_config.steps_per_call
    return _queued(request, {"": call}, amount).values()


def _queued(request, functions, amount, skipped=0):
    synchronize = tf.test.experimental.sync_devices
    return measuring.queued(
        functions, synchronize, amount, rounds=request.rounds, seconds=request.seconds, skipped=skipped
    )


def calls(step_trainer: trainer.Trainer, run_config: config.Config, batch: dict[str, tf.Tensor]) -> Callable[[], Any]:
    """Returns a function that takes ``steps_per_call`` steps on one batch, without waiting for their results."""
    rates, count = builders.initial_rates(run_config), run_config.steps_per_call
    if count == 1:
        return functools.partial(step_trainer.step, batch, rates)
    stacked = tf.nest.map_structure(lambda column: tf.stack([column] * count), batch)
    return functools.partial(step_trainer.steps, stacked, tf.stack([rates] * count))


def matrix_product(dtype: str, request: measuring.Request) -> float:
    """Returns the speed of the product of two matrices in GFLOP/s: in float32, with TensorFloat-32 if it is enabled."""
    matrices = tf.cast(tf.random.stateless_normal([2, MATRIX_SIDE, MATRIX_SIDE], [0, 0]), dtype)
    multiply = tf.function(tf.matmul)
    call = functools.partial(multiply, *tf.unstack(matrices))
    (found,) = _queued(request, {"": call}, 2e-9 * MATRIX_SIDE**3).values()
    return statistics.median(found.rates)


def _compare_with_data(request, run_config):
    """Compares training from a prepared data set with training on one batch of noise."""
    run_config = dataclasses.replace(run_config, data_dir=str(request.data_dirs[0]), source="", steps_per_call=1)
    source, image_statistics = dataset.open_data(run_config)
    split, num_classes = source.splits["train"], len(source.class_names)
    per_epoch = sampling.batches_per_epoch(len(split.labels), run_config.batch_size)
    examples = loading.load(split, cache=run_config.cache).examples
    model = builders.build_model(run_config, num_classes)
    step_trainer = builders.build_trainer(run_config, model, image_statistics)
    options = builders.build_sampling(run_config, first_step=0, steps=1 << 40)
    device = placement.input_device(builders.tower_devices(run_config))
    batches = iter(pipeline.prefetch_to_device(pipeline.training_batches(examples, options), device))
    rates = builders.initial_rates(run_config)
    train = lambda: step_trainer.step(next(batches), rates)
    for _ in range(min(per_epoch, FILLING_STEPS)):
        train()
    setting = gpu.setting_of(run_config)
    kind = "raw records" if split.is_raw else "JPEG records"
    names = [f"{what}, {gpu.side(setting, run_config.batch_size)}" for what in (f"from {kind}", "synthetic")]
    synthetic = calls(step_trainer, run_config, sides.synthetic_batch(run_config, num_classes))
    found = _queued(request, dict(zip(names, (train, synthetic))), run_config.batch_size, PREFETCHED)
    ratios = [measuring.Ratio(*names, gpu.DATA_TARGET)]
    notes = [f"{names[0]}: {len(split.labels)} images"]
    return _result({name: each.rates for name, each in found.items()}, notes, [], ratios)
