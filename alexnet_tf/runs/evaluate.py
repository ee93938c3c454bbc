"""Evaluates existing runs: one alone, or several and their ensemble."""

import dataclasses
import gc
import itertools
import os
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from alexnet_tf.data import sources
from alexnet_tf.evaluation import ensembles
from alexnet_tf.evaluation import errors
from alexnet_tf.runs import classification
from alexnet_tf.runs import data_record
from alexnet_tf.runs import dataset
from alexnet_tf.runs import fitted_temperature
from alexnet_tf.runs import predictions
from alexnet_tf.runs import restore
from alexnet_tf.runs import split_results
from alexnet_tf.utils import csv_files
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import output


class Options(NamedTuple):
    """What to compute and write in addition to the errors of a single run.

    Temperatures and thresholds are chosen on the monitored split of training, usually the validation set, whichever
    split is evaluated.
    """

    fit_temperature: bool = False  # also writes ``temperature.json`` to the work directory
    # The share of the images of the positive class, of two, that a threshold is to find, in (0, 1]; None for none.
    sensitivity: float | None = None
    positive_class: str = ""
    classes_csv: str = ""  # path of a table of precision, recall, F1 and support of each class; empty for none
    confusion_csv: str = ""  # path of a table of the confusion matrix; empty for none
    predictions_csv: str = ""  # path of a table of what is predicted for each image; empty for none
    top: int = 5  # number of classes per image in that table


