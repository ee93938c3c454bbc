"""How fast two processes of one core each learn together, against one that has both cores (row workers).

Each worker is pinned to a core of its own and takes half of each batch; gradients go from one to the other by gRPC on
the loopback device. Both take each step at once, as neither can go on alone.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import socket
import statistics

import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import steps
from alexnet_tf.runs import builders
from alexnet_tf.training import distribution
from alexnet_tf.training import trainer

ALONE, TOGETHER, NARROW = "one process, two cores", "two workers", "two workers, bfloat16 reduced"
REACH = 0.7
COUNT = 2


def worker(configs, addresses, index, core):
    """Sides in a process of their own: what one of several workers does of each step, and of an all-reduce alone.

    Args:
      configs: dict by side of resolved `config.Config`, whose batch is that of all workers.
      addresses: of all workers, ``HOST:PORT``.
      index: of this one.
      core: that it has.
    """
    # Nothing has been calculated here yet, so TensorFlow takes as many threads as there are cores: one.
    os.sched_setaffinity(0, {core})
    joined = distribution.start("multiworker", distribution.Cluster(tuple(addresses), index), tell=lambda line: None)
    sides = {}
    for name, config in configs.items():
        with joined.scope():
            model = builders.build_model(config, steps.NUM_CLASSES)
            learner = builders.build_trainer(config, model, builders.blank_statistics(), joined.strategy)
        part = dataclasses.replace(config, batch_size=config.batch_size // len(addresses))
        sides[of_worker(name, index)] = steps.training_side(part, learner)
        sides[of_worker(reduction_of(name), index)] = _reduction(joined.strategy, learner, config)
    return sides


def of_worker(name, index):
    """The name of what one of the workers does of a side."""
    return f"{name}, worker {index}"


def reduction_of(name):
    """The name of the side that does the all-reduce of another and nothing else."""
    return f"all-reduce of {name}"


def _reduction(strategy, learner, config):
    """A side of means of tensors like the gradients of a step, taken as there; each is waited for."""

    def mean(scale):
        values = [tf.multiply(variable, scale) for variable in learner.optimizer.variables]
        reduced = trainer.mean_over_replicas(values, tf.dtypes.as_dtype(config.reduce_precision))
        # Looked at, or nothing would have to be calculated.
        return tf.add_n([tf.reshape(value, [-1])[0] for value in reduced])

    reduce = tf.function(lambda scale: strategy.run(mean, args=(scale,)))

    def work():
        while True:
            strategy.experimental_local_results(reduce(tf.constant(1.0)))[0].numpy()
            yield 1

    return work


def _at_once(sides):
    """A side whose piece of work is one of each of several sides of other processes, all begun together."""

    def work():
        with contextlib.ExitStack() as stack:
            generators = [stack.enter_context(contextlib.closing(side())) for side in sides]
            # Left first, so that no generator is closed while it waits.
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(len(sides)))
            while True:
                yield sum(pool.map(next, generators))

    return work


def free_addresses(count):
    """Addresses of this machine that nobody listens at, a list of strings HOST:PORT."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind(("localhost", 0))
        return [f"localhost:{probe.getsockname()[1]}" for probe in probes]


def two_workers(request):
    """Two workers of one core each against one process with both, and what the all-reduce takes.

    Args:
      request: `measuring.Request`; the batch size is that of both workers together.

    Returns:
      `measuring.Result`.

    Raises:
      NotRunError: in a process with another number of cores than there are workers.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) != COUNT:
        raise measuring.NotRunError(f"needs {COUNT} cores for this process, and a system that keeps it to them")
    config = dataclasses.replace(request.config, devices=()).resolved()
    configs = {
        name: dataclasses.replace(config, distribute="multiworker", reduce_precision=dtype)
        for name, dtype in {TOGETHER: "float32", NARROW: "bfloat16"}.items()
    }
    addresses = free_addresses(COUNT)
    builds = [(worker, configs, addresses, index, core) for index, core in enumerate(cores)]
    with measuring.elsewhere(*builds) as parts:
        sides = {ALONE: steps.training_side(config, steps.build_trainer(config))}
        for name in [*configs, *map(reduction_of, configs)]:
            sides[name] = _at_once([parts[of_worker(name, index)] for index in range(COUNT)])
        rates = steps.interleave(request, sides)
    return measuring.Result(
        f"training steps of all together, batches of {config.batch_size}",
        "images/s",
        {name: rates[name] for name in (ALONE, TOGETHER, NARROW)},
        [measuring.Ratio(TOGETHER, ALONE, REACH), measuring.Ratio(NARROW, ALONE, REACH)],
        ["a core each for the workers, pinned; gRPC on the loopback device"],
        _reductions(rates, configs),
    )


def _reductions(rates, configs):
    """What an all-reduce takes when nothing else goes on, what it moves, and its share of a step."""
    figures = []
    for name, config in configs.items():
        seconds = COUNT / statistics.median(rates[reduction_of(name)])
        step = config.batch_size / statistics.median(rates[name])
        sent = steps.PARAMETERS * tf.dtypes.as_dtype(config.reduce_precision).size
        figures += [
            measuring.Figure(f"all-reduce, {config.reduce_precision}, from each worker", sent / 1e6, "MB"),
            measuring.Figure(f"all-reduce, {config.reduce_precision}", 1e3 * seconds, "ms"),
            measuring.Figure(f"all-reduce, {config.reduce_precision}, of a step's time", 100 * seconds / step, "%"),
        ]
    return figures
