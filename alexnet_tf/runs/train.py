"""Trains a run in its work directory.

The order of a run, in which nothing but the lock is written until everything has been checked:

1. The configuration is compared with the one in the work directory, and the processes of the run find each other.
2. The chief locks the work directory.
3. The data set is opened, and the images of the training and the monitored split are read.
4. The network and its training step are built, and the newest checkpoint is restored.
5. The chief claims the work directory: it writes the configuration, the image statistics and
   the names of the images there.
6. Training runs step by step. After each epoch the monitored split is evaluated, which may lower the learning rate.
7. The chief saves the last checkpoint, evaluates all held-out splits and writes ``train.json`` and the report.

To resume a run that ended early from its newest checkpoint, repeat the command.
"""

import contextlib
import dataclasses
import functools
import os
import zlib
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
import rich.console

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import augmentation
from alexnet_tf.data import examples
from alexnet_tf.data import pipeline
from alexnet_tf.data import sampling
from alexnet_tf.data import service
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import errors
from alexnet_tf.models import placement
from alexnet_tf.profiling import profiler
from alexnet_tf.profiling import trace
from alexnet_tf.runs import auto_recipe
from alexnet_tf.runs import builders
from alexnet_tf.runs import class_weights
from alexnet_tf.runs import data_record
from alexnet_tf.runs import dataset
from alexnet_tf.runs import devices
from alexnet_tf.runs import diagnosis
from alexnet_tf.runs import initialization
from alexnet_tf.runs import kernel_report
from alexnet_tf.runs import report
from alexnet_tf.runs import restore
from alexnet_tf.runs import selection
from alexnet_tf.runs import split_results
from alexnet_tf.runs import summary_contents
from alexnet_tf.runs import validation
from alexnet_tf.training import actions
from alexnet_tf.training import best_checkpoint
from alexnet_tf.training import checkpoints
from alexnet_tf.training import distribution
from alexnet_tf.training import loop
from alexnet_tf.training import metrics
from alexnet_tf.training import schedules
from alexnet_tf.training import stopping
from alexnet_tf.training import trainer
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import output

# The view set of the monitored split.
_CENTER_CROP = "center crop"


class _Run(NamedTuple):
    """A run that is ready to train."""

    config: config.Config  # resolved
    workdir: str
    processes: distribution.Distribution
    console: rich.console.Console
    data: dataset.Data
    monitored: str  # the split that is evaluated after each epoch
    class_weights: class_weights.ClassWeights | None
    trainer: trainer.Trainer
    schedule: schedules.Schedule  # of the weights' learning rate
    checkpoints: checkpoints.Checkpoints
    monitor: best_checkpoint.Monitor  # of the monitored split
    first_step: int  # number of steps already taken
    steps: int
    steps_per_epoch: int


def train(
    run_config: config.Config,
    workdir: str,
    profile_steps: Sequence[int] = (),
    *,
    processes: distribution.Distribution | None = None,
    stop: stopping.Stop | None = None,
) -> dict[str, Any] | None:
    """Trains from the newest checkpoint in the work directory, or from the start, and evaluates at the end.

    Args:
      run_config: the configuration.
      workdir: the run's directory, created if it does not exist. Several processes share it; only the chief writes.
      profile_steps: the first and the last step to profile, counted from 1 at the start of the run; empty for none.
      processes: from `distribution.start`, if the caller has called it; None calls it with `run_config.distribute`.
      stop: receives stop requests; None if there are none.

    Returns:
      The results, as written to ``train.json`` in the work directory; None in all processes but the chief.

    Raises:
      ValueError: for an invalid configuration, data set, work directory or `profile_steps`, or a loss that is not
        finite.
      OSError: if a file is missing, the disk is full, or another run is using the work directory.
      distribution.WorkerLostError: if another process of this run was lost.
      stopping.Stopped: if a stop was requested. If training had begun, a checkpoint was saved.
    """
    notes = []
    run_config = initialization.inherit(run_config, workdir, notes.append).resolved(before_start=True)
    if run_config.split_rule == "auto":
        run_config = dataclasses.replace(run_config, split_rule="hash")
    _check_configuration(run_config, workdir, is_batch_size_final=False)
    profiler.check_profile_steps(profile_steps)
    # Must come before any other use of TensorFlow.
    processes = processes or distribution.start(run_config.distribute)
    stop = stop or stopping.Stop()
    with distribution.lost_workers(processes.worker[1]), contextlib.ExitStack() as locks:
        run_config, line = devices.choose_precision(run_config, processes)
        if line:
            notes.append(line)
        run = _open(run_config, workdir, processes, locks, notes)
        step = run.first_step
        if step < run.steps and not _has_ended(run):
            with stop.deferred():
                step = _train_steps(run, profile_steps, stop)
                if processes.is_chief:
                    run.checkpoints.save(step)
            if step < run.steps and not _has_ended(run):
                raise stop.stopped(f"stopped at step {step} of {run.steps}; the same command resumes from there")
        # One of several processes would be lost to the others.
        with stop.deferred(processes.worker[1] > 1):
            written = _finish(run, step) if processes.is_chief else None
        # Peers treat an exited process as a failure, so every worker waits for the chief.
        processes.sum([np.zeros([], np.int64)])
        return written


