"""A run in its work directory: training from where it stands."""

import contextlib
import dataclasses
import os

import numpy as np
import rich.console

from alexnet_tf import assessment
from alexnet_tf import config as configuration
from alexnet_tf import dataset
from alexnet_tf import experiment
from alexnet_tf import files
from alexnet_tf import logs
from alexnet_tf import messages
from alexnet_tf import placement
from alexnet_tf import report
from alexnet_tf.data import augmentation
from alexnet_tf.data import pipeline
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import errors
from alexnet_tf.training import actions
from alexnet_tf.training import timeline
from alexnet_tf.training import trainer as training


def train(config, workdir, profile_steps=()):
    """Trains as a configuration says, from where the work directory stands, and evaluates at the end.

    Args:
      config: a `config.Config`.
      workdir: the run's directory; made if it is not there.
      profile_steps: the first and the last step to profile, counted from 1 at the start of the run; empty for none.

    Returns:
      The figures that it writes to ``train.json`` in the work directory.

    Raises:
      ValueError: for a bad configuration, data set or work directory, steps to profile that are none, or a loss that
        is not finite.
      OSError: for what is not there, or a full disk.
    """
    config = config.resolved()
    console = rich.console.Console(soft_wrap=True, highlight=False)
    _check_configuration(config, workdir)
    actions.check_profile_steps(profile_steps)
    # Before the data are read.
    devices = placement.choose_devices(config.devices)
    source, facts = dataset.open_data(config)
    facts = _read_statistics(workdir) or facts
    watched = dataset.watched_split(source)
    data = dataset.load_data(config, source, ["train", watched], facts, console)
    steps_per_epoch = pipeline.batches_per_epoch(len(data.examples["train"]), config.batch_size)
    steps = max(1, round(config.epochs * steps_per_epoch))
    model = experiment.build_model(config, len(source.class_names))
    trainer = experiment.build_trainer(config, model, data.statistics)
    schedule = experiment.build_schedule(config)
    class_names = source.class_names
    checkpoints = experiment.build_checkpoints(config, model, trainer.optimizer, schedule, class_names, workdir)
    first_step = checkpoints.restore()
    if first_step > steps:
        raise ValueError(
            f"Expected epochs to be at least {first_step / steps_per_epoch:g}, the {first_step} steps that {workdir} "
            f"has taken. Received: {config.epochs:g}"
        )
    if config.initialize_from and not first_step:
        path = experiment.initialize_weights(config, model)
        console.print(f"starts from {path}, but for {', '.join(config.new_layers) or 'nothing'}", markup=False)
    # All is well: from here on the work directory is this configuration's.
    _claim(config, workdir, data.statistics)
    if first_step:
        console.print(f"resumed from {checkpoints.latest}, step {first_step}", markup=False)
    if first_step < steps:
        batches = pipeline.training_batches(
            data.examples["train"],
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=first_step,
            steps=steps,
            crop_size=config.crop_size,
            crops=config.crops,
            flips=config.flips,
            images_per_draw=config.images_per_draw,
            reshuffle=config.reshuffle,
            noise_epochs=config.color_noise_epochs or None,
        )
        latest = logs.Latest(pipeline.prefetch_to_device(batches, placement.input_device(devices)))
        summaries = actions.Summaries(os.path.join(workdir, "tensorboard"))
        details = logs.details(summaries, model, trainer, latest, config, first_step / steps_per_epoch)
        with (
            actions.Terminal(steps, first_step, steps_per_epoch) as terminal,
            _profile(profile_steps, first_step, steps, workdir, trainer, latest, config, terminal) as step_context,
        ):
            own = _actions(config, workdir, data, watched, model, schedule, terminal, summaries, first_step)
            training.train(
                trainer,
                latest,
                steps=steps,
                steps_per_epoch=steps_per_epoch,
                learning_rates=lambda progress: experiment.learning_rates(config, schedule, progress),
                actions=[*own, details, checkpoints],
                first_step=first_step,
                report_every=config.report_steps,
                step_context=step_context,
            )
            checkpoints.save(steps)
    return _finish(config, workdir, data, model, checkpoints.latest, steps, console)


def _check_configuration(config, workdir):
    """Raises if the work directory is another configuration's, naming the fields that differ."""
    path = os.path.join(workdir, "config.flags")
    if not os.path.exists(path):
        return
    before = configuration.read_flagfile(path).resolved()
    fields = config.differences(before)
    if fields:
        values = dataclasses.asdict(before), dataclasses.asdict(config)
        raise ValueError(messages.other_values(f"the configuration of {path}", fields, *values, "workdir"))


def _read_statistics(workdir):
    path = os.path.join(workdir, "statistics.npz")
    return statistics.load(path) if os.path.exists(path) else None


