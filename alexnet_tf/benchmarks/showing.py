"""What it costs that a run shows itself in TensorBoard."""

import dataclasses
import tempfile
import time

import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import feeding
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import steps
from alexnet_tf.runs import tensorboard
from alexnet_tf.training import loop

# Of the quickstart, the shortest epoch of our experiments: what comes once in an epoch comes most often there.
STEPS_PER_EPOCH = 61
MOST_SHARE = 1.0


def summaries(request):
    """The time that scalars, histograms, sizes of updates and pictures take, against that of the steps in between.

    Args:
      request: `measuring.Request`; the intervals are the configuration's, with an epoch of `STEPS_PER_EPOCH` steps.

    Returns:
      `measuring.Result`, whose rates are those of the step alone.
    """
    config = request.config.resolved()
    config = dataclasses.replace(config, summary_epochs=config.summary_epochs or 1.0)
    trainer = steps.build_trainer(config)
    rates = steps.interleave(request, {steps.OURS: steps.training_side(config, trainer)})
    step = config.batch_size / float(np.median(rates[steps.OURS]))
    latest = tensorboard.Latest([feeding.synthetic_batch(config.batch_size, steps.NUM_CLASSES, config.seed)])
    next(iter(latest))
    with tempfile.TemporaryDirectory(prefix="alexnet_benchmark_") as directory:
        scalars = tensorboard.open_summaries(directory)
        details = tensorboard.details(scalars, trainer, latest, config, 0.0)
        # Every call is due.
        progress = [_progress(each, each * config.summary_epochs) for each in range(request.rounds + 2)]
        once = _seconds(details, progress[:1])
        often = _seconds(scalars, progress[1:])
        seldom = _seconds(details, progress[1:])
    share = often / (config.report_steps * step) + seldom / (config.summary_epochs * STEPS_PER_EPOCH * step)
    figures = [
        measuring.Figure("a step", 1e3 * step, "ms"),
        measuring.Figure("scalars of a report", 1e3 * often, "ms"),
        measuring.Figure("histograms, sizes of updates, pictures", 1e3 * seldom, "ms"),
        measuring.Figure("the first of these, with graph and hyperparameters", 1e3 * once, "ms"),
        measuring.Figure("share of the steps' time", 100 * share, "%", MOST_SHARE, measuring.AT_MOST),
    ]
    notes = [
        f"scalars every {config.report_steps} steps, the rest every {config.summary_epochs:g} epochs "
        f"of {STEPS_PER_EPOCH} steps"
    ]
    what = f"training steps, batches of {config.batch_size}, {config.precision}"
    return measuring.Result(what, "images/s", rates, [], notes, figures)


def _progress(step, epoch):
    values = dict.fromkeys(loop.Progress._fields, 0.5)
    return loop.Progress(**{**values, "step": step, "epoch": float(epoch)})


def _seconds(action, progress):
    """The median time of an action's calls, the first of several left out."""
    found = []
    for each in progress:
        began = time.perf_counter()
        action(each)
        tf.test.experimental.sync_devices()
        found.append(time.perf_counter() - began)
    return float(np.median(found[1:] or found))