def _open(run_config, workdir, processes, locks, notes):
    """Opens the data set, builds the network, restores the newest checkpoint and claims the work directory.

    Args:
      run_config, workdir: of the run.
      processes: the `distribution.Distribution`.
      locks: a ``contextlib.ExitStack`` that holds the lock of the work directory.
      notes: lines about the configuration.

    Returns:
      `_Run`.
    """
    console = output.Console(quiet=not processes.is_chief)
    exists = os.path.isdir(workdir)
    if os.path.exists(workdir) and not exists:
        raise ValueError(f"Expected workdir to be a directory. Received: the file {workdir}")
    if processes.is_chief and exists:
        _lock(workdir, locks)
    # Raises before the images are read, which can take a long time.
    for line in [*devices.describe(run_config, processes.replicas), *notes]:
        console.print(line, markup=False)
    initialization.check(run_config, workdir)
    data, monitored = _open_data(run_config, workdir, console)
    num_images = len(data.examples["train"])
    run_config, line = auto_recipe.resolve(run_config, num_images)
    if line:
        console.print(line, markup=False)
    run_config = _with_batches_that_fit(run_config, num_images, processes.replicas, console)
    _check_configuration(run_config, workdir)
    steps_per_epoch = sampling.batches_per_epoch(num_images, run_config.batch_size)
    steps = max(1, round(run_config.epochs * steps_per_epoch))
    weights = class_weights.resolve(run_config, data.source.class_names, data.examples["train"].labels, workdir)
    own_trainer = _build_trainer(run_config, data, weights, processes, console)
    schedule = builders.build_schedule(run_config, steps_per_epoch)
    saved = builders.build_checkpoints(
        run_config, own_trainer.model, own_trainer.optimizer, schedule, data.source.class_names, workdir
    )
    first_step = saved.restore(lambda line: console.print(line, markup=False))
    run = _Run(
        run_config,
        workdir,
        processes,
        console,
        data,
        monitored,
        weights,
        own_trainer,
        schedule,
        saved,
        _monitor(workdir, monitored, first_step),
        first_step,
        steps,
        steps_per_epoch,
    )
    _check_start(run)
    if processes.is_chief:
        _claim(run, locks, exists)
    if first_step:
        console.print(f"resumed from {saved.current}, step {first_step}", markup=False)
    return run


def _monitor(workdir, monitored, first_step):
    """Returns the `best_checkpoint.Monitor` of a run, with the epochs that it was already trained for."""
    earlier = metrics.validations(os.path.join(workdir, "metrics.jsonl"), first_step)
    return best_checkpoint.Monitor(monitored, earlier, best_checkpoint.read(os.path.join(workdir, "checkpoints")))


def _has_ended(run):
    """Whether the validation error has not improved for as long as ``stop_after`` says."""
    return run.monitored == "validation" and 0 < run.config.stop_after <= run.monitor.epochs_without_improvement


