"""Schedules on error curves made by hand, and against a recount of all past epochs."""

import json
import math

import numpy as np
import pytest

from alexnet_tf.training import schedules


def plateau_oracle(errors, patience, max_drops):
    """Returns for each epoch whether the rate drops. Recounts all past epochs instead of keeping a state."""
    decisions = []
    for epoch in range(len(errors)):
        since = 0
        for past in range(epoch + 1):
            earlier = [error for error in errors[:past] if not math.isnan(error)]
            lower = not math.isnan(errors[past]) and all(errors[past] < error for error in earlier)
            dropped_before = past > 0 and decisions[past - 1]
            since = 0 if lower else (0 if dropped_before else since) + 1
        decisions.append(since >= patience and sum(decisions) < max_drops)
    return decisions


@pytest.mark.parametrize(
    "errors, patience, max_drops, drops_after",
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5], 1, 3, []),
        # Every epoch without a new lowest error counts; the first epoch always has one.
        ([0.9, 0.9, 0.9, 0.9], 1, 2, [2, 3]),
        ([0.5, 0.6, 0.7, 0.4, 0.5, 0.6, 0.7], 3, 3, [7]),
        # A new lowest error restarts the count.
        ([0.5, 0.6, 0.4, 0.6, 0.3, 0.6], 2, 3, []),
        # A tie is not an improvement.
        ([0.5, 0.5, 0.5, 0.5, 0.5], 2, 3, [3, 5]),
        # An error below the previous epoch's is not necessarily a new lowest error.
        ([0.5, 0.8, 0.7, 0.6], 3, 3, [4]),
        # A drop restarts the count, but keeps the lowest error.
        ([0.5, 0.6, 0.6, 0.55, 0.55, 0.4, 0.5, 0.5], 2, 3, [3, 5, 8]),
        ([0.5] * 20, 3, 3, [4, 7, 10]),
        ([0.5] * 9, 2, 0, []),
        # NaN is never an improvement, not even in the first epoch, and does not hide a later one.
        ([math.nan, 0.5, 0.4, math.nan, math.nan], 2, 3, [5]),
        ([math.nan, math.nan, 0.5, 0.5], 2, 3, [2]),
        ([0.5, math.nan, 0.4, 0.6, 0.3], 2, 3, []),
    ],
)
def test_plateau_drops_when_the_error_stops_falling(errors, patience, max_drops, drops_after):
    schedule = schedules.Plateau(factor=0.1, patience=patience, max_drops=max_drops)
    decisions = [schedule.epoch_ended(error) for error in errors]
    assert [epoch for epoch, drops in enumerate(decisions, start=1) if drops] == drops_after
    assert schedule.multiplier(len(errors)) == 0.1 ** len(drops_after)
    assert plateau_oracle(errors, patience, max_drops) == decisions


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_plateau_agrees_with_recounting_on_random_curves(patience):
    generator = np.random.default_rng(patience)
    for curve in range(20):
        # Few distinct values, so that ties are common.
        errors = [float(error) for error in generator.integers(0, 12, 30) / 12]
        schedule = schedules.Plateau(patience=patience, max_drops=4)
        decisions = [schedule.epoch_ended(error) for error in errors]
        assert decisions == plateau_oracle(errors, patience, 4), f"curve {curve}: {errors}"


def test_plateau_multiplier_may_be_limited_to_fewer_drops():
    schedule = schedules.Plateau(factor=0.5, patience=1, max_drops=3)
    seen = []
    for error in [0.5, 0.5, 0.5, 0.5, 0.5]:
        schedule.epoch_ended(error)
        seen.append((schedule.multiplier(0), schedule.multiplier(0, max_drops=1), schedule.multiplier(0, 0)))
    assert seen == [(1, 1, 1), (0.5, 0.5, 1), (0.25, 0.5, 1), (0.125, 0.5, 1), (0.125, 0.5, 1)]


def test_plateau_resumes_from_its_state_at_any_epoch():
    errors = [math.nan, 0.6, 0.6, 0.5, 0.5, 0.5, 0.4, 0.45, 0.45, 0.45, 0.3, 0.3, 0.3]
    uninterrupted = schedules.Plateau(patience=2, max_drops=3)
    expected = [uninterrupted.epoch_ended(error) for error in errors]
    for epoch in range(len(errors) + 1):
        first = schedules.Plateau(patience=2, max_drops=3)
        decisions = [first.epoch_ended(error) for error in errors[:epoch]]
        second = schedules.Plateau(patience=2, max_drops=3)
        second.restore(first.state())
        assert second.multiplier(epoch) == first.multiplier(epoch)
        decisions += [second.epoch_ended(error) for error in errors[epoch:]]
        assert decisions == expected, f"interrupted after epoch {epoch}"
        assert second.state() == uninterrupted.state()


