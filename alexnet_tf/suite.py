"""Experiments: what a flagfile's header says, its runs one after another, what is kept of each, and the table of all.

An experiment is a flagfile, a run is an experiment with a seed: it has a work directory ``WORKDIR/NAME-SEED``, of which
``RESULTS/NAME-SEED.json`` keeps what is worth comparing.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

from alexnet_tf import config as configuration
from alexnet_tf import files
from alexnet_tf import machine
from alexnet_tf import metrics

KEYS = (
    "Claim",
    "Command",
    "Paper",
    "Original",
    "Expected",
    "Band",
    "Base",
    "Changes",
    "Data",
    "Views",
    "Cost",
)
MANDATORY = ("Claim", "Command", "Data", "Cost")
# What stands in results for each value of the key "Views".
VIEWS = {"centre": "centre_crop", "ten": "ten_views"}
# Points of a curve that are kept, so that a result stays below 20 kB.
MOST_POINTS = 200

_KEY_LINE = re.compile(r"# ([A-Z][a-z]+):(?: (.*))?")
_FIGURES = re.compile(r"(\d+(?:\.\d+)?)(?: / (\d+(?:\.\d+)?))?(?![\d.])")
# Where a run finds things, but not what it learns.
_PLACES = ("source", "data_dir")
_IMAGENET = ("imagenet", "ilsvrc")


class Header(NamedTuple):
    """The keys of a flagfile's first comment; empty where they are missing."""

    claim: str
    command: str
    data: str  # such as cifar10 or ilsvrc2012
    cost: str
    paper: str = ""
    original: str = ""
    expected: tuple = ()  # top-1 error in percent, or top-1 and top-5
    band: tuple = ()  # how far from each of these is still as expected, in points
    base: str = ""  # the experiment to compare with
    changes: tuple = ()  # fields of the configuration in which it differs from its base
    views: str = ""  # of VIEWS

    @property
    def needs_imagenet(self):
        return self.data.lower().startswith(_IMAGENET)


class Experiment(NamedTuple):
    """A flagfile."""

    name: str  # the file's stem
    path: str
    header: Header
    config: configuration.Config  # resolved, as it is written


class Run(NamedTuple):
    """An experiment with a seed."""

    experiment: Experiment
    seed: int
    config: configuration.Config  # resolved, with the seed and what overrides the flagfile
    flags: tuple = ()  # what overrides the flagfile, as on a command line

    @property
    def name(self):
        return f"{self.experiment.name}-{self.seed}"


class Places(NamedTuple):
    """Where the runs and their results are."""

    workdir: str
    results: str

    def of_run(self, run, suffix=""):
        """The run's work directory, or the file with a suffix beside it."""
        return os.path.join(self.workdir, run.name + suffix)

    def result(self, run):
        return os.path.join(self.results, f"{run.name}.json")


class Standing(NamedTuple):
    """Where a run stands."""

    run: Run
    # "done": there is a result; "finished": it has only to be harvested; "begun"; "not run"; "failed"; "left": another
    # process is at it
    status: str
    detail: str = ""
    result: dict | None = None
    is_open: bool = False  # whether training can take it from here

    def __str__(self):
        return f"{self.status}: {self.detail}" if self.detail else self.status


def read_header(path):
    """Reads the comment that a flagfile begins with: ``# Key: value`` lines, then whatever comment.

    A value goes on in lines that are indented.

    Args:
      path: of the flagfile.

    Returns:
      A `Header`.

    Raises:
      ValueError: for an unknown, missing or doubled key or a value that is none, naming file and key; or a file that
        cannot be read.
    """
    values = _split_header(path)
    if missing := [key for key in MANDATORY if key not in values]:
        raise ValueError(f"{path}: Expected {missing[0]} in the header. Received: {', '.join(values) or 'no key'}")
    found = {key.lower(): value for key, value in values.items()}
    if found.get("base") == "none":
        del found["base"]
    if "changes" in found:
        found["changes"] = tuple(found["changes"].replace(",", " ").split())
        fields = [field.name for field in dataclasses.fields(configuration.Config)]
        if unknown := [name for name in found["changes"] if name not in fields]:
            raise ValueError(f"{path}: Expected Changes to be flags of the configuration. Received: {unknown[0]}")
    if found.get("views", "ten") not in VIEWS:
        raise ValueError(f"{path}: Expected Views to be {' | '.join(VIEWS)}. Received: {found['views']!r}")
    for key in ("expected", "band"):
        if key in found:
            figures = _FIGURES.match(found[key])
            if not figures:
                raise ValueError(
                    f"{path}: Expected {key.title()} to begin with errors in percent, such as 18 or 40.7 / 18.2. "
                    f"Received: {found[key]!r}"
                )
            found[key] = tuple(float(figure) for figure in figures.groups() if figure)
    if len(found.get("expected", ())) != len(found.get("band", ())):
        raise ValueError(
            f"{path}: Expected Band to have as many figures as Expected. Received: Expected {values.get('Expected')}, "
            f"Band {values.get('Band')}"
        )
    return Header(**found)


