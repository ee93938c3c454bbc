"""Training on several devices and machines: each replica has the entire network and its part of every batch.

The strategies are TensorFlow's. Everything that differs between one replica and several is here: which part of the data
a process reads, how sums are taken over all processes, and which process writes. That is the chief, worker 0.
"""

import collections
import contextlib
import functools
import json
import re
import types
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.training import peers
from alexnet_tf.utils import messages

KINDS = ("none", "mirrored", "multiworker")
# Steps between a request to stop and the stop. By then its sum over all processes is available without waiting.
_STOP_LAG = 2
# Words in TensorFlow's errors about other processes.
_ABOUT_PEERS = re.compile(r"(?i)aborted|connect|unavailable|heartbeat|barrier|timed? ?out")
_MAX_REASON_LENGTH = 300


class WorkerLostError(ConnectionError):
    """Another worker of the same training is gone; all workers have to be restarted."""

    # "Temporary failure; try again" among the statuses of sysexits.h.
    exit_status = 75


class Cluster(NamedTuple):
    """The workers of one training, each a process."""

    addresses: tuple[str, ...]  # HOST:PORT of each worker; the first is the chief
    index: int  # of this worker


def read_cluster(addresses: Sequence[str] = (), index: int | None = None, environment: str = "") -> Cluster:
    """Reads the cluster from flags or the environment.

    Args:
      addresses: HOST:PORT of each worker; empty uses the environment.
      index: index of this worker; None if the environment contains it.
      environment: value of the variable ``TF_CONFIG``: JSON with ``cluster`` and ``task``.

    Raises:
      ValueError: if neither describes a cluster, or the index is not in it.
    """
    if addresses:
        if index is None:
            raise ValueError(f"Expected worker_index from 0 to {len(addresses) - 1}. Received: none")
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
        raise ValueError(f"Expected distinct workers. Received: {','.join(cluster.addresses)}")
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
            f"Expected TF_CONFIG to contain a cluster of chief and worker, and a task in it. Received: {error}"
        ) from None
    return Cluster((*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0))


