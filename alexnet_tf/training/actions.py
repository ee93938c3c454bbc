"""What a run does besides learning: each action is called with a `trainer.Progress` at every report."""

import contextlib
import glob
import json
import math
import os
import sys

import rich.console
import rich.progress
import tensorflow as tf

from alexnet_tf.profiling import trace
from alexnet_tf.utils import files

# A loss this near to ln(classes) is that of a network that knows nothing.
_FLAT_MARGIN = 0.01
# Values of a layer that a histogram is made of, at most: all 37 million of a large one would cost a tenth of a second.
_HISTOGRAM_VALUES = 1 << 15
# Seconds over which the bar takes its speed: on a CPU, minutes may pass between two reports.
_SPEED_PERIOD = 3600


class Metrics:
    """Appends every report, and what else a run wants to record, to a file of JSON lines.

    Args:
      path: of the file.
      first_step: int; lines of later steps, left by a run that was killed, are removed.
    """

    def __init__(self, path, first_step):
        self._path = path
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                kept = [line for line in file if _step_of(line) <= first_step]
            with files.atomic_write(path) as file:
                file.writelines(kept)

    def write(self, **record):
        """Appends one line."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def __call__(self, progress):
        self.write(kind="train", **progress._asdict())


def _step_of(line):
    if not line.endswith("\n"):
        return math.inf  # cut off by a kill, if only by its end: the next would go on in the same line
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class Summaries:
    """What TensorBoard shows: at each report its scalars.

    Steps that a killed run logged and its successor takes again stand in the event files twice; TensorBoard shows
    the later ones.

    Args:
      directory: of the event files.
    """

    def __init__(self, directory):
        self._writer = tf.summary.create_file_writer(directory)

    def scalars(self, step, **values):
        """Writes scalars under their names."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def weights(self, step, weights):
        """Writes a histogram of each layer's weights, and the size of its last update over that of its weights.

        Args:
          step: int.
          weights: dict from a layer's name to two variables of one shape: its weights, and what was last added to them,
            which in the paper's rule is the velocity.
        """
        with self._writer.as_default(step=step):
            for layer, (weight, update) in weights.items():
                tf.summary.histogram(f"weights/{layer}", _sample(weight))
                tf.summary.scalar(f"update_over_weights/{layer}", update_ratio(weight, update))
        self._writer.flush()

    def pictures(self, step, pictures):
        """Writes pictures.

        Args:
          step: int.
          pictures: dict from a name to uint8 ``[count, height, width, 3]``.
        """
        with self._writer.as_default(step=step):
            for name, images in pictures.items():
                tf.summary.image(name, images, max_outputs=len(images))
        self._writer.flush()

    def graph(self, graph):
        """Writes a ``tf.Graph``, once in a run: of several TensorBoard shows the last."""
        with self._writer.as_default(step=0):
            tf.summary.graph(graph)
        self._writer.flush()

    def hyperparameters(self, values):
        """Writes what the plugin HParams compares runs by.

        Args:
          values: dict from a name to a bool, int, float or str.
        """
        # Takes a second to load, of which the programs that do not train have nothing.
        import tensorboard.plugins.hparams.api

        with self._writer.as_default(step=0):
            tensorboard.plugins.hparams.api.hparams(values)
        self._writer.flush()

    def __call__(self, progress):
        top5 = {} if progress.train_top5_error is None else {"train_top5_error": progress.train_top5_error}
        self.scalars(
            progress.step,
            train_loss=progress.train_loss,
            train_top1_error=progress.train_error,
            **top5,
            learning_rate=progress.learning_rate,
            images_per_second=progress.images_per_second,
            input_wait=progress.input_wait,
        )


def update_ratio(weights, update):
    """The Euclidean norm of an update over that of the weights it was added to, a float; 0 where they are all 0.

    Args:
      weights, update: ``tf.Variable`` of one shape, on one device.
    """
    # Of half the squares' sum, an operation that takes no memory.
    with tf.device(weights.device):
        squares = tf.math.divide_no_nan(tf.nn.l2_loss(update), tf.nn.l2_loss(weights))
    return math.sqrt(float(squares))


