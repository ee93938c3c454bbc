"""Learning on several devices and machines: each replica has the whole network and its part of every batch.

The strategies are TensorFlow's. What differs between one replica and many is here: which part of the data a process
reads, how sums are taken over all of them, and who writes. One process is the chief: it alone writes.
"""

import collections
import contextlib
import json
import math
import os
import re
import socket
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.utils import messages

KINDS = ("none", "mirrored", "multiworker")
# Steps between a process's wish to stop and the stop: by then its sum over all processes is there without waiting.
_STOP_LAG = 2
# What TensorFlow's errors about other processes speak of.
_OF_PEERS = re.compile(r"(?i)aborted|connect|unavailable|heartbeat|barrier|timed? ?out")
_MOST_TOLD = 300
# Seconds between two words about workers that are missing, and between two looks at whether they are there.
_PATIENCE = 30.0
_PAUSE = 0.2


class WorkerLostError(ConnectionError):
    """Another process of the same training is gone; all have to be started again."""

    # "Try again" among the statuses of sysexits.h.
    exit_status = 75


class Cluster(NamedTuple):
    """The processes of one training."""

    addresses: tuple  # of strings HOST:PORT, of all processes; the first is the chief
    index: int  # this process's place among them


def read_cluster(addresses=(), index=None, environment=""):
    """The cluster that flags or the environment describe.

    Args:
      addresses: list of strings HOST:PORT; empty takes the environment's.
      index: int, this process's place among them; None where the environment tells.
      environment: what the variable ``TF_CONFIG`` holds: JSON with ``cluster`` and ``task``.

    Returns:
      `Cluster`.

    Raises:
      ValueError: if neither describes one, or for an index that is not in it.
    """
    if addresses:
        if index is None:
            raise ValueError(f"Expected worker_index with {len(addresses)} workers. Received: none")
        cluster = Cluster(tuple(addresses), index)
    elif environment:
        cluster = _parse(environment)
    else:
        raise ValueError("Expected workers and worker_index, or TF_CONFIG in the environment. Received: neither")
    for address in cluster.addresses:
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"Expected workers as HOST:PORT. Received: {address}")
    if len(set(cluster.addresses)) < len(cluster.addresses):
        raise ValueError(f"Expected each of workers once. Received: {','.join(cluster.addresses)}")
    if not 0 <= cluster.index < len(cluster.addresses):
        raise ValueError(f"Expected worker_index from 0 to {len(cluster.addresses) - 1}. Received: {cluster.index}")
    return cluster


def _parse(environment):
    try:
        described = json.loads(environment)
        jobs = described["cluster"]
        kind, index = described["task"]["type"], int(described["task"]["index"])
        chiefs, workers = jobs.get("chief", []), jobs.get("worker", [])
        if kind not in ("chief", "worker") or not all(isinstance(each, str) for each in [*chiefs, *workers]):
            raise ValueError(f"type {kind}")
        if not 0 <= index < len(jobs[kind]):
            raise ValueError(f"index {index} of {len(jobs[kind])}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"Expected TF_CONFIG to name a cluster of chief and worker, and a task in it. Received: {error}"
        ) from None
    return Cluster((*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0))


class Distribution:
    """One replica alone, on the devices that its network names.

    Attributes:
      strategy: a ``tf.distribute.Strategy``; None for one replica alone.
      worker: (index, count) of this process.
      local_replicas: int, how many replicas this process has.
      replicas: int, how many there are in all processes.
    """

    strategy = None
    worker = (0, 1)
    local_replicas = 1
    replicas = 1

    @property
    def is_chief(self):
        """Whether this process is the one that writes."""
        return self.worker[0] == 0

    def scope(self):
        """What a network and its optimiser are made in."""
        return contextlib.nullcontext()

    def batches(self, dataset):
        """Hands each replica its part.

        Args:
          dataset: iterable of this process's parts of the batches, dicts of tensors.

        Returns:
          An iterable of what the step of a `trainer.Trainer` takes: equal parts, in their order, for local replicas.
        """
        return dataset

    def first(self, batch):
        """The part of a batch of `batches` that the first local replica has."""
        return batch

    def check_same(self, what, values):
        """Raises ValueError in a process whose ints are not those of all the others; each has to call it."""
        own = np.array(values, np.int64)
        count = self.worker[1]
        sums = self.sum([own])[0]
        if (sums != count * own).any():
            raise ValueError(
                f"Expected the same {what} in all {count} workers, which share a work directory. "
                f"Received: {own.tolist()} here, {(sums / count).tolist()} on average"
            )

    def sum(self, values):
        """Sums over all processes; each has to call it.

        Args:
          values: list of arrays, int64 or float64, of the same shapes everywhere.

        Returns:
          A list of NumPy arrays.
        """
        return [np.asarray(value) for value in values]

    def any_of(self, wish):
        """A function without arguments that tells whether `wish()` was true in any process.

        Each process has to call it once a step; then all get the same answer at the same step, a few steps late.
        """
        return wish


