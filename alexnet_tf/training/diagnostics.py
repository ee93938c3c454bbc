"""Rules that recognize a run that failed to learn, each from a few numbers of the run.

Each rule returns a warning, one line without a final period that says what was found and what to do, or None.
"""

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_tf.utils import messages

# A loss above this share of that of a network that ignores the images has not fallen.
_FALLEN = 0.95
# A rate below this share of an earlier one was cut; the drops of the schedules are larger.
_CUT = 0.75
# Standard errors by which the last error may exceed the lowest one.
_STANDARD_ERRORS = 2.0
# Images of a class that say enough about it, and the number of classes that are named.
_MIN_OF_CLASS, _MAX_NAMED = 5, 3
# Held-out images, of which each is more than 5 percentage points of the error.
_FEW = 20


def label_entropy(labels: np.ndarray) -> float:
    """Returns the loss of a network that knows how frequent each class is and ignores the images, in nats.

    Args:
      labels: int ``[examples]``.
    """
    counts = np.bincount(labels)
    shares = counts[counts > 0] / len(labels)
    return float(-(shares * np.log(shares)).sum())


def nothing_held_out() -> str:
    """Returns the warning about a run all of whose images are used in training."""
    return (
        "there is no validation or test set, so errors are measured on the training images and do not show how well "
        "the network classifies other images; add images, or a validation or test set"
    )


def few_held_out(split: str, count: int) -> str | None:
    """Warns if a held-out split is so small that its error says little.

    Args:
      split: name of the monitored split, "train" if nothing is held out.
      count: its number of images.
    """
    if split == "train" or count >= _FEW:
        return None
    images = f"{count} image{'s' * (count > 1)}"
    return f"the {split} set has {images}: each counts for {100 / count:.3g} percentage points of its error"


def rate_follows_test_error(split: str, schedule: str) -> str | None:
    """Warns if the learning rate depends on the error of the test set.

    Args:
      split: name of the monitored split.
      schedule: of the learning rate.
    """
    if split != "test" or schedule != "plateau":
        return None
    return (
        "there is no validation set, so schedule=plateau lowers the learning rate by the test error, which makes that "
        "error optimistic; add a validation set, or start again with a new --workdir and --schedule=linear"
    )


def not_better_than_majority(split: str, error: float, majority_error: float, *, suits_few_images: bool) -> str | None:
    """Warns if a held-out error is not below that of always predicting the most frequent class.

    Args:
      split: name of the split.
      error: top-1 error of the network on the split, in [0, 1].
      majority_error: from `errors.majority_error`, for the same split. With 0, the split has only one class, which says
        nothing about the network.
      suits_few_images: whether the run has the options of ``flags/own_pictures.flags`` already.
    """
    if not majority_error or error < majority_error:
        return None
    return (
        f"the {split} error of {_percent(error)} is not below the {_percent(majority_error)} of always predicting the "
        "most frequent class: the network is no better than a guess; add images, train for more epochs, or "
        + ("try another --learning_rate" if suits_few_images else "use the options of flags/own_pictures.flags")
    )


def flat_loss(chance: float, *, has_own_weights: bool, recipe: str | None) -> str:
    """Returns the warning about a loss that stays at that of random guessing, with the likely cause.

    Args:
      chance: ln(classes), in nats.
      has_own_weights: whether the initial weights are those of the network's recipe, which are small, rather than
        He's or those of another run.
      recipe: the network's recipe; None for a network without recipes.
    """
    if not has_own_weights:
        advice = (
            "The learning rate may be too high, or much too low: start again with a new --workdir and another "
            "--learning_rate"
        )
    elif recipe == "paper":
        advice = (
            "The paper's weights of 0.01 and biases of 1 start slowly: wait, or use --recipe=original (0.03 in conv3 "
            "to conv5). A learning rate that is too high has the same effect"
        )
    else:
        advice = (
            "Small initial weights start slowly: wait, or use --initialization=he and --input_scale=0.02, as "
            "flags/own_pictures_from_scratch.flags does. A learning rate that is too high has the same effect"
        )
    return f"the loss stays at ln(classes) = {chance:.3f}, as if the network guessed. {advice}"


def one_class_predicted(split: str, confusion: np.ndarray, class_names: Sequence[str]) -> str | None:
    """Warns if a network predicts the same class for all images of several classes.

    Args:
      split: name of the split.
      confusion: int ``[classes, classes]``, true classes in rows, predicted classes in columns.
      class_names: names of the classes.
    """
    predicted = np.flatnonzero(confusion.sum(axis=0))
    if len(predicted) != 1 or np.count_nonzero(confusion.sum(axis=1)) < 2:
        return None
    return (
        f"all {confusion.sum()} {split} images are classified as {class_names[predicted[0]]}: the network ignores the "
        "images; train for more epochs, or start again with a new --workdir and another --learning_rate"
    )


