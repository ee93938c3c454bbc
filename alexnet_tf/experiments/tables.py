"""The table of experiments: what paper, authors and we have, the differences, and when a training error is reached."""

import contextlib
import dataclasses

from alexnet_tf.experiments import headers
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results

# How many images the errors are of, where the data are those that a header names; a few may be unreadable.
HELD_OUT = {"cifar10": 10_000, "ilsvrc2012": 50_000, "ilsvrc2010": 150_000}


def table(standings, places):
    """The table of experiments in Markdown.

    Args:
      standings: list of `runner.Standing`, those of an experiment one after another.
      places: `plan.Places`, where the results of bases that are not among these are looked up.

    Returns:
      A string. Errors in percent: the mean over the seeds, in brackets the least and the most.
    """
    groups = {}
    for standing in standings:
        groups.setdefault(standing.run.experiment.name, []).append(standing)
    head = ("experiment", "paper", "original", "ours", "difference to the base", "data", "images seen", "wall time")
    lines = [_line((*head, "status")), _line(["---"] * 9)]
    lines += [_line(_row(group, places)) for group in groups.values()]
    known = [each.result["machines"] for each in standings if each.result]
    machines = sorted({_machine(facts) for those in known for facts in those or [{}]})
    if machines:
        lines += ["", f"Wall times are those of training, means over the seeds, on: {'; '.join(machines)}."]
    missing = [group[0].run.experiment for group in groups.values() if _needs_imagenet(group)]
    if missing:
        lines += ["", "Not run, for want of ImageNet:", ""]
    for experiment in missing:
        header = experiment.header
        band = f", give or take {_plain(header.band)}" if header.band else ""
        expected = f"{header.expectation}{band}"
        lines.append(f"- {experiment.name}: `{header.command}`; expected error in percent: {expected}. {header.cost}")
    return "\n".join(lines) + "\n"


def _line(cells):
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _plain(figures):
    return " / ".join(f"{figure:g}" for figure in figures)


def _needs_imagenet(group):
    header = group[0].run.experiment.header
    return header.needs_imagenet and all(each.status == "not run" for each in group)


def _row(group, places):
    experiment = group[0].run.experiment
    header = experiment.header
    kept = {each.run.seed: each.result for each in group if each.result}
    ours = {seed: _ours(result, experiment) for seed, result in kept.items()}
    label = experiment.name
    if overrides := sorted(
        {f"{name}={_value(value)}" for r in kept.values() for name, value in r["overrides"].items()}
    ):
        label += f", with {', '.join(overrides)}"
    mean = lambda name: sum(result[name] for result in kept.values()) / len(kept)
    return [
        label,
        header.paper or "-",
        header.original or "-",
        _spread(list(ours.values())) if ours else "-",
        _to_base(group, ours, kept, places),
        _data(header, kept),
        f"{mean('images_seen'):,.0f}" if kept else "-",
        _duration(mean("wall_seconds")) if kept else "-",
        _status(group, ours, kept),
    ]


def _ours(result, experiment):
    """The errors that are compared: top-1, and where the header expects two or it is ImageNet top-5."""
    header = experiment.header
    views = headers.VIEWS[header.views or ("ten" if experiment.config.network == "alexnet" else "centre")]
    return results.figures(result, views)[: len(header.expected) or (2 if header.needs_imagenet else 1)]


def _value(value):
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _spread(rows, what="seed", sign=""):
    """Mean, and least to most, of each column."""
    columns = list(zip(*rows))
    text = " / ".join(f"{sum(column) / len(column):{sign}.2f}" for column in columns)
    if len(rows) == 1:
        return f"{text} (1 {what})"
    ranges = " / ".join(f"{min(column):{sign}.2f} to {max(column):{sign}.2f}" for column in columns)
    return f"{text} ({ranges}, {len(rows)} {what}s)"


def _to_base(group, ours, kept, places):
    """By how much the error is higher than the base's with the same seeds."""
    experiment = group[0].run.experiment
    if not experiment.header.base or not ours:
        return "-"
    path = headers.base_path(experiment.path, experiment.header)
    found, is_other = {}, False
    for run in plan.plan([path], list(ours), group[0].run.flags):
        with contextlib.suppress(ValueError, OSError):
            result = results.read_result(places.result(run))
            if headers.learns_differently(results.config_of(result), run.config):
                continue
            if _held_out(result) == _held_out(kept[run.seed]):
                # Seen as the experiment itself is.
                found[run.seed] = _ours(result, experiment)
            else:
                is_other = True
    pairs = [[own - other for own, other in zip(ours[seed], found[seed])] for seed in ours if seed in found]
    if not pairs:
        return f"{experiment.header.base}: {'of other data' if is_other else 'not run'}"
    return f"{_spread(pairs, 'pair', '+')} to {experiment.header.base}"


