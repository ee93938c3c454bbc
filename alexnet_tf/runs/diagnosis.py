"""Looks for signs that a run failed to learn, in its records and in its errors, and records them as warnings."""

import contextlib
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import rich.console

from alexnet_tf import config
from alexnet_tf.data import sources
from alexnet_tf.models import registry
from alexnet_tf.runs import split_results
from alexnet_tf.training import best_checkpoint
from alexnet_tf.training import diagnostics
from alexnet_tf.training import loop
from alexnet_tf.training import metrics


def of_run(
    run_config: config.Config,
    records: Sequence[Mapping[str, Any]],
    results: Sequence[split_results.SplitResult],
    source: sources.Source,
    best_is_kept: bool = False,
) -> list[str]:
    """Returns the warnings about a run, one line each.

    Args:
      run_config: its resolved configuration.
      records: from `metrics.read`, up to the evaluated checkpoint.
      results: of the evaluated splits, the monitored one first.
      source: the data set.
      best_is_kept: whether the run has a best checkpoint.
    """
    found = [text for result in results for text in split_results.warnings(run_config, result, source.display_names)]
    monitored = results[0]
    if monitored.split == "train":
        found.insert(0, diagnostics.nothing_held_out())
    found += of_monitored_split(run_config, monitored.split, len(monitored.labels))
    return [*source.duplicates, *found] + _of_curve(run_config, records, source, monitored.split, best_is_kept)


def of_monitored_split(run_config: config.Config, split: str, count: int) -> list[str]:
    """Returns the warnings about the monitored split, which are known before training.

    Args:
      run_config: the configuration.
      split: name of the split.
      count: its number of images.
    """
    return diagnostics.texts(
        diagnostics.few_held_out(split, count), diagnostics.rate_follows_test_error(split, run_config.schedule)
    )


def flat_loss(run_config: config.Config, chance: float) -> str:
    """Returns the warning about a loss that stays at `chance`, ln(classes)."""
    options = registry.NETWORKS[run_config.network].options
    return diagnostics.flat_loss(
        chance,
        has_own_weights=run_config.initialization == "recipe" and not run_config.initialize_from,
        recipe=run_config.recipe if "recipe" in options else None,
    )


def _of_curve(run_config, records, source, monitored="", best_is_kept=False):
    curve = metrics.curve(records)
    early_cut = None
    # A linear schedule decreases the rate from the first step on.
    if run_config.schedule != "linear":
        ignorant_loss = diagnostics.label_entropy(source.splits["train"].labels)
        early_cut = diagnostics.rate_cut_before_loss_fell(curve, ignorant_loss)
    late = monitored and diagnostics.last_error_above_lowest(curve, monitored, best_is_kept)
    return diagnostics.texts(early_cut, late)


def record(
    workdir: str,
    run_config: config.Config,
    source: sources.Source,
    results: Sequence[split_results.SplitResult],
    step: int,
    steps_per_epoch: int,
    console: rich.console.Console,
) -> None:
    """Records the warnings about a finished run in its ``metrics.jsonl``, and prints those about its training.

    Args:
      workdir: the run's directory.
      run_config, source, results: as in `of_run`. Warnings about results are printed with them.
      step: the last step.
      steps_per_epoch: at least 1.
      console: prints the warnings.
    """
    records = metrics.read(_path(workdir))
    best_is_kept = best_checkpoint.is_kept(os.path.join(workdir, "checkpoints"))
    for text in _of_curve(run_config, records, source, results[0].split, best_is_kept):
        console.print(f"warning: {text}", markup=False)
    new = diagnostics.new_texts(of_run(run_config, records, results, source, best_is_kept), records)
    if new:
        writer = metrics.Writer(_path(workdir), step)
        for text in new:
            writer.write(kind="warning", step=step, epoch=step / steps_per_epoch, text=text)


@contextlib.contextmanager
def divergence_recorded(workdir: str, steps_per_epoch: int) -> Iterator[None]:
    """Records the error about a loss that is not finite as a warning, so that a report of the run has it."""
    try:
        yield
    except loop.NonFiniteLossError as error:
        writer = metrics.Writer(_path(workdir), error.step)
        writer.write(kind="warning", step=error.step, epoch=error.step / steps_per_epoch, text=str(error))
        raise


class EarlyCut:
    """An action that warns at the end of an epoch if the learning rate was cut before the loss fell.

    Args:
      workdir: the run's directory, whose ``metrics.jsonl`` begins with the first step even if the run was resumed.
      run_config, source: as in `of_run`.
      warn: called with the `loop.Progress` and the warning.
    """

    def __init__(
        self,
        workdir: str,
        run_config: config.Config,
        source: sources.Source,
        warn: Callable[[loop.Progress, str], None],
    ):
        self._workdir = workdir
        self._run_config = run_config
        self._source = source
        self._warn = warn
        # The rates since the last look. A resumed run looks at the end of its first epoch.
        self._rates = {None}

    def __call__(self, progress: loop.Progress) -> None:
        self._rates.add(progress.learning_rate)
        if self._run_config.schedule == "linear" or not progress.epoch_ended or len(self._rates) < 2:
            return
        self._rates = {progress.learning_rate}
        try:
            records = metrics.read(_path(self._workdir))
        except ValueError:
            # Damaged before this run was resumed. That is reported at its end, and no reason to stop it here.
            return
        for text in diagnostics.new_texts(_of_curve(self._run_config, records, self._source), records):
            self._warn(progress, text)


def _path(workdir):
    return os.path.join(workdir, "metrics.jsonl")
