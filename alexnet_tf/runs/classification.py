"""Results of a split class by class, calibration and thresholds: for JSON, the terminal and CSV files."""

import math
import os
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
import rich.console

from alexnet_tf.evaluation import calibration
from alexnet_tf.evaluation import class_scores
from alexnet_tf.evaluation import errors
from alexnet_tf.evaluation import roc
from alexnet_tf.runs import split_results
from alexnet_tf.utils import csv_files
from alexnet_tf.utils import escaping

# With more classes, the terminal and the report show those with the lowest F1.
MAX_LISTED, NUM_LOWEST = 20, 10
_MAX_NAME = 24


class Choice(NamedTuple):
    """What was chosen on a split, to be applied to this or to another one; by view set, None if not requested."""

    split: str
    num_examples: int
    temperatures: dict[str, float] | None = None
    thresholds: dict[str, float] | None = None
    calibrated_thresholds: dict[str, float] | None = None
    sensitivity: float | None = None
    positive: int = 1  # index of the positive class


def positive_index(class_names: Sequence[str], positive_class: str) -> int:
    """Returns the index of the positive class.

    Raises:
      ValueError: if there are not two classes, or none of them has that name.
    """
    if len(class_names) != 2:
        raise ValueError(f"Expected two classes to choose a threshold for a sensitivity. Received: {len(class_names)}")
    if positive_class not in class_names:
        names = " or ".join(map(repr, class_names))
        raise ValueError(f"Expected positive_class to be {names}. Received: {positive_class or 'none'}")
    return list(class_names).index(positive_class)


def choose(
    result: split_results.SplitResult,
    *,
    fit_temperature: bool = False,
    sensitivity: float | None = None,
    positive: int = 1,
) -> Choice:
    """Chooses temperatures and thresholds on a split.

    Args:
      result: of the split.
      fit_temperature: whether to fit the temperature of each view set.
      sensitivity: the share of the positive images to find, in (0, 1]; None chooses no threshold.
      positive: index of the positive class.

    Raises:
      ValueError: if the sensitivity is out of range, or there are no images of the positive class.
    """
    temperatures = thresholds = calibrated_thresholds = None
    calibrated = {}
    if fit_temperature:
        temperatures = {
            views: calibration.fit_temperature(each, result.labels) for views, each in result.probabilities.items()
        }
        calibrated = _calibrated(result, temperatures)
    if sensitivity is not None:
        choose_each = lambda probabilities: {
            views: roc.threshold_for(sensitivity, each[:, positive], result.labels == positive)
            for views, each in probabilities.items()
        }
        thresholds, calibrated_thresholds = choose_each(result.probabilities), choose_each(calibrated)
    return Choice(
        result.split, len(result.labels), temperatures, thresholds, calibrated_thresholds, sensitivity, positive
    )


def _calibrated(result, temperatures):
    return {
        views: calibration.apply_temperature(each, temperatures[views]) for views, each in result.probabilities.items()
    }


def to_json(
    result: split_results.SplitResult, class_names: Sequence[str], choice: Choice | None = None
) -> dict[str, Any]:
    """Computes the results of a split class by class, for JSON: undefined ones are None.

    Args:
      result: of the split.
      class_names: names of the classes.
      choice: temperatures and thresholds to apply; None for none.
    """
    choice = choice or Choice(result.split, len(result.labels))
    calibrated = _calibrated(result, choice.temperatures) if choice.temperatures else {}
    calibrated_choice = choice._replace(thresholds=choice.calibrated_thresholds)
    sections = {}
    for views, probabilities in result.probabilities.items():
        confusion = result.results[views].confusion
        scores = class_scores.from_confusion(confusion)
        section = {
            "balanced_accuracy": scores.balanced_accuracy,
            "macro_f1": scores.macro_f1,
            **_of_probabilities(probabilities, result.labels, class_names, choice, views),
            **{name: list(map(_number, getattr(scores, name))) for name in ("precision", "recall", "f1")},
            "confusion_matrix": confusion.tolist(),
        }
        if calibrated:
            corrected = calibrated[views]
            section["calibrated"] = {
                "temperature": choice.temperatures[views],
                "loss": errors.from_probabilities(corrected, result.labels).loss,
                **_of_probabilities(corrected, result.labels, class_names, calibrated_choice, views),
            }
        sections[split_results.json_key(views)] = section
    return {"class_names": list(class_names), "support": scores.support.tolist(), **sections}


def _of_probabilities(probabilities, labels, class_names, choice, views):
    """Returns the figures that depend on more than the most probable class."""
    found = calibration.reliability(probabilities, labels)
    section = {"expected_calibration_error": found.expected_calibration_error}
    if probabilities.shape[1] == 2:
        positive = probabilities[:, choice.positive], labels == choice.positive
        section["area_under_roc"] = roc.area(*positive)
        if choice.thresholds:
            section["operating_point"] = {
                "positive_class": class_names[choice.positive],
                "chosen_on": choice.split,
                "requested_sensitivity": choice.sensitivity,
                **roc.operating_point(choice.thresholds[views], *positive)._asdict(),
            }
    section["reliability"] = {
        "edges": found.edges.tolist(),
        "counts": found.counts.tolist(),
        "confidence": list(map(_number, found.confidence)),
        "accuracy": list(map(_number, found.accuracy)),
    }
    return section


