"""The table of experiments, with the paper's and the authors' errors, and the epochs that a training error takes."""

import contextlib
import dataclasses
from collections.abc import Collection
from collections.abc import Iterable
from typing import Any

from alexnet_tf.experiments import headers
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results
from alexnet_tf.experiments import runner
from alexnet_tf.models import registry
from alexnet_tf.utils import escaping

# The number of images on which errors are measured, by the data set that a header names. Some may be unreadable.
NUM_EVALUATED = {"cifar10": 10_000, headers.TINY_IMAGENET: 10_000, "ilsvrc2012": 50_000, "ilsvrc2010": 150_000}
HEAD = (
    "experiment",
    "paper",
    "original",
    "ours",
    "difference to the base",
    "data",
    "images seen",
    "wall time",
    "status",
)
GAP_HEAD = (
    "experiment",
    "training images",
    "training error",
    "validation or test error",
    "gap",
    "difference of the gap to the base",
)

_SELECTED = (
    "Errors after the epoch with the lowest validation error instead of the last one, which makes validation errors "
    "optimistic"
)


def table(statuses: Iterable[runner.RunStatus], directories: plan.Directories) -> str:
    """Returns the table of experiments in Markdown.

    Args:
      statuses: grouped by experiment.
      directories: `plan.Directories`, to look up the results of bases that are not among `statuses`.

    Returns:
      A string. Errors are in percent: the mean over the seeds, and in parentheses the minimum and the maximum.
    """
    groups = {}
    for status in statuses:
        groups.setdefault(status.run.experiment.name, []).append(status)
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line(_row(group, directories)) for group in groups.values()]
    machines = sorted({name for group in groups.values() for status in group for name in _machines(status.result)})
    if machines:
        lines += ["", f"Wall times are training times, averaged over the seeds, on: {'; '.join(machines)}."]
    selected = [name for name, group in groups.items() if any(_is_selected(status.result) for status in group)]
    if selected:
        lines += ["", f"{_SELECTED}: {', '.join(selected)}."]
    missing = [group[0].run.experiment for group in groups.values() if _needs_imagenet(group)]
    if missing:
        lines += ["", "Not run, because ImageNet was not available:", ""]
    lines += [_pending(experiment) for experiment in missing]
    return "\n".join(lines) + "\n"


def _line(cells):
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _pending(experiment):
    """Returns the line of an experiment that has not been run: its command, and what is expected of it."""
    header = experiment.header
    band = f" (within {' / '.join(f'{points:g}' for points in header.band)})" if header.band else ""
    expected = f"{header.expectation}{band}"
    return f"- {experiment.name}: `{header.command}`; expected error in percent: {expected}. {header.cost}"


def _needs_imagenet(group):
    header = group[0].run.experiment.header
    return header.needs_imagenet and all(status.status == "not run" for status in group)


def _row(group, directories):
    experiment = group[0].run.experiment
    header = experiment.header
    by_seed = {status.run.seed: status.result for status in group if status.result}
    ours = {seed: compared_errors(result, experiment) for seed, result in by_seed.items()}
    mean = lambda name: sum(result[name] for result in by_seed.values()) / len(by_seed)
    return [
        _label(experiment, by_seed.values()),
        header.paper or "-",
        header.original or "-",
        _spread(list(ours.values())) if ours else "-",
        _difference_to_base(group, ours, by_seed, directories),
        _data(header, by_seed),
        f"{mean('images_seen'):,.0f}" if by_seed else "-",
        _duration(mean("wall_seconds")) if by_seed else "-",
        _status(group, ours, by_seed),
    ]


def _label(experiment, found):
    """Returns the name of an experiment, with the flags that override its flagfile."""
    value = lambda value: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    overrides = {f"{name}={value(given)}" for result in found for name, given in result["overrides"].items()}
    if not overrides:
        return experiment.name
    return f"{experiment.name}, with {escaping.for_markdown(', '.join(sorted(overrides)))}"


def compared_errors(result: dict[str, Any], experiment: headers.Experiment, split: str = "") -> list[float]:
    """Returns the errors of a result that are compared with others, by the views of the experiment.

    Args:
      result: from `results.read_result`.
      experiment: of the result.
      split: as in `results.errors_in_percent`.

    Returns:
      The top-1 error in percent, and the top-5 error where the header expects it or the data have its classes.
    """
    header = experiment.header
    views = headers.VIEWS[header.views or registry.find(experiment.config.network).default_views]
    found = results.errors_in_percent(result, views, split)
    return found[: len(header.expected) or (2 if header.has_top5_error else 1)]


