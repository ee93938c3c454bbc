"""The training step and the loop around it. Neither knows which network, which data or which options."""

import contextlib
import math
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Top-5 errors are counted where they say something: with more classes than this.
_TOP = 5
# Of gradients that go from replica to replica together. From 1 to 50 million it makes no difference, all in one does.
_BYTES_PER_PACK = 16_000_000


class NonFiniteLossError(ValueError):
    """The loss stopped being a number."""


class StepResult(NamedTuple):
    """What one step tells. Scalars, tensors that the device may still be computing."""

    loss: tf.Tensor  # mean over the batch, in nats, without the weight decay's part
    errors: tf.Tensor  # int32, how many of the batch's most probable classes were wrong
    top5_errors: tf.Tensor | None  # int32, how many were not among the five; None without more classes
    examples: tf.Tensor  # int32, the batch's size


class Progress(NamedTuple):
    """Where a run stands; handed to every action."""

    step: int  # steps taken since the start of the run
    epoch: float  # passes over the training set, steps / steps_per_epoch
    learning_rate: float  # of the weights, in the step just taken
    train_loss: float  # mean since the last report, in nats
    train_error: float  # share of wrong most probable classes since the last report
    train_top5_error: float | None  # share of classes not among the five most probable; None with five or fewer
    examples: int  # trained on since the last report
    images_per_second: float  # since the last report
    input_wait: float  # share of that time in which the loop waited for its next batch, in [0, 1]
    epoch_ended: bool


class Trainer:
    """One step of learning, compiled once.

    Args:
      model: callable, ``model(images, training=True)`` returns logits ``[batch, num_classes]``.
      optimizer: has ``variables`` and ``apply(gradients, learning_rates)``.
      prepare: maps a batch of the data set to (images, labels): what the model takes, and int64 ``[batch]``.
      strategy: a ``tf.distribute.Strategy`` in whose scope model and optimiser were made: each of its replicas takes
        the step with an equal part of the batch and the mean of all gradients. None for one replica alone.
      reduce_dtype: of the gradients on their way from replica to replica; None leaves it as it is.
    """

    def __init__(self, model, optimizer, prepare, strategy=None, reduce_dtype=None):
        self.model = model
        self.optimizer = optimizer
        self.prepare = prepare
        self.traces = 0
        self._strategy = strategy
        self._reduce_dtype = reduce_dtype
        # A batch of another shape is a mistake (training drops the last, partial one), so it may retrace.
        self.step = tf.function(self._step, autograph=False)

    def _step(self, batch, learning_rates):
        self.traces += 1
        if self._strategy is None:
            return self._replica_step(batch, learning_rates)
        results = self._strategy.run(self._replica_step, args=(batch, learning_rates))
        # Reduced already, so all replicas tell the same.
        return tf.nest.map_structure(lambda result: self._strategy.experimental_local_results(result)[0], results)

    def _replica_step(self, batch, learning_rates):
        with tf.name_scope("prepare"):
            images, labels = self.prepare(batch)
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            with tf.name_scope("loss"):
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
                loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.optimizer.variables)
        with tf.name_scope("errors"):
            errors = _count(tf.not_equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels))
            top5_errors = None
            if logits.shape[-1] > _TOP:
                top5_errors = _count(tf.logical_not(tf.math.in_top_k(labels, logits, _TOP)))
        result = StepResult(loss, errors, top5_errors, tf.size(labels))
        if self._strategy is not None:
            with tf.name_scope("reduce"):
                gradients, result = self._reduced(gradients, result)
        self.optimizer.apply(gradients, learning_rates)
        return result

    def _reduced(self, gradients, result):
        """The means of gradients and loss over all replicas, whose parts are equal, and the sums of counts."""
        if self._reduce_dtype is None:
            *gradients, loss = mean_over_replicas([*gradients, result.loss])
        else:
            gradients = mean_over_replicas(gradients, self._reduce_dtype)
            (loss,) = mean_over_replicas([result.loss])
        # A replica alone knows whether there is a count, and it is the same everywhere.
        counts = [count for count in result[1:] if count is not None]
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(counts))
        sums = iter(tf.unstack(total))
        return gradients, StepResult(loss, *(None if count is None else next(sums) for count in result[1:]))


