"""The compiled step: traced once, with the loss and the counts of its batch."""

import numpy as np
import pytest
import tensorflow as tf
import toy_training

from alexnet_tf.training import optimizer
from alexnet_tf.training import trainer


def test_step_is_traced_once_though_rates_change_at_every_step():
    toy = toy_training.make_trainer()
    seen = []
    toy_training.train(toy, 50, [lambda progress: seen.append(progress.learning_rate)], report_every=1)
    assert len(set(seen)) == 50
    assert toy.traces == 1


def test_step_returns_loss_errors_and_batch_size():
    toy = toy_training.make_trainer()
    result = toy.step(next(toy_training.batches()), tf.constant([0.0, 0.0]))
    losses, mistakes, _ = toy_training.loop_by_hand(1)
    assert float(result.loss) == pytest.approx(losses[0], rel=1e-6)
    assert (int(result.errors), int(result.examples)) == (mistakes[0], toy_training.BATCH)


def test_class_weights_multiply_the_gradients_of_examples_and_not_the_reported_loss():
    generator = np.random.default_rng(0)
    features = tf.constant(generator.standard_normal([8, 5]), tf.float32)
    labels, weights = tf.constant([0, 2, 1, 1, 2, 0, 0, 0], tf.int64), np.array([0.5, 2.0, 3.0])

    def update(examples, class_weights):
        kernel = tf.Variable(tf.ones([5, 3]))
        sgd = optimizer.MomentumSGD([kernel], [optimizer.Rule(0, 0.0)], jit_compile=False)
        model = lambda images, training: tf.matmul(images, kernel)
        toy = trainer.Trainer(model, sgd, lambda batch: batch, class_weights=class_weights)
        chosen = tf.gather(features, examples), tf.gather(labels, examples)
        loss = toy.step(chosen, tf.constant([0.1])).loss
        return kernel.numpy() - 1, float(loss)

    weighted, loss = update(range(8), weights)
    plain, plain_loss = update(range(8), None)
    assert loss == plain_loss and np.abs(weighted - plain).max() > 0.01
    single = [weights[label] * update([place], None)[0] for place, label in enumerate(labels.numpy())]
    np.testing.assert_allclose(weighted, np.mean(single, axis=0), rtol=1e-5, atol=1e-7)
    # Replicas average over equal parts of a batch.
    halves = [update(part, weights)[0] for part in (range(4), range(4, 8))]
    np.testing.assert_allclose(np.mean(halves, axis=0), weighted, rtol=1e-5, atol=1e-7)


def test_losses_of_auxiliary_heads_are_added_with_their_weight():
    generator = np.random.default_rng(0)
    features = tf.constant(generator.standard_normal([8, 5]), tf.float32)
    labels = tf.constant(generator.integers(0, 3, 8))
    start = generator.standard_normal([3, 5, 3]).astype(np.float32)

    def logits_of(kernels):
        """The auxiliary heads share a kernel with the main classifier."""
        logits = tf.matmul(features, kernels[0])
        return [logits, *(logits + tf.matmul(features, kernel) for kernel in kernels[1:])]

    def mean_loss(logits):
        probabilities = tf.gather(tf.nn.softmax(logits), labels, batch_dims=1)
        return -tf.reduce_mean(tf.math.log(probabilities))

    for weight in (0.0, 0.3):
        kernels = [tf.Variable(value) for value in start]
        sgd = optimizer.MomentumSGD(kernels, [optimizer.Rule(0, 0.0)] * 3, jit_compile=False)
        model = lambda images, training, kernels=kernels: logits_of(kernels)
        toy = trainer.Trainer(model, sgd, lambda batch: batch, auxiliary_weight=weight)
        result = toy.step((features, labels), tf.constant([0.1]))
        expected = [tf.Variable(value) for value in start]
        with tf.GradientTape() as tape:
            losses = [mean_loss(logits) for logits in logits_of(expected)]
            minimized = losses[0] + weight * (losses[1] + losses[2])
        assert float(result.loss) == pytest.approx(float(losses[0]), rel=1e-6)
        for kernel, value, gradient in zip(kernels, start, tape.gradient(minimized, expected)):
            np.testing.assert_allclose(kernel, value - 0.1 * gradient, rtol=1e-5, atol=1e-6)
        assert np.array_equal(kernels[1], start[1]) == (weight == 0)


def test_top5_errors_are_counted_where_there_are_more_than_five_classes():
    logits = tf.constant(np.random.default_rng(0).standard_normal([50, 8]), tf.float32)
    labels = tf.constant(np.arange(50) % 8, tf.int64)
    best_first = np.argsort(-logits.numpy(), axis=1)
    shift = tf.Variable(0.0)

    def counted(classes):
        model = lambda images, training: images[:, :classes] + shift
        sgd = optimizer.MomentumSGD([shift], [optimizer.Rule(0, 0.0)], jit_compile=False)
        toy = trainer.Trainer(model, sgd, lambda batch: batch)
        reports = []
        data = [(logits, labels % classes)]
        toy_training.train(toy, 1, [reports.append], batches=data, learning_rates=lambda progress: [0.0])
        return reports[0]

    missed = [label not in row[:5] for label, row in zip(labels.numpy(), best_first)]
    assert counted(8).train_top5_error == np.mean(missed)
    assert 0 < np.mean(missed) < counted(8).train_error
    assert counted(5).train_top5_error is None
