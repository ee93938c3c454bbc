"""A run in its work directory: training from where it stands."""

import contextlib
import dataclasses
import os
from typing import NamedTuple

import numpy as np
import rich.console

from alexnet_tf import config as configuration
from alexnet_tf import flagfiles
from alexnet_tf.data import augmentation
from alexnet_tf.data import pipeline
from alexnet_tf.data import sampling
from alexnet_tf.data import service
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import errors
from alexnet_tf.models import placement
from alexnet_tf.profiling import profiler
from alexnet_tf.profiling import trace
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import report
from alexnet_tf.runs import tensorboard
from alexnet_tf.training import actions
from alexnet_tf.training import checkpoints
from alexnet_tf.training import distribution
from alexnet_tf.training import loop
from alexnet_tf.training import metrics
from alexnet_tf.training import schedules
from alexnet_tf.training import stopping
from alexnet_tf.training import trainer
from alexnet_tf.utils import files
from alexnet_tf.utils import messages


class _Run(NamedTuple):
    """A run that is ready to learn."""

    config: configuration.Config
    workdir: str
    distribution: distribution.Distribution
    console: rich.console.Console
    data: dataset.Data
    watched: str  # the split whose error is taken at every epoch's end
    trainer: trainer.Trainer
    schedule: schedules.Schedule  # of the weights' learning rate
    checkpoints: checkpoints.Checkpoints
    first_step: int  # steps taken already
    steps: int
    steps_per_epoch: int


def train(config, workdir, profile_steps=(), *, joined=None, stop=None):
    """Trains as a configuration says, from where the work directory stands, and evaluates at the end.

    Args:
      config: a `config.Config`.
      workdir: the run's directory; made if it is not there. Several processes share it, and the first of them writes.
      profile_steps: the first and the last step to profile, counted from 1 at the start of the run; empty for none.
      joined: from `distribution.start`, where that had to come first; None calls it for one process.
      stop: a `stopping.Stop`; None where nobody will ask to stop.

    Returns:
      The figures that it writes to ``train.json`` in the work directory; None in all processes but the first.

    Raises:
      ValueError: for a bad configuration, data set or work directory, steps to profile that are none, or a loss that
        is not finite.
      OSError: for what is not there, a full disk, or a work directory in which another run is at work.
      distribution.WorkerLostError: if another process of this training is gone.
      stopping.Stopped: if it was asked to stop; a checkpoint was saved if it was learning.
    """
    config = config.resolved()
    _check_configuration(config, workdir)
    profiler.check_profile_steps(profile_steps)
    # Before anything else of TensorFlow.
    joined = joined or distribution.start(config.distribute)
    stop = stop or stopping.Stop()
    with distribution.lost_workers(joined.worker[1]), contextlib.ExitStack() as held:
        run = _open(config, workdir, joined, held)
        if run.first_step < run.steps:
            step = _learn(run, profile_steps, stop)
            if joined.is_chief:
                run.checkpoints.save(step)
            if step < run.steps:
                raise stopping.Stopped(f"stopped at step {step} of {run.steps}; the same command goes on from there")
        written = _finish(run) if joined.is_chief else None
        # A process that is gone is one that was lost, so the others wait for the first.
        joined.sum([np.zeros([], np.int64)])
        return written


def _open(config, workdir, joined, held):
    """Opens data and network, takes up what the work directory has, and makes it this configuration's.

    Args:
      config, workdir: of the run.
      joined: the `distribution.Distribution`.
      held: a ``contextlib.ExitStack`` that keeps others out of the work directory.

    Returns:
      `_Run`.
    """
    console = rich.console.Console(soft_wrap=True, highlight=False, quiet=not joined.is_chief)
    is_there = os.path.isdir(workdir)
    if os.path.exists(workdir) and not is_there:
        raise ValueError(f"Expected a work directory. Received: {workdir}, a file")
    if joined.is_chief and is_there:
        _keep_others_out(workdir, held)
    # Before the data are read.
    builders.home_devices(config)
    builders.check_start(config, workdir)
    source, image_statistics = dataset.open_data(config)
    image_statistics = _read_statistics(workdir) or image_statistics
    watched = dataset.monitored_split(source)
    # What another process reads is not kept here.
    reading = dataclasses.replace(config, cache="none") if config.data_service else config
    data = dataset.load_data(reading, source, ["train", watched], image_statistics, console)
    steps_per_epoch = sampling.batches_per_epoch(len(data.examples["train"]), config.batch_size)
    steps = max(1, round(config.epochs * steps_per_epoch))
    if config.batch_size % joined.replicas:
        raise ValueError(
            f"Expected batch_size to be a multiple of the {joined.replicas} replicas. Received: {config.batch_size}"
        )
    if joined.strategy:
        console.print(
            f"{joined.replicas} replicas in {joined.worker[1]} processes, "
            f"{config.batch_size // joined.replicas} images of each batch of {config.batch_size} to each"
        )
    with joined.scope():
        model = builders.build_model(config, len(source.class_names))
        trainer = builders.build_trainer(config, model, data.statistics, joined.strategy)
    schedule = builders.build_schedule(config)
    saved = builders.build_checkpoints(config, model, trainer.optimizer, schedule, source.class_names, workdir)
    first_step = saved.restore(lambda line: console.print(line, markup=False))
    joined.check_same("checkpoint and configuration", [first_step, config.fingerprint()])
    if first_step > steps:
        raise ValueError(
            f"Expected epochs to be at least {first_step / steps_per_epoch:g}, the {first_step} steps that {workdir} "
            f"has taken. Received: {config.epochs:g}"
        )
    if config.initialize_from and not first_step:
        path = builders.initialize_weights(config, model)
        console.print(f"starts from {path}, but for {', '.join(config.new_layers) or 'nothing'}", markup=False)
    # All is well: from here on the work directory is this configuration's.
    if joined.is_chief:
        os.makedirs(workdir, exist_ok=True)
        if not is_there:
            _keep_others_out(workdir, held)
        saved.remove_remains()
        _claim(config, workdir, data.statistics)
    if first_step:
        console.print(f"resumed from {saved.current}, step {first_step}", markup=False)
    return _Run(
        config, workdir, joined, console, data, watched, trainer, schedule, saved, first_step, steps, steps_per_epoch
    )


