"""From a configuration to a run: the one place that knows network, data, learning and evaluation together."""

import dataclasses
import functools
import json
import os
from typing import NamedTuple

import numpy as np
import rich.console
import rich.progress
import tensorflow as tf

from alexnet_tf import config as configuration
from alexnet_tf import model as network
from alexnet_tf.data import augmentation
from alexnet_tf.data import pipeline
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import errors
from alexnet_tf.evaluation import figures
from alexnet_tf.training import account as step_account
from alexnet_tf.training import actions
from alexnet_tf.training import optimization
from alexnet_tf.training import trainer as training

# Examples a step of evaluation; ten views make ten times as many crops.
EVALUATION_BATCH = 64
# Indices into `augmentation.ten_views`; the fifth is the central crop.
WAYS = {"centre crop": [4], "ten views": list(range(10))}
MOST_SKIPPED_NAMED = 10


class Data(NamedTuple):
    """A data set, read and ready."""

    source: sources.Source
    examples: dict  # of pipeline.Examples, by split
    statistics: statistics.Statistics


def build_model(config, num_classes, **changes):
    """The network of a configuration; `changes` are other arguments of `AlexNet`."""
    arguments = {
        "recipe": config.recipe,
        "devices": config.devices or None,
        "dropout": config.dropout,
        "seed": config.seed,
        **changes,
    }
    return network.AlexNet(num_classes, **arguments)


def build_optimizer(config, model):
    """The update rule for a model's variables: learning rate 0 is the weights', 1 the biases'."""
    rules = [
        optimization.Rule(1, config.bias_weight_decay)
        if variable.path.endswith("bias")
        else optimization.Rule(0, config.weight_decay)
        for variable in model.trainable_variables
    ]
    variables = [variable.value for variable in model.trainable_variables]
    return optimization.MomentumSGD(variables, rules, momentum=config.momentum)


def build_schedule(config):
    """The schedule of the learning rate."""
    if config.schedule == "plateau":
        return optimization.Plateau(factor=config.drop_factor, patience=config.patience, most_drops=config.most_drops)
    if config.schedule == "epochs":
        return optimization.Epochs(config.drop_epochs, factor=config.drop_factor)
    return optimization.Linear(config.epochs)


def learning_rates(config, schedule, progress):
    """The rates of weights and biases after `progress` epochs."""
    weights = config.learning_rate * schedule.multiplier(progress)
    biases = config.learning_rate * schedule.multiplier(progress, config.most_bias_drops)
    return [weights, biases * config.bias_learning_rate_factor]


def build_preparation(config, facts):
    """The function from a batch of `pipeline.training_batches` to (images, labels), compiled for the device."""
    prepare = functools.partial(
        augmentation.training_images,
        mean_image=tf.constant(facts.mean_image),
        components=tf.constant(facts.components),
        mean_crop=config.mean_crop,
        divisor=config.input_divisor,
    )

    @tf.function(jit_compile=True)
    def compiled(batch):
        draws = config.color_noise * batch["noise"]
        return prepare(batch["crops"], batch["offsets"], batch["flips"], draws)

    return lambda batch: (compiled(batch), batch["labels"])


def build_trainer(config, model, facts):
    """The training step of a configuration."""
    return training.Trainer(model, build_optimizer(config, model), build_preparation(config, facts))


def build_checkpoints(config, model, optimizer, schedule, source, workdir):
    """The checkpoints of a work directory: weights, dropout's state and, with an optimiser, velocities."""
    variables = {variable.path: variable.value for variable in model.variables}
    if optimizer:
        names = [variable.path for variable in model.trainable_variables]
        variables |= {f"{name}/velocity": value for name, value in zip(names, optimizer.velocities)}
    facts = {"network": "alexnet", "recipe": config.recipe, "classes": source.class_names}
    return actions.Checkpoints(
        os.path.join(workdir, "checkpoints"),
        variables,
        schedule,
        facts,
        every=config.checkpoint_steps,
        keep=config.keep_checkpoints,
    )


