"""Merges concurrent requests into batches."""

import collections
import concurrent.futures
import math
import threading
import time
from collections.abc import Callable
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np


class StoppedError(Exception):
    """A request came after the batcher was stopped."""


class ExpiredError(Exception):
    """Nobody waits for the outputs of a request any more."""


class _Task(NamedTuple):
    """A request, or a piece of one, that waits to be run."""

    inputs: dict
    deadline: float  # when it stops waiting for other requests, of time.monotonic
    expires: float  # when nobody waits for the outputs any more
    outputs: concurrent.futures.Future

    def size(self):
        return len(next(iter(self.inputs.values())))


class Batcher:
    """Merges requests of the same kind along their first dimension, in a separate thread.

    A batch is run when it is full or its first request has waited for `timeout`.

    Args:
      function: called with a kind and a dict of arrays ``[batch, ...]``; returns a dict of arrays ``[batch, ...]``.
      max_batch_size: maximum number of rows per batch; a larger request is run in pieces.
      timeout: seconds that a request waits for others.
    """

    def __init__(
        self,
        function: Callable[[Hashable, dict[str, np.ndarray]], dict[str, np.ndarray]],
        max_batch_size: int,
        timeout: float,
    ):
        self._function, self._max_batch_size, self._timeout = function, max_batch_size, timeout
        self._changed = threading.Condition()
        self._queues = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def run(self, kind: Hashable, inputs: dict[str, np.ndarray], expires: float = math.inf) -> dict[str, np.ndarray]:
        """Runs a request together with others and returns its outputs.

        Args:
          kind: requests with equal kinds are merged; their arrays must agree in all but the first dimension.
          inputs: arrays by name, all of the same length, at least 1.
          expires: the time of ``time.monotonic`` after which the request is dropped instead of run.

        Returns:
          A dict of arrays of that length.

        Raises:
          StoppedError: if the batcher was stopped.
          ExpiredError: if the request, or a piece of it, was dropped.
          ValueError: if the outputs do not have as many rows as the inputs.
          Exception: any exception of the function, for every request of the batch.
        """
        tasks = self._add(kind, inputs, expires)
        parts = [task.outputs.result() for task in tasks]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def stop(self) -> None:
        """Runs the waiting requests, then ends the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _add(self, kind, inputs, expires):
        step, deadline = self._max_batch_size, time.monotonic() + self._timeout
        length = len(next(iter(inputs.values())))
        tasks = [
            _Task(
                {name: array[first : first + step] for name, array in inputs.items()},
                deadline,
                expires,
                concurrent.futures.Future(),
            )
            for first in range(0, length, step)
        ]
        with self._changed:
            if self._stopped:
                raise StoppedError("The server is stopping")
            self._queues.setdefault(kind, collections.deque()).extend(tasks)
            self._changed.notify_all()
        return tasks

    def _work(self):
        while batch := self._next_batch():
            kind, tasks = batch
            if tasks:
                self._run(kind, tasks)

    def _next_batch(self):
        """Waits for a batch; returns its kind and tasks, or None after the last one."""
        with self._changed:
            while True:
                ready = [kind for kind, queue in self._queues.items() if self._is_ready(queue)]
                if ready:
                    kind = min(ready, key=self._deadline)
                    return kind, self._take(kind)
                if self._stopped:
                    return None
                deadlines = [self._deadline(kind) for kind in self._queues]
                self._changed.wait(max(0, min(deadlines) - time.monotonic()) if deadlines else None)

    def _deadline(self, kind):
        return self._queues[kind][0].deadline

    def _is_ready(self, queue):
        is_full = sum(task.size() for task in queue) >= self._max_batch_size
        return is_full or self._stopped or queue[0].deadline <= time.monotonic()

    def _take(self, kind):
        """Removes and returns the first tasks of a kind that fit into one batch; drops those that have expired."""
        queue = self._queues[kind]
        tasks, room, now = [], self._max_batch_size, time.monotonic()
        while queue and queue[0].size() <= room:
            task = queue.popleft()
            if task.expires <= now:
                task.outputs.set_exception(ExpiredError("The deadline of the request has passed"))
            else:
                tasks.append(task)
                room -= task.size()
        if not queue:
            del self._queues[kind]
        return tasks

    def _run(self, kind, tasks):
        try:
            results = self._outputs(kind, tasks)
        except Exception as error:
            for task in tasks:
                task.outputs.set_exception(error)
        else:
            for task, outputs in zip(tasks, results):
                task.outputs.set_result(outputs)

    def _outputs(self, kind, tasks):
        """Runs a batch and splits its outputs; returns a dict for each task."""
        merged = {name: np.concatenate([task.inputs[name] for task in tasks]) for name in tasks[0].inputs}
        outputs = self._function(kind, merged)
        ends = np.cumsum([task.size() for task in tasks])
        for name, output in outputs.items():
            if output.shape[:1] != (ends[-1],):
                raise ValueError(
                    f"Expected the output {name!r} to have {ends[-1]} rows. Received: shape {list(output.shape)}"
                )
        split = {name: np.split(output, ends[:-1]) for name, output in outputs.items()}
        return [{name: pieces[place] for name, pieces in split.items()} for place in range(len(tasks))]
