"""A small training without Keras or images, and the same training written out in NumPy."""

import numpy as np
import tensorflow as tf

from alexnet_tf.training import loop
from alexnet_tf.training import optimizer
from alexnet_tf.training import trainer

BATCH = 8
FEATURES = 6
HIDDEN = 16
CLASSES = 3
STEPS_PER_EPOCH = 4
MOMENTUM = 0.9
# Group and decay of the weights, then of the biases.
RULES = [optimizer.Rule(0, 0.001), optimizer.Rule(1, 0.0)] * 2


def initial_weights():
    generator = np.random.default_rng(0)
    shapes = [(FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,)]
    return [(0.3 * generator.standard_normal(shape)).astype(np.float32) for shape in shapes]


def examples(step):
    """The batch of a step, counted from 1: features; the class is the largest of the first three."""
    features = np.random.default_rng(step).standard_normal([BATCH, FEATURES]).astype(np.float32)
    return features, features[:, :CLASSES].argmax(axis=1)


def batches(first_step=0, steps=None):
    step = first_step
    while steps is None or step < steps:
        step += 1
        features, labels = examples(step)
        yield {"features": tf.constant(features), "labels": tf.constant(labels, tf.int64)}


def rates_at(progress):
    """Rates that fall at every step, with another one for the biases."""
    return [0.05 / (1 + progress), 0.1 / (1 + progress)]


class Network:
    """Two layers without Keras."""

    def __init__(self):
        self.variables = [tf.Variable(weight) for weight in initial_weights()]

    def __call__(self, images, training):
        assert training is True
        weights1, biases1, weights2, biases2 = self.variables
        # Not ReLU: fused with a product on a CPU, it maps NaN to 0, which would hide what some tests check.
        return tf.tanh(images @ weights1 + biases1) @ weights2 + biases2


def make_trainer(jit_compile=False):
    network = Network()
    sgd = optimizer.MomentumSGD(network.variables, RULES, momentum=MOMENTUM, jit_compile=jit_compile)
    return trainer.Trainer(network, sgd, lambda batch: (batch["features"], batch["labels"]))


def weights_of(toy):
    return [variable.numpy() for variable in toy.optimizer.variables]


def train(toy, steps, actions=(), **changes):
    arguments = {"steps_per_epoch": STEPS_PER_EPOCH, "learning_rates": rates_at, "report_every": 5, **changes}
    data = arguments.pop("batches", None) or batches(arguments.get("first_step", 0))
    return loop.train(toy, data, steps=steps, actions=actions, **arguments)


def loop_by_hand(steps):
    """Forward, backward and update in float64, derived on paper; returns losses, mistakes and the final weights."""
    weights1, biases1, weights2, biases2 = variables = [weight.astype(np.float64) for weight in initial_weights()]
    velocities = [np.zeros_like(variable) for variable in variables]
    losses, mistakes = [], []
    for step in range(1, steps + 1):
        features, labels = examples(step)
        hidden = np.tanh(features @ weights1 + biases1)
        logits = hidden @ weights2 + biases2
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        losses.append(-np.log(probabilities[np.arange(BATCH), labels]).mean())
        mistakes.append(int((logits.argmax(axis=1) != labels).sum()))
        error = (probabilities - np.eye(CLASSES)[labels]) / BATCH
        hidden_error = (error @ weights2.T) * (1 - hidden**2)
        gradients = [features.T @ hidden_error, hidden_error.sum(0), hidden.T @ error, error.sum(0)]
        rates = rates_at((step - 1) / STEPS_PER_EPOCH)
        for variable, velocity, gradient, rule in zip(variables, velocities, gradients, RULES):
            velocity *= MOMENTUM
            velocity -= rates[rule.group] * (rule.weight_decay * variable + gradient)
            variable += velocity
    return np.array(losses), np.array(mistakes), variables
