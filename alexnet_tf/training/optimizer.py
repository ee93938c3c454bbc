"""The paper's update rule: stochastic gradient descent with momentum and weight decay."""

import contextlib
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
      jit_compile: compiles the update with XLA: one pass over memory instead of several.

    Attributes:
      variables, rules: as given.
      velocities: a variable for each of the variables.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        rules: Sequence[Rule],
        *,
        momentum: float = 0.9,
        jit_compile: bool = True,
    ):
        if len(variables) != len(rules):
            raise ValueError(f"Expected a rule for each variable. Received: {len(rules)=}, {len(variables)=}")
        self.variables = list(variables)
        self.rules = list(rules)
        self.momentum = momentum
        self.velocities = []
        for variable in self.variables:
            # A mirrored variable has no device of its own: the strategy puts a copy on each.
            with contextlib.nullcontext() if tf.distribute.has_strategy() else tf.device(variable.device):
                self.velocities.append(tf.Variable(tf.zeros_like(variable), trainable=False, name="velocity"))
        self._strategy = tf.distribute.get_strategy()
        copies = [self._strategy.experimental_local_results(each) for each in [*self.variables, *self.velocities]]
        count = len(self.variables)
        # For each local replica, a list of (device, indices of its variables, compiled update).
        self._updates = [
            self._updates_of_replica(replica[:count], replica[count:], jit_compile) for replica in zip(*copies)
        ]

    def _updates_of_replica(self, weights, velocities, jit_compile):
        by_device = {}
        for index, weight in enumerate(weights):
            by_device.setdefault(weight.device, []).append(index)
        return [
            (
                device,
                indices,
                tf.function(self._make_update(indices, weights, velocities), jit_compile=jit_compile, autograph=False),
            )
            for device, indices in by_device.items()
        ]

    def _make_update(self, indices, weights, velocities):
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

        return update

    def apply(self, gradients: Sequence[tf.Tensor], learning_rates: tf.Tensor) -> None:
        """Updates every variable and its velocity.

        Args:
          gradients: one for each of `variables`, means over the batch; the same in all replicas.
          learning_rates: float32 ``[groups]``, indexed by the rules.
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