def _split_header(path):
    """The header's values by key, as text."""
    values, key, is_free = {}, None, False
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a flagfile. Received: {path} ({error})") from None
    for line in lines:
        if not line.startswith("#"):
            break
        found = _KEY_LINE.fullmatch(line.rstrip())
        if found and is_free and found[1] in KEYS:
            raise ValueError(f"{path}: Expected {found[1]} before other comments. Received: it behind them")
        if is_free:
            continue
        if found:
            key = found[1]
            if key not in KEYS:
                raise ValueError(f"{path}: Expected keys among {', '.join(KEYS)}. Received: {key}")
            if key in values:
                raise ValueError(f"{path}: Expected {key} once. Received: twice")
            values[key] = found[2] or ""
        elif key and line.startswith("#  ") and line[1:].strip():
            values[key] = f"{values[key]} {line[1:].strip()}".strip()
        else:
            is_free = bool(line[1:].strip())
    if empty := [key for key, value in values.items() if not value.strip()]:
        raise ValueError(f"{path}: Expected a value behind {empty[0]}. Received: none")
    return values


def read_experiment(path):
    """Reads a flagfile and its header.

    Returns:
      An `Experiment`.

    Raises:
      ValueError: for a bad header or configuration, naming the file.
    """
    return Experiment(pathlib.Path(path).stem, str(path), read_header(path), _configure(path))


def _configure(path, flags=()):
    """The resolved configuration of a flagfile with flags behind it."""
    try:
        if not flags:
            return configuration.read_flagfile(path).resolved()
        # In the syntax that a run gets.
        with tempfile.NamedTemporaryFile("w", suffix=".flags", encoding="utf-8") as file:
            file.write("\n".join([f"--flagfile={path}", *flags]) + "\n")
            file.flush()
            return configuration.read_flagfile(file.name).resolved()
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _base_path(path, header):
    """The path of the base's flagfile, beside the file itself."""
    base = os.path.join(os.path.dirname(path), f"{header.base}.flags")
    if not os.path.isfile(base):
        raise ValueError(f"{path}: Expected Base to name a flagfile beside it. Received: {header.base}, no {base}")
    return base


def base_difference(path):
    """The fields of the configuration in which a flagfile differs from its base, all but the data's place and the seed.

    Args:
      path: of the flagfile.

    Returns:
      A list of names in the order of `config.Config`; empty without a base.

    Raises:
      ValueError: for a bad header or configuration, or a base that is not there.
    """
    experiment = read_experiment(path)
    if not experiment.header.base:
        return []
    return _different(experiment.config, _configure(_base_path(path, experiment.header)))


