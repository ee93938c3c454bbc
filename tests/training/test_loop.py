"""The loop with a toy network, against a loop written out in NumPy."""

import contextlib
import math

import numpy as np
import pytest
import tensorflow as tf
import toy_training

from alexnet_tf.training import checkpoints
from alexnet_tf.training import loop
from alexnet_tf.training import schedules


@pytest.mark.parametrize("jit_compile", [True, False])
def test_training_matches_the_loop_written_by_hand(jit_compile, optimized_graphs):
    toy = toy_training.make_trainer(jit_compile)
    reports = []
    assert toy_training.train(toy, 40, [reports.append], report_every=1) == 40
    losses, mistakes, variables = toy_training.loop_by_hand(40)
    np.testing.assert_allclose([report.train_loss for report in reports], losses, rtol=2e-6)
    np.testing.assert_array_equal([report.train_error for report in reports], mistakes / toy_training.BATCH)
    for ours, theirs in zip(toy_training.weights_of(toy), variables):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


def test_loss_falls():
    reports = []
    toy_training.train(
        toy_training.make_trainer(),
        200,
        [reports.append],
        learning_rates=lambda progress: [0.05, 0.1],
        report_every=100,
    )
    assert reports[-1].train_loss < 0.5 * reports[0].train_loss
    assert reports[-1].train_error < 0.05


def test_reports_come_every_few_steps_at_epoch_ends_and_at_the_end():
    reports = []
    toy_training.train(toy_training.make_trainer(), 11, [reports.append], report_every=3)
    assert [report.step for report in reports] == [3, 4, 6, 8, 9, 11]
    assert [report.epoch_ended for report in reports] == [False, True, False, True, False, False]
    assert [report.examples for report in reports] == [24, 8, 16, 16, 8, 16]
    assert [report.epoch for report in reports] == [0.75, 1.0, 1.5, 2.0, 2.25, 2.75]
    losses, mistakes, _ = toy_training.loop_by_hand(11)
    begins = [0, 3, 4, 6, 8, 9]
    for begin, report in zip(begins, reports):
        steps = slice(begin, report.step)
        assert report.train_loss == pytest.approx(losses[steps].mean(), rel=2e-6)
        assert report.train_error == mistakes[steps].sum() / report.examples
        # The rate of the last step, which started after one step less.
        assert report.learning_rate == toy_training.rates_at((report.step - 1) / toy_training.STEPS_PER_EPOCH)[0]


@pytest.fixture(scope="module")
def singly():
    """The reports and the weights of 13 steps that are taken one by one."""
    toy, reports = toy_training.make_trainer(), []
    toy_training.train(toy, 13, [reports.append], steps_per_epoch=6, report_every=5)
    return reports, toy_training.weights_of(toy)


@pytest.mark.parametrize("steps_per_call, traces, calls", [(2, 2, [2, 2, 1, 1, 2, 2, 2, 1]), (5, 2, [5] + 8 * [1])])
def test_steps_of_one_call_have_the_bits_of_single_ones(singly, steps_per_call, traces, calls):
    toy, reports, contexts = toy_training.make_trainer(), [], []
    context = lambda step: contexts.append(step) or contextlib.nullcontext()
    options = {"steps_per_epoch": 6, "report_every": 5, "steps_per_call": steps_per_call, "step_context": context}
    assert toy_training.train(toy, 13, [reports.append], **options) == 13
    assert np.diff([*contexts, 14]).tolist() == calls
    timeless = [
        [report._replace(images_per_second=0, input_wait=0) for report in each] for each in (reports, singly[0])
    ]
    assert timeless[0] == timeless[1]
    for found, expected in zip(toy_training.weights_of(toy), singly[1]):
        np.testing.assert_array_equal(found, expected)
    assert toy.traces == traces


def test_calls_of_several_steps_leave_out_those_that_are_taken_one_by_one_and_notice_stops():
    toy, contexts = toy_training.make_trainer(), []
    context = lambda step: contexts.append(step) or contextlib.nullcontext()
    options = {"steps_per_epoch": 100, "report_every": 100, "steps_per_call": 4, "step_context": context}
    stop = lambda: len(contexts) == 6
    assert toy_training.train(toy, 50, single_steps=range(6, 8), stop_requested=stop, **options) == 15
    assert contexts == [1, 5, 6, 7, 8, 12]


def test_training_ends_early_at_the_end_of_an_epoch_after_its_actions():
    reports = []
    ended = lambda: len(reports) >= 3
    toy = toy_training.make_trainer()
    assert toy_training.train(toy, 20, [reports.append], report_every=3, has_ended=ended) == 8
    assert [report.step for report in reports] == [3, 4, 6, 8]


def test_resumed_training_reports_at_the_same_steps():
    toy = toy_training.make_trainer()
    toy_training.train(toy, 5)
    reports = []
    toy_training.train(toy, 11, [reports.append], first_step=5, report_every=3)
    assert [report.step for report in reports] == [6, 8, 9, 11]
    assert [report.examples for report in reports] == [8, 16, 8, 16]