def _sample(variable):
    """Evenly taken values of a variable, on the host."""
    with tf.device(variable.device):
        values = tf.reshape(variable, [-1])
        # Odd, or a power of two of columns would be met in the same few of them.
        return values[:: values.shape[0] // _HISTOGRAM_VALUES | 1].numpy()


class Details:
    """Lets a run show what is too much for every report: at its first one, and after each so many epochs.

    Args:
      show: called with the step's number.
      every: float, epochs; 0 for never.
      epoch: float, passes that the run has behind it.
    """

    def __init__(self, show, *, every, epoch=0.0):
        self._show = show
        self._every = every
        self._shown = self._times(epoch) if every and epoch else -1

    def _times(self, epoch):
        # An epoch is a whole number of steps, and what comes of a division may be just below.
        return math.floor(epoch / self._every + 1e-6)

    def __call__(self, progress):
        if self._every and self._times(progress.epoch) > self._shown:
            self._shown = self._times(progress.epoch)
            self._show(progress.step)


def check_profile_steps(steps):
    """Raises ValueError unless `steps` are none, or the first and the last step to profile, ints from 1 on."""
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        received = ",".join(map(str, steps))
        raise ValueError(f"Expected the first and the last step to profile, such as 10,20. Received: {received}")


class Profiler:
    """Profiles some of a run's steps, for TensorBoard's profile plugin and `timeline`.

    A context manager around the training, which ends the profile of a run that ends within it.

    Args:
      directory: of the run's event files.
      first_step, last_step: ints, the steps, both included, counted from 1 at the start of the run.
      describe: called without arguments when the profile ends; returns what `trace.describe` does.
    """

    def __init__(self, directory, first_step, last_step, describe):
        self._directory = directory
        self._first_step = first_step
        self._last_step = last_step
        self._describe = describe
        self._is_running = False

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self._is_running:
            self._stop()

    @contextlib.contextmanager
    def step(self, step):
        """What stands around a step, as `trainer.train` wants it."""
        if step == self._first_step:
            # Operations and our marks; every call of Python's would slow down what is measured.
            options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
            tf.profiler.experimental.start(self._directory, options=options)
            self._is_running = True
        if not self._is_running:
            yield
            return
        with tf.profiler.experimental.Trace(trace.STEP, step_num=step, _r=1):
            yield
            if step == self._last_step:
                # What a GPU still has to do belongs to the profile.
                tf.test.experimental.sync_devices()
        if step == self._last_step:
            self._stop()

    def _stop(self):
        self._is_running = False
        tf.profiler.experimental.stop()
        traces = sorted(glob.glob(os.path.join(glob.escape(self._directory), trace.TRACES)))
        if traces:
            files.write_json(os.path.join(os.path.dirname(traces[-1]), trace.DESCRIPTION), self._describe())


class FlatLoss:
    """Warns, once, when a network has learnt nothing for a while, with the likely cause.

    Args:
      num_classes: int.
      warn: called with the `trainer.Progress` and the warning.
      after: int, reports in a row whose loss stands at ln(num_classes).
    """

    def __init__(self, num_classes, warn, after=10):
        self._chance = math.log(num_classes)
        self._warn = warn
        self._after = after
        self._flat = 0
        self._warned = False

    def __call__(self, progress):
        flat = abs(progress.train_loss - self._chance) < _FLAT_MARGIN * self._chance
        self._flat = self._flat + 1 if flat else 0
        if self._flat == self._after and not self._warned:
            self._warned = True
            self._warn(
                progress,
                f"the loss stands at ln(classes) = {self._chance:.3f}, as if nothing were learnt. Weights of 0.01 "
                "under biases of 1 start slowly: be patient, or take --recipe=original (0.03 in conv3 to conv5); "
                "a learning rate that is too high stands there too",
            )


class Terminal:
    """A progress bar with images a second and the time left; lines of its own stay above it.

    Args:
      steps: int, the run's.
      first_step: int.
      steps_per_epoch: int.
      console: a ``rich.console.Console``; None takes the standard output.
    """

    def __init__(self, steps, first_step, steps_per_epoch, console=None):
        self._console = console or rich.console.Console(file=sys.stdout, soft_wrap=True, highlight=False)
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.completed}/{task.total} {task.fields[speed]}"),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            transient=True,
            speed_estimate_period=_SPEED_PERIOD,
        )
        self._epochs = steps / steps_per_epoch
        self._task = self._bar.add_task("training", total=steps, completed=first_step, speed="")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *unused):
        self._bar.stop()

    def print(self, line):
        """Prints one line above the bar."""
        self._console.print(line, markup=False)

    def __call__(self, progress):
        self._bar.update(
            self._task,
            completed=progress.step,
            description=f"epoch {progress.epoch:.2f}/{self._epochs:g} loss {progress.train_loss:.3f}",
            speed=f"steps, {progress.images_per_second:.1f} images/s",
        )
