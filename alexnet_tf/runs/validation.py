"""Evaluates the monitored split after each epoch of training, updates the schedule and logs the epoch."""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from alexnet_tf.evaluation import errors
from alexnet_tf.training import actions
from alexnet_tf.training import best_checkpoint
from alexnet_tf.training import loop
from alexnet_tf.training import metrics
from alexnet_tf.training import schedules
from alexnet_tf.training import tensorboard

# Called with the reports of the epoch, the errors and whether the learning rate drops.
EpochLog = Callable[[Sequence[loop.Progress], errors.Errors, bool], None]


class EpochEnd:
    """Evaluates the monitored split after each epoch and updates the schedule.

    Args:
      validate: returns `errors.Errors`.
      schedule: the learning rate schedule.
      monitor: follows the errors.

    Attributes:
      log: `EpochLog`; the chief sets it.
    """

    def __init__(
        self, validate: Callable[[], errors.Errors], schedule: schedules.Schedule, monitor: best_checkpoint.Monitor
    ):
        self._validate = validate
        self._schedule = schedule
        self._monitor = monitor
        self._reports = []
        self.log: EpochLog = lambda reports, result, dropped: None

    def __call__(self, progress):
        self._reports.append(progress)
        if progress.epoch_ended:
            result = self._validate()
            self._monitor.add(progress.step, progress.epoch, result.top1_error, result.loss)
            self.log(self._reports, result, self._schedule.epoch_ended(result.top1_error))
            self._reports = []


def epoch_log(
    monitored: str,
    terminal: actions.Terminal,
    writer: metrics.Writer,
    summaries: tensorboard.Summaries,
    color_shares: Callable[[], dict[str, float]],
) -> EpochLog:
    """Returns the function that logs an epoch to the terminal, ``metrics.jsonl`` and TensorBoard.

    Args:
      monitored: the monitored split.
      terminal: prints a line.
      writer: of ``metrics.jsonl``.
      summaries: for TensorBoard.
      color_shares: returns how colored the kernels of each first layer are, by layer (`kernel_report`).
    """

    evaluated = "training set" if monitored == "train" else monitored

    def log(reports, result, dropped):
        progress = reports[-1]
        examples = np.array([report.examples for report in reports])
        train_loss = np.average([report.train_loss for report in reports], weights=examples)
        train_error = np.average([report.train_error for report in reports], weights=examples)
        speed = examples.sum() / sum(n / r.images_per_second for n, r in zip(examples, reports))
        writer.write(kind="validation", step=progress.step, epoch=progress.epoch, **result.to_dict())
        summaries.errors(progress.step, "validation", result.loss, result.top1_error, result.top5_error)
        shares = color_shares()
        writer.write(kind="kernels", step=progress.step, epoch=progress.epoch, color_share=shares)
        summaries.scalars(progress.step, **{f"color_share/{name}": share for name, share in shares.items()})
        top5 = "" if result.top5_error is None else f" top-5 {100 * result.top5_error:.2f}%"
        terminal.print(
            f"epoch {round(progress.epoch)}: train loss {train_loss:.4f} error {100 * train_error:.2f}%, "
            f"{evaluated} loss {result.loss:.4f} error {100 * result.top1_error:.2f}%{top5}, "
            f"learning rate {progress.learning_rate:.3g}, {speed:.1f} images/s"
            + ("; the learning rate drops" if dropped else "")
        )

    return log