def _open_data(run_config, workdir, console):
    """Opens the data set and reads the images of the training and the monitored split; returns data and split."""
    source, image_statistics = dataset.open_data(run_config, dataset.logger(console), workdir=workdir, resuming=True)
    path = os.path.join(workdir, "statistics.npz")
    if os.path.exists(path):
        image_statistics = statistics.load(path)
    dataset.check_for_training(source, run_config)
    monitored = dataset.monitored_split(source)
    if run_config.stop_after and monitored != "validation":
        console.print("warning: stop_after has no effect without a validation set", markup=False)
    # With a data service, this process does not read the training images.
    reading = dataclasses.replace(run_config, cache="none") if run_config.data_service else run_config
    splits = dict.fromkeys(["train", monitored])
    data = dataset.load_data(reading, source, splits, image_statistics, console)
    for warning in diagnosis.of_monitored_split(run_config, monitored, len(data.examples[monitored])):
        console.print(f"warning: {warning}", markup=False)
    if not os.path.exists(path):
        data = data._replace(statistics=initialization.with_mean_image(run_config, data.statistics))
    if not (console.quiet or os.path.exists(os.path.join(workdir, data_record.FILE))):
        data = dataset.with_duplicates(data, console)
    return data, monitored


def _build_trainer(run_config, data, weights, processes, console):
    """Builds the network and its training step, on each replica."""
    size, replicas = run_config.batch_size, processes.replicas
    if size % replicas:
        raise ValueError(f"Expected batch_size to be a multiple of the {replicas} replicas. Received: {size}")
    if processes.strategy:
        console.print(
            f"{replicas} replicas in {processes.worker[1]} processes, {size // replicas} of the {size} images of each "
            "batch per replica"
        )
    with processes.scope():
        model = builders.build_training_model(run_config, len(data.source.class_names))
        factors = weights and weights.factors(data.source.class_names)
        return builders.build_trainer(run_config, model, data.statistics, processes.strategy, factors)


def _check_start(run):
    """Checks that all processes start at the same step, and initializes a new run from another one if requested."""
    run_config, first_step = run.config, run.first_step
    own = [first_step, run_config.fingerprint(), zlib.crc32(repr(run.class_weights).encode())]
    own.append(_has_ended(run))
    run.processes.check_same("checkpoint and configuration", own)
    if first_step > run.steps:
        raise ValueError(
            f"Expected epochs to be at least {first_step / run.steps_per_epoch:g}, as {run.workdir} has already "
            f"trained for {first_step} steps. Received: {run_config.epochs:g}"
        )
    if run_config.initialize_from and not first_step:
        initialization.initialize(run_config, run.trainer.model, run.data.statistics, dataset.logger(run.console))
    if run_config.freeze:
        run.console.print(builders.describe_frozen(run.trainer.model), markup=False)
    labels, length = run.data.examples["train"].labels, run.steps_per_epoch * run_config.batch_size
    for line in class_weights.describe(run.class_weights, run_config, labels, length):
        run.console.print(escaping.one_line(line), markup=False)


def _claim(run, locks, exists):
    """Makes the work directory this run's: locks it, removes partial files and writes configuration and statistics."""
    os.makedirs(run.workdir, exist_ok=True)
    if not exists:
        _lock(run.workdir, locks)
    run.checkpoints.remove_incomplete()
    if run.monitored == "validation":
        _keeper(run).resume()
    statistics.save(run.data.statistics, os.path.join(run.workdir, "statistics.npz"))
    data_record.write(run.workdir, run.data.source)
    if run.class_weights:
        class_weights.write(run.workdir, run.class_weights)
    with files.atomic_write(os.path.join(run.workdir, "config.flags")) as file:
        file.write(flagfiles.to_text(run.config))


def _lock(workdir, locks):
    locks.enter_context(files.exclusive_lock(os.path.join(workdir, "lock"), f"the work directory {workdir}"))


def _with_batches_that_fit(run_config, num_examples, replicas, console):
    """Returns the configuration with one batch of all training images if there are fewer than the batch size."""
    if num_examples >= run_config.batch_size:
        return run_config
    if num_examples < replicas:
        raise ValueError(f"Expected at least {replicas} training images, one per replica. Received: {num_examples}")
    size = num_examples // replicas * replicas
    console.print(
        f"batches have {size} images instead of {run_config.batch_size}, as there are only {num_examples} training "
        "images: one step per epoch",
        markup=False,
    )
    return dataclasses.replace(run_config, batch_size=size)


