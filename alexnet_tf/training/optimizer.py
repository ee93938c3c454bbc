"""The paper's update rule: stochastic gradient descent with momentum and weight decay."""

import contextlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import tensorflow as tf


def momentum_update(
    weight: Any, velocity: Any, gradient: Any, *, learning_rate: Any, momentum: Any, weight_decay: Any
) -> tuple[Any, Any]:
    """Computes one step of the paper's rule (section 5).

    ``v <- momentum v - weight_decay learning_rate w - learning_rate g;  w <- w + v``. The decay is part of the momentum
    and scaled by the learning rate, unlike the decoupled decay of ``keras.optimizers.SGD``.

    Args:
      weight, velocity, gradient: tensors or arrays of the same shape; the gradient is the mean over the batch.
      learning_rate, momentum, weight_decay: scalars.

    Returns:
      The new weight and the new velocity.
    """
    velocity = momentum * velocity - weight_decay * learning_rate * weight - learning_rate * gradient
    return weight + velocity, velocity


def average_share(step: int, length: int) -> float:
    """Returns the share of the weights after a step in their average.

    The average is the mean over all steps at first. From `length` steps on, it is an exponential average.

    Args:
      step: number of the step, counted from 1.
      length: number of steps, at least 1.
    """
    return 1.0 / min(step, length)


class Rule(NamedTuple):
    """How one variable is updated."""

    group: int  # index of its parameter group into the learning rates that each step receives
    weight_decay: float  # coefficient of the decay in the update (paper, section 5: 0.0005)
    rate_factor: float = 1.0  # multiplies the learning rate of the group, which the decay is scaled by too


class MomentumSGD:
    """The paper's stochastic gradient descent with momentum and weight decay.

    Each variable is updated on its own device, and all variables of a device by one compiled function. A variable whose
    learning rate is 0 stops immediately, as in the original code, and its velocity is reset, as it would otherwise keep
    moving. If a ``tf.distribute.Strategy`` mirrors the variables, every replica updates its own copy.

    Args:
      variables: float32 variables; if a strategy mirrors them, created in its scope.
      rules: a rule for each variable.
      momentum: in [0, 1).
      averaging: keeps an average of each variable over the steps (Polyak), to be used in its place after training.
      jit_compile: compiles the update with XLA: one pass over memory instead of several.

    Attributes:
      variables, rules: as given.
      velocities: a variable for each of the variables.
      averages: a variable for each of the variables; empty without averaging.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        rules: Sequence[Rule],
        *,
        momentum: float = 0.9,
        averaging: bool = False,
        jit_compile: bool = True,
    ):
        if len(variables) != len(rules):
            raise ValueError(f"Expected a rule for each variable. Received: {len(rules)=}, {len(variables)=}")
        self.variables = list(variables)
        self.rules = list(rules)
        self.momentum = momentum
        self.velocities, self.averages = [], []
        for variable in self.variables:
            # A mirrored variable has no device of its own: the strategy puts a copy on each.
            with contextlib.nullcontext() if tf.distribute.has_strategy() else tf.device(variable.device):
                self.velocities.append(tf.Variable(tf.zeros_like(variable), trainable=False, name="velocity"))
                if averaging:
                    self.averages.append(tf.Variable(variable, trainable=False, name="average"))
        self._strategy = tf.distribute.get_strategy()
        # For each local replica, a list of (device, indices of its variables, compiled update).
        self._updates = [
            self._updates_of_replica(*kinds, jit_compile)
            for kinds in zip(*map(self._by_replica, (self.variables, self.velocities, self.averages)))
        ]

    def _by_replica(self, variables):
        """Returns a list of variables for each local replica: its own copies."""
        count = len(self._strategy.experimental_local_results(self.variables[0]))
        copies = [self._strategy.experimental_local_results(each) for each in variables]
        return [[each[replica] for each in copies] for replica in range(count)]

    def _updates_of_replica(self, weights, velocities, averages, jit_compile):
        by_device = {}
        for index, weight in enumerate(weights):
            by_device.setdefault(weight.device, []).append(index)
        return [
            (
                device,
                indices,
                tf.function(
                    self._make_update(indices, weights, velocities, averages), jit_compile=jit_compile, autograph=False
                ),
            )
            for device, indices in by_device.items()
        ]

    def _make_update(self, indices, weights, velocities, averages):
        def update(learning_rates, gradients):
            for index, gradient in zip(indices, gradients):
                rule = self.rules[index]
                learning_rate = learning_rates[rule.group] * rule.rate_factor
                weight, velocity = momentum_update(
                    weights[index],
                    velocities[index],
                    gradient,
                    learning_rate=learning_rate,
                    momentum=tf.where(learning_rate > 0, self.momentum, 0.0),
                    weight_decay=rule.weight_decay,
                )
                velocities[index].assign(velocity)
                weights[index].assign(weight)
                if averages:
                    averages[index].assign_add(learning_rates[-1] * (weight - averages[index]))

        return update

    def apply(self, gradients: Sequence[tf.Tensor], learning_rates: tf.Tensor) -> None:
        """Updates every variable and its velocity.

        Args:
          gradients: one for each of `variables`, means over the batch; the same in all replicas.
          learning_rates: float32 ``[groups]``, indexed by the rules. With averaging, one more number follows: the share
            of the new weights in their averages, see `average_share`.
        """
        if tf.distribute.has_strategy():
            tf.distribute.get_replica_context().merge_call(self._apply_everywhere, args=(gradients, learning_rates))
        else:
            self._apply_to(0, gradients, learning_rates)

    def _apply_everywhere(self, strategy, gradients, learning_rates):
        """Updates the copies of all local replicas. Each has its own gradients; the learning rates are the same."""
        own = zip(*(strategy.experimental_local_results(gradient) for gradient in gradients))
        rates = strategy.experimental_local_results(learning_rates)[0]
        for replica, gradients_of_one in enumerate(own):
            self._apply_to(replica, gradients_of_one, rates)

    def _apply_to(self, replica, gradients, learning_rates):
        for device, indices, update in self._updates[replica]:
            with tf.device(device), tf.name_scope("update"):
                update(learning_rates, [gradients[index] for index in indices])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the variables have the values of their averages, if there are any."""
        self.swap_averages()
        try:
            yield
        finally:
            self.swap_averages()

    def swap_averages(self) -> None:
        """Exchanges the values of the variables and of their averages, if there are any."""
        for variable, average in zip(self.variables, self.averages):
            for own, other in zip(*map(self._strategy.experimental_local_results, (variable, average))):
                before = own.numpy()
                own.assign(other)
                other.assign(before)
