"""Results: the part of a run that is worth keeping, collected from its work directory."""

import dataclasses
import json
import math
import os
from typing import Any
from typing import NamedTuple

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.experiments import headers
from alexnet_tf.experiments import plan
from alexnet_tf.training import metrics
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import schema

# The largest number of points of a curve, which keeps a result below 20 kB.
MAX_POINTS = 200
CURVE = ("epoch", "train_error", "train_loss", "watched_error")
# The keys of an evaluation's views in files of version 0.1.
_OLD_VIEWS = {"center_crop": "centre_crop"}

_WHAT = "a result of an experiment"
_REMEDY = "delete it, and collect the results again"
_COUNT = schema.Number(low=0, integer=True)
_TEXT_OR_NULL = schema.Nullable(schema.Text())
_MACHINE = schema.Object(
    {},
    {
        "processor": _TEXT_OR_NULL,
        "cores": schema.Nullable(_COUNT),
        "accelerators": schema.Nullable(schema.List(schema.Text())),
    },
)
_STATE = schema.Object({}, {"machines": schema.List(_MACHINE), "failed": schema.Text()})
_COLUMN = schema.List(schema.Nullable(schema.Number()))
_RESULT = schema.Object(
    {
        "experiment": schema.Text(),
        "seed": _COUNT,
        "overrides": schema.Map(),
        "configuration": schema.Map(),
        "data": schema.Object({"name": schema.Text(), "images": schema.Map(_COUNT)}, {"source": schema.Text()}),
        "step": _COUNT,
        "errors": schema.Map(metrics.SECTION),
        "curve": schema.Object(
            {
                **dict.fromkeys(CURVE, _COLUMN),
                **dict.fromkeys(("epoch", "train_error", "train_loss"), schema.List(schema.Number())),
            }
        ),
        "images_seen": _COUNT,
        "wall_seconds": schema.Number(low=0),
        "images_per_second": schema.Number(low=0),
        "machines": schema.List(_MACHINE),
    },
    {"selected": schema.Text(("best", "newest"))},
)


class RunFiles(NamedTuple):
    """The contents of a work directory."""

    config: config.Config  # resolved
    final_metrics: dict[str, Any] | None  # train.json
    records: list[dict[str, Any]]  # metrics.jsonl

    @property
    def steps(self) -> int:
        """The number of steps until the last record."""
        return self.records[-1]["step"] if self.records else 0

    @property
    def steps_per_epoch(self) -> int:
        return round(self.records[-1]["step"] / self.records[-1]["epoch"])

    def total_steps(self, run_config: config.Config) -> float:
        """Returns the number of steps of a configuration on these data; infinity before the first record."""
        return max(1, round(run_config.epochs * self.steps_per_epoch)) if self.records else math.inf

    def is_finished(self, run_config: config.Config) -> bool:
        """Returns whether every step of a configuration was taken, or it ended early as its ``stop_after`` says.

        ``train.json`` may be that of fewer epochs.
        """
        if not self.final_metrics or self.config.epochs != run_config.epochs:
            return False
        if self.final_metrics["step"] != self.steps:
            return False
        return self.steps == self.total_steps(run_config) or self._has_ended_early(run_config)

    def _has_ended_early(self, run_config):
        errors = [record.get("top1_error", math.nan) for record in self.records if record["kind"] == "validation"]
        return 0 < run_config.stop_after <= metrics.epochs_without_improvement(errors)


def read_run(workdir: str) -> RunFiles:
    """Reads a work directory.

    Raises:
      ValueError: if a file is damaged. The message names it.
    """
    run_config = flagfiles.read_flagfile(os.path.join(workdir, "config.flags")).resolved()
    path = os.path.join(workdir, "train.json")
    records = metrics.read(os.path.join(workdir, "metrics.jsonl"))
    final_metrics = metrics.read_evaluation(path) if os.path.exists(path) else None
    if final_metrics and not final_metrics["evaluation"]:
        raise ValueError(f"Expected errors written by {messages.program('train')} in {path}. Received: none")
    return RunFiles(run_config, final_metrics, records)


def read_state(run: plan.Run, directories: plan.Directories) -> dict[str, Any]:
    """Reads the state file next to a work directory.

    Returns:
      A dict: ``machines`` that trained the run, and why it ``failed``. Empty without the file.
    """
    path = directories.run(run, ".state.json")
    return schema.read_json(path, _STATE, "the state of a run", "delete it") if os.path.exists(path) else {}


def collect(run: plan.Run, directories: plan.Directories) -> dict[str, Any]:
    """Writes the result of a finished run: at most 20 kB, without paths and host names.

    Args:
      run: a `plan.Run`.
      directories: `plan.Directories`.

    Returns:
      The dict that is written to ``RESULTS/NAME-SEED.json``.

    Raises:
      ValueError: if the run is not finished or has a different configuration, or if its files are damaged.
      OSError: if the result cannot be written.
    """
    workdir = directories.run(run)
    run_files = read_run(workdir)
    requested = run.config.with_record(run_files.config)
    if not run_files.is_finished(requested) or headers.training_differences(run_files.config, requested):
        raise ValueError(
            f"Expected {workdir} to be a finished run of {run.experiment.path}, but it is unfinished or has a "
            f"different configuration"
        )
    result = _result(run, run_files, workdir) | {"machines": read_state(run, directories).get("machines", [])}
    _check_result(result, workdir, "train the run again in a new --workdir")
    files.write_json(directories.result(run), result)
    # Returns what `read_result` would return.
    return json.loads(json.dumps(result))