def _keep_others_out(workdir, held):
    held.enter_context(files.exclusive_lock(os.path.join(workdir, "lock"), f"the work directory {workdir}"))


def _learn(run, profile_steps, stop):
    """Learns until the run's end, or until someone wants it to stop; returns the number of steps taken."""
    config, joined = run.config, run.distribution
    latest = tensorboard.Latest(joined.batches(_training_batches(run)), joined.first)
    with contextlib.ExitStack() as stack:
        terminal, own, step_context = None, [], lambda step: contextlib.nullcontext()
        if joined.is_chief:
            terminal = stack.enter_context(actions.Terminal(run.steps, run.first_step, run.steps_per_epoch))
            step_context = stack.enter_context(_profile(run, profile_steps, latest, terminal))
        own = _actions(run, terminal, latest, stop)
        stack.enter_context(stop.waiting())
        return loop.train(
            run.trainer,
            latest,
            steps=run.steps,
            steps_per_epoch=run.steps_per_epoch,
            learning_rates=lambda progress: builders.learning_rates(config, run.schedule, progress),
            actions=own,
            first_step=run.first_step,
            report_every=config.report_steps,
            step_context=step_context,
            stop_requested=joined.any_of(stop.is_asked),
        )


def _training_batches(run):
    """This process's part of each batch to come, copied ahead to where it is wanted."""
    config = run.config
    options = builders.build_sampling(
        config, first_step=run.first_step, steps=run.steps, worker=run.distribution.worker
    )
    # Several replicas get their parts of what is on the host.
    is_alone = run.distribution.local_replicas == 1
    device = placement.input_device(builders.home_devices(config)) if is_alone else None
    if config.data_service:
        return service.from_service(
            config.data_service,
            lambda step: service.training_batches(config.data_dir, dataclasses.replace(options, first_step=step)),
            first_step=run.first_step,
            steps=run.steps,
            device=device,
        )
    batches = pipeline.training_batches(run.data.examples["train"], options)
    return pipeline.prefetch_to_device(batches, device)


def _check_configuration(config, workdir):
    """Raises if the work directory is another configuration's, naming the fields that differ."""
    path = os.path.join(workdir, "config.flags")
    if not os.path.exists(path):
        return
    before = flagfiles.read_flagfile(path).resolved()
    fields = config.differences(before)
    if fields:
        values = dataclasses.asdict(before), dataclasses.asdict(config)
        raise ValueError(messages.different_values(f"{workdir} was trained", fields, *values, "workdir"))


def _read_statistics(workdir):
    path = os.path.join(workdir, "statistics.npz")
    return statistics.load(path) if os.path.exists(path) else None


def _claim(config, workdir, image_statistics):
    """Makes the work directory this configuration's."""
    os.makedirs(workdir, exist_ok=True)
    statistics.save(image_statistics, os.path.join(workdir, "statistics.npz"))
    with files.atomic_write(os.path.join(workdir, "config.flags")) as file:
        file.write(flagfiles.to_text(config))


@contextlib.contextmanager
def _profile(run, wanted, latest, terminal):
    """Yields what stands around each step, of which the wanted ones are profiled if they are all still to come."""
    if wanted and not run.first_step < wanted[0] <= run.steps:
        terminal.print(
            f"warning: nothing is profiled: step {wanted[0]} is not among those to come, {run.first_step + 1} to "
            f"{run.steps}"
        )
        wanted = ()
    if not wanted:
        yield lambda step: contextlib.nullcontext()
        return
    describe = lambda: trace.describe(tensorboard.step_graph(run.trainer, latest.batch, run.config))
    with profiler.Profiler(os.path.join(run.workdir, "tensorboard"), *wanted, describe) as profile:
        yield profile.step
    terminal.print(
        f"profiled steps {wanted[0]} to {min(wanted[1], run.steps)}: tools/profile_report.py --workdir={run.workdir}"
    )