def test_speed_excludes_the_time_of_actions(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def slow_batches():
        for batch in toy_training.batches():
            now[0] += 0.25
            yield batch

    def slow_action(progress):
        now[0] += 1000

    reports = []
    toy_training.train(toy_training.make_trainer(), 12, [reports.append, slow_action], batches=slow_batches())
    assert [report.images_per_second for report in reports] == [toy_training.BATCH / 0.25] * len(reports)
    assert [report.input_wait for report in reports] == [1.0] * len(reports)


def test_input_wait_is_the_fraction_of_time_spent_waiting_for_batches(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def slow_batches():
        for batch in toy_training.batches():
            now[0] += 0.25
            yield batch

    @contextlib.contextmanager
    def slow_step(step):
        yield
        now[0] += 0.75

    reports = []
    toy_training.train(
        toy_training.make_trainer(), 12, [reports.append], batches=slow_batches(), step_context=slow_step
    )
    assert [report.input_wait for report in reports] == [0.25] * len(reports)


def test_step_context_encloses_each_step_and_its_batch():
    seen = []

    @contextlib.contextmanager
    def context(step):
        seen.append(f"before {step}")
        yield
        seen.append(f"after {step}")

    def recorded_batches():
        for batch in toy_training.batches(2):
            seen.append("batch")
            yield batch

    toy_training.train(toy_training.make_trainer(), 4, first_step=2, batches=recorded_batches(), step_context=context)
    assert seen == ["before 3", "batch", "after 3", "before 4", "batch", "after 4"]


def test_actions_are_called_in_order_and_their_results_ignored():
    calls = []
    toy_training.train(
        toy_training.make_trainer(),
        2,
        [lambda p: calls.append(("first", p)), lambda p: calls.append(("second", p)) or 17],
    )
    assert [name for name, _ in calls] == ["first", "second"]
    assert calls[0][1] is calls[1][1]


def test_an_actions_exception_ends_the_training():
    def full(progress):
        raise OSError("no space left")

    toy = toy_training.make_trainer()
    with pytest.raises(OSError, match="no space left"):
        toy_training.train(toy, 20, [full])
    assert toy.traces == 1


def checkpoints_of(toy, directory):
    variables = {f"weights{i}": variable for i, variable in enumerate(toy.optimizer.variables)}
    variables |= {f"velocity{i}": variable for i, variable in enumerate(toy.optimizer.velocities)}
    return checkpoints.Checkpoints(str(directory), variables, schedules.Linear(5), {}, every=1)


@pytest.mark.parametrize("stop", [7, 8])
def test_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(stop, tmp_path):
    uninterrupted = toy_training.make_trainer(jit_compile=True)
    toy_training.train(uninterrupted, 20)
    first = toy_training.make_trainer(jit_compile=True)
    toy_training.train(first, stop, [checkpoints_of(first, tmp_path)])
    second = toy_training.make_trainer(jit_compile=True)
    first_step = checkpoints_of(second, tmp_path).restore()
    assert first_step == stop
    assert toy_training.train(second, 20, first_step=first_step) == 20
    for ours, theirs in zip(toy_training.weights_of(second), toy_training.weights_of(uninterrupted)):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(second.optimizer.velocities, uninterrupted.optimizer.velocities):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("done", [6, 9])
def test_nothing_happens_if_all_steps_were_taken(done):
    def no_batches():
        raise AssertionError("a batch was drawn")
        yield

    toy = toy_training.make_trainer()
    assert toy_training.train(toy, 6, [no_batches], first_step=done, batches=no_batches()) == done
    for ours, theirs in zip(toy_training.weights_of(toy), toy_training.initial_weights()):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("step", [1, 5, 6, 13, 20])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_is_reported_with_its_first_step(step, value):
    def damaged():
        for number, batch in enumerate(toy_training.batches(), start=1):
            if number == step:
                batch["features"] += value
            yield batch

    reports = []
    with pytest.raises(loop.NonFiniteLossError, match=rf"Expected a finite loss\. Received: nan at step {step};"):
        toy_training.train(
            toy_training.make_trainer(), 20, [reports.append], steps_per_epoch=1000, report_every=10, batches=damaged()
        )
    # No action, and in particular no checkpoint, follows the step that ruined the weights.
    assert [report.step for report in reports] == ([] if step <= 10 else [10])


def test_step_of_a_non_finite_loss_counts_from_the_start_of_the_run():
    data = [
        {
            "features": tf.fill([toy_training.BATCH, toy_training.FEATURES], math.nan),
            "labels": tf.zeros([toy_training.BATCH], tf.int64),
        }
    ]
    with pytest.raises(ValueError, match="at step 108;"):
        toy_training.train(
            toy_training.make_trainer(),
            120,
            first_step=107,
            batches=[*toy_training.batches(107, 107), *data, *toy_training.batches(108, 120)],
        )


def test_batches_that_end_too_early_are_an_error():
    reports = []
    with pytest.raises(ValueError, match=r"Expected batches for 20 steps\. Received: batches for only 7"):
        toy_training.train(toy_training.make_trainer(), 20, [reports.append], batches=toy_training.batches(0, 7))
    assert [report.step for report in reports] == [4, 5]


def test_batches_may_be_a_dataset():
    data = tf.data.Dataset.from_generator(
        lambda: toy_training.batches(),
        output_signature={
            "features": tf.TensorSpec([toy_training.BATCH, toy_training.FEATURES], tf.float32),
            "labels": tf.TensorSpec([toy_training.BATCH], tf.int64),
        },
    )
    fed = toy_training.make_trainer()
    toy_training.train(fed, 9, batches=data)
    plain = toy_training.make_trainer()
    toy_training.train(plain, 9)
    for ours, theirs in zip(toy_training.weights_of(fed), toy_training.weights_of(plain)):
        np.testing.assert_array_equal(ours, theirs)