def _claim(config, workdir, facts):
    """Makes the work directory this configuration's."""
    os.makedirs(workdir, exist_ok=True)
    statistics.save(facts, os.path.join(workdir, "statistics.npz"))
    with files.whole(os.path.join(workdir, "config.flags")) as file:
        file.write(config.to_flagfile())


@contextlib.contextmanager
def _profile(wanted, first_step, steps, workdir, trainer, latest, config, terminal):
    """Yields what stands around each step, of which the wanted ones are profiled if they are all still to come."""
    if wanted and not first_step < wanted[0] <= steps:
        terminal.print(
            f"warning: nothing is profiled: step {wanted[0]} is not among those to come, {first_step + 1} to {steps}"
        )
        wanted = ()
    if not wanted:
        yield lambda step: contextlib.nullcontext()
        return
    describe = lambda: timeline.describe(logs.step_graph(trainer, latest.batch, config))
    with actions.Profiler(os.path.join(workdir, "tensorboard"), *wanted, describe) as profiler:
        yield profiler.step
    terminal.print(
        f"profiled steps {wanted[0]} to {min(wanted[1], steps)}: tools/profile_report.py --workdir={workdir}"
    )


def _actions(config, workdir, data, watched, model, schedule, terminal, summaries, first_step):
    metrics = actions.Metrics(os.path.join(workdir, "metrics.jsonl"), first_step)

    def warn(progress, text):
        terminal.print(f"warning: {text}")
        metrics.write(kind="warning", step=progress.step, epoch=progress.epoch, text=text)

    flat = actions.FlatLoss(len(data.source.class_names), warn)
    center = errors.probability_function(
        model,
        lambda images: [
            augmentation.central_view(
                images, data.statistics.mean_image, size=config.crop_size, scale=config.input_scale
            )
        ],
    )
    validate = lambda: experiment.evaluate_split(center, data, watched, {"centre crop": [0]})["centre crop"]
    return [terminal, metrics, summaries, flat, _EpochEnd(validate, watched, schedule, terminal, metrics, summaries)]


class _EpochEnd:
    """Validates at each epoch's end, tells the schedule, and prints the epoch's line."""

    def __init__(self, validate, watched, schedule, terminal, metrics, summaries):
        self._validate = validate
        self._watched = watched
        self._schedule = schedule
        self._terminal = terminal
        self._metrics = metrics
        self._summaries = summaries
        self._reports = []

    def __call__(self, progress):
        self._reports.append(progress)
        if not progress.epoch_ended:
            return
        result = self._validate()
        examples = np.array([report.examples for report in self._reports])
        train_loss = np.average([report.train_loss for report in self._reports], weights=examples)
        train_error = np.average([report.train_error for report in self._reports], weights=examples)
        speed = examples.sum() / sum(n / r.images_per_second for n, r in zip(examples, self._reports))
        self._reports = []
        dropped = self._schedule.epoch_ended(result.top1_error)
        self._metrics.write(kind="validation", step=progress.step, epoch=progress.epoch, **result.to_dict())
        self._summaries.scalars(
            progress.step,
            validation_loss=result.loss,
            validation_top1_error=result.top1_error,
            **({} if result.top5_error is None else {"validation_top5_error": result.top5_error}),
        )
        top5 = "" if result.top5_error is None else f" top-5 {100 * result.top5_error:.2f} %"
        self._terminal.print(
            f"epoch {round(progress.epoch)}: train loss {train_loss:.4f} error {100 * train_error:.2f} %, "
            f"{self._watched} loss {result.loss:.4f} error {100 * result.top1_error:.2f} %{top5}, "
            f"rate {progress.learning_rate:.3g}, "
            f"{speed:.1f} images/s" + ("; the rate drops" if dropped else "")
        )


def _finish(config, workdir, data, model, checkpoint, steps, console):
    """Ten views of all that was held out, figures for machines, the report for people, and the last lines."""
    if "test" in data.source.splits and "test" not in data.examples:
        test = dataset.load_data(config, data.source, ["test"], data.statistics, console)
        data = data._replace(examples={**data.examples, **test.examples})
    ten_views = assessment.ten_views(config, model, data)
    held_out = [split for split in ("validation", "test") if split in data.examples]
    judged = [assessment.judge(ten_views, data, split, console) for split in held_out]
    written = {
        "step": steps,
        "checkpoint": checkpoint,
        "evaluation": {each.split: assessment.tell(each, data, console) for each in judged},
    }
    files.write_json(os.path.join(workdir, "train.json"), written)
    page = report.write(workdir, config, model, data, judged, steps)
    console.print(
        f"run {workdir}\n  checkpoint  {checkpoint}\n  logs        tensorboard --logdir={workdir}\n"
        f"  report      {page}",
        markup=False,
    )
    if data.source.license:
        console.print(f"data: {data.source.license}", markup=False)
    return written
