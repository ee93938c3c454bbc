"""The training loop around the compiled step: batches, learning rates, reports.

It is independent of network, data and options.
"""

import contextlib
import math
import time
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import numpy as np
import tensorflow as tf


class NonFiniteLossError(ValueError):
    """The loss is NaN or infinite.

    Args:
      text: the message.
      step: the first step with such a loss.
    """

    def __init__(self, text: str, step: int):
        super().__init__(text)
        self.step = step


class Progress(NamedTuple):
    """The progress of a run, passed to every action."""

    step: int  # steps taken since the start of the run
    epoch: float  # passes over the training set, steps / steps_per_epoch
    learning_rate: float  # of the weights, in the last step
    train_loss: float  # mean since the last report, in nats
    train_error: float  # top-1 error since the last report, in [0, 1]
    train_top5_error: float | None  # top-5 error since the last report, in [0, 1]; None with five classes or fewer
    examples: int  # trained on since the last report
    images_per_second: float  # since the last report
    input_wait: float  # fraction of that time spent waiting for the next batch, in [0, 1]
    epoch_ended: bool


class Action(Protocol):
    """What a run does at each report besides training, such as saving a checkpoint."""

    def __call__(self, progress: Progress) -> Any:
        """Acts on a report. The result is ignored; an exception ends the training."""


class Trainer(Protocol):
    """Takes training steps, as `trainer.Trainer` does."""

    def step(self, batch: Any, learning_rates: tf.Tensor) -> Any:
        """Takes one step; returns a `trainer.StepResult`."""

    def steps(self, batches: Any, learning_rates: tf.Tensor) -> Any:
        """Takes several steps; returns a `trainer.StepResult` of theirs. Needed for `train` with `steps_per_call`."""


def train(
    trainer: Trainer,
    batches: Iterable[Any],
    *,
    steps: int,
    steps_per_epoch: int,
    learning_rates: Callable[[float], Sequence[float]],
    actions: Sequence[Action] = (),
    first_step: int = 0,
    report_every: int = 20,
    step_context: Callable[[int], contextlib.AbstractContextManager] = lambda step: contextlib.nullcontext(),
    stop_requested: Callable[[], bool] = lambda: False,
    has_ended: Callable[[], bool] = lambda: False,
    steps_per_call: int = 1,
    single_steps: Container[int] = (),
) -> int:
    """Trains until `steps` steps have been taken since the start of the run, until a stop is requested or it has ended.

    Results are read from the device once every `report_every` steps, so that the device does not wait for Python.

    Args:
      trainer: takes the steps.
      batches: iterable of batches, starting with the batch for step `first_step` + 1.
      steps: the step at which the run ends.
      steps_per_epoch: at least 1.
      learning_rates: maps the progress in epochs to a list of learning rates; the first is reported.
      actions: called in order with a `Progress` at each report and at each end of an epoch.
      first_step: number of steps already taken by the run.
      report_every: at least 1.
      step_context: maps a step's number, counted from 1, to a context manager around the step. It covers fetching
        the batch, which the profiler shows as "input", and calling the compiled step, which on a GPU may return before
        the work is done.
      stop_requested: called after each step; if it returns True, this step is reported and is the last one.
      has_ended: called after the actions at the end of each epoch; if it returns True, no further step is taken.
      steps_per_call: number of steps that the device takes without returning to Python. Where fewer are left before the
        next report, end of an epoch or end of the run, they are taken one by one. So the steps, their reports and their
        numbers do not depend on it; but stops are only noticed, and step contexts only entered, once per call.
      single_steps: numbers of steps, counted from 1, that are taken one by one, such as those to be profiled.

    Returns:
      The number of steps taken since the start of the run: `steps`, or fewer after a stop or an early end.

    Raises:
      NonFiniteLossError: naming the first step with a loss that is not finite.
      ValueError: if `batches` ends too early.
    """
    step = first_step
    interval = _Interval()
    iterator = iter(batches)
    stopped = False
    while step < steps and not stopped:
        left = min(steps - step, steps_per_epoch - step % steps_per_epoch, report_every - step % report_every)
        called = range(step, step + steps_per_call)
        if left < steps_per_call or any(each + 1 in single_steps for each in called):
            called = range(step, step + 1)
        all_rates = [learning_rates(each / steps_per_epoch) for each in called]
        rates = all_rates[-1]
        with step_context(step + 1):
            batches_of_call = []
            for each in called:
                try:
                    batches_of_call.append(interval.draw(iterator))
                except StopIteration:
                    raise ValueError(f"Expected batches for {steps} steps. Received: batches for only {each}") from None
            interval.results.append(_call(trainer, batches_of_call, all_rates))
        step = called.stop
        epoch_ended = step % steps_per_epoch == 0
        stopped = stop_requested()
        if epoch_ended or stopped or step % report_every == 0 or step == steps:
            progress = interval.report(step, step / steps_per_epoch, rates[0], epoch_ended)
            for action in actions:
                action(progress)
            stopped = stopped or (epoch_ended and has_ended())
            # The time that actions take does not count.
            interval = _Interval()
    return step


def _call(trainer, batches, learning_rates):
    """Takes a step for each batch; returns a `trainer.StepResult`, of tensors ``[steps]`` for several."""
    if len(batches) == 1:
        return trainer.step(batches[0], tf.constant(learning_rates[0], tf.float32))
    stacked = tf.nest.map_structure(lambda *columns: tf.stack(columns), *batches)
    return trainer.steps(stacked, tf.constant(learning_rates, tf.float32))


class _Interval:
    """The steps between two reports: their results, which the device may still be computing, and their time."""

    def __init__(self):
        self.results = []
        self._wait_seconds = 0.0
        self._began = time.perf_counter()

    def draw(self, iterator):
        """Draws the next batch and adds the time that it takes."""
        asked = time.perf_counter()
        with tf.profiler.experimental.Trace("input"):
            batch = next(iterator)
        self._wait_seconds += time.perf_counter() - asked
        return batch

    def report(self, step, epoch, learning_rate, epoch_ended):
        """Reads the results from the device, waiting for it, and summarizes them as a `Progress`."""
        losses = np.concatenate([np.atleast_1d(result.loss) for result in self.results])
        errors = sum(int(np.sum(result.errors)) for result in self.results)
        top5_errors = [int(np.sum(result.top5_errors)) for result in self.results if result.top5_errors is not None]
        examples = sum(int(np.sum(result.examples)) for result in self.results)
        _check_finite(losses, step, learning_rate)
        seconds = time.perf_counter() - self._began
        return Progress(
            step=step,
            epoch=epoch,
            learning_rate=learning_rate,
            train_loss=math.fsum(losses) / len(losses),
            train_error=errors / examples,
            train_top5_error=sum(top5_errors) / examples if top5_errors else None,
            examples=examples,
            images_per_second=examples / seconds,
            input_wait=self._wait_seconds / seconds,
            epoch_ended=epoch_ended,
        )


def _check_finite(losses, last_step, learning_rate):
    finite = np.isfinite(losses)
    if not finite.all():
        first = int(np.argmin(finite))
        step = last_step - len(losses) + first + 1
        raise NonFiniteLossError(
            f"Expected a finite loss. Received: {losses[first]} at step {step}; training diverged with a learning rate "
            f"of {learning_rate:.3g}. Start again with a new --workdir and a tenth of the --learning_rate",
            step,
        )