@pytest.mark.parametrize(
    "max_drops, expected",
    [(math.inf, [1, 1, 0.1, 0.1, 0.01, 0.001]), (1, [1, 1, 0.1, 0.1, 0.1, 0.1]), (0, [1] * 6)],
)
def test_epochs_drops_at_the_given_epochs(max_drops, expected):
    # Net #145 on ILSVRC-2012.
    schedule = schedules.Epochs([25, 51, 79], factor=0.1)
    progress = [0, 25 - 1 / 10009, 25, 50.99, 51, 79]
    assert [schedule.multiplier(at, max_drops) for at in progress] == pytest.approx(expected, rel=1e-12)


def test_epochs_without_drops_is_constant():
    assert schedules.Epochs([]).multiplier(1e6) == 1


def test_linear_decreases_to_zero_and_not_below():
    schedule = schedules.Linear(8.0)
    assert [schedule.multiplier(at) for at in (0, 2, 4, 7, 8, 9)] == [1, 0.75, 0.5, 0.125, 0, 0]
    assert schedule.multiplier(4, max_drops=0) == 0.5


def test_exponential_steps_have_the_recorded_rates_of_net_170():
    schedule = schedules.ExponentialSteps(90.0)
    ends = [0, 22.5, 45, 67.5, 90]
    # The recorded rates of the weights, with the digits recorded.
    for rate, begin, end in zip((0.01, 0.0015874, 0.00025198, 0.00004), ends[:-1], ends[1:], strict=True):
        for progress in (begin, (begin + end) / 2, end - 1 / 10009):
            assert 0.01 * schedule.multiplier(progress) == pytest.approx(rate, rel=2e-5)
    # A run longer than planned keeps the last rate.
    assert schedule.multiplier(100) == schedule.multiplier(89) == pytest.approx(1 / 250, rel=1e-12)
    assert schedule.multiplier(45, max_drops=0) == schedule.multiplier(45)


@pytest.mark.parametrize("steps, span", [(2, 10.0), (5, 81.0), (3, 1.0)])
def test_exponential_steps_fall_by_a_constant_factor(steps, span):
    schedule = schedules.ExponentialSteps(steps * 7.0, steps=steps, span=span)
    found = [schedule.multiplier(epoch) for epoch in range(7 * steps)]
    factor = span ** (1 / (steps - 1))
    assert found == pytest.approx([factor ** -(epoch // 7) for epoch in range(7 * steps)], rel=1e-12)


@pytest.mark.parametrize(
    "schedule",
    [schedules.Epochs([1, 2]), schedules.Linear(3.0), schedules.ExponentialSteps(3.0, steps=3)],
    ids=["epochs", "linear", "exponential_steps"],
)
def test_schedules_without_state_ignore_errors_and_restore(schedule):
    before = [schedule.multiplier(at) for at in (0, 1, 2)]
    assert not any(schedule.epoch_ended(0.5) for _ in range(9))
    schedule.restore(schedule.state())
    assert json.loads(schedule.state()) == []
    assert [schedule.multiplier(at) for at in (0, 1, 2)] == before


def test_warm_up_lets_the_rate_rise_to_that_of_the_schedule():
    epochs = schedules.Epochs((3.0, 6.0), factor=0.1)
    warm = schedules.WarmUp(epochs, 4.0, start=0.2)
    for progress, expected in ((0, 0.2), (1, 0.4), (2, 0.6), (3, 0.08), (4, 0.1), (6, 0.01)):
        assert warm.multiplier(progress) == pytest.approx(expected)
    assert warm.multiplier(6, max_drops=1) == pytest.approx(0.1)


def test_warm_up_keeps_the_state_of_the_schedule():
    plateau = schedules.Plateau(patience=1)
    warm = schedules.WarmUp(schedules.Plateau(patience=1), 2.0)
    for error in (0.5, 0.6, 0.4, 0.7):
        assert warm.epoch_ended(error) == plateau.epoch_ended(error)
    assert warm.state() == plateau.state() and plateau.drops == 2
    restored = schedules.WarmUp(schedules.Plateau(patience=1), 2.0)
    restored.restore(warm.state())
    assert restored.multiplier(5) == warm.multiplier(5) == plateau.multiplier(5)