def _number(value):
    return None if math.isnan(value) else float(value)


def print_figures(
    result: split_results.SplitResult,
    section: dict[str, Any],
    display_names: Sequence[str],
    choice: Choice,
    console: rich.console.Console,
) -> None:
    """Prints the figures of a split: a row for each view set, one for each class, temperatures and thresholds.

    Args:
      result: of the split.
      section: its figures, from `to_json`.
      display_names: names of the classes.
      choice: temperatures and thresholds that were applied.
      console: prints the lines.
    """
    is_binary = len(display_names) == 2
    console.print(f"  {'':<24}{'balanced acc.':>14}{'calibr. error':>15}{'ROC AUC' if is_binary else '':>13}".rstrip())
    for views in result.probabilities:
        found = section[split_results.json_key(views)]
        area = _decimals(found["area_under_roc"]) if is_binary else ""
        balanced, error = (errors.percent(found[name]) for name in ("balanced_accuracy", "expected_calibration_error"))
        console.print(f"  {views:<24}{balanced:>14}{error:>15}{area:>13}".rstrip())
    _print_classes(result, display_names, console)
    for views in result.probabilities:
        _print_choice(views, section[split_results.json_key(views)], result, display_names, choice, console)
    if choice.split == result.split and (choice.temperatures or choice.thresholds):
        console.print(f"  chosen on the {choice.split} images themselves, so these figures are optimistic")


def _print_choice(views, found, result, display_names, choice, console):
    """Prints the temperature and the thresholds of a view set, if there are any."""
    calibrated = found.get("calibrated", {})
    if calibrated:
        before, after = (errors.percent(each["expected_calibration_error"]) for each in (found, calibrated))
        console.print(
            f"  temperature, {views}: {calibrated['temperature']:.4g}, fitted on {choice.num_examples} {choice.split} "
            f"images; calibration error {before} -> {after}, loss {result.results[views].loss:.4f} -> "
            f"{calibrated['loss']:.4f}{_limit_note(calibrated['temperature'])}"
        )
    for kind, each in (("", found), (", calibrated", calibrated)):
        if "operating_point" in each:
            text = describe_point(each["operating_point"], display_names[choice.positive])
            console.print(escaping.one_line(f"  threshold, {views}{kind}: {text} (chosen on {choice.split})"))


def _limit_note(temperature):
    if calibration.MIN_TEMPERATURE < temperature < calibration.MAX_TEMPERATURE:
        return ""
    return "; warning: at the limit of the search, so these images do not determine it"


def describe_point(point: dict[str, Any], positive_name: str) -> str:
    """Describes an operating point in words."""
    sensitivity, specificity, precision = (
        errors.percent(point[name]) for name in ("sensitivity", "specificity", "precision")
    )
    return (
        f"{positive_name} if its probability is at least {point['threshold']:.6g}: sensitivity {sensitivity}, "
        f"specificity {specificity}, precision {precision}"
    )


def listed_classes(scores: class_scores.ClassScores) -> np.ndarray:
    """Returns the indices of the classes to show: all in order, or of many those with the lowest F1."""
    count = len(scores.support)
    return np.arange(count) if count <= MAX_LISTED else scores.lowest(NUM_LOWEST)


def _print_classes(result, display_names, console):
    scores = class_scores.from_confusion(result.results[result.headline].confusion)
    listed = listed_classes(scores)
    lowest = "" if len(listed) == len(scores.support) else f"{len(listed)} lowest F1, "
    title = f"by class ({lowest}{result.headline})"
    console.print(f"  {title:<40}{'precision':>11}{'recall':>9}{'F1':>9}{'images':>9}")
    for place in listed:
        name = escaping.one_line(display_names[place])
        name = name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."
        precision, recall, f1 = (percent(getattr(scores, key)[place]) for key in ("precision", "recall", "f1"))
        console.print(f"    {name:<38}{precision:>11}{recall:>9}{f1:>9}{scores.support[place]:>9}")


def percent(score: float) -> str:
    """Formats a score in [0, 1] as a percentage, NaN as a dash."""
    return errors.percent(_number(score))


def _decimals(value):
    return "-" if value is None else f"{value:.4f}"


def write_classes_csv(path: str | os.PathLike, result: split_results.SplitResult, class_names: Sequence[str]) -> None:
    """Writes precision, recall, F1 and support of each class, by the headline's view set; undefined ones are empty."""
    scores = class_scores.from_confusion(result.results[result.headline].confusion)
    with csv_files.open_table(path, ["class", "precision", "recall", "f1", "support"]) as write:
        for place, name in enumerate(class_names):
            write([name, *(_number(column[place]) for column in scores[:3]), int(scores.support[place])])


def write_confusion_csv(path: str | os.PathLike, result: split_results.SplitResult, class_names: Sequence[str]) -> None:
    """Writes the confusion matrix by the headline's view set: true classes in rows, predictions in columns."""
    with csv_files.open_table(path, ["true class", *class_names]) as write:
        for name, row in zip(class_names, result.results[result.headline].confusion.tolist(), strict=True):
            write([name, *row])
