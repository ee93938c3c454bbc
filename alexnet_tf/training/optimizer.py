"""The paper's update rule: stochastic gradient descent with momentum and weight decay."""

import contextlib
from typing import NamedTuple

import tensorflow as tf


def momentum_update(weight, velocity, gradient, *, learning_rate, momentum, weight_decay):
    """One step of the paper's rule (section 5).

    ``v <- momentum v - weight_decay learning_rate w - learning_rate g;  w <- w + v``. The decay passes through
    the momentum and is scaled by the learning rate, unlike the decoupled one of ``keras.optimizers.SGD``.

    Args:
      weight, velocity, gradient: tensors or arrays of one shape; the gradient is the mean over the batch.
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


class MomentumSGD:
    """The paper's stochastic gradient descent with momentum and weight decay.

    Each variable is updated on its own device, those of one device by one compiled function. One whose rate is 0 stands
    still at once, as in the original code, and forgets its velocity, which else would carry it on. Of variables that a
    ``tf.distribute.Strategy`` mirrors, every replica updates its own copy.

    Args:
      variables: list of float32 ``tf.Variable``; if a strategy mirrors them, in its scope.
      rules: list of `Rule`, one for each variable.
      momentum: float in [0, 1).
      jit_compile: compile the update with XLA: one pass over memory instead of several.
    """

    def __init__(self, variables, rules, *, momentum=0.9, jit_compile=True):
        if len(variables) != len(rules):
            raise ValueError(f"Expected a rule for each variable. Received: {len(rules)=}, {len(variables)=}")
        self.variables = list(variables)
        self.rules = list(rules)
        self.momentum = momentum
        self.velocities = []
        for variable in self.variables:
            # A mirrored variable has no device of its own: a strategy puts a copy on each.
            with contextlib.nullcontext() if tf.distribute.has_strategy() else tf.device(variable.device):
                self.velocities.append(tf.Variable(tf.zeros_like(variable), trainable=False, name="velocity"))
        self._strategy = tf.distribute.get_strategy()
        copies = [self._strategy.experimental_local_results(each) for each in [*self.variables, *self.velocities]]
        # A list for each local replica.
        self._updates = []
        for own in zip(*copies):
            weights, velocities = own[: len(rules)], own[len(rules) :]
            places = {}
            for place, weight in enumerate(weights):
                places.setdefault(weight.device, []).append(place)
            self._updates.append(
                [
                    (
                        device,
                        held,
                        tf.function(
                            self._update_of(held, weights, velocities), jit_compile=jit_compile, autograph=False
                        ),
                    )
                    for device, held in places.items()
                ]
            )

    def _update_of(self, places, weights, velocities):
        def update(learning_rates, gradients):
            for place, gradient in zip(places, gradients):
                rule = self.rules[place]
                learning_rate = learning_rates[rule.group]
                weight, velocity = momentum_update(
                    weights[place],
                    velocities[place],
                    gradient,
                    learning_rate=learning_rate,
                    momentum=tf.where(learning_rate > 0, self.momentum, 0.0),
                    weight_decay=rule.weight_decay,
                )
                velocities[place].assign(velocity)
                weights[place].assign(weight)

        return update

    def apply(self, gradients, learning_rates):
        """Updates every variable and its velocity.

        Args:
          gradients: list of tensors like `variables`, means over the batch; in a replica the same in all of them.
          learning_rates: float32 ``[rates]``, indexed by the rules.
        """
        if tf.distribute.has_strategy():
            tf.distribute.get_replica_context().merge_call(self._apply_everywhere, args=(gradients, learning_rates))
        else:
            self._apply_to(0, gradients, learning_rates)

    def _apply_everywhere(self, strategy, gradients, learning_rates):
        """Updates the copies of all local replicas; each has gradients of its own, and all have the same rates."""
        own = zip(*(strategy.experimental_local_results(gradient) for gradient in gradients))
        rates = strategy.experimental_local_results(learning_rates)[0]
        for replica, gradients_of_one in enumerate(own):
            self._apply_to(replica, gradients_of_one, rates)

    def _apply_to(self, replica, gradients, learning_rates):
        for device, places, update in self._updates[replica]:
            with tf.device(device), tf.name_scope("update"):
                update(learning_rates, [gradients[place] for place in places])
