"""Evaluates runs that are there: one, or several and what they say together."""

import dataclasses
import gc
import itertools
import os
from typing import NamedTuple

import numpy as np
import rich.console

from alexnet_tf.data import augmentation
from alexnet_tf.data import pipeline
from alexnet_tf.evaluation import ensembles
from alexnet_tf.evaluation import errors
from alexnet_tf.runs import dataset
from alexnet_tf.runs import restore
from alexnet_tf.utils import files

# Indices into `augmentation.ten_views`; the fifth is the central crop.
VIEWS = {"centre crop": [4], "ten views": list(range(10))}


class Judged(NamedTuple):
    """What a network says of all images of a split."""

    split: str
    labels: np.ndarray  # int64 [images]
    probabilities: dict  # from each of `VIEWS` to float32 [images, classes]
    results: dict  # from each to `errors.Errors`
    headline: str  # of `VIEWS`, the one that the run is judged by


def evaluate(workdirs, split="", *, source=None, data_dir=None, search_fraction=0.5, search_seed=0):
    """Evaluates the newest checkpoint of a run, or of several and their ensemble, by central crop and by ten views.

    An ensemble averages its members' probabilities, once plainly and once with weights that are searched on one part
    of the split and judged on the other. Each member has its own configuration, mean image and precision; all see the
    data of the first, and none may have been trained on what another holds out.

    Args:
      workdirs: a directory in which `train` ran, or a list of them.
      split: "validation", "test" or "train"; empty for the one that training watched.
      source, data_dir: another place of the data set, where it has moved; None for both takes the first run's.
      search_fraction: float in (0, 1), the share of each class that weights are searched on.
      search_seed: int, of that draw.

    Returns:
      The figures that it writes: to ``evaluation.json`` in the work directory, or of several to ``ensemble.json`` in
      the first.

    Raises:
      ValueError, OSError: for what is not there, not of this run, or not fit for an ensemble.
    """
    console = rich.console.Console(soft_wrap=True, highlight=False)
    workdirs = [workdirs] if isinstance(workdirs, (str, os.PathLike)) else list(workdirs)
    _check_directories(workdirs)
    configs = [restore.read_config(workdir, source, data_dir) for workdir in workdirs]
    data_source, _ = dataset.open_data(configs[0])
    split = split or dataset.monitored_split(data_source)
    if split not in data_source.splits:
        raise ValueError(f"Expected split to be one of {', '.join(data_source.splits)}. Received: {split}")
    if len(workdirs) > 1:
        search = {"fraction": search_fraction, "seed": search_seed}
        return _evaluate_ensemble(workdirs, configs, data_source, split, search, console)
    (workdir,), (config,) = workdirs, configs
    run = restore.open_run(workdir, config, data_source.class_names)
    data = dataset.load_data(config, data_source, [split], run.image_statistics, console)
    (judged,) = judge_all(config, run.model, data, [split], console)
    written = {"step": run.step, "checkpoint": run.checkpoint, "evaluation": {split: tell(judged, data, console)}}
    files.write_json(os.path.join(workdir, "evaluation.json"), written)
    return written


def _check_directories(workdirs):
    """Raises without a work directory, for one without a name, or one that stands twice."""
    if not workdirs:
        raise ValueError("Expected at least one work directory. Received: none")
    seen = {}
    for workdir in workdirs:
        if not os.fspath(workdir):
            raise ValueError(f"Expected work directories with commas between. Received: an empty one in {workdirs}")
        path = os.path.realpath(workdir)
        if path in seen:
            raise ValueError(f"Expected different work directories. Received: {seen[path]} and {workdir}, the same")
        seen[path] = workdir


