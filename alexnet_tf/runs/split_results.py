"""Evaluates a network on the splits of a data set, with the center crop and with ten views."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import rich.console
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.data import examples
from alexnet_tf.data import pipeline
from alexnet_tf.evaluation import errors
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.training import diagnostics
from alexnet_tf.training import distribution
from alexnet_tf.utils import escaping

# Indices into `augmentation.ten_views` of each view set; the fifth view is the center crop.
VIEWS = {"center crop": [4], "ten views": list(range(10))}


class SplitResult(NamedTuple):
    """Predictions and errors of a network on all images of a split."""

    split: str
    labels: np.ndarray  # int64 [images]
    probabilities: dict[str, np.ndarray]  # from each view set to float32 [images, classes]
    results: dict[str, errors.Errors]  # from each view set
    headline: str  # the view set that decides how good the run is


def evaluate_splits(
    run_config: config.Config,
    model: keras.Model,
    data: dataset.Data,
    splits: Sequence[str],
    console: rich.console.Console | None = None,
) -> list[SplitResult]:
    """Evaluates a run's network on every image of some splits.

    Args:
      run_config, model: the run's configuration and network.
      data: with the examples of the splits.
      splits: names of the splits.
      console: shows a progress bar; None shows none.

    Raises:
      ValueError: if a probability is NaN.
    """
    # The function is traced once for all splits.
    probabilities = ten_views_function(run_config, model, data)
    headline = headline_views(run_config)
    return [evaluate_all_views(probabilities, data, split, console, headline=headline) for split in splits]


def evaluate_all_views(
    probabilities: Callable[[tf.Tensor], tf.Tensor],
    data: dataset.Data,
    split: str,
    console: rich.console.Console | None = None,
    *,
    headline: str,
) -> SplitResult:
    """Evaluates a network on every image of a split with all view sets.

    Args:
      probabilities: from `ten_views_function`.
      data, console: as in `evaluate_splits`.
      split: name of the split.
      headline: from `headline_views`.

    Raises:
      ValueError: if a probability is NaN.
    """
    collected, labels = collect(probabilities, data, split, console)
    results = {name: errors.from_probabilities(each, labels) for name, each in collected.items()}
    return SplitResult(split, labels, collected, results, headline)


def evaluate_distributed(
    probabilities: Callable[[tf.Tensor], tf.Tensor],
    data: dataset.Data,
    split: str,
    views: Mapping[str, Sequence[int]],
    processes: distribution.Distribution,
) -> dict[str, errors.Errors]:
    """Evaluates a split, of which each process evaluates a part.

    Args:
      probabilities: from `errors.probability_function`.
      data: with the examples of the split.
      split: name of the split.
      views: indices of the views of each view set.
      processes: the processes; they sum what they counted.

    Returns:
      From each view set to the errors on all images, the same in every process.
    """
    images = data.examples[split]
    with examples.naming_unreadable(images):
        return errors.evaluate(
            probabilities,
            pipeline.evaluation_batches(images, batch_size=dataset.EVALUATION_BATCH_SIZE, worker=processes.worker),
            views=views,
            num_classes=len(data.source.class_names),
            num_examples=len(images),
            reduce_sum=processes.sum,
        )


def ten_views_function(
    run_config: config.Config, model: keras.Model, data: dataset.Data
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns `errors.probability_function` of a run's network with the run's own preprocessing and ten views."""
    return errors.probability_function(model, builders.ten_views(run_config, data.statistics))


def headline_views(run_config: config.Config) -> str:
    """Returns the view set that decides how good a run is.

    Ten views, unless training saw no mirrored images (as for digits): half of the ten views are mirrored.
    """
    return "center crop" if run_config.flips == "none" else "ten views"


def print_result(
    run_config: config.Config, result: SplitResult, data: dataset.Data, console: rich.console.Console
) -> dict[str, Any]:
    """Prints the errors of a split, its most frequent mistakes and warnings, and returns the errors for JSON."""
    majority = errors.majority_error(result.labels)
    console.print(f"{result.split}: {len(result.labels)} images, each evaluated once", markup=False)
    console.print(errors.table(result.results, majority), markup=False)
    worst = errors.worst_confusions(result.results[result.headline].confusion, data.source.class_names)
    shown = dict(zip(data.source.class_names, data.source.display_names))
    for true, predicted, count, fraction in worst:
        images = f"{count} image{'s' * (count > 1)}"
        line = f"  {shown[true]} classified as {shown[predicted]}: {images}, {100 * fraction:.1f}% of the class"
        console.print(escaping.one_line(line), markup=False)
    for text in warnings(run_config, result, data.source.display_names):
        console.print(escaping.one_line(f"warning: {text}"), markup=False)
    return {
        "majority_error": majority,
        **to_json(result.results),
        "confusions": [list(row) for row in worst],
    }


def warnings(run_config: config.Config, result: SplitResult, class_names: Sequence[str]) -> list[str]:
    """Returns warnings, one line each, if the errors of a split show that a network learned nothing, or not a class."""
    found = result.results[result.headline]
    failed = diagnostics.texts(
        diagnostics.not_better_than_majority(
            result.split,
            found.top1_error,
            errors.majority_error(result.labels),
            suits_few_images=_suits_few_images(run_config),
        ),
        diagnostics.one_class_predicted(result.split, found.confusion, class_names),
    )
    is_balanced = run_config.sampling == "balanced" or run_config.class_weights != "none"
    return failed or diagnostics.texts(
        diagnostics.classes_mostly_wrong(result.split, found.confusion, class_names, is_balanced=is_balanced)
    )


def _suits_few_images(run_config):
    """Whether a run has the options of ``flags/own_pictures.flags`` that matter most with few images."""
    return bool(run_config.initialize_from) and run_config.schedule == "linear"


def collect(
    probabilities: Callable[[tf.Tensor], tf.Tensor],
    data: dataset.Data,
    split: str,
    console: rich.console.Console | None = None,
    suffix: str = "",
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Computes the probabilities of every image of a split, as `errors.collect` does.

    Args:
      probabilities: from `ten_views_function`.
      data, console: as in `evaluate_splits`.
      split: name of the split.
      suffix: end of the progress bar's description.

    Returns:
      From each view set to float32 ``[images, classes]``, and the labels, int64 ``[images]``.
    """
    images = data.examples[split]
    with dataset.progress_bar(console) as bar, examples.naming_unreadable(images):
        task = bar.add_task(f"evaluating {len(images)} {split} images{suffix}", total=len(images))
        return errors.collect(
            probabilities,
            pipeline.evaluation_batches(images, batch_size=dataset.EVALUATION_BATCH_SIZE),
            views=VIEWS,
            num_classes=len(data.source.class_names),
            num_examples=len(images),
            progress=lambda done: bar.update(task, completed=done),
        )


def to_json(results: Mapping[str, errors.Errors]) -> dict[str, dict[str, Any]]:
    """Converts the errors of each view set for JSON."""
    return {json_key(name): result.to_dict() for name, result in results.items()}


def json_key(name: str) -> str:
    """Returns the key of a view set in JSON."""
    return name.replace(" ", "_")
