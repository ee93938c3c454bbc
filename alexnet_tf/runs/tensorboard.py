"""What a run of ours shows in TensorBoard beside its scalars: weights, pictures, graph and hyperparameters."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from alexnet_tf.models import registry
from alexnet_tf.reporting import kernels
from alexnet_tf.runs import builders
from alexnet_tf.training import tensorboard

# Augmented images of a batch that are shown.
SHOWN_IMAGES = 8


def open_summaries(workdir):
    """The `tensorboard.Summaries` of a run, in its subdirectory "tensorboard"."""
    return tensorboard.Summaries(os.path.join(workdir, "tensorboard"))


class Latest:
    """Batches, of which the one drawn last stays at hand.

    Args:
      batches: iterable.
      part: maps a batch to what one replica has of it.
    """

    def __init__(self, batches, part=lambda batch: batch):
        self._batches = batches
        self._part = part
        self.batch = None

    def part(self):
        """What one replica has of the batch drawn last."""
        return self._part(self.batch)

    def __iter__(self):
        for batch in self._batches:
            self.batch = batch
            yield batch


def details(summaries, trainer, latest, config, epoch):
    """The action that shows what changes slowly: histograms, sizes of updates, kernels and augmented images.

    Args:
      summaries: `tensorboard.Summaries`.
      trainer: the `trainer.Trainer`.
      latest: `Latest`, the batches that it is given.
      config: a `config.Config`.
      epoch: float, passes that the run has behind it; at 0 the graph and the hyperparameters are shown too.

    Returns:
      `tensorboard.Details`.
    """
    weights = layer_weights(trainer.model, trainer.optimizer)
    first_layers = registry.find(config.network).first_layers
    is_new = not epoch

    def show(step):
        nonlocal is_new
        if is_new:
            is_new = False
            summaries.hyperparameters(hyperparameters(config))
            summaries.graph(step_graph(trainer, latest.batch, config))
        summaries.weights(step, weights)
        summaries.images(step, pictures(weights, first_layers, trainer.preprocess, latest.part()))

    return tensorboard.Details(show, every=config.summary_epochs, epoch=epoch)


def layer_weights(model, optimizer):
    """The weights of each layer and their velocities: a dict from its name to two variables."""
    return {
        variable.path.split("/")[0]: (variable.value, velocity)
        for variable, velocity in zip(model.trainable_variables, optimizer.velocities)
        if variable.path.endswith("kernel")
    }


def step_graph(trainer, batch, config):
    """The ``tf.Graph`` that the step of a `trainer.Trainer` was traced into, forward, backward and update."""
    return trainer.step.get_concrete_function(batch, builders.initial_rates(config)).graph


def hyperparameters(config):
    """All fields of a `config.Config` as TensorBoard takes them: lists as text, what is not set left out."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
        if value is not None
    }


def pictures(weights, first_layers, preprocess, batch):
    """The first layer's kernels, and some images of a batch as the network sees them.

    Args:
      weights: of `layer_weights`.
      first_layers: the names of the layers that read the images.
      preprocess: of a `trainer.Trainer`.
      batch: what it takes.

    Returns:
      A dict from a name to uint8 ``[count, height, width, 3]``.
    """
    first_weights = [weights[name][0].numpy() for name in first_layers if name in weights]
    images, _ = preprocess(tf.nest.map_structure(lambda column: column[:SHOWN_IMAGES], batch))
    return {
        "conv1_kernels": kernels.tile(first_weights, scale=4)[None],
        "augmented_images": grey_levels(images.numpy()),
    }


def grey_levels(images):
    """Images with their mean subtracted, made visible: zero is middle grey, each is stretched to its own largest value.

    Args:
      images: float ``[batch, height, width, 3]``.

    Returns:
      uint8 of that shape.
    """
    largest = np.maximum(np.abs(images).max(axis=(1, 2, 3), keepdims=True), 1e-30)
    return np.round(127.5 + 127.5 * (images / largest)).astype(np.uint8)
