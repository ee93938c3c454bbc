"""Profiles some of a run's steps."""

import contextlib
import glob
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from alexnet_tf.profiling import trace
from alexnet_tf.utils import files


def check_profile_steps(steps: Sequence[int]) -> None:
    """Raises ValueError unless `steps` is empty, or the first and the last step to profile, counted from 1."""
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        received = ",".join(map(str, steps))
        raise ValueError(f"Expected the first and the last step to profile, such as 10,20. Received: {received}")


class Profiler:
    """Profiles some of a run's steps, for TensorBoard's profile plugin and `bottlenecks`.

    A context manager around the training. It ends the profile if the run ends during it.

    Args:
      directory: of the run's event files.
      first_step: first step to profile, counted from 1 at the start of the run.
      last_step: last step to profile.
      describe: called without arguments when the profile ends; returns the result of `trace.describe`.
    """

    def __init__(self, directory: str, first_step: int, last_step: int, describe: Callable[[], dict[str, Any]]):
        self._directory = directory
        self._first_step = first_step
        self._last_step = last_step
        self._describe = describe
        self._is_running = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *unused):
        if self._is_running:
            self._stop()

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Encloses a step, as the ``step_context`` of `loop.train`."""
        if step == self._first_step:
            # Operations and our annotations only: tracing Python calls would slow down what is measured.
            options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
            tf.profiler.experimental.start(self._directory, options=options)
            self._is_running = True
        if not self._is_running:
            yield
            return
        with tf.profiler.experimental.Trace(trace.STEP, step_num=step, _r=1):
            yield
            if step == self._last_step:
                # Include the work that a GPU has not finished yet.
                tf.test.experimental.sync_devices()
        if step == self._last_step:
            self._stop()

    def _stop(self):
        self._is_running = False
        tf.profiler.experimental.stop()
        traces = sorted(glob.glob(os.path.join(glob.escape(self._directory), trace.TRACES)))
        if traces:
            files.write_json(os.path.join(os.path.dirname(traces[-1]), trace.DESCRIPTION), self._describe())
