"""What a run writes for TensorBoard."""

import glob
import math
import os
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from alexnet_tf.training import loop

# Values per layer in a histogram. All 37 million of a large layer would take a tenth of a second.
_HISTOGRAM_VALUES = 1 << 15


class Summaries:
    """Writes event files; as an action, the scalars of each report.

    If a run is killed and resumed, the event files contain the repeated steps twice; TensorBoard shows the later
    values.

    Args:
      directory: of the event files.
    """

    def __init__(self, directory: str):
        self._writer = tf.summary.create_file_writer(directory)

    def scalars(self, step: int, **values: float) -> None:
        """Writes scalars under their names."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def errors(self, step: int, part: str, loss: float, top1_error: float, top5_error: float | None) -> None:
        """Writes loss and errors, so that TensorBoard shows those of training and validation in one group.

        Args:
          step: the step.
          part: "train" or "validation".
          loss: in nats.
          top1_error: in [0, 1].
          top5_error: in [0, 1]; None with five classes or fewer.
        """
        values = {"loss": loss, "top1_error": top1_error, "top5_error": top5_error}
        known = {name: value for name, value in values.items() if value is not None}
        self.scalars(step, **{f"{name}/{part}": value for name, value in known.items()})

    def weights(self, step: int, weights: Mapping[str, tuple[tf.Variable, tf.Variable | None]]) -> None:
        """Writes a histogram of each layer's weights and the ratio of its last update to its weights.

        Args:
          step: the step.
          weights: dict from a layer's name to two variables of the same shape: its weights and their last update,
            which in the paper's rule is the velocity; None for a layer that is not updated.
        """
        with self._writer.as_default(step=step):
            for layer, (weight, update) in weights.items():
                tf.summary.histogram(f"weights/{layer}", _sample(weight))
                if update is not None:
                    tf.summary.scalar(f"update_over_weights/{layer}", update_ratio(weight, update))
        self._writer.flush()

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images.

        Args:
          step: the step.
          images: dict from a name to uint8 ``[count, height, width, 3]``.
        """
        with self._writer.as_default(step=step):
            for name, batch in images.items():
                tf.summary.image(name, batch, max_outputs=len(batch))
        self._writer.flush()

    def graph(self, graph: tf.Graph) -> None:
        """Writes a graph. To be called once per run, as TensorBoard shows only the last."""
        with self._writer.as_default(step=0):
            tf.summary.graph(graph)
        self._writer.flush()

    def hyperparameters(self, values: Mapping[str, bool | int | float | str]) -> None:
        """Writes hyperparameters, by which the HParams plugin compares runs."""
        # Imported here because it takes a second, and only training needs it.
        import tensorboard.plugins.hparams.api

        with self._writer.as_default(step=0):
            tensorboard.plugins.hparams.api.hparams(values)
        self._writer.flush()

    def __call__(self, progress: loop.Progress) -> None:
        self.errors(progress.step, "train", progress.train_loss, progress.train_error, progress.train_top5_error)
        self.scalars(
            progress.step,
            learning_rate=progress.learning_rate,
            images_per_second=progress.images_per_second,
            input_wait=progress.input_wait,
        )


class Session:
    """Tells the HParams plugin how a run ended, which it shows as running until then: a context and an action.

    The end is in a separate event file, which is removed when the run resumes: TensorBoard shows the first end that
    it reads. A stopped run is "unknown", as it may resume; one that ends with an error has failed.

    Args:
      directory: of the event files.
      steps: number of steps of the run.
      first_step: number of steps already taken.
    """

    _SUFFIX = ".session_end"

    def __init__(self, directory: str, steps: int, first_step: int = 0):
        self._directory = directory
        self._steps = steps
        self._step = first_step

    def __call__(self, progress: loop.Progress) -> None:
        self._step = progress.step

    def __enter__(self) -> "Session":
        for path in glob.glob(os.path.join(glob.escape(self._directory), f"*{self._SUFFIX}")):
            os.remove(path)
        return self

    def __exit__(self, error_type, *unused) -> None:
        import tensorboard.plugins.hparams.api_pb2
        import tensorboard.plugins.hparams.summary

        statuses = tensorboard.plugins.hparams.api_pb2
        status = statuses.STATUS_SUCCESS if self._step == self._steps else statuses.STATUS_UNKNOWN
        if error_type and issubclass(error_type, Exception):
            status = statuses.STATUS_FAILURE
        ended = tensorboard.plugins.hparams.summary.session_end_pb(status)
        writer = tf.summary.create_file_writer(self._directory, filename_suffix=self._SUFFIX)
        with writer.as_default(step=0):
            tf.summary.experimental.write_raw_pb(ended.SerializeToString(), step=0)
        writer.close()


def update_ratio(weights: tf.Variable, update: tf.Variable) -> float:
    """Returns the Euclidean norm of an update divided by that of the weights; 0 if the weights are all 0.

    Args:
      weights: on one device.
      update: of the same shape, on the same device.
    """
    # `l2_loss` is half the sum of squares, computed without a temporary tensor.
    with tf.device(weights.device):
        squares = tf.math.divide_no_nan(tf.nn.l2_loss(update), tf.nn.l2_loss(weights))
    return math.sqrt(float(squares))


def _sample(variable):
    """Returns evenly spaced values of a variable, on the host."""
    with tf.device(variable.device):
        values = tf.reshape(variable, [-1])
        # An odd stride: with a power of two of columns, an even one would sample only a few of them.
        return values[:: values.shape[0] // _HISTOGRAM_VALUES | 1].numpy()


class Details:
    """An action that writes what is too much for every report: at the first report and then every few epochs.

    Args:
      show: called with the step.
      every: interval in epochs; 0 for never.
      epoch: epochs already completed by the run.
    """

    def __init__(self, show: Callable[[int], None], *, every: float, epoch: float = 0.0):
        self._show = show
        self._every = every
        self._shown = self._intervals(epoch) if every and epoch else -1

    def _intervals(self, epoch):
        # An epoch is computed as a quotient, which may be slightly below the whole number.
        return math.floor(epoch / self._every + 1e-6)

    def __call__(self, progress: loop.Progress) -> None:
        if self._every and self._intervals(progress.epoch) > self._shown:
            self._shown = self._intervals(progress.epoch)
            self._show(progress.step)