class Mirrored(Distribution):
    """Replicas on several devices, in this process alone or in several.

    Args:
      strategy: a ``tf.distribute.Strategy``.
      worker: (index, count) of this process.
    """

    def __init__(self, strategy, worker=(0, 1)):
        self.strategy = strategy
        self.worker = worker
        self.replicas = strategy.num_replicas_in_sync
        self.local_replicas = self.replicas // worker[1]
        self._sum = tf.function(self._sum_of_replicas, autograph=False)

    def scope(self):
        return self.strategy.scope()

    def batches(self, dataset):
        return dataset if self.local_replicas == 1 else map(self._parts, dataset)

    def _parts(self, batch):
        def part(context):
            place = context.replica_id_in_sync_group % self.local_replicas
            return tf.nest.map_structure(lambda column: tf.split(column, self.local_replicas)[place], batch)

        return self.strategy.experimental_distribute_values_from_function(part)

    def first(self, batch):
        return tf.nest.map_structure(lambda column: self.strategy.experimental_local_results(column)[0], batch)

    def _sum_of_replicas(self, values):
        def local(values):
            context = tf.distribute.get_replica_context()
            is_first = context.replica_id_in_sync_group % self.local_replicas == 0
            own = [tf.where(is_first, value, tf.zeros_like(value)) for value in values]
            # One after another, as what is reduced together has to have one type.
            return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in own]

        sums = self.strategy.run(local, args=(values,))
        return [self.strategy.experimental_local_results(each)[0] for each in sums]

    def sum(self, values):
        if self.worker[1] == 1:
            return super().sum(values)
        return [each.numpy() for each in self._sum([tf.constant(value) for value in values])]

    def any_of(self, wish):
        if self.worker[1] == 1:
            return wish
        pending = collections.deque()

        def agreed():
            pending.append(self._sum([tf.constant(int(wish()), tf.int64)])[0])
            return len(pending) > _STOP_LAG and bool(pending.popleft() > 0)

        return agreed


def meet(cluster, tell=print, patience=_PATIENCE):
    """Waits until all other processes of a cluster listen at their addresses, and lets them see this one.

    TensorFlow waits too, but says nothing of for whom, and hears no signal meanwhile.

    Args:
      cluster: a `Cluster`.
      tell: called with a line about those that are missing, at once and then every `patience` seconds.
      patience: float, seconds.

    Raises:
      OSError: where this process cannot listen at its own port.
    """
    others = {index: address for index, address in enumerate(cluster.addresses) if index != cluster.index}
    port = int(cluster.addresses[cluster.index].rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024
        )
    except OSError as error:
        raise OSError(f"Expected port {port} free for this worker. Received: {os.strerror(error.errno)}") from None
    with listener:
        told = -math.inf
        while missing := {index: reason for index, address in others.items() if (reason := _why_missing(address))}:
            others = {index: others[index] for index in missing}
            if time.monotonic() >= told + patience:
                told = time.monotonic()
                who = ", ".join(f"{index} at {others[index]} ({reason})" for index, reason in missing.items())
                tell(f"waiting for {len(missing)} of {len(cluster.addresses)} workers: {who}")
            time.sleep(_PAUSE)


def _why_missing(address):
    """Why nobody can be reached at HOST:PORT; None if somebody can."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def start(kind, cluster=None, tell=print):
    """Joins the other processes, if there are any. To be called before anything else of TensorFlow.

    Args:
      kind: "none"; "mirrored", all GPUs of this process, or its logical CPU devices where it has none; or
        "multiworker", the same in several processes.
      cluster: for "multiworker" a `Cluster`.
      tell: called with a line about each of the others that is not there yet.

    Returns:
      A `Distribution`.

    Raises:
      ValueError: for another kind, or for "mirrored" with one device.
      OSError: where this process cannot listen at its own port.
      WorkerLostError: if the other processes cannot be reached.
    """
    if kind not in KINDS:
        raise ValueError(f"Expected distribute to be one of {', '.join(KINDS)}. Received: {kind}")
    if kind == "none":
        return Distribution()
    if kind == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) == 1:
            raise ValueError(f"Expected several devices for distribute=mirrored. Received: {devices[0].name}")
        return Mirrored(tf.distribute.MirroredStrategy([device.name for device in devices]))
    if cluster is None:
        raise ValueError("Expected the cluster for distribute=multiworker. Received: none")
    meet(cluster, tell)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    with lost_workers(len(cluster.addresses)):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    return Mirrored(strategy, (cluster.index, len(cluster.addresses)))


@contextlib.contextmanager
def lost_workers(count):
    """Makes of TensorFlow's errors of what went on between `count` processes a `WorkerLostError`."""
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
        tf.errors.UnknownError,
    ) as error:
        if count == 1:
            raise
        # The first line says no more than that it happened within a graph.
        said = [line.strip() for line in str(error).splitlines() if _OF_PEERS.search(line) and "{{node" not in line]
        reason = (said or [messages.first_line(error)])[0][:_MOST_TOLD]
        raise WorkerLostError(
            f"Expected all {count} workers at work. Received: {reason}; start all of them again, they go on from the "
            "newest checkpoint"
        ) from None