def _result(run, run_files, workdir):
    """Returns a result without its machines."""
    try:
        reports = [record for record in run_files.records if record["kind"] == "train"]
        images = sum(report["examples"] for report in reports)
        seconds = sum(report["examples"] / report["images_per_second"] for report in reports)
        curve = _curve(run_files.records)
        errors = {
            split: {key: value for key, value in section.items() if key != "confusions"}
            for split, section in run_files.final_metrics["evaluation"].items()
        }
        counts = {split: _views(section, "center_crop")["num_examples"] for split, section in errors.items()}
    except (KeyError, TypeError, ZeroDivisionError, AttributeError) as error:
        raise ValueError(
            f"Expected metrics.jsonl and train.json of a run. Received: different contents in {workdir} ({error!r})"
        ) from None
    trained, written = headers.without_paths(run_files.config), headers.without_paths(run.experiment.config)
    defaults = config.Config().resolved()
    return {
        "experiment": run.experiment.name,
        "seed": run.seed,
        "overrides": overrides(trained, written),
        "configuration": {name: getattr(trained, name) for name in headers.differing_fields(trained, defaults)},
        "data": {
            "name": run.experiment.header.data,
            "source": _source_kind(run_files.config),
            # Without the partial batch of the training set, which an epoch drops.
            "images": {"train": run_files.steps_per_epoch * trained.batch_size, **counts},
        },
        "step": run_files.final_metrics["step"],
        # "best" or "newest" checkpoint; without the key the newest, as no other was kept.
        "selected": run_files.final_metrics.get("selected", "newest"),
        "errors": errors,
        "curve": curve,
        "images_seen": images,
        "wall_seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 3),
    }


def overrides(run_config: config.Config, written: config.Config) -> dict[str, Any]:
    """Returns the values of a configuration that differ from those written in the flagfile."""
    # A run replaces what is left open with what it uses.
    names = [name for name in headers.differing_fields(run_config, written) if name not in written.open_fields()]
    return {name: getattr(run_config, name) for name in names}


def _source_kind(run_config):
    """Returns the kind of the data source, without its location."""
    if run_config.data_dir:
        return "prepared"
    return run_config.source if run_config.source.startswith("tfds:") else run_config.source.partition(":")[0]


def _curve(records):
    """Returns the run's curve, thinned to `MAX_POINTS` epochs including the last, with five digits."""
    curve = metrics.curve(records)
    stride = -(-len(curve["epoch"]) // MAX_POINTS)
    shorten = lambda value: None if value is None else float(f"{value:.5g}")
    return {name: [shorten(value) for value in curve[name][::-1][::stride][::-1]] for name in CURVE}


def read_result(path: str) -> dict[str, Any]:
    """Reads a result that `collect` wrote.

    Raises:
      ValueError: if the file is not a result. The message names it.
    """
    result = schema.read_json(path, schema.Map(), _WHAT, _REMEDY)
    _check_result(result, path)
    return result


def _check_result(result, path, remedy=_REMEDY):
    schema.check(result, _RESULT, _WHAT, path, remedy)
    try:
        config_of(result)
        if not errors_in_percent(result, "center_crop") + errors_in_percent(result, "ten_views"):
            raise ValueError("no errors")
        if len({len(result["curve"][name]) for name in CURVE}) != 1:
            raise ValueError("a curve with columns of different lengths")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise schema.error(_WHAT, path, repr(error) if isinstance(error, KeyError) else error, remedy) from None


def config_of(result: dict[str, Any]) -> config.Config:
    """Returns the resolved configuration of a result, without the data's location."""
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in flagfiles.current_fields(result["configuration"]).items()
    }
    return dataclasses.replace(config.Config().resolved(), seed=result["seed"], **values)


def errors_in_percent(result: dict[str, Any], views: str, split: str = "") -> list[float]:
    """Returns the top-1 and, if there is one, the top-5 error of a split.

    Args:
      result: from `read_result`.
      views: "center_crop" or "ten_views".
      split: name of an evaluated split; empty for the test set, or the validation set without one.

    Returns:
      A list of errors in percent.
    """
    errors = result["errors"]
    section = _views(errors[split or ("test" if "test" in errors else "validation")], views)
    return [100 * section[name] for name in ("top1_error", "top5_error") if section[name] is not None]


def num_evaluated(result: dict[str, Any]) -> dict[str, int]:
    """Returns the number of images by held-out split, which distinguishes data sets."""
    return {split: count for split, count in result["data"]["images"].items() if split != "train"}


def add_training_errors(run: plan.Run, directories: plan.Directories, result: dict[str, Any]) -> dict[str, Any]:
    """Adds the errors of the trained network on training images to a result, as "train" among its errors.

    Args:
      run, directories: as in `collect`.
      result: of the run, whose work directory has an ``evaluation.json`` of the split "train".

    Returns:
      The result that is written.

    Raises:
      ValueError: if the evaluation is of another split or checkpoint than the result, or damaged.
      OSError: if a file cannot be read or written.
    """
    path = os.path.join(directories.run(run), "evaluation.json")
    found = metrics.read_evaluation(path)
    section = {key: value for key, value in found["evaluation"].get("train", {}).items() if key != "confusions"}
    selected = [each.get("selected", "newest") for each in (found, result)]
    if not section or selected[0] != selected[1] or (selected[0] == "newest" and found["step"] != result["step"]):
        raise ValueError(
            f"Expected {path} to have the errors on training images of the checkpoint in {directories.result(run)} "
            f"(step {result['step']}). Received: {', '.join(found['evaluation'])}, step {found['step']}"
        )
    result = {**result, "errors": {**result["errors"], "train": section}}
    _check_result(result, path, "evaluate the run again")
    files.write_json(directories.result(run), result)
    return json.loads(json.dumps(result))


def _views(section, views):
    """Returns the errors of a view set from a split's section; files of version 0.1 spell "center" as "centre"."""
    return section[views if views in section else _OLD_VIEWS.get(views, views)]