def evaluate(
    workdirs: str | os.PathLike | Sequence[str | os.PathLike],
    split: str = "",
    *,
    images: int = 0,
    source: str | None = None,
    data_dir: str | None = None,
    checkpoint: str = "auto",
    search_fraction: float = 0.5,
    search_seed: int = 0,
    options: Options | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run, or of several runs and their ensemble, with all view sets.

    An ensemble averages the probabilities of its members: once with equal weights, and once with weights that are
    searched on one part of the split and evaluated on the rest. Each member keeps its own configuration, mean image and
    precision. All members are evaluated on the data set of the first, and each must hold out the same images.

    Args:
      workdirs: a directory in which `train` ran, or a list of them.
      split: "validation", "test" or "train"; empty for the monitored split of training.
      images: number of images of the split to evaluate, the same fraction of each class; 0 for all.
      source, data_dir: the new location of a data set that has moved; None for both uses the first run's.
      checkpoint: "best", "newest" or "auto", as in `selection.select`, for each run.
      search_fraction: float in (0, 1), the share of each class that the weights are searched on.
      search_seed: seed of the choice of these images.
      options: what else to compute and write for a single run.

    Returns:
      The results, which it also writes to ``evaluation.json`` in the work directory, or for several runs to
      ``ensemble.json`` in the first.

    Raises:
      ValueError, OSError: if a file is missing or does not belong to the run, or the runs do not make an ensemble.
    """
    console = output.Console()
    workdirs = [workdirs] if isinstance(workdirs, (str, os.PathLike)) else list(workdirs)
    _check_directories(workdirs)
    configs = [restore.read_config(workdir, source, data_dir) for workdir in workdirs]
    data_source, _ = dataset.open_data(configs[0], dataset.logger(console), workdir=workdirs[0])
    split = split or dataset.monitored_split(data_source)
    if split not in data_source.splits:
        raise ValueError(f"Expected split to be one of {', '.join(data_source.splits)}. Received: {split}")
    if len(workdirs) > 1:
        if options not in (None, Options()):
            raise ValueError(
                "Expected a single run for results by class, temperatures and thresholds. Received: several"
            )
        _check_classes(workdirs, data_source.class_names)
        _check_same_examples(workdirs, configs, data_source, split)
    if images:
        data_source = _with_part(data_source, split, images, configs[0].split_seed, console)
    if len(workdirs) > 1:
        search = {"fraction": search_fraction, "seed": search_seed}
        return _evaluate_ensemble(workdirs, configs, data_source, split, checkpoint, search, console)
    return _evaluate_one(workdirs[0], configs[0], data_source, split, checkpoint, options or Options(), console)


def _with_part(data_source, split, images, seed, console):
    """Returns the data set with at most so many images of a split, chosen by a hash of their names."""
    total = len(data_source.splits[split].labels)
    if images >= total:
        return data_source
    part = sources.hashed_subset(data_source.splits[split], images, seed, data_source.root, "images")
    console.print(f"{split}: {images} of {total} images, the same fraction of each class", markup=False)
    return data_source._replace(splits={**data_source.splits, split: part})


def _evaluate_one(workdir, run_config, data_source, split, checkpoint, options, console):
    """Evaluates one run; writes and returns the figures."""
    positive = _check_options(options, data_source.class_names)
    is_chosen = options.fit_temperature or options.sensitivity is not None
    monitored = dataset.monitored_split(data_source)
    if is_chosen and monitored == "train":
        raise ValueError(
            "Expected a validation or test set, as a temperature and a threshold need images that the network is not "
            f"trained on. Received: none in {data_source.name}"
        )
    splits = list(dict.fromkeys([monitored, split] if is_chosen else [split]))
    run = restore.open_run(workdir, run_config, data_source.class_names, checkpoint)
    console.print(f"checkpoint {run.checkpoint} ({run.chosen.describe()})", markup=False)
    data = dataset.load_data(run.config, data_source, splits, run.image_statistics, console)
    results = split_results.evaluate_splits(run.config, run.model, data, splits, console)
    result = results[-1]
    choice = classification.choose(
        results[0], fit_temperature=options.fit_temperature, sensitivity=options.sensitivity, positive=positive
    )
    section = classification.to_json(result, data_source.class_names, choice)
    written = {
        "step": run.step,
        "checkpoint": run.checkpoint,
        **run.chosen.to_json(),
        "evaluation": {split: split_results.print_result(run.config, result, data, console)},
        "classification": {split: section},
    }
    classification.print_figures(result, section, data_source.display_names, choice, console)
    path = os.path.join(run.workdir, "evaluation.json")
    files.write_json(path, written, short_lists=True)
    console.print(f"errors {path}")
    if options.fit_temperature:
        console.print(f"temperatures {fitted_temperature.write(run.workdir, choice, run.step)}")
    _write_tables(options, result, data, console)
    return written


def _check_options(options, class_names):
    """Returns the index of the positive class; raises for options that would be of no use after the evaluation."""
    if not options.top >= 1:
        raise ValueError(f"Expected top to be at least 1. Received: {options.top}")
    for path in filter(None, (options.classes_csv, options.confusion_csv, options.predictions_csv)):
        csv_files.check(path)
    if options.sensitivity is None:
        if options.positive_class:
            raise ValueError(f"Expected sensitivity with positive_class={options.positive_class}. Received: none")
        return 1
    if not 0 < options.sensitivity <= 1:
        raise ValueError(f"Expected sensitivity to be above 0 and at most 1. Received: {options.sensitivity:g}")
    return classification.positive_index(class_names, options.positive_class)


def _write_tables(options, result, data, console):
    class_names = data.source.class_names
    for path, write in (
        (options.classes_csv, lambda path: classification.write_classes_csv(path, result, class_names)),
        (options.confusion_csv, lambda path: classification.write_confusion_csv(path, result, class_names)),
        (options.predictions_csv, lambda path: predictions.write_evaluated(path, result, data, options.top)),
    ):
        if path:
            write(path)
            console.print(f"table {path}")


def _check_directories(workdirs):
    """Raises ValueError if there is no work directory, one is empty, or two are the same."""
    if not workdirs:
        raise ValueError("Expected at least one work directory. Received: none")
    seen = {}
    for workdir in workdirs:
        if not os.fspath(workdir):
            raise ValueError(f"Expected work directories separated by commas. Received: an empty name in {workdirs}")
        path = os.path.realpath(workdir)
        if path in seen:
            raise ValueError(f"Expected different work directories. Received: {seen[path]} and {workdir}, the same")
        seen[path] = workdir


class _Members(NamedTuple):
    """What the members of an ensemble predict for a split."""

    labels: np.ndarray  # int64 [images]
    probabilities: dict[str, np.ndarray]  # from each view set to float32 [members, images, classes]
    results: list[tuple[str, dict[str, errors.Errors]]]  # each member's name and errors
    figures: list[dict[str, Any]]  # the same with step and checkpoint, for JSON
    searched: np.ndarray  # indices of the images that weights are searched on
    held_out: np.ndarray  # indices of the others


def _evaluate_ensemble(workdirs, configs, data_source, split, checkpoint, search, console):
    """Evaluates several runs and their ensemble; writes and returns the figures."""
    members = _collect_members(workdirs, configs, data_source, split, checkpoint, search, console)
    ensemble = {
        name: ensembles.evaluate(stack, members.labels, members.searched, members.held_out)
        for name, stack in members.probabilities.items()
    }
    _print_ensemble(members, ensemble, split, search, console)
    for run_config, (workdir, results) in zip(configs, members.results):
        headline = split_results.headline_views(run_config)
        result = split_results.SplitResult(split, members.labels, {}, results, headline)
        for text in split_results.warnings(run_config, result, data_source.display_names):
            console.print(escaping.one_line(f"warning: {workdir}: {text}"), markup=False)
    select = lambda field: {name: getattr(each, field) for name, each in ensemble.items()}
    written = {
        "split": split,
        "majority_error": errors.majority_error(members.labels),
        "members": members.figures,
        "mean": split_results.to_json(select("mean")),
        "gain": {split_results.json_key(name): gain for name, gain in _gains(members, ensemble).items()},
        "search": {
            **search,
            "num_searched": len(members.searched),
            "num_judged": len(members.held_out),
            "weights": {split_results.json_key(name): weights.tolist() for name, weights in select("weights").items()},
            "mean": split_results.to_json(select("mean_held_out")),
            "weighted": split_results.to_json(select("weighted_held_out")),
        },
    }
    path = os.path.join(workdirs[0], "ensemble.json")
    files.write_json(path, written)
    console.print(f"ensemble errors {path}", markup=False)
    return written


def _collect_members(workdirs, configs, data_source, split, checkpoint, search, console):
    """Evaluates the members one after another, so that one network is in memory at a time."""
    all_statistics = [restore.read_statistics(workdir) for workdir in workdirs]
    data, size, stacks, figures, rows = None, None, {}, [], []
    for place, (workdir, run_config) in enumerate(zip(workdirs, configs)):
        if run_config.image_size != size:
            # Images are not cached, which leaves the memory to the probabilities.
            size, uncached = run_config.image_size, dataclasses.replace(run_config, cache="none")
            data = dataset.load_data(uncached, data_source, [split], all_statistics[place], console)
            labels = data.examples[split].labels
            # Raises for a bad fraction before an evaluation that may take hours.
            searched, held_out = ensembles.divide(labels, **search)
        _check_image_size(workdir, all_statistics[place], data.examples[split])
        collected, entry = _collect_member(workdir, run_config, data, split, checkpoint, console)
        # Frees the network before the next one is built.
        gc.collect()
        results = {}
        for name in split_results.VIEWS:
            stack = stacks.setdefault(name, np.empty([len(workdirs), *collected[name].shape], np.float32))
            stack[place] = collected.pop(name)
            try:
                results[name] = errors.from_probabilities(stack[place], labels)
            except ValueError as error:
                raise ValueError(f"{workdir}: {error}") from None
        rows.append((str(workdir), results))
        figures.append({**entry, **split_results.to_json(results)})
    return _Members(labels, stacks, rows, figures, searched, held_out)


def _collect_member(workdir, run_config, data, split, checkpoint, console):
    """Returns a run's probabilities of a split, and for JSON what was evaluated."""
    run = restore.open_run(workdir, run_config, data.source.class_names, checkpoint)
    console.print(f"checkpoint {run.checkpoint} ({run.chosen.describe()})", markup=False)
    own_data = data._replace(statistics=run.image_statistics)
    probabilities = split_results.ten_views_function(run_config, run.model, own_data)
    collected, _ = split_results.collect(probabilities, own_data, split, console, f" with {workdir}")
    entry = {"workdir": str(workdir), "step": run.step, "checkpoint": run.checkpoint, **run.chosen.to_json()}
    return collected, entry


def _gains(members, ensemble):
    """Returns `ensembles.gain` of each view set."""
    return {
        name: ensembles.gain([results[name] for _, results in members.results], each.mean)
        for name, each in ensemble.items()
    }


def _print_ensemble(members, ensemble, split, search, console):
    """Prints the errors of members and ensemble, and the weights that were found."""
    select = lambda field: {name: getattr(each, field) for name, each in ensemble.items()}
    majority = errors.majority_error(members.labels)
    console.print(f"{split}: {len(members.labels)} images, each evaluated once by each member", markup=False)
    console.print(ensembles.table([*members.results, ("mean", select("mean"))], majority=majority), markup=False)
    for name, gain in _gains(members, ensemble).items():
        kinds = {"top-1": gain["top1_error"], "top-5": gain["top5_error"]}
        points = ", ".join(f"{kind} {100 * value:+.2f}" for kind, value in kinds.items() if value is not None)
        console.print(f"gain of the mean over the average member, {name}, in percentage points: {points}", markup=False)
    console.print(
        f"weights searched on {len(members.searched)} images ({100 * search['fraction']:g}% of each class, seed "
        f"{search['seed']}), errors on the other {len(members.held_out)}:",
        markup=False,
    )
    shares = [
        (f"weight of {name}", {view_set: each.weights[place] for view_set, each in ensemble.items()})
        for place, (name, _) in enumerate(members.results)
    ]
    held_out = [("mean", select("mean_held_out")), ("weighted", select("weighted_held_out"))]
    console.print(ensembles.table(held_out, weights=shares), markup=False)


def _check_classes(workdirs, class_names):
    """Raises ValueError if a run has other classes than the data set; names the run and the first difference."""
    for workdir in workdirs:
        own = restore.read_class_names(workdir)
        if own != list(class_names):
            pairs = enumerate(itertools.zip_longest(class_names, own, fillvalue="none"))
            place, (expected, received) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
            raise ValueError(
                f"Expected {workdir} to have the {len(class_names)} classes of the data set, number {place} "
                f"{expected!r}. Received: {len(own)} classes, number {place} {received!r}"
            )


def _check_same_examples(workdirs, configs, data_source, split):
    """Raises ValueError if a run's own split has other images: it may have been trained on those to evaluate."""
    fields = ("source", "data_dir", "validation_fraction", "split_seed", "split_rule")
    expected = None
    for workdir, run_config in zip(workdirs[1:], configs[1:]):
        differing = [name for name in fields if getattr(run_config, name) != getattr(configs[0], name)]
        if not differing and not any(map(data_record.read, (workdirs[0], workdir))):
            continue
        expected = _labels_by_name(data_source, split) if expected is None else expected
        own_source, _ = dataset.open_data(run_config, workdir=workdir)
        own = _labels_by_name(own_source, split)
        if own != expected:
            first, second = (
                ", ".join(f"{name}={getattr(each, name)}" for name in differing) or "its own record"
                for each in (configs[0], run_config)
            )
            raise ValueError(
                f"Expected {workdir} to have the {split} images of {workdirs[0]}, {len(expected)} with {first}. "
                f"Received: {len(own)} with {second}, {len(expected.keys() & own.keys())} of them the same"
            )


def _labels_by_name(source, split):
    """Returns the label of each image of a split by its name in prepared data; empty if there is no such split."""
    if split not in source.splits:
        return {}
    part = source.splits[split]
    labels = part.labels.tolist()
    return {part.name_of(index).removeprefix(f"{source.root}/"): label for index, label in enumerate(labels)}


def _check_image_size(workdir, image_statistics, examples):
    size = image_statistics.mean_image.shape[0]
    if size != examples.image_size:
        raise ValueError(
            f"Expected images of {size} x {size}, the size that {workdir} was trained on. Received: "
            f"{examples.image_size} x {examples.image_size}"
        )
