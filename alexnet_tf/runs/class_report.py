"""The sections of a report about single classes, calibration and thresholds."""

import os
from collections.abc import Iterator
from collections.abc import Sequence

from alexnet_tf.evaluation import calibration
from alexnet_tf.evaluation import class_scores
from alexnet_tf.evaluation import errors
from alexnet_tf.evaluation import roc
from alexnet_tf.reporting import figures
from alexnet_tf.reporting import pages
from alexnet_tf.reporting import pictures
from alexnet_tf.runs import classification
from alexnet_tf.runs import fitted_temperature
from alexnet_tf.runs import split_results

_SENSITIVITIES = (0.9, 0.95, 0.99)


def sections(
    workdir: str | os.PathLike, results: Sequence[split_results.SplitResult], names: Sequence[str], step: int
) -> Iterator[pages.Block]:
    """Yields the sections, which are about the last split.

    Args:
      workdir: the run's directory; the figure is written to it.
      results: of the evaluated splits. Thresholds are chosen on the first.
      names: of the classes, to show.
      step: of the checkpoint.
    """
    yield from _classes(results[-1], names)
    if len(names) == 2:
        yield from _thresholds(results[0], results[-1], names)
    yield from _calibration(workdir, results[-1], step)


def _classes(result, names):
    scores = class_scores.from_confusion(result.results[result.headline].confusion)
    listed = classification.listed_classes(scores)
    percent = classification.percent
    yield pages.Heading("Classes")
    text = (
        f"Balanced accuracy, the mean recall of the classes, is {percent(scores.balanced_accuracy)} on the "
        f"{result.split} set, and the mean F1 is {percent(scores.macro_f1)}. Precision: of the images classified as "
        "the class, the share that belongs to it. Recall: of the images of the class, the share classified as it. F1: "
        "their harmonic mean."
    )
    if len(listed) < len(names):
        text += f" The {len(listed)} classes with the lowest F1 are shown; evaluation.json has all {len(names)}."
    yield pages.Paragraph(text)
    yield pages.Table(
        ["class", "images", "precision", "recall", "F1"],
        [
            [names[place], int(scores.support[place]), *(percent(column[place]) for column in scores[:3])]
            for place in listed
        ],
    )


def _thresholds(chosen_on, result, names):
    yield pages.Heading("Thresholds")
    probabilities = result.probabilities[result.headline]
    area = roc.area(probabilities[:, 1], result.labels == 1)
    shown = "not defined without images of both classes" if area is None else f"{area:.4f}"
    source = (
        "Thresholds are chosen on the same images, so the figures are optimistic."
        if chosen_on.split == result.split
        else f"Thresholds are chosen on the {chosen_on.split} set; the figures are of the {result.split} set."
    )
    yield pages.Paragraph(
        f"The area under the ROC curve is {shown}. An image counts as the class if the probability of the class is at "
        f"least the threshold, the highest one that finds the requested share of the images of the class. {source}"
    )
    rows = []
    for positive, name in enumerate(names):
        if not (chosen_on.labels == positive).any():
            continue
        chosen_from = chosen_on.probabilities[chosen_on.headline][:, positive], chosen_on.labels == positive
        for sensitivity in _SENSITIVITIES:
            threshold = roc.threshold_for(sensitivity, *chosen_from)
            point = roc.operating_point(threshold, probabilities[:, positive], result.labels == positive)
            found = map(errors.percent, (point.sensitivity, point.specificity, point.precision))
            rows.append([name, f"{100 * sensitivity:g}%", f"{threshold:.4g}", *found])
    yield pages.Table(["class", "requested", "threshold", "sensitivity", "specificity", "precision"], rows)


def _calibration(workdir, result, step):
    probabilities = result.probabilities[result.headline]
    found = calibration.reliability(probabilities, result.labels)
    error = errors.percent(found.expected_calibration_error)
    yield pages.Heading("Calibration")
    text = (
        f"The expected calibration error is {error}: the mean difference of accuracy and confidence, the probability "
        f"of the predicted class, in {len(found.counts)} bins of the confidence (Guo et al. 2017)."
    )
    curves = {"as trained": found}
    if fitted := fitted_temperature.read(workdir, step):
        value = fitted[result.headline]
        corrected = calibration.reliability(calibration.apply_temperature(probabilities, value), result.labels)
        curves[f"temperature {value:.3g}"] = corrected
        same = " (the same images)" if fitted["split"] == result.split else ""
        text += (
            f" With the temperature {value:.4g}, fitted on {fitted['num_examples']:,} {fitted['split']} images{same}, "
            f"it is {errors.percent(corrected.expected_calibration_error)}."
        )
    yield pages.Paragraph(text)
    yield from pictures.blocks(
        workdir,
        "reliability.png",
        lambda: figures.reliability(curves),
        "Accuracy by confidence, and the share of the images in each bin. On the diagonal, the network is right as "
        "often as its probabilities say; below it, it is overconfident.",
    )