def _evaluate_ensemble(workdirs, configs, data_source, split, search, console):
    """Evaluates several runs, one after another, and what they say together; writes and returns the figures."""
    _check_classes(workdirs, data_source.class_names)
    _check_same_examples(workdirs, configs, data_source, split)
    all_statistics = [restore.read_statistics(workdir) for workdir in workdirs]
    data, size, stacks, members, rows = None, None, {}, [], []
    for place, (workdir, config, image_statistics) in enumerate(zip(workdirs, configs, all_statistics)):
        if config.image_size != size:
            # Read as needed, so that there is room for the probabilities.
            size, uncached = config.image_size, dataclasses.replace(config, cache="none")
            data = dataset.load_data(uncached, data_source, [split], image_statistics, console)
            labels = data.examples[split].labels
            # Before the hours that an evaluation may take.
            searched, judged = ensembles.divide(labels, **search)
        _check_image_size(workdir, image_statistics, data.examples[split])
        kept, step, checkpoint = _collect(config, data._replace(statistics=image_statistics), split, workdir, console)
        # The network is gone before the next one is built.
        gc.collect()
        results = {}
        for way in VIEWS:
            stack = stacks.setdefault(way, np.empty([len(workdirs), *kept[way].shape], np.float32))
            stack[place] = kept.pop(way)
            try:
                results[way] = errors.from_probabilities(stack[place], labels)
            except ValueError as error:
                raise ValueError(f"{workdir}: {error}") from None
        members.append({"workdir": str(workdir), "step": step, "checkpoint": checkpoint, **_figures(results)})
        rows.append((str(workdir), results))
    found = {way: ensembles.evaluate(stack, labels, searched, judged) for way, stack in stacks.items()}
    mean, mean_held_out, weighted_held_out = (
        {way: getattr(each, name) for way, each in found.items()}
        for name in ("mean", "mean_held_out", "weighted_held_out")
    )
    majority = errors.majority_error(labels)
    console.print(f"{split}: {len(labels)} images, each seen once by each member", markup=False)
    console.print(ensembles.table([*rows, ("mean", mean)], majority=majority), markup=False)
    console.print(
        f"weights searched on {len(searched)} of the images (a share of {search['fraction']:g} of each class, seed "
        f"{search['seed']}), errors on the other {len(judged)}:",
        markup=False,
    )
    shares = [
        (f"weight of {name}", {way: each.weights[place] for way, each in found.items()})
        for place, (name, _) in enumerate(rows)
    ]
    console.print(
        ensembles.table([("mean", mean_held_out), ("weighted", weighted_held_out)], weights=shares), markup=False
    )
    written = {
        "split": split,
        "majority_error": majority,
        "members": members,
        "mean": _figures(mean),
        "search": {
            **search,
            "num_searched": len(searched),
            "num_judged": len(judged),
            "weights": {way.replace(" ", "_"): each.weights.tolist() for way, each in found.items()},
            "mean": _figures(mean_held_out),
            "weighted": _figures(weighted_held_out),
        },
    }
    path = os.path.join(workdirs[0], "ensemble.json")
    files.write_json(path, written)
    console.print(f"figures {path}", markup=False)
    return written


def _check_classes(workdirs, class_names):
    """Raises if a run's newest checkpoint is of other classes than the data, naming it and the first that differs."""
    for workdir in workdirs:
        found = restore.read_class_names(workdir)
        if found != list(class_names):
            pairs = enumerate(itertools.zip_longest(class_names, found, fillvalue="none"))
            place, (expected, received) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
            raise ValueError(
                f"Expected {workdir} to be of the data's {len(class_names)} classes, number {place} {expected!r}. "
                f"Received: {len(found)} classes, number {place} {received!r}"
            )


def _check_same_examples(workdirs, configs, data_source, split):
    """Raises if a run's own data set has other images in a split than the data: it may have been trained on those."""
    fields = ("source", "data_dir", "validation_fraction", "split_seed")
    expected = None
    for workdir, config in zip(workdirs[1:], configs[1:]):
        differing = [name for name in fields if getattr(config, name) != getattr(configs[0], name)]
        if not differing:
            continue
        expected = _names(data_source, split) if expected is None else expected
        own_source, _ = dataset.open_data(config)
        found = _names(own_source, split)
        if found != expected:
            first, second = (
                ", ".join(f"{name}={getattr(each, name)}" for name in differing) for each in (configs[0], config)
            )
            raise ValueError(
                f"Expected {workdir} to have the {split} images of {workdirs[0]}, {len(expected)} of {first}. "
                f"Received: {len(found)} of {second}, {len(expected.keys() & found.keys())} of them the same"
            )


def _names(source, split):
    """The label of each of a split's photographs by its name, as preparation names it; empty without the split."""
    if split not in source.splits:
        return {}
    part = source.splits[split]
    labels = part.labels.tolist()
    return {part.name_of(index).removeprefix(f"{source.root}/"): label for index, label in enumerate(labels)}