def _check_configuration(run_config, workdir, is_batch_size_final=True):
    """Raises ValueError if the work directory has a different configuration, naming the fields that differ.

    Args:
      run_config, workdir: of the run.
      is_batch_size_final: False before the number of training images is known, which may reduce the batch size.
    """
    if not os.path.exists(os.path.join(workdir, "config.flags")):
        return
    before = restore.read_config(workdir)
    if not is_batch_size_final and before.batch_size < run_config.batch_size:
        run_config = dataclasses.replace(run_config, batch_size=before.batch_size)
    fields = run_config.differences(before)
    if fields:
        values = dataclasses.asdict(before), dataclasses.asdict(run_config)
        raise ValueError(messages.different_values(f"{workdir} was trained", fields, *values, "workdir"))


def _train_steps(run, profile_steps, stop):
    """Trains to the run's last step or until a stop is requested; returns the number of steps taken."""
    run_config, processes = run.config, run.processes
    latest = summary_contents.Latest(processes.batches(_training_batches(run)), processes.first)
    with contextlib.ExitStack() as stack:
        terminal, step_context = None, lambda step: contextlib.nullcontext()
        if processes.is_chief:
            terminal = stack.enter_context(actions.Terminal(run.steps, run.first_step, run.steps_per_epoch))
            step_context = stack.enter_context(_profile(run, profile_steps, latest, terminal))
        own_actions = _actions(run, terminal, latest, stop)
        if processes.is_chief:
            stack.enter_context(diagnosis.divergence_recorded(run.workdir, run.steps_per_epoch))
            session = summary_contents.session(run.workdir, run_config, run.steps, run.first_step)
            own_actions.append(stack.enter_context(session))
        stack.enter_context(examples.naming_unreadable(run.data.examples["train"]))
        return loop.train(
            run.trainer,
            latest,
            steps=run.steps,
            steps_per_epoch=run.steps_per_epoch,
            learning_rates=lambda progress: builders.step_rates(
                run_config, run.schedule, progress, run.steps_per_epoch
            ),
            actions=own_actions,
            first_step=run.first_step,
            report_every=run_config.report_steps,
            step_context=step_context,
            stop_requested=processes.any_of(stop.is_requested),
            has_ended=lambda: _has_ended(run),
            steps_per_call=run_config.steps_per_call,
            single_steps=range(profile_steps[0], profile_steps[1] + 1) if profile_steps else (),
        )


def _training_batches(run):
    """Returns this process's part of each remaining batch, prefetched to its device."""
    run_config = run.config
    options = builders.build_sampling(
        run_config, first_step=run.first_step, steps=run.steps, worker=run.processes.worker
    )
    # Several replicas take their parts from batches on the host.
    is_alone = run.processes.local_replicas == 1
    device = placement.input_device(builders.tower_devices(run_config)) if is_alone else None
    if run_config.data_service:
        return service.from_service(
            run_config.data_service,
            lambda step: service.training_batches(run_config.data_dir, dataclasses.replace(options, first_step=step)),
            first_step=run.first_step,
            steps=run.steps,
            device=device,
        )
    batches = pipeline.training_batches(run.data.examples["train"], options)
    return pipeline.prefetch_to_device(batches, device)


@contextlib.contextmanager
def _profile(run, requested, latest, terminal):
    """Yields the context of each step, which profiles the requested steps if all of them are still to come."""
    if requested and not run.first_step < requested[0] <= run.steps:
        terminal.print(
            f"warning: nothing is profiled, as step {requested[0]} is not one of the remaining steps "
            f"{run.first_step + 1} to {run.steps}"
        )
        requested = ()
    if not requested:
        yield lambda step: contextlib.nullcontext()
        return
    if builders.compiles_step(run.config):
        terminal.print(
            "warning: the profile has the kernels of a single XLA program, which belong to no layer; --compile=islands "
            "shows the time of each layer"
        )
    describe = lambda: trace.describe(summary_contents.step_graph(run.trainer, latest.batch, run.config))
    with profiler.Profiler(os.path.join(run.workdir, "tensorboard"), *requested, describe) as profile:
        yield profile.step
    terminal.print(
        f"profiled steps {requested[0]} to {min(requested[1], run.steps)}: {messages.program('profile_report')} "
        f"--workdir={run.workdir}"
    )


