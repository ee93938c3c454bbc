"""What is kept of a run: its result, made of what it left in its work directory."""

import dataclasses
import json
import math
import os
from typing import NamedTuple

from alexnet_tf import config as configuration
from alexnet_tf import flagfiles
from alexnet_tf.experiments import headers
from alexnet_tf.training import metrics
from alexnet_tf.utils import files

# Points of a curve that are kept, so that a result stays below 20 kB.
MOST_POINTS = 200


class Left(NamedTuple):
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


def read_run(workdir):
    """What is in a work directory, `Left`.

    Raises:
      ValueError: for a file that is not whole, naming it.
    """
    config = flagfiles.read_flagfile(os.path.join(workdir, "config.flags")).resolved()
    figures = os.path.join(workdir, "train.json")
    records = metrics.read(os.path.join(workdir, "metrics.jsonl"))
    left = Left(config, _read_object(figures) if os.path.exists(figures) else None, records)
    if left.figures and not (isinstance(left.figures.get("step"), int) and left.figures.get("evaluation")):
        raise ValueError(f"Expected figures of tools/train.py. Received: {figures}")
    return left


def read_state(run, places):
    """What is noted beside a work directory: a dict, of ``machines`` that trained there, and why it ``failed``."""
    path = places.of_run(run, ".state.json")
    return _read_object(path) if os.path.exists(path) else {}


def harvest(run, places):
    """Writes and returns what is kept of a finished run: no paths, no names of machines, less than 20 kB.

    Args:
      run: a `plan.Run`.
      places: `plan.Places`.

    Returns:
      The dict that it writes to ``RESULTS/NAME-SEED.json``.

    Raises:
      ValueError: if the run is not finished, of another configuration, or its files are not whole.
      OSError: if the result cannot be written.
    """
    workdir = places.of_run(run)
    left = read_run(workdir)
    if not left.is_finished(run.config) or headers.learns_differently(left.config, run.config):
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
    config, written = headers.published(left.config), headers.published(run.experiment.config)
    defaults = configuration.Config().resolved()
    result = {
        "experiment": run.experiment.name,
        "seed": run.seed,
        "overrides": overrides(config, written),
        "configuration": {name: getattr(config, name) for name in headers.different(config, defaults)},
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
        "machines": read_state(run, places).get("machines", []),
    }
    _check_result(result, workdir)
    files.write_json(places.result(run), result)
    # As it will be read.
    return json.loads(json.dumps(result))


def overrides(config, written):
    return {name: getattr(config, name) for name in headers.different(config, written)}


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
        config_of(result)
        if not figures(result, "centre_crop") + figures(result, "ten_views"):
            raise ValueError("no errors")
        counts = [result[name] for name in ("step", "images_seen", "wall_seconds", "images_per_second")]
        counts += result["data"]["images"].values()
        curve = [result["curve"][name] for name in ("epoch", "train_error", "train_loss", "watched_error")]
        is_whole = isinstance(result["experiment"], str) and len({len(column) for column in curve}) == 1
        if not is_whole or not all(count >= 0 for count in counts):
            raise ValueError("no run")
        result["data"]["name"], result["overrides"].items(), [facts.items() for facts in result["machines"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"Expected a result of tools/experiments.py. Received: {path} ({error!r})") from None


def config_of(result):
    """The resolved `config.Config` of a result, without the data's place."""
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in result["configuration"].items()
    }
    return dataclasses.replace(configuration.Config().resolved(), seed=result["seed"], **values)


def figures(result, views):
    """Top-1 and, where there is one, top-5 error in percent, of the test set or without one the validation set."""
    errors = result["errors"]
    section = errors["test" if "test" in errors else "validation"][views]
    return [100 * section[name] for name in ("top1_error", "top5_error") if section[name] is not None]