def _check_image_size(workdir, image_statistics, examples):
    size = image_statistics.mean_image.shape[0]
    if size != examples.image_size:
        raise ValueError(
            f"Expected images of {size} x {size}, as {workdir} was trained on. Received: {examples.image_size} x "
            f"{examples.image_size}"
        )


def _collect(config, data, split, workdir, console):
    """A run's probabilities of a split, as `errors.collect` keeps them, its step and its checkpoint's path."""
    run = restore.open_run(workdir, config, data.source.class_names)
    kept, _ = _probabilities(ten_views(config, run.model, data), data, split, console, f" by {workdir}")
    return kept, run.step, run.checkpoint


def _probabilities(ten_views, data, split, console, by=""):
    """What `errors.collect` keeps of a split, looked at in all `VIEWS`."""
    examples = data.examples[split]
    with dataset.progress_bar(console) as bar:
        task = bar.add_task(f"evaluating {len(examples)} {split} images{by}", total=len(examples))
        return errors.collect(
            ten_views,
            pipeline.evaluation_batches(examples, batch_size=dataset.EVALUATION_BATCH_SIZE),
            views=VIEWS,
            num_classes=len(data.source.class_names),
            num_examples=len(examples),
            progress=lambda done: bar.update(task, completed=done),
        )


def _figures(results):
    """The errors of several ways of looking, for JSON."""
    return {way.replace(" ", "_"): result.to_dict() for way, result in results.items()}


def ten_views(config, model, data):
    """`errors.probability_function` of a run's network by the ten views of its preparation."""
    return errors.probability_function(
        model,
        lambda images: augmentation.ten_views(
            images,
            data.statistics.mean_image,
            mean_crop=config.mean_crop,
            size=config.crop_size,
            scale=config.input_scale,
        ),
    )


def headline(config):
    """Which of `VIEWS` a run is judged by: ten views, but for a training that saw no mirror images, as of digits."""
    return "centre crop" if config.flips == "none" else "ten views"


def judge_all(config, model, data, splits, console=None):
    """Has a run's network look at every image of some splits.

    Args:
      config, model: the run's configuration and its network.
      data, console: as in `judge`.
      splits: names of the data's examples.

    Returns:
      A list of `Judged`.

    Raises:
      ValueError: as `judge`.
    """
    # Traced once for all.
    views, way = ten_views(config, model, data), headline(config)
    return [judge(views, data, split, console, headline=way) for split in splits]


def judge(ten_views, data, split, console=None, *, headline):
    """Has a network look at every image of a split.

    Args:
      ten_views: from the function of this name.
      data: `dataset.Data`.
      split: a name of its examples.
      console: a ``rich.console.Console`` for a progress bar.
      headline: from the function of this name.

    Returns:
      `Judged`.

    Raises:
      ValueError: for a network whose probabilities are none.
    """
    kept, labels = _probabilities(ten_views, data, split, console)
    results = {way: errors.from_probabilities(probabilities, labels) for way, probabilities in kept.items()}
    return Judged(split, labels, kept, results, headline)


def tell(judged, data, console):
    """Prints the errors of a `Judged` split; returns them for JSON."""
    results, split = judged.results, judged.split
    majority = errors.majority_error(judged.labels)
    console.print(f"{split}: {len(judged.labels)} images, each seen once", markup=False)
    console.print(errors.table(results, majority), markup=False)
    worst = errors.worst_confusions(results[judged.headline].confusion, data.source.class_names)
    for right, answered, times, share in worst:
        console.print(f"  {right} taken for {answered}: {times} times, {100 * share:.1f} % of its images", markup=False)
    return {
        "majority_error": majority,
        **_figures(results),
        "confusions": [list(row) for row in worst],
    }


def evaluate_split(probabilities, data, split, views, distribution):
    """Evaluates a split of the data in which each process of a `distribution.Distribution` takes a part.

    Args:
      probabilities: from `errors.probability_function`.
      data: `dataset.Data`.
      split: one of the keys of its examples.
      views: indices of the views to average, by the name of the result.
      distribution: sums what the processes have found.

    Returns:
      From each name of `views` to `errors.Errors` of all images, the same in every process.
    """
    examples = data.examples[split]
    return errors.evaluate(
        probabilities,
        pipeline.evaluation_batches(examples, batch_size=dataset.EVALUATION_BATCH_SIZE, worker=distribution.worker),
        views=views,
        num_classes=len(data.source.class_names),
        num_examples=len(examples),
        reduce_sum=distribution.sum,
    )