def open_data(config):
    """The configuration's source, with a validation set held out of the training set where it has none.

    Raises:
      ValueError, FileNotFoundError, ModuleNotFoundError: as `sources.open_source`.
    """
    source = sources.open_source(config.source)
    if "validation" in source.splits:
        return source
    first, second = sources.stratified_split(source.splits["train"], config.validation_fraction, config.split_seed)
    return source._replace(splits={**source.splits, "train": first, "validation": second})


def load_data(config, source, workdir, splits, console):
    """Reads splits of a source, once from end to end, and the training set's statistics.

    The statistics are taken the first time that the training set is read, and kept in the work directory.

    Args:
      config, workdir: of the run.
      source: from `open_data`.
      splits: names of the splits to read.
      console: a ``rich.console.Console`` that is told about photographs that cannot be read.

    Returns:
      `Data`.
    """
    path = os.path.join(workdir, "statistics.npz")
    facts = statistics.load(path) if os.path.exists(path) else None
    examples = {}
    for split in splits:
        count = len(source.splits[split].labels)
        with rich.progress.Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"reading {count} {split} images", total=count)
            examples[split], skipped, found = pipeline.load(
                source.splits[split],
                cache=config.cache,
                collect_statistics=split == "train" and facts is None,
                progress=lambda done, bar=bar, task=task: bar.update(task, completed=done),
            )
        console.print(f"{split}: {len(examples[split])} images of {len(source.class_names)} classes", markup=False)
        if skipped:
            console.print(f"warning: {len(skipped)} {split} files could not be read and are left out", markup=False)
            for example in skipped[:MOST_SKIPPED_NAMED]:
                console.print(f"  {example.name}: {example.reason}", markup=False)
        if found:
            facts = found
            statistics.save(facts, path)
    if facts is None:
        raise FileNotFoundError(f"Expected the training set's statistics in {path}. Received: none")
    return Data(source, examples, facts)


def _claim(config, workdir):
    """Makes the work directory this configuration's, or checks that it is."""
    path = os.path.join(workdir, "config.flags")
    if os.path.exists(path):
        before = configuration.read_flagfile(path)
        fields = config.differences(before)
        if fields:
            raise ValueError(
                f"Expected the configuration of {path}: "
                + ", ".join(f"{field}={getattr(before, field)}" for field in fields)
                + ". Received: "
                + ", ".join(f"{field}={getattr(config, field)}" for field in fields)
                + "; take another --workdir, or these values"
            )
    os.makedirs(workdir, exist_ok=True)
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        file.write(config.to_flagfile())
    os.replace(f"{path}.part", path)


def evaluate_split(probabilities, data, split, ways, console=None):
    """`errors.evaluate` over a split of the data, with a progress bar if there is a console."""
    examples = data.examples[split]
    batches = pipeline.evaluation_batches(examples, batch_size=EVALUATION_BATCH)
    with rich.progress.Progress(console=console, transient=True, disable=console is None) as bar:
        task = bar.add_task(f"evaluating {len(examples)} {split} images", total=len(examples))
        return errors.evaluate(
            probabilities,
            batches,
            ways=ways,
            num_classes=len(data.source.class_names),
            num_examples=len(examples),
            progress=lambda done: bar.update(task, completed=done),
        )


def _ten_views(config, model, data):
    return errors.probability_function(
        model,
        lambda images: augmentation.ten_views(images, data.statistics.mean_image, mean_crop=config.mean_crop),
    )


def _print_results(console, data, split, results):
    """Prints a split's errors; returns them for JSON."""
    majority = errors.majority_error(data.examples[split].labels)
    console.print(f"{split}: {len(data.examples[split])} images, each seen once", markup=False)
    console.print(errors.table(results, majority), markup=False)
    names = data.source.class_names
    worst = errors.worst_confusions(results["ten views"].confusion, names)
    for right, answered, times, share in worst:
        console.print(f"  {right} taken for {answered}: {times} times, {100 * share:.1f} % of its images", markup=False)
    return {
        "majority_error": majority,
        **{name.replace(" ", "_"): result.to_dict() for name, result in results.items()},
        "confusions": worst,
    }


def write_json(path, values):
    """Writes figures for machines, aside first, so that `path` is whole or not there."""
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
    os.replace(f"{path}.part", path)