class Distribution:
    """A single replica, on the devices that its network names.

    Attributes:
      strategy: a ``tf.distribute.Strategy``; None for a single replica.
      worker: (index of this worker, number of workers).
      local_replicas: number of replicas in this worker.
      replicas: number of replicas in all workers.
    """

    strategy: tf.distribute.Strategy | None = None
    worker: tuple[int, int] = (0, 1)
    local_replicas: int = 1
    replicas: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the chief, which writes files."""
        return self.worker[0] == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns the context in which a network and its optimizer must be created."""
        return contextlib.nullcontext()

    def batches(self, dataset: Iterable[Any]) -> Iterable[Any]:
        """Divides batches among the local replicas.

        Args:
          dataset: this worker's parts of the batches, dicts of tensors.

        Returns:
          An iterable of what the step of a `trainer.Trainer` takes: equal parts, in order, for the local replicas.
        """
        return dataset

    def first(self, batch: Any) -> Any:
        """Returns the first local replica's part of a batch from `batches`."""
        return batch

    def check_same(self, what: str, values: Sequence[int]) -> None:
        """Raises ValueError if ints differ between workers. Every worker must call it."""
        own = np.array(values, np.int64)
        count = self.worker[1]
        sums = self.sum([own])[0]
        if (sums != count * own).any():
            raise ValueError(
                f"Expected the same {what} in all {count} workers, which share a work directory. "
                f"Received: {own.tolist()} here, {(sums / count).tolist()} on average"
            )

    def sum(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Sums arrays over all workers. Every worker must call it.

        Args:
          values: int64 or float64 arrays, of the same shapes in all workers.
        """
        return [np.asarray(value) for value in values]

    def any_of(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        """Returns a function that returns whether the condition was true in any worker.

        Every worker must call that function once per step. All of them get the same answer at the same step, a few
        steps after the condition became true.
        """
        return condition


class Mirrored(Distribution):
    """Replicas on several devices, in one worker or in several.

    Args:
      strategy: a ``tf.distribute.Strategy``.
      worker: (index of this worker, number of workers).
    """

    def __init__(self, strategy: tf.distribute.Strategy, worker: tuple[int, int] = (0, 1)):
        self.strategy = strategy
        self.worker = worker
        self.replicas = strategy.num_replicas_in_sync
        self.local_replicas = self.replicas // worker[1]
        self._sum = tf.function(self._sum_over_workers, autograph=False)

    def scope(self) -> contextlib.AbstractContextManager:
        return self.strategy.scope()

    def batches(self, dataset: Iterable[Any]) -> Iterable[Any]:
        return dataset if self.local_replicas == 1 else map(self._parts, dataset)

    def _parts(self, batch):
        def part(context):
            place = context.replica_id_in_sync_group % self.local_replicas
            return tf.nest.map_structure(lambda column: tf.split(column, self.local_replicas)[place], batch)

        return self.strategy.experimental_distribute_values_from_function(part)

    def first(self, batch: Any) -> Any:
        return tf.nest.map_structure(lambda column: self.strategy.experimental_local_results(column)[0], batch)

    def _sum_over_workers(self, values):
        def local(values):
            context = tf.distribute.get_replica_context()
            is_first = context.replica_id_in_sync_group % self.local_replicas == 0
            own = [tf.where(is_first, value, tf.zeros_like(value)) for value in values]
            # One at a time, as tensors reduced together must have the same dtype.
            return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in own]

        sums = self.strategy.run(local, args=(values,))
        return [self.strategy.experimental_local_results(each)[0] for each in sums]

    def sum(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.worker[1] == 1:
            return super().sum(values)
        return [each.numpy() for each in self._sum([tf.constant(value) for value in values])]

    def any_of(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        if self.worker[1] == 1:
            return condition
        pending = collections.deque()

        def agreed():
            pending.append(self._sum([tf.constant(int(condition()), tf.int64)])[0])
            return len(pending) > _STOP_LAG and bool(pending.popleft() > 0)

        return agreed


def start(
    kind: str,
    cluster: Cluster | None = None,
    log: Callable[[str], Any] = print,
    configuration: Mapping[str, str] = types.MappingProxyType({}),
) -> Distribution:
    """Joins the other workers, if there are any. Must be called before anything else of TensorFlow.

    Args:
      kind: "none"; "mirrored" for all GPUs of this process, or its logical CPU devices if it has no GPU; or
        "multiworker" for the same in several processes.
      cluster: the workers, for "multiworker".
      log: called with a line about workers that are missing.
      configuration: texts by name, which must be the same in all workers.

    Raises:
      ValueError: for another kind, for "mirrored" with one device, or if a worker has a different configuration.
      OSError: if this worker cannot listen on its port, or another program answers at the address of a worker.
      WorkerLostError: if the other workers cannot be reached.
    """
    if kind not in KINDS:
        raise ValueError(f"Expected distribute to be one of {', '.join(KINDS)}. Received: {kind}")
    if kind == "none":
        return Distribution()
    if kind == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) == 1:
            raise ValueError(
                "Expected at least two devices for distribute=mirrored. "
                f"Received: only {devices[0].name}; use distribute=none"
            )
        return Mirrored(_mirrored_strategy(tuple(device.name for device in devices)))
    if cluster is None:
        raise ValueError("Expected a cluster of workers for distribute=multiworker. Received: none")
    peers.wait_for_workers(cluster.addresses, cluster.index, configuration, log)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    with lost_workers(len(cluster.addresses)):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    return Mirrored(strategy, (cluster.index, len(cluster.addresses)))


@functools.cache
def _mirrored_strategy(devices):
    # Every MirroredStrategy numbers its collective operations from the same start, and TensorFlow keeps their shapes
    # by number. A second strategy in a process would be refused for the shapes of the first.
    return tf.distribute.MirroredStrategy(devices)


@contextlib.contextmanager
def lost_workers(count: int) -> Iterator[None]:
    """Converts TensorFlow's errors in the communication of `count` workers to a `WorkerLostError`."""
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
        # The first line often says only that the error happened in a graph.
        lines = [line.strip() for line in str(error).splitlines() if _ABOUT_PEERS.search(line) and "{{node" not in line]
        reason = (lines or [messages.first_line(error)])[0][:_MAX_REASON_LENGTH]
        raise WorkerLostError(
            f"Expected all {count} workers to be running. Received: {reason}. Restart all of them; they resume "
            "from the newest checkpoint"
        ) from None