def classes_mostly_wrong(
    split: str, confusion: np.ndarray, class_names: Sequence[str], *, is_balanced: bool
) -> str | None:
    """Warns if most images of a class are classified wrongly, although the error of all images is much lower.

    Such a class has at least five images, more than half of them wrong, and an error of at least twice that of all
    images and more than two standard errors above it. So there is none if half of all images are wrong.

    Args:
      split, confusion, class_names: as in `one_class_predicted`.
      is_balanced: whether training weights or draws the classes otherwise than their numbers of images.
    """
    support = confusion.sum(axis=1)
    wrong = support - np.diag(confusion)
    error = wrong.sum() / max(1, support.sum())
    excess = wrong - error * support
    is_bad = (support >= _MIN_OF_CLASS) & (2 * wrong > support) & (wrong >= 2 * error * support)
    is_bad &= excess > _STANDARD_ERRORS * np.sqrt(support * error * (1 - error))
    places = np.flatnonzero(is_bad)
    if not len(places):
        return None
    places = places[np.argsort(-wrong[places] / support[places], kind="stable")]
    names = [f"{class_names[place]} ({wrong[place]} of {support[place]})" for place in places[:_MAX_NAMED]]
    others = f" and {len(places) - len(names)} others" if len(places) > len(names) else ""
    balance = "" if is_balanced else ", or use --class_weights=balanced if they have few images"
    return (
        f"the {split} error is {_percent(error)}, but most images of {len(places)} of {np.count_nonzero(support)} "
        f"classes are classified wrongly: {', '.join(names)}{others}; see the confusion matrix for what they are "
        f"mistaken for, and add images of the named classes{balance}"
    )


def rate_cut_before_loss_fell(curve: Mapping[str, Sequence[float | None]], ignorant_loss: float) -> str | None:
    """Warns if the learning rate was cut before the training loss had fallen.

    Args:
      curve: from `metrics.curve`: "epoch", "train_loss" and "learning_rate", which is None where it is unknown.
      ignorant_loss: from `label_entropy`, for the training labels.
    """
    lowest = math.inf
    previous = None
    for epoch, loss, rate in zip(curve["epoch"], curve["train_loss"], curve["learning_rate"]):
        if previous and rate is not None and rate < _CUT * previous[1] and lowest > _FALLEN * ignorant_loss:
            return (
                f"the learning rate was cut after epoch {messages.epochs(previous[0])}, before the training loss had "
                f"fallen: its lowest was {lowest:.4f}, and a network that ignores the images has {ignorant_loss:.4f}; "
                "start again with a new --workdir and --schedule=linear, or a higher --patience"
            )
        lowest = min(lowest, loss)
        previous = None if rate is None else (epoch, rate)
    return None


def last_error_above_lowest(
    curve: Mapping[str, Sequence[float | None]], monitored: str, best_is_kept: bool = False
) -> str | None:
    """Warns if the last monitored error is more than two standard errors above the lowest one.

    Args:
      curve: from `metrics.curve`: "epoch", "watched_error" and "watched_examples", which are None where they are
        unknown.
      monitored: name of the monitored split.
      best_is_kept: whether the checkpoint of the lowest error is kept, too.
    """
    points = [
        point
        for point in zip(curve["epoch"], curve["watched_error"], curve["watched_examples"])
        if None not in point[1:]
    ]
    if not points:
        return None
    best_epoch, lowest, examples = min(points, key=lambda point: point[1])
    _, last, _ = points[-1]
    # A few images without a mistake do not show that the error is 0.
    share = min(max(lowest, 1 / examples), 1.0)
    margin = _STANDARD_ERRORS * math.sqrt(share * (1 - share) / examples)
    if last - lowest <= margin:
        return None
    kept = ", whose checkpoint is kept as the best" if best_is_kept else ""
    if examples < _FEW:
        chance = f"with {examples} images, the lowest of several epochs may be due to chance"
        remedy = f"{chance}: compare the epochs on other images"
    else:
        remedy = "start again with a new --workdir and fewer --epochs, or a lower --learning_rate"
    return (
        f"the last checkpoint's {monitored} error of {_percent(last)} is more than two standard errors above the "
        f"{_percent(lowest)} after epoch {messages.epochs(best_epoch)}{kept}; {remedy}"
    )


def texts(*found: str | None) -> list[str]:
    """Returns the warnings among the results of rules."""
    return [text for text in found if text]


def new_texts(found: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the warnings that are not among a run's records, from `metrics.read`."""
    recorded = {record.get("text") for record in records if record["kind"] == "warning"}
    return [text for text in found if text not in recorded]


def _percent(share):
    return f"{100 * share:.1f}%"