def _different(config, other, but=(*_PLACES, "seed")):
    """Names of the fields, `but` some, that differ between two configurations."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in but]
    return [name for name in names if getattr(config, name) != getattr(other, name)]


def _learns_differently(config, other):
    """Names of the fields that differ and change what is learnt."""
    config, other = _published(config), _published(other)
    return [*config.differences(other), *(["epochs"] if config.epochs != other.epochs else [])]


def _published(config):
    """A configuration without the paths of a machine, as it stands in a result."""
    name = os.path.basename(config.initialize_from.rstrip("/"))
    return dataclasses.replace(config, source="", data_dir="", initialize_from=name)


def plan(flagfiles, seeds, flags=()):
    """Every experiment with every seed.

    Args:
      flagfiles: paths.
      seeds: integers, or their text.
      flags: of the configuration, as on a command line, to override what is in the flagfiles.

    Returns:
      A list of `Run`, one experiment after another.

    Raises:
      ValueError: as `read_experiment`; or for two experiments of one name, or seeds that are none.
    """
    try:
        seeds = [int(seed) for seed in seeds]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError("Expected seeds to be different whole numbers from 0, with commas between. Received: others")
    experiments = [read_experiment(path) for path in flagfiles]
    names = [experiment.name for experiment in experiments]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"Expected flagfiles of different names. Received: {twice[0]} twice")
    configs = [_configure(experiment.path, flags) for experiment in experiments]
    return [
        Run(experiment, seed, dataclasses.replace(config, seed=seed), tuple(flags))
        for experiment, config in zip(experiments, configs)
        for seed in seeds
    ]


def share(runs, index, count):
    """What one of several machines runs: every `count`-th run, from the one at `index`.

    Raises:
      ValueError: for an index outside [0, count).
    """
    if not 0 <= index < count:
        raise ValueError(f"Expected index to be 0 to {count - 1}, below count. Received: {index}")
    return runs[index::count]


def check_places(places, table=""):
    """Makes the directories and checks that files can be written where they will be.

    Raises:
      OSError: naming the directory.
    """
    for what, directory in (("workdir", places.workdir), ("results", places.results), ("table", table)):
        if what == "table":
            directory = os.path.dirname(os.path.abspath(table))
        try:
            os.makedirs(directory, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise OSError(
                f"Expected --{what} to be where files can be written. Received: {directory} ({error.strerror})"
            ) from None


def run_all(runs, places, program, *, source="", data_dir="", tell=print):
    """Trains each run in a process of its own, one after another, and harvests it; finished ones are left alone.

    Args:
      runs: list of `Run`.
      places: `Places`.
      program: the beginning of the command line that trains, as a list.
      source, data_dir: the data of experiments whose flagfile names none.
      tell: called with a line before and after each run.

    Returns:
      A list of `Standing`. What goes wrong in a run is in its status; the others go on.
    """
    standings = []
    for number, run in enumerate(runs):
        label = f"{run.name} ({number + 1} of {len(runs)})"
        data = {} if run.config.source or run.config.data_dir else {"source": source, "data_dir": data_dir}
        try:
            with files.locked(places.of_run(run, ".lock"), run.name) as lock:
                standing = look(run, places)
                if standing.status == "finished":
                    standing = Standing(run, "done", result=harvest(run, places))
                elif standing.is_open and not _has_data(run, data):
                    standing = Standing(run, "not run", "needs ImageNet")
                elif standing.is_open:
                    tell(f"{label}: {run.experiment.header.claim}")
                    standing = _train(run, places, program, data, lock)
        except BlockingIOError:
            standing = Standing(run, "left", "another process is at it")
        except (OSError, ValueError) as error:
            standing = Standing(run, "failed", str(error))
        tell(f"{label}: {standing}")
        standings.append(standing)
    return standings


def _has_data(run, data):
    """Whether an experiment on ImageNet has been given what may be that."""
    if not run.experiment.header.needs_imagenet:
        return True
    places = data or {name: getattr(run.config, name) for name in _PLACES}
    return bool(places["data_dir"]) or places["source"].removeprefix("tfds:").startswith(_IMAGENET)


def _train(run, places, program, data, lock):
    """Trains a run, or the rest of it; its `Standing`."""
    facts = {"machine": machine.facts()}
    state = places.of_run(run, ".state.json")
    files.write_json(state, facts)
    given = [f"--{name}={value}" for name, value in data.items() if value]
    command = [*program, f"--flagfile={run.experiment.path}", *given, *run.flags]
    command += [f"--seed={run.seed}", f"--workdir={places.of_run(run)}"]
    # Should this process be killed, training goes on and keeps the lock.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace", pass_fds=[lock]) as process:
        last = ""
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
    if process.returncode:
        ended = f"status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        files.write_json(state, {**facts, "failed": last or ended})
        return Standing(run, "failed", last or ended, is_open=True)
    return Standing(run, "done", result=harvest(run, places))


def look(run, places):
    """Where a run stands, by what is there.

    Returns:
      A `Standing`; "failed" with what is wrong, where files are not whole or of another configuration.
    """
    try:
        result = read_result(places.result(run)) if os.path.exists(places.result(run)) else None
        differing = _learns_differently(result_config(result), run.config) if result else []
        if result and not differing:
            return Standing(run, "done", result=result)
        if differing and _overrides(run.config, run.experiment.config):
            # A short run, say, does not take the place of one that took days.
            raise ValueError(
                f"Expected --results without {run.name}.json of another configuration. Received: one with another "
                + ", ".join(differing)
            )
        standing = _look_at_workdir(run, places)
    except (OSError, ValueError) as error:
        return Standing(run, "failed", str(error))
    if differing and standing.status == "not run":
        return standing._replace(detail=f"the result there is of another {', '.join(differing)}")
    return standing


def _look_at_workdir(run, places):
    workdir = places.of_run(run)
    if os.path.exists(os.path.join(workdir, "config.flags")):
        left = _read_run(workdir)
        # More epochs only go on with a run.
        if differing := left.config.differences(run.config):
            raise ValueError(
                f"Expected --workdir without {run.name} of another configuration. Received: one with another "
                + ", ".join(differing)
            )
        if left.steps > left.steps_of(run.config):
            raise ValueError(
                f"Expected {run.name} to have taken at most the {left.steps_of(run.config)} steps of "
                f"epochs={run.config.epochs:g}. Received: {left.steps}; take another --workdir"
            )
        if left.is_finished(run.config):
            return Standing(run, "finished")
    state = _read_state(run, places)
    if state.get("failed"):
        return Standing(run, "failed", state["failed"], is_open=True)
    if os.path.exists(workdir):
        return Standing(run, "begun", is_open=True)
    return Standing(run, "not run", "needs ImageNet" if run.experiment.header.needs_imagenet else "", is_open=True)


def _read_state(run, places):
    path = places.of_run(run, ".state.json")
    return _read_object(path) if os.path.exists(path) else {}


def harvest_all(runs, places):
    """Harvests what has finished since; runs nothing.

    Returns:
      A list of `Standing`.
    """
    standings = []
    for run in runs:
        standing = look(run, places)
        if standing.status == "finished":
            try:
                standing = Standing(run, "done", result=harvest(run, places))
            except (OSError, ValueError) as error:
                standing = Standing(run, "failed", str(error))
        standings.append(standing)
    return standings


class _Left(NamedTuple):
    """What is in a work directory."""

    config: configuration.Config  # resolved
    figures: dict | None  # train.json
    records: list  # metrics.jsonl

    @property
    def steps(self):
        """Taken until the last record."""
        return self.records[-1]["step"] if self.records else 0

    def steps_of(self, config):
        """That a configuration takes on these data; infinite where nothing tells their number."""
        return max(1, round(config.epochs * self.steps_per_epoch)) if self.records else math.inf

    @property
    def steps_per_epoch(self):
        return round(self.records[-1]["step"] / self.records[-1]["epoch"])

    def is_finished(self, config):
        """Whether all that a configuration asks for is done: train.json may be there from fewer epochs."""
        if not self.figures or self.config.epochs != config.epochs:
            return False
        return self.figures["step"] == self.steps == self.steps_of(config)


def _read_object(path):
    """The dict in a JSON file.

    Raises:
      ValueError: if there is none, naming the file.
    """
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"Expected an object in JSON. Received: {path} ({type(found).__name__})")
    return found


def _read_run(workdir):
    """What is in a work directory, `_Left`.

    Raises:
      ValueError: for a file that is not whole, naming it.
    """
    config = configuration.read_flagfile(os.path.join(workdir, "config.flags")).resolved()
    figures = os.path.join(workdir, "train.json")
    records = metrics.read(os.path.join(workdir, "metrics.jsonl"))
    left = _Left(config, _read_object(figures) if os.path.exists(figures) else None, records)
    if left.figures and not (isinstance(left.figures.get("step"), int) and left.figures.get("evaluation")):
        raise ValueError(f"Expected figures of tools/train.py. Received: {figures}")
    return left


def harvest(run, places):
    """Writes and returns what is kept of a finished run: no paths, no names of machines, less than 20 kB.

    Args:
      run: a `Run`.
      places: `Places`.

    Returns:
      The dict that it writes to ``RESULTS/NAME-SEED.json``.

    Raises:
      ValueError: if the run is not finished, of another configuration, or its files are not whole.
      OSError: if the result cannot be written.
    """
    workdir = places.of_run(run)
    left = _read_run(workdir)
    if not left.is_finished(run.config) or _learns_differently(left.config, run.config):
        raise ValueError(f"Expected {workdir} to be a finished run of {run.experiment.path}. Received: another")
    try:
        reports = [record for record in left.records if record["kind"] == "train"]
        images = sum(report["examples"] for report in reports)
        seconds = sum(report["examples"] / report["images_per_second"] for report in reports)
        curve = _curve(left.records)
        errors = {
            split: {key: value for key, value in section.items() if key != "confusions"}
            for split, section in left.figures["evaluation"].items()
        }
        counts = {split: section["centre_crop"]["num_examples"] for split, section in errors.items()}
    except (KeyError, TypeError, ZeroDivisionError, AttributeError) as error:
        raise ValueError(
            f"Expected metrics.jsonl and train.json of a run. Received: others in {workdir} ({error!r})"
        ) from None
    config, written = _published(left.config), _published(run.experiment.config)
    defaults = configuration.Config().resolved()
    result = {
        "experiment": run.experiment.name,
        "seed": run.seed,
        "overrides": _overrides(config, written),
        "configuration": {name: getattr(config, name) for name in _different(config, defaults)},
        "data": {
            "name": run.experiment.header.data,
            "source": _kind_of_source(left.config),
            # Of the training set, the whole batches of an epoch.
            "images": {"train": left.steps_per_epoch * config.batch_size, **counts},
        },
        "step": left.figures["step"],
        "errors": errors,
        "curve": curve,
        "images_seen": images,
        "wall_seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 3),
        "machine": _read_state(run, places).get("machine"),
    }
    _check_result(result, workdir)
    files.write_json(places.result(run), result)
    # As it will be read.
    return json.loads(json.dumps(result))


def _overrides(config, written):
    return {name: getattr(config, name) for name in _different(config, written)}


def _kind_of_source(config):
    """What the data came from, without the place."""
    if config.data_dir:
        return "prepared"
    return config.source if config.source.startswith("tfds:") else config.source.partition(":")[0]


def _curve(records):
    """The whole run's curve at `MOST_POINTS` epochs at most, the last among them, in five digits."""
    whole = metrics.curve(records)
    apart = -(-len(whole["epoch"]) // MOST_POINTS)
    short = lambda value: None if value is None else float(f"{value:.5g}")
    names = ("epoch", "train_error", "train_loss", "watched_error")
    return {name: [short(value) for value in whole[name][::-1][::apart][::-1]] for name in names}


def read_result(path):
    """Reads what `harvest` wrote.

    Raises:
      ValueError: if it is none, naming the file.
    """
    result = _read_object(path)
    _check_result(result, path)
    return result


def _check_result(result, path):
    try:
        result_config(result)
        if not _figures(result, "centre_crop") + _figures(result, "ten_views"):
            raise ValueError("no errors")
        images = result["images_seen"], result["wall_seconds"], *result["data"]["images"].values()
        curve = [result["curve"][name] for name in ("epoch", "train_error", "train_loss", "watched_error")]
        if not all(image >= 0 for image in images) or len({len(column) for column in curve}) > 1:
            raise ValueError("no run")
        result["data"]["name"], result["overrides"].items(), (result["machine"] or {}).items()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"Expected a result of tools/experiments.py. Received: {path} ({error!r})") from None


