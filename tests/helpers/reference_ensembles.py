"""Synthetic probabilities of an ensemble's members, and their errors by the literal definition."""

import numpy as np


def members(count, examples, classes, seed=0, strengths=None):
    """Returns noisy probabilities that favor the true classes, float32 ``[members, examples, classes]``, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, examples)
    logits = generator.normal(0, 1.5, [count, examples, classes])
    for member, strength in enumerate(strengths or [1.5] * count):
        logits[member, np.arange(examples), labels] += strength
    softmax = np.exp(logits)
    softmax /= softmax.sum(axis=-1, keepdims=True)
    return softmax.astype(np.float32), labels


def score_by_hand(probabilities, labels, weights):
    """Returns the number of top-1 errors and the mean loss, example by example."""
    wrong, loss = 0, 0.0
    for example, label in enumerate(labels):
        mixed = sum(weight * row.astype(np.float64) for weight, row in zip(weights, probabilities[:, example]))
        wrong += int(mixed.argmax()) != label
        loss -= np.log(mixed[label])
    return wrong, loss / len(labels)