def placement_account(config, num_classes, json_path=""):
    """What each device does in one training step of a configuration, and what crosses.

    Args:
      config: a `config.Config`.
      num_classes: int.
      json_path: where to write the account for machines; empty for nowhere.

    Returns:
      The account as text, from `training.account`.

    Raises:
      ValueError: for a bad configuration or a device that is not there.
    """
    config = config.resolved()
    blank = statistics.Statistics(
        np.zeros([pipeline.IMAGE_SIZE, pipeline.IMAGE_SIZE, 3], np.float32),
        np.eye(3, dtype=np.float32),
        np.ones(3, np.float32),
        0,
    )
    trainer = build_trainer(config, build_model(config, num_classes), blank)
    size = config.batch_size
    batch = {
        "crops": tf.zeros([size, pipeline.CROP_SIZE, pipeline.CROP_SIZE, 3], tf.uint8),
        "offsets": tf.zeros([size, 2], tf.int32),
        "flips": tf.zeros([size, 2], tf.bool),
        "labels": tf.zeros([size], tf.int64),
        "noise": tf.zeros([size, 3], tf.float32),
    }
    rates = tf.constant(learning_rates(config, build_schedule(config), 0.0), tf.float32)
    found = step_account.account(trainer.step, batch, rates)
    if json_path:
        write_json(json_path, step_account.as_dict(found))
    return step_account.table(found)


def train(config, workdir):
    """Trains as a configuration says, from where the work directory stands, and evaluates at the end.

    Args:
      config: a `config.Config`.
      workdir: the run's directory; made if it is not there.

    Returns:
      The figures that it writes to ``train.json`` in the work directory.

    Raises:
      ValueError: for a bad configuration, data set or work directory, or a loss that is not finite.
      OSError: for what is not there, or a full disk.
    """
    config = config.resolved()
    console = rich.console.Console(soft_wrap=True, highlight=False)
    source = open_data(config)
    _claim(config, workdir)
    data = load_data(config, source, workdir, ["train", "validation"], console)
    model = build_model(config, len(source.class_names))
    trainer = build_trainer(config, model, data.statistics)
    schedule = build_schedule(config)
    checkpoints = build_checkpoints(config, model, trainer.optimizer, schedule, source, workdir)
    first_step = checkpoints.restore()
    if first_step:
        console.print(f"resumed from {checkpoints.latest}, step {first_step}", markup=False)
    steps_per_epoch = pipeline.batches_per_epoch(len(data.examples["train"]), config.batch_size)
    steps = max(1, round(config.epochs * steps_per_epoch))
    if first_step < steps:
        _learn(config, workdir, data, model, trainer, schedule, checkpoints, first_step, steps, steps_per_epoch)
    return _finish(config, workdir, data, model, checkpoints, steps, console)


def _learn(config, workdir, data, model, trainer, schedule, checkpoints, first_step, steps, steps_per_epoch):
    batches = pipeline.training_batches(
        data.examples["train"],
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=first_step,
        steps=steps,
        crops=config.crops,
        flips=config.flips,
    )
    metrics = actions.Metrics(os.path.join(workdir, "metrics.jsonl"), first_step)
    summaries = actions.Summaries(os.path.join(workdir, "tensorboard"))
    center = errors.probability_function(
        model, lambda images: [augmentation.central_view(images, data.statistics.mean_image)]
    )
    with actions.Terminal(steps, first_step, steps_per_epoch) as terminal:
        flat = actions.FlatLoss(len(data.source.class_names), lambda text: terminal.print(f"warning: {text}"))
        validation = _EpochEnd(center, data, schedule, terminal, metrics, summaries)
        training.train(
            trainer,
            batches,
            steps=steps,
            steps_per_epoch=steps_per_epoch,
            learning_rates=lambda progress: learning_rates(config, schedule, progress),
            actions=[terminal, metrics, summaries, flat, validation, checkpoints],
            first_step=first_step,
            report_every=config.report_steps,
        )
        checkpoints.save(steps)