def result_config(result):
    """The resolved `config.Config` of a result, without the data's place."""
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in result["configuration"].items()
    }
    return dataclasses.replace(configuration.Config().resolved(), seed=result["seed"], **values)


def _figures(result, views):
    """Top-1 and, where there is one, top-5 error in percent, of the test set or without one the validation set."""
    errors = result["errors"]
    section = errors["test" if "test" in errors else "validation"][views]
    return [100 * section[name] for name in ("top1_error", "top5_error") if section[name] is not None]


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
      standings: list of `Standing`.
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


def table(standings, places):
    """The table of experiments in Markdown.

    Args:
      standings: list of `Standing`, those of an experiment one after another.
      places: `Places`, where the results of bases that are not among these are looked up.

    Returns:
      A string. Errors in percent: the mean over the seeds, in brackets the least and the most.
    """
    groups = {}
    for standing in standings:
        groups.setdefault(standing.run.experiment.name, []).append(standing)
    head = ("experiment", "paper", "original", "ours", "difference to the base", "data", "images seen", "wall time")
    lines = [_line((*head, "status")), _line(["---"] * 9)]
    lines += [_line(_row(group, places)) for group in groups.values()]
    machines = sorted({_machine(each.result["machine"]) for each in standings if each.result})
    if machines:
        lines += ["", f"Wall times are those of training, means over the seeds, on: {'; '.join(machines)}."]
    missing = [group[0].run.experiment for group in groups.values() if _needs_imagenet(group)]
    if missing:
        lines += ["", "Not run, for want of ImageNet:", ""]
    for experiment in missing:
        header = experiment.header
        expected = f"{_plain(header.expected)}, give or take {_plain(header.band)}" if header.expected else "not stated"
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
    results = {each.run.seed: each.result for each in group if each.result}
    ours = {seed: _ours(result, experiment) for seed, result in results.items()}
    label = experiment.name
    if overrides := sorted(
        {f"{name}={_value(value)}" for r in results.values() for name, value in r["overrides"].items()}
    ):
        label += f", with {', '.join(overrides)}"
    mean = lambda name: sum(result[name] for result in results.values()) / len(results)
    return [
        label,
        header.paper or "-",
        header.original or "-",
        _spread(list(ours.values())) if ours else "-",
        _to_base(group, ours, places),
        _data(header, results),
        f"{mean('images_seen'):,.0f}" if results else "-",
        _duration(mean("wall_seconds")) if results else "-",
        _status(group, list(ours.values())),
    ]


