"""Learning rate schedules: the factor on the initial rate as training progresses."""

import json
import math
from collections.abc import Sequence
from typing import Protocol


class Schedule(Protocol):
    """A learning rate schedule. Its state is saved in checkpoints."""

    def multiplier(self, progress: float, max_drops: float = math.inf) -> float:
        """Returns the factor on the initial learning rate.

        Args:
          progress: epochs completed, including the fraction of the current one.
          max_drops: counts at most so many drops; ignored by schedules that are not made of drops.
        """

    def epoch_ended(self, validation_error: float) -> bool:
        """Records the validation error of an epoch; returns whether the learning rate drops now."""

    def state(self) -> str:
        """Returns the state as a JSON string."""

    def restore(self, state: str) -> None:
        """Restores a state returned by `state`."""


class Plateau:
    """Drops the rate when the validation error stops improving (paper, section 5).

    Args:
      factor: float in (0, 1), the factor of each drop.
      patience: int, at least 1, epochs in a row without a new lowest error after which the rate drops.
      max_drops: int, the maximum number of drops; the paper has 3.
    """

    def __init__(self, *, factor: float = 0.1, patience: int = 3, max_drops: int = 3):
        self.factor = factor
        self.patience = patience
        self.max_drops = max_drops
        self.drops = 0
        self.best_error = None
        self.epochs_without_improvement = 0

    def multiplier(self, progress: float, max_drops: float = math.inf) -> float:
        """Returns the factor on the initial learning rate, which depends on the drops so far and not on `progress`."""
        del progress
        return self.factor ** min(self.drops, max_drops)

    def epoch_ended(self, validation_error: float) -> bool:
        """Records the validation error of an epoch; returns whether the learning rate drops now."""
        # NaN compares as not lower, so it never counts as an improvement, even in the first epoch.
        if validation_error < (math.inf if self.best_error is None else self.best_error):
            self.best_error = validation_error
            self.epochs_without_improvement = 0
            return False
        self.epochs_without_improvement += 1
        if self.epochs_without_improvement < self.patience or self.drops >= self.max_drops:
            return False
        self.drops += 1
        self.epochs_without_improvement = 0
        return True

    def state(self) -> str:
        """Returns the state as a JSON string."""
        return json.dumps([self.drops, self.best_error, self.epochs_without_improvement])

    def restore(self, state: str) -> None:
        """Restores a state returned by `state`.

        Raises:
          ValueError: if it is not one.
        """
        drops, best_error, epochs_without_improvement = json.loads(state)
        if not (isinstance(drops, int) and isinstance(epochs_without_improvement, int)):
            raise ValueError(f"Expected the state of a plateau schedule. Received: {state}")
        self.drops, self.best_error, self.epochs_without_improvement = drops, best_error, epochs_without_improvement


class _Stateless:
    """A schedule that depends on the progress alone."""

    def epoch_ended(self, validation_error: float) -> bool:
        del validation_error
        return False

    def state(self) -> str:
        return json.dumps([])

    def restore(self, state: str) -> None:
        del state


class Epochs(_Stateless):
    """Drops the rate at given epochs.

    Args:
      epochs: ascending floats, the numbers of completed epochs at which the rate drops.
      factor: float in (0, 1), the factor of each drop.
    """

    def __init__(self, epochs: Sequence[float], *, factor: float = 0.1):
        self.epochs = tuple(epochs)
        self.factor = factor

    def multiplier(self, progress: float, max_drops: float = math.inf) -> float:
        """Returns the factor on the initial learning rate."""
        return self.factor ** min(sum(progress >= epoch for epoch in self.epochs), max_drops)


class ExponentialSteps(_Stateless):
    """Divides the training into equal parts, whose rates fall by a constant factor (original #170: "dexp").

    Args:
      epochs: float above 0, the length of the training.
      steps: int, at least 2, the number of rates.
      span: float, at least 1, the ratio of the first rate to the last.
    """

    def __init__(self, epochs: float, *, steps: int = 4, span: float = 250.0):
        self.epochs = epochs
        self.steps = steps
        self.span = span

    def multiplier(self, progress: float, max_drops: float = math.inf) -> float:
        """Returns the factor on the initial learning rate; `max_drops` is ignored."""
        del max_drops
        drops = min(int(self.steps * progress / self.epochs), self.steps - 1)
        return self.span ** (-drops / (self.steps - 1))


class WarmUp:
    """Raises the rate of another schedule linearly at the beginning.

    Args:
      schedule: the other schedule, which counts the epochs of the rise, too.
      epochs: float above 0, the length of the rise.
      start: float in [0, 1], the factor at its beginning.
    """

    def __init__(self, schedule: Schedule, epochs: float, *, start: float = 0.1):
        self.schedule = schedule
        self.epochs = epochs
        self.start = start

    def multiplier(self, progress: float, max_drops: float = math.inf) -> float:
        """Returns the factor on the initial learning rate."""
        rise = min(1.0, self.start + (1 - self.start) * progress / self.epochs)
        return rise * self.schedule.multiplier(progress, max_drops)

    def epoch_ended(self, validation_error: float) -> bool:
        """Records the validation error of an epoch; returns whether the learning rate drops now."""
        return self.schedule.epoch_ended(validation_error)

    def state(self) -> str:
        """Returns the state of the other schedule."""
        return self.schedule.state()

    def restore(self, state: str) -> None:
        """Restores the state of the other schedule."""
        self.schedule.restore(state)


class Linear(_Stateless):
    """Decreases the rate linearly to zero at the end of training. Not in the paper; meant for short runs.

    Args:
      epochs: float above 0, the length of the training.
    """

    def __init__(self, epochs: float):
        self.epochs = epochs

    def multiplier(self, progress: float, max_drops: float = math.inf) -> float:
        """Returns the factor on the initial learning rate; `max_drops` is ignored."""
        del max_drops
        return max(0.0, 1.0 - progress / self.epochs)
