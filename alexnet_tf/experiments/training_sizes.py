"""Errors by the number of training images, from results of experiments that are otherwise equal."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_tf import config
from alexnet_tf.experiments import headers
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables

# Top-1 errors by the number of training images of Mishkin, Sergievskiy and Matas: Systematic evaluation of convolution
# neural network advances on the ImageNet, 2017, https://arxiv.org/abs/1606.02228.
STUDY = {200_000: 69.5, 400_000: 60.7, 600_000: 57.5, 800_000: 56.2, 1_200_000: 52.9}
STUDY_LABEL = "validation, CaffeNet on ImageNet's 1,000 classes at 128 x 128 (Mishkin et al. 2017)"

# What experiments on different numbers of images may differ in: more epochs of fewer images are as many steps.
_FREE_FIELDS = {"training_images": 0, "epochs": 1.0, "drop_epochs": (), "seed": 0}


class SizeCurves(NamedTuple):
    """Top-1 errors in percent of experiments that differ in the number of training images alone."""

    name: str  # of the experiment with the most images
    split: str  # "validation" or "test"
    held_out: dict[int, list[float]]  # from the number of training images to the errors of the seeds on the split
    training: dict[int, list[float]]  # the same, on training images
    # Whether `training` has errors of the trained networks, rather than of the last epoch's steps, with dropout and
    # augmentation.
    is_of_trained_networks: bool
    is_imagenet: bool  # whether the classes are ImageNet's


def check_plan(runs: Sequence[plan.Run]) -> None:
    """Checks that runs have different numbers of training images, before they are trained.

    Raises:
      ValueError: if no two experiments differ in it alone.
    """
    groups = {}
    for run in runs:
        groups.setdefault(_common(run.config), set()).add(run.config.training_images)
    if max(map(len, groups.values()), default=0) < 2:
        raise ValueError(_expected(sorted({run.experiment.name for run in runs})))


def collect(statuses: Iterable[runner.RunStatus]) -> list[SizeCurves]:
    """Collects the errors by number of training images.

    Args:
      statuses: of any runs. Experiments without a result, and those that no other differs from in the number of
        training images alone, are omitted.

    Returns:
      A list of `SizeCurves`, numbers of images ascending.

    Raises:
      ValueError: if there are no two numbers of images.
    """
    groups = {}
    for status in statuses:
        if status.result:
            # If the precision is "auto", it may differ between the machines that trained the runs.
            run_config = dataclasses.replace(
                results.config_of(status.result), precision=status.run.experiment.config.precision
            )
            key = _common(run_config), tuple(sorted(results.num_evaluated(status.result).items()))
            size = run_config.training_images or status.result["data"]["images"]["train"]
            groups.setdefault(key, {}).setdefault(size, []).append(status)
    found = [_curves(dict(sorted(by_size.items()))) for by_size in groups.values() if len(by_size) > 1]
    if not found:
        raise ValueError(_expected([f"{size:,}" for by_size in groups.values() for size in by_size], "with results "))
    return found


def _expected(received, with_results=""):
    return (
        f"Expected experiments {with_results}that differ in training_images, and otherwise at most in epochs, for "
        f"--size_figure. Received: {', '.join(received) or 'none'}"
    )


def _common(run_config: config.Config):
    return dataclasses.replace(headers.without_paths(run_config), **_FREE_FIELDS)


def _curves(by_size):
    """Returns the `SizeCurves` of the statuses by number of images."""
    statuses = [status for group in by_size.values() for status in group]
    is_of_trained_networks = all("train" in status.result["errors"] for status in statuses)

    def training_error(status):
        if is_of_trained_networks:
            return tables.compared_errors(status.result, status.run.experiment, "train")[0]
        return 100 * status.result["curve"]["train_error"][-1]

    experiment = statuses[-1].run.experiment
    errors_of = lambda function: {size: [function(status) for status in group] for size, group in by_size.items()}
    return SizeCurves(
        experiment.name,
        "test" if "test" in statuses[-1].result["errors"] else "validation",
        errors_of(lambda status: tables.compared_errors(status.result, status.run.experiment)[0]),
        errors_of(training_error),
        is_of_trained_networks,
        experiment.header.has_top5_error,
    )


def labeled(found: Sequence[SizeCurves]) -> dict[str, dict[int, list[float]]]:
    """Returns the curves by their labels, for `analysis_figures.errors_by_size`."""
    drawn = {}
    for curves in found:
        kind = "without" if curves.is_of_trained_networks else "with"
        drawn[f"{curves.split}, {curves.name}"] = curves.held_out
        drawn[f"training, {kind} dropout and augmentation, {curves.name}"] = curves.training
    return drawn


def references(found: Sequence[SizeCurves]) -> dict[str, dict[int, float]]:
    """Returns the published curve with which those of ImageNet's classes are compared, by its label."""
    return {STUDY_LABEL: STUDY} if any(curves.is_imagenet for curves in found) else {}