def mean_over_replicas(values, dtype=None):
    """The means of tensors over all replicas; to be called in each of them.

    Args:
      values: list of tensors.
      dtype: of the tensors on their way from replica to replica; None leaves each as it is.

    Returns:
      A list of tensors, of the types that they had.
    """
    # In parts, so that those of the last layers are on their way while the first ones go backward.
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=_BYTES_PER_PACK)
    sent = values if dtype is None else [tf.cast(value, dtype) for value in values]
    means = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, sent, options=options)
    return [tf.cast(mean, value.dtype) for mean, value in zip(means, values)]


def _count(is_so):
    return tf.reduce_sum(tf.cast(is_so, tf.int32))


def train(
    trainer,
    batches,
    *,
    steps,
    steps_per_epoch,
    learning_rates,
    actions=(),
    first_step=0,
    report_every=20,
    step_context=lambda step: contextlib.nullcontext(),
    wants_to_stop=lambda: False,
):
    """Takes steps until `steps` have been taken since the start of the run, or someone wants it to stop.

    Results are read from the device once in `report_every` steps, so that it need not wait for Python in between.

    Args:
      trainer: a `Trainer`.
      batches: iterable of batches, beginning with that of step `first_step` + 1.
      steps: int, where the run ends.
      steps_per_epoch: int.
      learning_rates: maps the progress in epochs, a float, to a list of learning rates; the first is reported.
      actions: callables of a `Progress`, called in order at each report and each end of an epoch. What one
        returns is ignored; an exception ends the training.
      first_step: int, steps that the run has already taken.
      report_every: int, at least 1.
      step_context: maps a step's number, which begins at 1, to a context manager around it: its batch, which is drawn
        under the profiler's mark "input", and the call of the compiled step. A GPU may still be at work behind it.
      wants_to_stop: called after each step; if it returns True, this was the last one, and it is reported.

    Returns:
      The number of steps taken since the start of the run: `steps`, or fewer if it was stopped.

    Raises:
      NonFiniteLossError: naming the first step with a loss that is not finite.
      ValueError: if `batches` ends too early.
    """
    step = first_step
    pending = []
    waited = 0.0
    began = time.perf_counter()
    iterator = iter(batches)
    stops = False
    while step < steps and not stops:
        rates = learning_rates(step / steps_per_epoch)
        with step_context(step + 1):
            asked = time.perf_counter()
            try:
                with tf.profiler.experimental.Trace("input"):
                    batch = next(iterator)
            except StopIteration:
                raise ValueError(f"Expected batches for {steps} steps. Received: {step=} when they ended") from None
            waited += time.perf_counter() - asked
            pending.append(trainer.step(batch, tf.constant(rates, tf.float32)))
        step += 1
        epoch_ended = step % steps_per_epoch == 0
        stops = wants_to_stop()
        if not (epoch_ended or stops or step % report_every == 0 or step == steps):
            continue
        losses = np.array([result.loss.numpy() for result in pending])
        errors = sum(int(result.errors) for result in pending)
        top5_errors = [int(result.top5_errors) for result in pending if result.top5_errors is not None]
        examples = sum(int(result.examples) for result in pending)
        finite = np.isfinite(losses)
        if not finite.all():
            wrong = int(np.argmin(finite))
            raise NonFiniteLossError(
                f"Expected a finite loss. Received: {losses[wrong]} at step {step - len(losses) + wrong + 1}; "
                "a lower learning rate or a larger batch usually helps"
            )
        seconds = time.perf_counter() - began
        progress = Progress(
            step=step,
            epoch=step / steps_per_epoch,
            learning_rate=rates[0],
            train_loss=math.fsum(losses) / len(losses),
            train_error=errors / examples,
            train_top5_error=sum(top5_errors) / examples if top5_errors else None,
            examples=examples,
            images_per_second=examples / seconds,
            input_wait=waited / seconds,
            epoch_ended=epoch_ended,
        )
        pending = []
        for action in actions:
            action(progress)
        waited = 0.0
        began = time.perf_counter()
    return step
