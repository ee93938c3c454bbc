"""The step and the loop on a toy that is neither this network nor its data, against a loop written out in NumPy."""

import contextlib
import math

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.training import checkpoints
from alexnet_tf.training import optimizer
from alexnet_tf.training import schedules
from alexnet_tf.training import trainer as training

BATCH = 8
FEATURES = 6
HIDDEN = 16
CLASSES = 3
STEPS_PER_EPOCH = 4
MOMENTUM = 0.9
# Weights' rate and decay, biases' rate and decay.
RULES = [optimizer.Rule(0, 0.001), optimizer.Rule(1, 0.0)] * 2


def initial_weights():
    generator = np.random.default_rng(0)
    shapes = [(FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,)]
    return [(0.3 * generator.standard_normal(shape)).astype(np.float32) for shape in shapes]


def examples(step):
    """The batch of a step, counted from 1: features, and the largest of their first three as the class."""
    features = np.random.default_rng(step).standard_normal([BATCH, FEATURES]).astype(np.float32)
    return features, features[:, :CLASSES].argmax(axis=1)


def batches(first_step=0, steps=None):
    step = first_step
    while steps is None or step < steps:
        step += 1
        features, labels = examples(step)
        yield {"features": tf.constant(features), "labels": tf.constant(labels, tf.int64)}


def rates_at(progress):
    """Falls at every step, and the biases' is another."""
    return [0.05 / (1 + progress), 0.1 / (1 + progress)]


class Toy:
    """Two layers, no Keras."""

    def __init__(self):
        self.variables = [tf.Variable(weight) for weight in initial_weights()]

    def __call__(self, images, training):
        assert training is True
        weights1, biases1, weights2, biases2 = self.variables
        # No ReLU: fused with a product on a CPU, that of NaN is 0, which would hide what some tests look for.
        return tf.tanh(images @ weights1 + biases1) @ weights2 + biases2


def toy_trainer(jit_compile=False):
    toy = Toy()
    sgd = optimizer.MomentumSGD(toy.variables, RULES, momentum=MOMENTUM, jit_compile=jit_compile)
    return training.Trainer(toy, sgd, lambda batch: (batch["features"], batch["labels"]))


def weights_of(trainer):
    return [variable.numpy() for variable in trainer.optimizer.variables]


def train(trainer, steps, actions=(), **changes):
    arguments = {"steps_per_epoch": STEPS_PER_EPOCH, "learning_rates": rates_at, "report_every": 5, **changes}
    data = arguments.pop("batches", None) or batches(arguments.get("first_step", 0))
    return training.train(trainer, data, steps=steps, actions=actions, **arguments)


def loop_by_hand(steps):
    """Forward, backward and update in float64, as derived on paper: losses, mistakes and the weights at the end."""
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


@pytest.mark.parametrize("jit_compile", [True, False])
def test_training_is_the_loop_written_by_hand(jit_compile):
    trainer = toy_trainer(jit_compile)
    reports = []
    assert train(trainer, 40, [reports.append], report_every=1) == 40
    losses, mistakes, variables = loop_by_hand(40)
    np.testing.assert_allclose([report.train_loss for report in reports], losses, rtol=2e-6)
    np.testing.assert_array_equal([report.train_error for report in reports], mistakes / BATCH)
    for ours, theirs in zip(weights_of(trainer), variables):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


def test_loss_falls():
    reports = []
    train(toy_trainer(), 200, [reports.append], learning_rates=lambda progress: [0.05, 0.1], report_every=100)
    assert reports[-1].train_loss < 0.5 * reports[0].train_loss
    assert reports[-1].train_error < 0.05


def test_step_is_traced_once_though_rates_change_at_every_step():
    trainer = toy_trainer()
    seen = []
    train(trainer, 50, [lambda progress: seen.append(progress.learning_rate)], report_every=1)
    assert len(set(seen)) == 50
    assert trainer.traces == 1


