"""Actions of a run that are small: a warning about a flat loss, and the progress bar. See also `loop.Action`."""

import math
import sys
from collections.abc import Callable

import rich.console
import rich.progress

from alexnet_tf.training import loop
from alexnet_tf.utils import output

# A loss this close to ln(classes), relatively, is that of a network that has learned nothing.
_FLAT_MARGIN = 0.01
# Seconds over which the bar averages the speed: on a CPU, minutes may pass between two reports.
_SPEED_PERIOD = 3600


class FlatLoss:
    """Warns once if the loss stays at the loss of random guessing.

    Args:
      num_classes: the number of classes.
      warn: called with the `loop.Progress` and ln(num_classes).
      after: number of consecutive reports with a loss close to ln(num_classes).
    """

    def __init__(self, num_classes: int, warn: Callable[[loop.Progress, float], None], after: int = 10):
        self._chance = math.log(num_classes)
        self._warn = warn
        self._after = after
        self._flat = 0
        self._warned = False

    def __call__(self, progress: loop.Progress) -> None:
        flat = abs(progress.train_loss - self._chance) < _FLAT_MARGIN * self._chance
        self._flat = self._flat + 1 if flat else 0
        if self._flat == self._after and not self._warned:
            self._warned = True
            self._warn(progress, self._chance)


class Terminal:
    """Shows a progress bar with images per second and the time left; printed lines stay above it.

    Where the output is not a terminal, it prints a line every minute, at the next report.

    Args:
      steps: number of steps of the run.
      first_step: number of steps already taken.
      steps_per_epoch: at least 1.
      console: None uses the standard output.
    """

    def __init__(self, steps: int, first_step: int, steps_per_epoch: int, console: rich.console.Console | None = None):
        self._console = console or output.Console(file=sys.stdout)
        self._bar = output.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.completed}/{task.total} {task.fields[speed]}"),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            transient=True,
            speed_estimate_period=_SPEED_PERIOD,
        )
        self._epochs = steps / steps_per_epoch
        self._task = self._bar.add_task("training", total=steps, completed=first_step, speed="")

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *unused):
        self._bar.stop()

    def print(self, line: str) -> None:
        """Prints one line above the bar."""
        self._console.print(line, markup=False)

    def __call__(self, progress: loop.Progress) -> None:
        self._bar.update(
            self._task,
            completed=progress.step,
            description=f"epoch {progress.epoch:.2f}/{self._epochs:g} loss {progress.train_loss:.3f}",
            speed=f"steps, {progress.images_per_second:.1f} images/s",
        )
