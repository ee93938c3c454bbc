"""The compiled training step. Independent of network, data and options."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import numpy as np
import tensorflow as tf

# Top-5 errors are counted only with more classes than this.
_TOP = 5
# Bytes of gradients reduced together over the replicas. 1 to 50 million are equally fast, all in one pack is slower.
_BYTES_PER_PACK = 16_000_000


class StepResult(NamedTuple):
    """The result of one step: scalar tensors that the device may still be computing."""

    loss: tf.Tensor  # mean cross-entropy of the batch, in nats, without class weights and weight decay
    # Counts are float32, exact up to 2 ** 24: a GPU adds up int32 on the host.
    errors: tf.Tensor  # number of wrong top-1 predictions
    top5_errors: tf.Tensor | None  # number of labels not in the top 5; None with five classes or fewer
    examples: tf.Tensor  # the batch size


class Optimizer(Protocol):
    """An update rule, such as `optimizer.MomentumSGD`."""

    variables: list[tf.Variable]

    def apply(self, gradients: list[tf.Tensor], learning_rates: tf.Tensor) -> None:
        """Updates `variables` with gradients in their order, means over the batch."""


class Trainer:
    """A training step, compiled once.

    Args:
      model: callable, ``model(images, training=True)`` returns logits ``[batch, num_classes]``, or a list of logits and
        those of auxiliary heads.
      optimizer: updates variables of the model. The loss is differentiated with respect to these only.
      preprocess: maps a batch of the data set to (images, labels): the model's input, and int64 ``[batch]``.
      strategy: a ``tf.distribute.Strategy`` in whose scope model and optimizer were created. Each replica takes the
        step with an equal part of the batch, and applies the mean of all gradients. None for a single replica.
      reduce_dtype: dtype in which gradients are reduced over the replicas; None keeps their own.
      class_weights: float ``[num_classes]``, factors of the loss of each example in what is minimized; None for 1. The
        sum is divided by the number of examples, not by that of their weights, so that equal parts of a batch on
        several replicas have the gradient of the entire batch.
      auxiliary_weight: factor of the losses of auxiliary heads in what is minimized. Reported losses and errors are
        those of the first logits.
      moving_statistics: variables that the model itself updates in training, each replica by its part of the batch.
        Their mean over the replicas is kept, so that all replicas are equal after a step.
      jit_compile: compiles the step, with preprocessing and update, as one program with XLA. For a single replica on
        one device.

    Attributes:
      step: ``tf.function`` from a batch and the learning rates, float32 ``[rates]``, to a `StepResult`.
      steps: ``tf.function`` from several batches, stacked, and the learning rates of each, float32
        ``[steps, rates]``, to a `StepResult` of tensors ``[steps]``. The device loops over them. For a single replica.
      traces: int, how often the step was traced, alone or in the loop.
    """

    def __init__(
        self,
        model: Callable[..., tf.Tensor],
        optimizer: Optimizer,
        preprocess: Callable[[Any], tuple[tf.Tensor, tf.Tensor]],
        strategy: tf.distribute.Strategy | None = None,
        reduce_dtype: tf.DType | None = None,
        class_weights: np.ndarray | None = None,
        auxiliary_weight: float = 0.0,
        moving_statistics: Sequence[tf.Variable] = (),
        jit_compile: bool = False,
    ):
        self.model = model
        self.optimizer = optimizer
        self.preprocess = preprocess
        self.traces = 0
        self._strategy = strategy
        self._reduce_dtype = reduce_dtype
        self._class_weights = class_weights
        self._auxiliary_weight = auxiliary_weight
        self._moving_statistics = moving_statistics
        # Training drops the last, partial batch, so only a mistake causes a batch of another shape and a retrace.
        self.step = tf.function(self._step, autograph=False, jit_compile=jit_compile or None)
        self.steps = tf.function(self._steps, autograph=False, jit_compile=jit_compile or None)

    def _step(self, batch, learning_rates):
        self.traces += 1
        if self._strategy is None:
            return self._replica_step(batch, learning_rates)
        results = self._strategy.run(self._replica_step, args=(batch, learning_rates))
        # Already reduced, so the results are the same in all replicas.
        return tf.nest.map_structure(lambda result: self._strategy.experimental_local_results(result)[0], results)

    def _steps(self, batches, learning_rates):
        count = learning_rates.shape[0]
        names = []

        def take(number, arrays):
            result = self._step(tf.nest.map_structure(lambda column: column[number], batches), learning_rates[number])
            # Without the count that a network of few classes does not have.
            values = {name: value for name, value in result._asdict().items() if value is not None}
            names[:] = values
            written = [array.write(number, value) for array, value in zip(arrays, values.values())]
            return number + 1, [*written, *arrays[len(written) :]]

        arrays = [tf.TensorArray(tf.float32, count, element_shape=[]) for _ in StepResult._fields]
        # One after another: each step reads the variables that the one before has written.
        _, arrays = tf.while_loop(lambda number, _: number < count, take, (0, arrays), parallel_iterations=1)
        return StepResult(**dict.fromkeys(StepResult._fields) | {n: a.stack() for n, a in zip(names, arrays)})

    def _replica_step(self, batch, learning_rates):
        with tf.name_scope("preprocess"):
            images, labels = self.preprocess(batch)
            # TensorFlow's optimizer does not see the shapes of a compiled function's results, so that convolutions
            # would compute those of their inputs, on the host.
            images = tf.ensure_shape(images, images.shape, name="images")
        # Only what is trained is recorded, so the backward pass ends at the lowest trained layer.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.optimizer.variables)
            outputs = self.model(images, training=True)
            logits, *auxiliary = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            with tf.name_scope("loss"):
                loss, minimized = self._losses(labels, logits)
                for each in auxiliary:
                    minimized += self._auxiliary_weight * self._losses(labels, each)[1]
        gradients = tape.gradient(minimized, self.optimizer.variables)
        with tf.name_scope("errors"):
            errors = _count(tf.not_equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels))
            top5_errors = None
            if logits.shape[-1] > _TOP:
                top5_errors = _count(tf.logical_not(tf.math.in_top_k(labels, logits, _TOP)))
        result = StepResult(loss, errors, top5_errors, tf.cast(tf.size(labels), tf.float32))
        if self._strategy is not None:
            with tf.name_scope("reduce"):
                gradients, result = self._reduce(gradients, result)
                self._average_moving_statistics()
        self.optimizer.apply(gradients, learning_rates)
        return result

    def _losses(self, labels, logits):
        """Returns the mean cross-entropy without and with class weights."""
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss = tf.reduce_mean(losses)
        if self._class_weights is None:
            return loss, loss
        weights = tf.gather(tf.constant(self._class_weights, losses.dtype), labels)
        return loss, tf.reduce_mean(weights * losses)

    def _average_moving_statistics(self):
        if self._moving_statistics:
            means = mean_over_replicas([tf.identity(variable) for variable in self._moving_statistics])
            for variable, mean in zip(self._moving_statistics, means):
                variable.assign(mean)

    def _reduce(self, gradients, result):
        """Averages gradients and loss over all replicas, whose parts of the batch are equal, and sums counts."""
        if self._reduce_dtype is None:
            *gradients, loss = mean_over_replicas([*gradients, result.loss])
        else:
            gradients = mean_over_replicas(gradients, self._reduce_dtype)
            (loss,) = mean_over_replicas([result.loss])
        # Whether a count is None depends on the number of classes, so it is the same in all replicas.
        counts = [count for count in result[1:] if count is not None]
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(counts))
        sums = iter(tf.unstack(total))
        return gradients, StepResult(loss, *(None if count is None else next(sums) for count in result[1:]))


def mean_over_replicas(values: list[tf.Tensor], dtype: tf.DType | None = None) -> list[tf.Tensor]:
    """Averages tensors over all replicas; must be called in each of them.

    Args:
      values: list of tensors.
      dtype: dtype in which they are reduced; None keeps their own.

    Returns:
      A list of tensors of their original dtypes.
    """
    # In packs, so that the last layers' gradients are reduced while the first layers' are still being computed.
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=_BYTES_PER_PACK)
    sent = values if dtype is None else [tf.cast(value, dtype) for value in values]
    means = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, sent, options=options)
    return [tf.cast(mean, value.dtype) for mean, value in zip(means, values)]


def _count(conditions):
    return tf.reduce_sum(tf.cast(conditions, tf.float32))