def _actions(run, terminal, latest, stop):
    """What this process does besides learning: the first one all of it, the others the validation's part."""
    config, data = run.config, run.data
    center = errors.probability_function(
        run.trainer.model,
        lambda images: [
            augmentation.central_view(
                images, data.statistics.mean_image, size=config.crop_size, scale=config.input_scale
            )
        ],
    )

    def validate():
        # One process alone does not wait for the end of an evaluation: what it learnt since the last checkpoint is not
        # worth that. One of several would be lost to the others.
        with stop.waiting(run.distribution.worker[1] > 1):
            return evaluate.evaluate_split(center, data, run.watched, {"centre crop": [0]}, run.distribution)

    epoch_end = _EpochEnd(lambda: validate()["centre crop"], run.schedule)
    if not run.distribution.is_chief:
        return [epoch_end]
    log = metrics.Writer(os.path.join(run.workdir, "metrics.jsonl"), run.first_step)
    summaries = tensorboard.open_summaries(run.workdir)

    def warn(progress, text):
        terminal.print(f"warning: {text}")
        log.write(kind="warning", step=progress.step, epoch=progress.epoch, text=text)

    flat = actions.FlatLoss(len(data.source.class_names), warn)
    epoch_end.tell = _tell_epoch(run.watched, terminal, log, summaries)
    epoch = run.first_step / run.steps_per_epoch
    details = tensorboard.details(summaries, run.trainer, latest, config, epoch)
    return [terminal, log, summaries, flat, epoch_end, details, run.checkpoints]


class _EpochEnd:
    """Validates at each epoch's end and tells the schedule.

    Args:
      validate: returns `errors.Errors`.
      schedule: of the run.
    """

    def __init__(self, validate, schedule):
        self._validate = validate
        self._schedule = schedule
        self._reports = []
        # Called with the epoch's reports, the errors and whether the rate drops.
        self.tell = lambda reports, result, dropped: None

    def __call__(self, progress):
        self._reports.append(progress)
        if progress.epoch_ended:
            result = self._validate()
            self.tell(self._reports, result, self._schedule.epoch_ended(result.top1_error))
            self._reports = []


def _tell_epoch(watched, terminal, log, summaries):
    """What `_EpochEnd` tells logs and terminal."""

    def tell(reports, result, dropped):
        progress = reports[-1]
        examples = np.array([report.examples for report in reports])
        train_loss = np.average([report.train_loss for report in reports], weights=examples)
        train_error = np.average([report.train_error for report in reports], weights=examples)
        speed = examples.sum() / sum(n / r.images_per_second for n, r in zip(examples, reports))
        log.write(kind="validation", step=progress.step, epoch=progress.epoch, **result.to_dict())
        summaries.scalars(
            progress.step,
            validation_loss=result.loss,
            validation_top1_error=result.top1_error,
            **({} if result.top5_error is None else {"validation_top5_error": result.top5_error}),
        )
        top5 = "" if result.top5_error is None else f" top-5 {100 * result.top5_error:.2f} %"
        terminal.print(
            f"epoch {round(progress.epoch)}: train loss {train_loss:.4f} error {100 * train_error:.2f} %, "
            f"{watched} loss {result.loss:.4f} error {100 * result.top1_error:.2f} %{top5}, "
            f"rate {progress.learning_rate:.3g}, "
            f"{speed:.1f} images/s" + ("; the rate drops" if dropped else "")
        )

    return tell


def _finish(run):
    """Ten views of all that was held out, figures for machines, the report for people, and the last lines."""
    config, workdir, data, console = run.config, run.workdir, run.data, run.console
    if "test" in data.source.splits and "test" not in data.examples:
        test = dataset.load_data(config, data.source, ["test"], data.statistics, console)
        data = data._replace(examples={**data.examples, **test.examples})
    held_out = [split for split in ("validation", "test") if split in data.examples]
    judged = evaluate.judge_all(config, run.trainer.model, data, held_out, console)
    written = {
        "step": run.steps,
        "checkpoint": run.checkpoints.current,
        "evaluation": {each.split: evaluate.tell(each, data, console) for each in judged},
    }
    files.write_json(os.path.join(workdir, "train.json"), written)
    page = report.write(workdir, config, run.trainer.model, data, judged, run.steps)
    console.print(
        f"run {workdir}\n  checkpoint  {run.checkpoints.current}\n  logs        tensorboard --logdir={workdir}\n"
        f"  report      {page}",
        markup=False,
    )
    if data.source.license:
        console.print(f"data: {data.source.license}", markup=False)
    return written