def test_step_tells_loss_mistakes_and_size():
    trainer = toy_trainer()
    result = trainer.step(next(batches()), tf.constant([0.0, 0.0]))
    losses, mistakes, _ = loop_by_hand(1)
    assert float(result.loss) == pytest.approx(losses[0], rel=1e-6)
    assert (int(result.errors), int(result.examples)) == (mistakes[0], BATCH)


def test_reports_come_at_their_steps_at_epoch_ends_and_at_the_end():
    reports = []
    train(toy_trainer(), 11, [reports.append], report_every=3)
    assert [report.step for report in reports] == [3, 4, 6, 8, 9, 11]
    assert [report.epoch_ended for report in reports] == [False, True, False, True, False, False]
    assert [report.examples for report in reports] == [24, 8, 16, 16, 8, 16]
    assert [report.epoch for report in reports] == [0.75, 1.0, 1.5, 2.0, 2.25, 2.75]
    losses, mistakes, _ = loop_by_hand(11)
    begins = [0, 3, 4, 6, 8, 9]
    for begin, report in zip(begins, reports):
        steps = slice(begin, report.step)
        assert report.train_loss == pytest.approx(losses[steps].mean(), rel=2e-6)
        assert report.train_error == mistakes[steps].sum() / report.examples
        # Of the step just taken, which began with one step less behind it.
        assert report.learning_rate == rates_at((report.step - 1) / STEPS_PER_EPOCH)[0]


def test_resumed_training_reports_at_the_same_steps():
    trainer = toy_trainer()
    train(trainer, 5)
    reports = []
    train(trainer, 11, [reports.append], first_step=5, report_every=3)
    assert [report.step for report in reports] == [6, 8, 9, 11]
    assert [report.examples for report in reports] == [8, 16, 8, 16]