def _spread(rows, unit="seed", sign=""):
    """Formats the mean, the minimum and the maximum of each column."""
    columns = list(zip(*rows))
    text = " / ".join(f"{sum(column) / len(column):{sign}.2f}" for column in columns)
    if len(rows) == 1:
        return f"{text} (1 {unit})"
    ranges = " / ".join(f"{min(column):{sign}.2f} to {max(column):{sign}.2f}" for column in columns)
    return f"{text} ({ranges}, {len(rows)} {unit}s)"


def _difference_to_base(group, ours, by_seed, directories, values_of=compared_errors):
    """Formats how much higher values, the errors by default, are than the base's with the same seeds.

    `values_of` maps a result and the experiment, whose views count, to the values; None if the result has none.
    """
    experiment = group[0].run.experiment
    if not experiment.header.base or not ours:
        return "-"
    base, has_other_data = {}, False
    for seed, result in _base_results(group, list(ours), directories).items():
        if results.num_evaluated(result) == results.num_evaluated(by_seed[seed]):
            base[seed] = values_of(result, experiment)
        else:
            has_other_data = True
    pairs = [[own - other for own, other in zip(ours[seed], base[seed])] for seed in ours if base.get(seed)]
    if not pairs:
        return f"{experiment.header.base}: {'different data' if has_other_data else 'not run'}"
    return f"{_spread(pairs, 'pair', '+')} to {experiment.header.base}"


def _base_results(group, seeds, directories):
    """Returns the results of the base of an experiment, with the same overrides, by seed."""
    experiment, found = group[0].run.experiment, {}
    path = headers.base_path(experiment.path, experiment.header)
    for run in plan.plan([path], seeds, group[0].run.flags):
        with contextlib.suppress(ValueError, OSError):
            result = results.read_result(directories.result(run))
            if not headers.training_differences(results.config_of(result), run.config):
                found[run.seed] = result
    return found


def _matches_data(header, result):
    """Returns whether a run's data can be those that the header names."""
    expected = NUM_EVALUATED.get(header.data)
    counts = results.num_evaluated(result)
    return expected is None or abs(counts.get("test", counts.get("validation", 0)) - expected) <= 0.01 * expected


def _data(header, by_seed):
    if not by_seed:
        return header.data
    # The counts of the first seed; those of others are in their results.
    images = next(iter(by_seed.values()))["data"]["images"]
    is_named = all(_matches_data(header, result) for result in by_seed.values())
    name = header.data if is_named else f"other than {header.data}"
    return f"{name} ({', '.join(f'{count:,} {split}' for split, count in images.items())})"


def _is_selected(result):
    """Returns whether the errors of a result are those of a run's best checkpoint."""
    return bool(result) and result.get("selected") == "best"


def _machines(result):
    """Returns the machines that trained a run, as text."""
    if not result:
        return []
    names = [
        ", ".join([f"{machine.get('processor')}, {machine.get('cores')} cores", *(machine.get("accelerators") or [])])
        for machine in result["machines"]
    ]
    return [escaping.for_markdown(name) for name in names] or ["an unrecorded machine"]


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _status(group, ours, by_seed):
    if ours:
        parts = [f"done ({len(ours)} of {len(group)} seeds)", *_verdict(group[0].run, list(ours.values()), by_seed)]
    else:
        parts = ["not run: needs ImageNet" if _needs_imagenet(group) else "not run"]
    others = [each for each in group if each.status not in ("done", "not run")]
    parts += [escaping.for_markdown(f"seed {each.run.seed} {each}") for each in others]
    return "; ".join(parts)


def _verdict(run, ours, by_seed):
    """Returns at most one text: whether the errors are within the band, or why they cannot be compared with it."""
    experiment = run.experiment
    header = experiment.header
    with_written_seed = dataclasses.replace(run.config, seed=experiment.config.seed)
    if headers.training_differences(with_written_seed, experiment.config):
        return ["not as written"]
    if len({str(results.num_evaluated(result)) for result in by_seed.values()}) > 1:
        return ["seeds with different data"]
    if not all(_matches_data(header, result) for result in by_seed.values()):
        return ["other data"]
    if not header.expected:
        return []
    means = [sum(column) / len(column) for column in zip(*ours)]
    inside = all(abs(m - e) <= b + 1e-9 for m, e, b in zip(means, header.expected, header.band))
    return [f"{'within' if inside else 'outside'} band"]