def _held_out(result):
    """How many images a run was judged by, by split: so data sets are told apart."""
    return {split: count for split, count in result["data"]["images"].items() if split != "train"}


def _is_of(header, result):
    """Whether a run's data may be those that the header names."""
    expected = HELD_OUT.get(header.data)
    counted = _held_out(result)
    return expected is None or abs(counted.get("test", counted.get("validation", 0)) - expected) <= 0.01 * expected


def _data(header, kept):
    if not kept:
        return header.data
    # Of several seeds, those of the first: where they differ, the files tell.
    images = next(iter(kept.values()))["data"]["images"]
    name = header.data if all(_is_of(header, result) for result in kept.values()) else f"other than {header.data}"
    return f"{name} ({', '.join(f'{count:,} {split}' for split, count in images.items())})"


def _machine(facts):
    if not facts:
        return "a machine that was not recorded"
    return ", ".join([f"{facts.get('processor')}, {facts.get('cores')} cores", *(facts.get("accelerators") or [])])


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _status(group, ours, kept):
    if ours:
        parts = [f"done ({len(ours)} of {len(group)} seeds)", *_verdict(group[0].run, list(ours.values()), kept)]
    else:
        parts = ["not run: needs ImageNet" if _needs_imagenet(group) else "not run"]
    parts += [f"seed {each.run.seed} {each}" for each in group if each.status not in ("done", "not run")]
    return "; ".join(parts)


def _verdict(run, ours, kept):
    """How the errors stand to the band, or why they are not compared; at most one text."""
    experiment = run.experiment
    header = experiment.header
    as_written = dataclasses.replace(run.config, seed=experiment.config.seed)
    if headers.learns_differently(as_written, experiment.config):
        return ["not as written"]
    if len({str(_held_out(result)) for result in kept.values()}) > 1:
        return ["seeds of different data"]
    if not all(_is_of(header, result) for result in kept.values()):
        return ["other data"]
    if not header.expected:
        return []
    means = [sum(column) / len(column) for column in zip(*ours)]
    inside = all(abs(m - e) <= b + 1e-9 for m, e, b in zip(means, header.expected, header.band))
    return [f"{'within' if inside else 'outside'} band"]


def epochs_to_error(curve, threshold):
    """When the training error first falls to a threshold, with straight lines between the epochs.

    Args:
      curve: of a result. An epoch's error is the mean over the epoch, and counts at its end.
      threshold: float in [0, 1].

    Returns:
      A float, in epochs, no less than the curve's first point; None if it never falls so far.
    """
    before = None
    for epoch, error in zip(curve["epoch"], curve["train_error"]):
        if error <= threshold:
            if before is None:
                return epoch
            earlier, higher = before
            return earlier + (epoch - earlier) * (higher - threshold) / (higher - error)
        before = epoch, error
    return None


def curves(standings):
    """The curves of each experiment's runs that are done: a dict by name of lists, for `figures.training_curves`."""
    found = {}
    for standing in standings:
        if standing.result:
            found.setdefault(standing.run.experiment.name, []).append(standing.result["curve"])
    return found


def reached(standings, threshold):
    """When each experiment's training error first falls to a threshold: lines of text, empty where nothing was run.

    Args:
      standings: list of `runner.Standing`.
      threshold: float in [0, 1].

    Returns:
      A string, of means and, in brackets, the least and the most over the seeds.
    """
    lines = []
    for name, seeds in curves(standings).items():
        epochs = [epochs_to_error(curve, threshold) for curve in seeds]
        if None in epochs:
            last = max(curve["epoch"][-1] for curve in seeds)
            when = f"not within {last:g} epochs by {epochs.count(None)} of {len(epochs)} seeds"
        else:
            when = f"after {_spread([[each] for each in epochs])} epochs"
        lines.append(f"- {name}: {when}")
    return "\n".join(["", f"{100 * threshold:g} % training error:", "", *lines, ""]) if lines else ""
