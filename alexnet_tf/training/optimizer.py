"""The paper's update rule, and the schedules of its learning rate."""

import contextlib
import json
import math
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
    """How one variable learns."""

    # Index into the vector of learning rates that every step receives.
    rate: int
    # The coefficient of the decay in the update (paper section 5: 0.0005).
    weight_decay: float


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
                learning_rate = learning_rates[rule.rate]
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


class Plateau:
    """Divides the rate when the validation error stops improving (paper section 5), a stated number of times.

    Args:
      factor: float in (0, 1), what the rate is multiplied by.
      patience: int, at least 1: after so many epochs in a row without a new lowest error the rate drops.
      most_drops: int, how many times it may drop; the paper's is 3.
    """

    def __init__(self, *, factor=0.1, patience=3, most_drops=3):
        self.factor = factor
        self.patience = patience
        self.most_drops = most_drops
        self.drops = 0
        self.best_error = None
        self.epochs_without_improvement = 0

    def multiplier(self, progress, most_drops=math.inf):
        """What the initial rate is multiplied by after `progress` epochs, counting at most `most_drops` drops."""
        del progress
        return self.factor ** min(self.drops, most_drops)

    def epoch_ended(self, validation_error):
        """Takes note of an epoch's validation error; returns whether the rate drops now."""
        # Not a number is below nothing, so it is no improvement, not even as the first.
        if validation_error < (math.inf if self.best_error is None else self.best_error):
            self.best_error = validation_error
            self.epochs_without_improvement = 0
            return False
        self.epochs_without_improvement += 1
        if self.epochs_without_improvement < self.patience or self.drops >= self.most_drops:
            return False
        self.drops += 1
        self.epochs_without_improvement = 0
        return True

    def state(self):
        """The state as a JSON string, for a checkpoint."""
        return json.dumps([self.drops, self.best_error, self.epochs_without_improvement])

    def restore(self, state):
        """Takes up a state that `state` returned."""
        self.drops, self.best_error, self.epochs_without_improvement = json.loads(state)


class _Stateless:
    """A schedule that depends on the progress alone."""

    def epoch_ended(self, validation_error):
        del validation_error
        return False

    def state(self):
        return json.dumps([])

    def restore(self, state):
        del state


class Epochs(_Stateless):
    """Drops the rate at the epochs of a list.

    Args:
      factor: float in (0, 1), what the rate is multiplied by at each.
      epochs: rising list of floats: epochs completed when the rate drops.
    """

    def __init__(self, epochs, *, factor=0.1):
        self.epochs = tuple(epochs)
        self.factor = factor

    def multiplier(self, progress, most_drops=math.inf):
        return self.factor ** min(sum(progress >= epoch for epoch in self.epochs), most_drops)


class ExponentialSteps(_Stateless):
    """Holds the rate through equal parts of the run, each time by the same factor below (original #170: "dexp").

    Args:
      epochs: float above 0, the length of the training.
      steps: int, at least 2, how many rates.
      span: float, at least 1, the first rate over the last.
    """

    def __init__(self, epochs, *, steps=4, span=250.0):
        self.epochs = epochs
        self.steps = steps
        self.span = span

    def multiplier(self, progress, most_drops=math.inf):
        del most_drops
        drops = min(int(self.steps * progress / self.epochs), self.steps - 1)
        return self.span ** (-drops / (self.steps - 1))


class Linear(_Stateless):
    """Lets the rate fall linearly to zero at the end of training. Not the paper's: for short runs.

    Args:
      epochs: float above 0, the length of the training.
    """

    def __init__(self, epochs):
        self.epochs = epochs

    def multiplier(self, progress, most_drops=math.inf):
        del most_drops
        return max(0.0, 1.0 - progress / self.epochs)