def epochs_to_error(curve: dict[str, list[float]], threshold: float) -> float | None:
    """Returns when the training error first falls to a threshold, by linear interpolation between epochs.

    Args:
      curve: the curve of a result. The error of an epoch is the mean over the epoch, and is attributed to its end.
      threshold: float in [0, 1].

    Returns:
      A number of epochs, at least the first of the curve; None if the error never falls to the threshold.
    """
    previous = None
    for epoch, error in zip(curve["epoch"], curve["train_error"]):
        if error <= threshold:
            if previous is None:
                return epoch
            previous_epoch, previous_error = previous
            return previous_epoch + (epoch - previous_epoch) * (previous_error - threshold) / (previous_error - error)
        previous = epoch, error
    return None


def gaps(statuses: Iterable[runner.RunStatus], directories: plan.Directories) -> str:
    """Returns the table of errors on training and held-out images in Markdown; empty if no result has the former.

    Both are errors of the trained network, unlike those of the training steps, which have dropout and augmentation.

    Args:
      statuses, directories: as in `table`.
    """
    groups = {}
    for status in statuses:
        if status.result and "train" in status.result["errors"]:
            groups.setdefault(status.run.experiment.name, []).append(status)
    if not groups:
        return ""
    lines = [_line(GAP_HEAD), _line(["---"] * len(GAP_HEAD))]
    lines += [_line(_gap_row(group, directories)) for group in groups.values()]
    return "\n".join(["", "Errors of the trained networks, without dropout and augmentation:", "", *lines, ""])


def _gap_row(group, directories):
    experiment = group[0].run.experiment
    by_seed = {status.run.seed: status.result for status in group}
    gap_by_seed = {seed: _gap(result, experiment) for seed, result in by_seed.items()}
    views = by_seed[group[0].run.seed]["errors"]["train"].values()
    counts = {each["num_examples"] for each in views if isinstance(each, dict)}
    return [
        _label(experiment, by_seed.values()),
        f"{max(counts):,}",
        _spread([compared_errors(result, experiment, "train") for result in by_seed.values()]),
        _spread([compared_errors(result, experiment) for result in by_seed.values()]),
        _spread(list(gap_by_seed.values())),
        _difference_to_base(group, gap_by_seed, by_seed, directories, _gap),
    ]


def _gap(result, experiment):
    """Returns how much higher the held-out errors are than those on training images; None without the latter."""
    if "train" not in result["errors"]:
        return None
    return [
        held_out - trained
        for held_out, trained in zip(
            compared_errors(result, experiment), compared_errors(result, experiment, "train"), strict=True
        )
    ]


def curves(statuses: Iterable[runner.RunStatus]) -> dict[str, list[dict[str, Any]]]:
    """Returns the learning curves of the runs that are done, by experiment, for `figures.training_curves`."""
    by_experiment = {}
    for status in statuses:
        if status.result:
            by_experiment.setdefault(status.run.experiment.name, []).append(status.result["curve"])
    return by_experiment


def threshold_epochs(statuses: Collection[runner.RunStatus], threshold: float) -> str:
    """Lists when the training error of each experiment first falls to a threshold.

    Args:
      statuses: as `table`.
      threshold: float in [0, 1].

    Returns:
      Lines of text: the mean over the seeds, and in parentheses the minimum and the maximum. Empty without a result.
    """
    lines = []
    for name, seeds in curves(statuses).items():
        epochs = [epochs_to_error(curve, threshold) for curve in seeds]
        if None in epochs:
            last = max(curve["epoch"][-1] for curve in seeds)
            when = f"not within {last:g} epochs for {epochs.count(None)} of {len(epochs)} seeds"
        else:
            when = f"after {_spread([[each] for each in epochs])} epochs"
        lines.append(f"- {name}: {when}")
    return "\n".join(["", f"{100 * threshold:g}% training error:", "", *lines, ""]) if lines else ""