def test_speed_counts_learning_and_not_the_actions(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def slow_batches():
        for batch in batches():
            now[0] += 0.25
            yield batch

    def slow_action(progress):
        now[0] += 1000

    reports = []
    train(toy_trainer(), 12, [reports.append, slow_action], batches=slow_batches())
    assert [report.images_per_second for report in reports] == [BATCH / 0.25] * len(reports)
    assert [report.input_wait for report in reports] == [1.0] * len(reports)


def test_input_wait_is_the_share_of_the_loops_time_that_it_waits_for_batches(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def slow_batches():
        for batch in batches():
            now[0] += 0.25
            yield batch

    @contextlib.contextmanager
    def slow_step(step):
        yield
        now[0] += 0.75

    reports = []
    train(toy_trainer(), 12, [reports.append], batches=slow_batches(), step_context=slow_step)
    assert [report.input_wait for report in reports] == [0.25] * len(reports)


def test_context_stands_around_each_step_and_its_batch():
    seen = []

    @contextlib.contextmanager
    def context(step):
        seen.append(f"before {step}")
        yield
        seen.append(f"after {step}")

    def watched_batches():
        for batch in batches(2):
            seen.append("batch")
            yield batch

    train(toy_trainer(), 4, first_step=2, batches=watched_batches(), step_context=context)
    assert seen == ["before 3", "batch", "after 3", "before 4", "batch", "after 4"]


def test_top5_errors_are_counted_where_there_are_more_than_five_classes():
    logits = tf.constant(np.random.default_rng(0).standard_normal([50, 8]), tf.float32)
    labels = tf.constant(np.arange(50) % 8, tf.int64)
    best_first = np.argsort(-logits.numpy(), axis=1)
    shift = tf.Variable(0.0)

    def counted(classes):
        model = lambda images, training: images[:, :classes] + shift
        sgd = optimizer.MomentumSGD([shift], [optimizer.Rule(0, 0.0)], jit_compile=False)
        trainer = training.Trainer(model, sgd, lambda batch: batch)
        reports = []
        data = [(logits, labels % classes)]
        train(trainer, 1, [reports.append], batches=data, learning_rates=lambda progress: [0.0])
        return reports[0]

    missed = [label not in row[:5] for label, row in zip(labels.numpy(), best_first)]
    assert counted(8).train_top5_error == np.mean(missed)
    assert 0 < np.mean(missed) < counted(8).train_error
    assert counted(5).train_top5_error is None


def test_actions_are_called_in_order_with_one_progress_and_their_results_ignored():
    calls = []
    train(toy_trainer(), 2, [lambda p: calls.append(("first", p)), lambda p: calls.append(("second", p)) or 17])
    assert [name for name, _ in calls] == ["first", "second"]
    assert calls[0][1] is calls[1][1]


def test_an_actions_exception_ends_the_training():
    def full(progress):
        raise OSError("no space left")

    trainer = toy_trainer()
    with pytest.raises(OSError, match="no space left"):
        train(trainer, 20, [full])
    assert trainer.traces == 1


def checkpoints_of(trainer, directory):
    variables = {f"weights{i}": variable for i, variable in enumerate(trainer.optimizer.variables)}
    variables |= {f"velocity{i}": variable for i, variable in enumerate(trainer.optimizer.velocities)}
    return checkpoints.Checkpoints(str(directory), variables, schedules.Linear(5), {}, every=1)


@pytest.mark.parametrize("stop", [7, 8])
def test_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(stop, tmp_path):
    whole = toy_trainer(jit_compile=True)
    train(whole, 20)
    first = toy_trainer(jit_compile=True)
    train(first, stop, [checkpoints_of(first, tmp_path)])
    second = toy_trainer(jit_compile=True)
    first_step = checkpoints_of(second, tmp_path).restore()
    assert first_step == stop
    assert train(second, 20, first_step=first_step) == 20
    for ours, theirs in zip(weights_of(second), weights_of(whole)):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(second.optimizer.velocities, whole.optimizer.velocities):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("done", [6, 9])
def test_nothing_is_done_where_all_steps_were_taken(done):
    def none_wanted():
        raise AssertionError("a batch was drawn")
        yield

    trainer = toy_trainer()
    assert train(trainer, 6, [none_wanted], first_step=done, batches=none_wanted()) == done
    for ours, theirs in zip(weights_of(trainer), initial_weights()):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("step", [1, 5, 6, 13, 20])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_is_reported_with_its_first_step(step, value):
    def damaged():
        for number, batch in enumerate(batches(), start=1):
            if number == step:
                batch["features"] += value
            yield batch

    reports = []
    with pytest.raises(training.NonFiniteLossError, match=rf"Expected a finite loss\. Received: nan at step {step};"):
        train(toy_trainer(), 20, [reports.append], steps_per_epoch=1000, report_every=10, batches=damaged())
    # No action, no checkpoint above all, follows the step that spoilt the weights.
    assert [report.step for report in reports] == ([] if step <= 10 else [10])


def test_step_of_a_loss_that_is_not_finite_is_counted_from_the_runs_start():
    data = [{"features": tf.fill([BATCH, FEATURES], math.nan), "labels": tf.zeros([BATCH], tf.int64)}]
    with pytest.raises(ValueError, match="at step 108;"):
        train(toy_trainer(), 120, first_step=107, batches=[*batches(107, 107), *data, *batches(108, 120)])


def test_batches_that_end_too_early_are_an_error():
    reports = []
    with pytest.raises(ValueError, match=r"Expected batches for 20 steps\. Received: step=7 when they ended"):
        train(toy_trainer(), 20, [reports.append], batches=batches(0, 7))
    assert [report.step for report in reports] == [4, 5]


def test_batches_may_be_a_dataset():
    data = tf.data.Dataset.from_generator(
        lambda: batches(),
        output_signature={
            "features": tf.TensorSpec([BATCH, FEATURES], tf.float32),
            "labels": tf.TensorSpec([BATCH], tf.int64),
        },
    )
    fed = toy_trainer()
    train(fed, 9, batches=data)
    plain = toy_trainer()
    train(plain, 9)
    for ours, theirs in zip(weights_of(fed), weights_of(plain)):
        np.testing.assert_array_equal(ours, theirs)