def _ours(result, experiment):
    """The errors that are compared: top-1, and where the header expects two or it is ImageNet top-5."""
    header = experiment.header
    views = VIEWS[header.views or ("ten" if experiment.config.network == "alexnet" else "centre")]
    return _figures(result, views)[: len(header.expected) or (2 if header.needs_imagenet else 1)]


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


def _to_base(group, ours, places):
    """By how much the error is higher than the base's with the same seeds."""
    experiment = group[0].run.experiment
    if not experiment.header.base or not ours:
        return "-"
    path = _base_path(experiment.path, experiment.header)
    found = {}
    for run in plan([path], list(ours), group[0].run.flags):
        with contextlib.suppress(ValueError, OSError):
            result = read_result(places.result(run))
            if not _learns_differently(result_config(result), run.config):
                # Seen as the experiment itself is.
                found[run.seed] = _ours(result, experiment)
    pairs = [[own - other for own, other in zip(ours[seed], found[seed])] for seed in ours if seed in found]
    return (
        f"{_spread(pairs, 'pair', '+')} to {experiment.header.base}" if pairs else f"{experiment.header.base}: not run"
    )


def _data(header, results):
    if not results:
        return header.data
    # Of several seeds, those of the first: where they differ, the files tell.
    images = next(iter(results.values()))["data"]["images"]
    return f"{header.data} ({', '.join(f'{count:,} {split}' for split, count in images.items())})"


def _machine(facts):
    if not facts:
        return "a machine that was not recorded"
    return ", ".join([f"{facts.get('processor')}, {facts.get('cores')} cores", *(facts.get("accelerators") or [])])


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _status(group, ours):
    run = group[0].run
    header = run.experiment.header
    if ours:
        parts = [f"done ({len(ours)} of {len(group)} seeds)"]
        if _learns_differently(dataclasses.replace(run.config, seed=run.experiment.config.seed), run.experiment.config):
            parts.append("not as written")
        elif header.expected:
            means = [sum(column) / len(column) for column in zip(*ours)]
            inside = all(abs(m - e) <= b + 1e-9 for m, e, b in zip(means, header.expected, header.band))
            parts.append(f"{'within' if inside else 'outside'} band")
    else:
        parts = ["not run: needs ImageNet" if _needs_imagenet(group) else "not run"]
    parts += [f"seed {each.run.seed} {each}" for each in group if each.status not in ("done", "not run")]
    return "; ".join(parts)
