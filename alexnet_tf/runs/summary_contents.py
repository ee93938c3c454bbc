"""Writes the slowly changing summaries of a run to TensorBoard: weights, images, graph and hyperparameters."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.models import registry
from alexnet_tf.reporting import kernels
from alexnet_tf.runs import builders
from alexnet_tf.training import loop
from alexnet_tf.training import optimizer
from alexnet_tf.training import tensorboard
from alexnet_tf.training import trainer

# Augmented images per batch.
SHOWN_IMAGES = 8


def open_summaries(workdir: str) -> tensorboard.Summaries:
    """Opens the summaries of a run, in the subdirectory "tensorboard" of its work directory."""
    return tensorboard.Summaries(os.path.join(workdir, "tensorboard"))


class Latest:
    """An iterable of batches that keeps the latest batch.

    Args:
      batches: iterable.
      part: maps a batch to the part of one replica.

    Attributes:
      batch: the latest batch; None before the first.
    """

    def __init__(self, batches: Iterable[Any], part: Callable[[Any], Any] = lambda batch: batch):
        self._batches = batches
        self._part = part
        self.batch = None

    def part(self) -> Any:
        """Returns the part of one replica of the latest batch."""
        return self._part(self.batch)

    def __iter__(self):
        for batch in self._batches:
            self.batch = batch
            yield batch


def details(
    summaries: tensorboard.Summaries,
    step_trainer: trainer.Trainer,
    latest: Latest,
    run_config: config.Config,
    epoch: float,
) -> tensorboard.Details:
    """Returns the action that writes histograms, sizes of updates, kernels and augmented images.

    Args:
      summaries: of the run.
      step_trainer: the trainer.
      latest: the batches of the trainer.
      run_config: the resolved configuration.
      epoch: number of epochs already trained. If 0, the action also writes graph and hyperparameters once.
    """
    weights = layer_weights(step_trainer.model, step_trainer.optimizer)
    first_layers = registry.find(run_config.network).first_layers
    is_new = not epoch

    def show(step):
        nonlocal is_new
        if is_new:
            is_new = False
            summaries.hyperparameters(hyperparameters(run_config))
            summaries.graph(step_graph(step_trainer, latest.batch, run_config))
        summaries.weights(step, weights)
        summaries.images(step, summary_images(weights, first_layers, step_trainer.preprocess, latest.part()))

    return tensorboard.Details(show, every=run_config.summary_epochs, epoch=epoch)


def session(
    workdir: str, run_config: config.Config, steps: int, first_step: int
) -> contextlib.AbstractContextManager[Callable[[loop.Progress], None]]:
    """Returns the context of a run for the HParams plugin, whose value is an action; see `tensorboard.Session`.

    Args:
      workdir: the run's directory.
      run_config: the resolved configuration. Without `details`, the plugin does not know the run.
      steps: number of steps of the run.
      first_step: number of steps already taken.
    """
    if not run_config.summary_epochs:
        return contextlib.nullcontext(lambda progress: None)
    return tensorboard.Session(os.path.join(workdir, "tensorboard"), steps, first_step)


def layer_weights(
    model: keras.Model, momentum_sgd: optimizer.MomentumSGD
) -> dict[str, tuple[tf.Variable, tf.Variable | None]]:
    """Returns the kernel and its velocity for each layer by name; that of a frozen layer is None."""
    paths = [variable.path for variable in model.trainable_variables]
    velocities = dict(zip(paths, momentum_sgd.velocities, strict=True))
    return {
        variable.path.split("/")[0]: (variable.value, velocities.get(variable.path))
        for variable in model.weights
        if variable.path.endswith("kernel")
    }


def step_graph(step_trainer: trainer.Trainer, batch: Any, run_config: config.Config) -> tf.Graph:
    """Returns the graph of the training step: forward, backward and update."""
    return step_trainer.step.get_concrete_function(batch, builders.initial_rates(run_config)).graph


def hyperparameters(run_config: config.Config) -> dict[str, bool | int | float | str]:
    """Returns the fields of a configuration for TensorBoard: lists as text, without fields that are None."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(run_config).items()
        if value is not None
    }


def summary_images(
    weights: dict[str, tuple[tf.Variable, tf.Variable | None]],
    first_layers: Sequence[str],
    preprocess: Callable[[Any], tuple[tf.Tensor, tf.Tensor]],
    batch: Any,
) -> dict[str, np.ndarray]:
    """Returns the kernels of the first layer, and some images of a batch as the network sees them.

    Args:
      weights: from `layer_weights`.
      first_layers: names of the layers that read the images.
      preprocess: of a `trainer.Trainer`.
      batch: argument of `preprocess`.

    Returns:
      From a name to uint8 ``[count, height, width, 3]``.
    """
    images, _ = preprocess(tf.nest.map_structure(lambda column: column[:SHOWN_IMAGES], batch))
    first_weights = [
        kernels.as_images(weights[name][0].numpy(), images.shape[1]) for name in first_layers if name in weights
    ]
    return {
        "conv1_kernels": kernels.tile(first_weights, scale=4)[None],
        "augmented_images": to_gray_levels(images.numpy()),
    }


def to_gray_levels(images: np.ndarray) -> np.ndarray:
    """Converts images without their mean for display: zero becomes middle gray, the largest magnitude 0 or 255.

    Args:
      images: float ``[batch, height, width, 3]``. Each is scaled by its own largest magnitude.

    Returns:
      uint8 of the same shape.
    """
    largest = np.maximum(np.abs(images).max(axis=(1, 2, 3), keepdims=True), 1e-30)
    return np.round(127.5 + 127.5 * (images / largest)).astype(np.uint8)
