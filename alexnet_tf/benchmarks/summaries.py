"""What TensorBoard's summaries cost in a training run (row summaries)."""

import dataclasses
import tempfile
import time

import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import sides
from alexnet_tf.runs import summary_contents
from alexnet_tf.training import loop

# Of quickstart, the shortest epoch of our experiments, in which what is written once per epoch is most frequent.
STEPS_PER_EPOCH = 61
MAX_SHARE = 1.0


def summaries(request: measuring.Request) -> measuring.Result:
    """The time of scalars, histograms, update sizes and images, relative to the steps between them.

    Args:
      request: `measuring.Request`; the intervals are the configuration's, with an epoch of `STEPS_PER_EPOCH` steps.

    Returns:
      `measuring.Result`, whose rates are those of the step only.
    """
    run_config = request.config.resolved()
    # The trainer does not depend on the interval.
    trainer = sides.shared_trainer(run_config)
    run_config = dataclasses.replace(run_config, summary_epochs=run_config.summary_epochs or 1.0)
    rates = sides.interleave(request, {sides.OURS: sides.training_step(run_config, trainer)})
    step = run_config.batch_size / float(np.median(rates[sides.OURS]))
    latest = summary_contents.Latest([sides.synthetic_batch(run_config, sides.NUM_CLASSES)])
    next(iter(latest))
    with tempfile.TemporaryDirectory(prefix="alexnet_benchmark_") as directory:
        scalars = summary_contents.open_summaries(directory)
        details = summary_contents.details(scalars, trainer, latest, run_config, 0.0)
        # Every call is due.
        progress = [_progress(each, each * run_config.summary_epochs) for each in range(request.rounds + 2)]
        first_details = _seconds(details, progress[:1])
        every_report = _seconds(scalars, progress[1:])
        every_epoch = _seconds(details, progress[1:])
    share = every_report / (run_config.report_steps * step)
    share += every_epoch / (run_config.summary_epochs * STEPS_PER_EPOCH * step)
    values = [
        measuring.Value("step", 1e3 * step, "ms"),
        measuring.Value("scalars of a report", 1e3 * every_report, "ms"),
        measuring.Value("histograms, update sizes, images", 1e3 * every_epoch, "ms"),
        measuring.Value("the first of these, with graph and hyperparameters", 1e3 * first_details, "ms"),
        measuring.Value("share of the time of the steps", 100 * share, "%", MAX_SHARE, measuring.AT_MOST),
    ]
    notes = [
        f"scalars every {run_config.report_steps} steps, the rest every {run_config.summary_epochs:g} epochs "
        f"of {STEPS_PER_EPOCH} steps"
    ]
    description = f"training steps, batches of {run_config.batch_size}, {run_config.precision}"
    return measuring.Result(description, "images/s", rates, [], notes, values)


def _progress(step, epoch):
    values = dict.fromkeys(loop.Progress._fields, 0.5)
    return loop.Progress(**{**values, "step": step, "epoch": float(epoch)})


def _seconds(action, progress):
    """Returns the median time of an action's calls, without the first one if there are several."""
    found = []
    for each in progress:
        start = time.perf_counter()
        action(each)
        tf.test.experimental.sync_devices()
        found.append(time.perf_counter() - start)
    return float(np.median(found[1:] or found))
