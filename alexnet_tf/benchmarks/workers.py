"""Two workers with one core each against one process with both cores (row workers).

Each worker is pinned to a core and takes half of each batch; they exchange gradients by gRPC on the loopback device.
Both must take each step at the same time, as neither can proceed alone.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import socket
import statistics
from collections.abc import Mapping
from collections.abc import Sequence

import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import sides
from alexnet_tf.benchmarks import training_step
from alexnet_tf.runs import builders
from alexnet_tf.training import distribution
from alexnet_tf.training import trainer

ONE_PROCESS = "one process, two cores"
TWO_WORKERS, TWO_WORKERS_BFLOAT16 = "two workers", "two workers, bfloat16 reduced"
TARGET = 0.7
COUNT = 2


def worker(
    configs: Mapping[str, config.Config], addresses: Sequence[str], index: int, core: int
) -> dict[str, measuring.Side]:
    """Sides for another process: one worker's part of each step, and of an all-reduce only.

    Args:
      configs: dict by side of resolved `config.Config`, with the batch size of all workers together.
      addresses: ``HOST:PORT`` of all workers.
      index: int, which worker this is.
      core: int, the core that it is pinned to.
    """
    # TensorFlow has not started yet, so it takes as many threads as there are cores: one.
    os.sched_setaffinity(0, {core})
    joined = distribution.start("multiworker", distribution.Cluster(tuple(addresses), index), lambda line: None)
    found = {}
    for name, run_config in configs.items():
        with joined.scope():
            model = builders.build_model(run_config, sides.NUM_CLASSES)
            worker_trainer = builders.build_trainer(
                run_config, model, builders.blank_statistics(run_config), joined.strategy
            )
        part = dataclasses.replace(run_config, batch_size=run_config.batch_size // len(addresses))
        found[of_worker(name, index)] = sides.training_step(part, worker_trainer)
        found[of_worker(reduction_of(name), index)] = _reduction(joined.strategy, worker_trainer, run_config)
    return found


def of_worker(name: str, index: int) -> str:
    """Returns the name of one worker's part of a side."""
    return f"{name}, worker {index}"


def reduction_of(name: str) -> str:
    """Returns the name of the side that does the all-reduce of another side only."""
    return f"all-reduce of {name}"


def _reduction(strategy, worker_trainer, run_config):
    """Returns a side of means over replicas, of tensors with the shapes of the gradients, as in a step."""

    def mean(scale):
        values = [tf.multiply(variable, scale) for variable in worker_trainer.optimizer.variables]
        reduced = trainer.mean_over_replicas(values, tf.dtypes.as_dtype(run_config.reduce_precision))
        # Uses every tensor; otherwise TensorFlow would skip the reduction.
        return tf.add_n([tf.reshape(value, [-1])[0] for value in reduced])

    reduce = tf.function(lambda scale: strategy.run(mean, args=(scale,)))

    def work():
        while True:
            strategy.experimental_local_results(reduce(tf.constant(1.0)))[0].numpy()
            yield 1

    return work


def _at_once(parts):
    """Returns a side that steps several sides of other processes at the same time."""

    def work():
        with contextlib.ExitStack() as stack:
            generators = [stack.enter_context(contextlib.closing(part())) for part in parts]
            # Entered last, so exited first: no generator is closed while a thread waits for it.
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(len(parts)))
            while True:
                yield sum(pool.map(next, generators))

    return work


def free_addresses(count: int) -> list[str]:
    """Returns addresses of this machine, ``HOST:PORT``, whose ports are free."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind(("localhost", 0))
        return [f"localhost:{probe.getsockname()[1]}" for probe in probes]


def two_workers(request: measuring.Request) -> measuring.Result:
    """Row workers: two workers with one core each against one process with both, and the time of the all-reduce.

    Args:
      request: `measuring.Request`; the batch size is that of both workers together.

    Returns:
      `measuring.Result`.

    Raises:
      NotRunError: if this process does not have exactly one core per worker.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) != COUNT:
        raise measuring.NotRunError(f"needs {COUNT} cores for this process, and a system that can pin it to them")
    run_config = dataclasses.replace(request.config, devices=()).resolved()
    configs = {
        name: dataclasses.replace(run_config, distribute="multiworker", reduce_precision=dtype)
        for name, dtype in {TWO_WORKERS: "float32", TWO_WORKERS_BFLOAT16: "bfloat16"}.items()
    }
    addresses = free_addresses(COUNT)
    builds = [(worker, configs, addresses, index, core) for index, core in enumerate(cores)]
    with measuring.in_subprocesses(*builds) as parts:
        measured = {ONE_PROCESS: sides.training_step(run_config, sides.build_trainer(run_config))}
        for name in [*configs, *map(reduction_of, configs)]:
            measured[name] = _at_once([parts[of_worker(name, index)] for index in range(COUNT)])
        rates = sides.interleave(request, measured)
    return measuring.Result(
        f"training steps of both workers together, batches of {run_config.batch_size}",
        "images/s",
        {name: rates[name] for name in (ONE_PROCESS, *configs)},
        [measuring.Ratio(name, ONE_PROCESS, TARGET) for name in configs],
        ["each worker is pinned to one core; gRPC on the loopback device"],
        _reductions(rates, configs),
    )


def _reductions(rates, configs):
    """Returns the bytes and the time of an all-reduce alone, and its share of a step's time."""
    values = []
    for name, run_config in configs.items():
        seconds = COUNT / statistics.median(rates[reduction_of(name)])
        step = run_config.batch_size / statistics.median(rates[name])
        sent = training_step.PARAMETERS * tf.dtypes.as_dtype(run_config.reduce_precision).size
        what = f"all-reduce, {run_config.reduce_precision}"
        values += [
            measuring.Value(f"{what}, sent by each worker", sent / 1e6, "MB"),
            measuring.Value(what, 1e3 * seconds, "ms"),
            measuring.Value(f"{what}, share of a step's time", 100 * seconds / step, "%"),
        ]
    return values
