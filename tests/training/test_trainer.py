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