def _actions(run, terminal, latest, stop):
    """The actions of this process: all of them for the chief, only the evaluation after each epoch for the others."""
    epoch_end = validation.EpochEnd(_validate(run, stop), run.schedule, run.monitor)
    if not run.processes.is_chief:
        return [epoch_end]
    writer = metrics.Writer(os.path.join(run.workdir, "metrics.jsonl"), run.first_step)
    summaries = summary_contents.open_summaries(run.workdir)

    def warn(progress, text):
        terminal.print(f"warning: {text}")
        writer.write(kind="warning", step=progress.step, epoch=progress.epoch, text=text)

    flat = actions.FlatLoss(
        len(run.data.source.class_names),
        lambda progress, chance: warn(progress, diagnosis.flat_loss(run.config, chance)),
    )
    early_cut = diagnosis.EarlyCut(run.workdir, run.config, run.data.source, warn)
    color_shares = functools.partial(kernel_report.color_shares, run.trainer.model, run.config.network)
    epoch_end.log = validation.epoch_log(run.monitored, terminal, writer, summaries, color_shares)
    epoch = run.first_step / run.steps_per_epoch
    details = summary_contents.details(summaries, run.trainer, latest, run.config, epoch)
    # The test set, monitored where there is no validation set, must not choose an epoch.
    keeper = [_keeper(run)] if run.monitored == "validation" else []
    return [terminal, writer, summaries, flat, epoch_end, early_cut, details, run.checkpoints, *keeper]


def _keeper(run):
    return best_checkpoint.Keeper(os.path.join(run.workdir, "checkpoints"), run.monitor)


def _validate(run, stop):
    """Returns the function that evaluates the monitored split with the center crop."""
    center_view = lambda images: augmentation.central_view(
        images, run.data.statistics.mean_image, size=run.config.crop_size, scale=run.config.input_scale
    )
    probabilities = errors.probability_function(run.trainer.model, lambda images: [center_view(images)])

    def validate():
        # A single process does not wait for the end of an evaluation: it loses only the steps since the last
        # checkpoint. With several processes, the others would treat this one as lost.
        with stop.deferred(run.processes.worker[1] > 1), run.trainer.optimizer.averaged():
            results = split_results.evaluate_distributed(
                probabilities, run.data, run.monitored, {_CENTER_CROP: [0]}, run.processes
            )
        return results[_CENTER_CROP]

    return validate


def _finish(run, step):
    """Evaluates all held-out splits with all view sets, writes ``train.json`` and the report, and prints the paths.

    Args:
      run: the run.
      step: number of steps taken.
    """
    workdir, data, console = run.workdir, run.data, run.console
    # The last checkpoint has been saved; from here on, the network is the average, if there is one.
    run.trainer.optimizer.swap_averages()
    if step < run.steps:
        console.print(
            f"ended after epoch {messages.epochs(step / run.steps_per_epoch)} of {run.config.epochs:g}: no lower "
            f"{run.monitored} error for {run.monitor.epochs_without_improvement} epochs "
            f"(--stop_after={run.config.stop_after})",
            markup=False,
        )
    chosen, checkpoint = _restore_chosen(run, step)
    if "test" in data.source.splits and "test" not in data.examples:
        test = dataset.load_data(run.config, data.source, ["test"], data.statistics, console)
        data = data._replace(examples={**data.examples, **test.examples})
    held_out = dataset.held_out_splits(data.source) or [run.monitored]
    results = split_results.evaluate_splits(run.config, run.trainer.model, data, held_out, console)
    written = {
        "step": step,
        "checkpoint": checkpoint,
        **chosen.to_json(),
        "evaluation": {
            result.split: split_results.print_result(run.config, result, data, console) for result in results
        },
    }
    files.write_json(os.path.join(workdir, "train.json"), written)
    diagnosis.record(workdir, run.config, data.source, results, step, run.steps_per_epoch, console)
    report_path = report.write(workdir, run.config, run.trainer.model, data, results, step, chosen)
    console.print(
        f"run {workdir}\n  checkpoint  {checkpoint} ({chosen.describe()})\n"
        f"  logs        tensorboard --logdir={workdir}\n  report      {report_path}",
        markup=False,
    )
    if data.source.license:
        console.print(f"data: {data.source.license}", markup=False)
    return written


def _restore_chosen(run, step):
    """Restores the best weights if those are to be evaluated; returns the `selection.Selection` and the path."""
    chosen = selection.select(run.workdir, run.config)
    if not chosen.record or chosen.record.step == step:
        return chosen, chosen.path or run.checkpoints.current
    names = run.data.source.class_names
    _, path = restore.restore_weights(run.trainer.model, run.config, names, run.workdir, path=chosen.path)
    return chosen, path