class _EpochEnd:
    """Validates at each epoch's end, tells the schedule, and prints the epoch's line."""

    def __init__(self, probabilities, data, schedule, terminal, metrics, summaries):
        self._probabilities = probabilities
        self._data = data
        self._schedule = schedule
        self._terminal = terminal
        self._metrics = metrics
        self._summaries = summaries
        self._reports = []

    def __call__(self, progress):
        self._reports.append(progress)
        if not progress.epoch_ended:
            return
        result = evaluate_split(self._probabilities, self._data, "validation", {"centre crop": [0]})["centre crop"]
        examples = np.array([report.examples for report in self._reports])
        train_loss = np.average([report.train_loss for report in self._reports], weights=examples)
        train_error = np.average([report.train_error for report in self._reports], weights=examples)
        speed = examples.sum() / sum(n / r.images_per_second for n, r in zip(examples, self._reports))
        self._reports = []
        dropped = self._schedule.epoch_ended(result.top1_error)
        self._metrics.write(kind="validation", step=progress.step, epoch=progress.epoch, **result.to_dict())
        self._summaries.scalars(progress.step, validation_loss=result.loss, validation_top1_error=result.top1_error)
        top5 = "" if result.top5_error is None else f" top-5 {100 * result.top5_error:.2f} %"
        self._terminal.print(
            f"epoch {round(progress.epoch)}: train loss {train_loss:.4f} error {100 * train_error:.2f} %, validation "
            f"loss {result.loss:.4f} error {100 * result.top1_error:.2f} %{top5}, rate {progress.learning_rate:.3g}, "
            f"{speed:.1f} images/s" + ("; the rate drops" if dropped else "")
        )


def _finish(config, workdir, data, model, checkpoints, steps, console):
    """Ten views, kernels, figures for machines, and the last lines."""
    ten = _ten_views(config, model, data)
    written = {"step": steps, "checkpoint": checkpoints.latest, "evaluation": {}}
    if "test" in data.source.splits:
        test = load_data(config, data.source, workdir, ["test"], console)
        data = data._replace(examples={**data.examples, **test.examples})
    for split in sorted(data.examples.keys() - {"train"}, reverse=True):
        results = evaluate_split(ten, data, split, WAYS, console)
        written["evaluation"][split] = _print_results(console, data, split, results)
    picture = os.path.join(workdir, "kernels.png")
    kernels = [model.get_layer(f"conv1_{tower}").kernel.numpy() for tower in "ab"]
    figures.save_png(figures.kernels(kernels), picture)
    write_json(os.path.join(workdir, "train.json"), written)
    console.print(
        f"run {workdir}\n  checkpoint  {checkpoints.latest}\n"
        f"  logs        tensorboard --logdir={workdir}\n  kernels     {picture}",
        markup=False,
    )
    if data.source.license:
        console.print(f"data: {data.source.license}", markup=False)
    return written


def evaluate(workdir, split="validation", source=None):
    """Evaluates a run's newest checkpoint, by the central crop and by ten views.

    Args:
      workdir: a directory in which `train` ran.
      split: "validation", "test" or "train".
      source: another specification of the data set, where it has moved; None takes the run's.

    Returns:
      The figures that it writes to ``evaluation.json`` in the work directory.

    Raises:
      ValueError, OSError: for what is not there or not of this run.
    """
    console = rich.console.Console(soft_wrap=True, highlight=False)
    path = os.path.join(workdir, "config.flags")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a run with its config.flags in {workdir}. Received: none")
    config = configuration.read_flagfile(path)
    if source:
        config = dataclasses.replace(config, source=source)
    data_source = open_data(config)
    if split not in data_source.splits:
        raise ValueError(f"Expected split to be one of {', '.join(data_source.splits)}. Received: {split}")
    model = build_model(config, len(data_source.class_names), devices=None)
    checkpoints = build_checkpoints(config, model, None, build_schedule(config), data_source, workdir)
    if not checkpoints.latest:
        raise FileNotFoundError(f"Expected a checkpoint in {workdir}/checkpoints. Received: none")
    step = checkpoints.restore()
    data = load_data(config, data_source, workdir, [split], console)
    results = evaluate_split(_ten_views(config, model, data), data, split, WAYS, console)
    written = {
        "step": step,
        "checkpoint": checkpoints.latest,
        "evaluation": {split: _print_results(console, data, split, results)},
    }
    write_json(os.path.join(workdir, "evaluation.json"), written)
    return written
