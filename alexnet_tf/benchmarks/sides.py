"""The sides that several rows share: our training step, repeated calls, and synthetic batches.

Ours run in this process, with its threads and devices; those of other libraries run in processes of their own, with
their defaults (`measuring.in_subprocesses`). Our step starts from uint8 crops, as in training.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import network_peers
from alexnet_tf.runs import builders
from alexnet_tf.training import trainer

OURS, KERAS, TORCH, TENSORFLOW = "ours", "Keras textbook", "torch", "TensorFlow"
# Others that are written for speed.
EXPERT, TORCH_CHANNELS_LAST = "Keras expert", "torch, channels last"
NUM_CLASSES = network_peers.NUM_CLASSES
# Calls at the start of a turn that are not counted: the first one brings a side's memory back into the cache.
WARM_UP = 1


def build_trainer(
    run_config: config.Config, change: Callable[[keras.Model], keras.Model] = lambda model: model
) -> trainer.Trainer:
    """Builds our trainer.

    Args:
      run_config: a resolved `config.Config`.
      change: maps our network to the one that is trained.

    Returns:
      A `trainer.Trainer`.
    """
    model = change(builders.build_model(run_config, NUM_CLASSES))
    return builders.build_trainer(run_config, model, builders.blank_statistics(run_config))


# Consecutive rows need the same one; compiling it takes seconds, and its variables half a gigabyte.
shared_trainer = functools.lru_cache(maxsize=1)(build_trainer)


def training_step(
    run_config: config.Config,
    step_trainer: trainer.Trainer,
    amount: float | None = None,
    num_classes: int = NUM_CLASSES,
) -> measuring.Side:
    """Returns a side of training steps on one synthetic batch.

    Args:
      run_config: a resolved `config.Config`.
      step_trainer: from `build_trainer`.
      amount: work done per step; defaults to the number of images.
      num_classes: of the network.
    """
    batch = synthetic_batch(run_config, num_classes)
    rates = builders.initial_rates(run_config)

    def work():
        while True:
            # Reading the loss waits for the step; otherwise only queueing would be measured.
            step_trainer.step(batch, rates).loss.numpy()
            yield run_config.batch_size if amount is None else amount

    return work


def repeat(amount: float, function: Callable, *arguments: Any) -> measuring.Side:
    """Returns a side that calls a function and waits for the devices; `amount` is the work done per call."""

    def work():
        while True:
            function(*arguments)
            tf.test.experimental.sync_devices()
            yield amount

    return work


def interleave(request: measuring.Request, measured: dict[str, measuring.Side]) -> dict[str, list[float]]:
    """Calls `measuring.interleave` with the rounds and seconds of a request."""
    return measuring.interleave(measured, rounds=request.rounds, seconds=request.seconds, warm_up=WARM_UP)


def synthetic_batch(run_config: config.Config, num_classes: int) -> dict[str, tf.Tensor]:
    """Returns a batch of noise with the shapes and dtypes of `pipeline.training_batches`."""
    size, batch_size = run_config.crop_size, run_config.batch_size
    margin = run_config.image_size - size
    generator = np.random.default_rng(run_config.seed)
    return {
        "crops": tf.constant(generator.integers(0, 256, [batch_size, size, size, 3], dtype=np.uint8)),
        "offsets": tf.constant(generator.integers(0, margin + 1, [batch_size, 2]).astype(np.int32)),
        "flips": tf.constant(np.column_stack([np.zeros(batch_size, bool), generator.random(batch_size) < 0.5])),
        "labels": tf.constant(generator.integers(0, num_classes, batch_size).astype(np.int64)),
        "noise": tf.constant(generator.standard_normal([batch_size, 3]).astype(np.float32)),
    }


def images_and_labels(
    batch_size: int, size: int = 224, num_classes: int = NUM_CLASSES
) -> tuple[np.ndarray, np.ndarray]:
    """Returns synthetic preprocessed images, float32 ``[batch, size, size, 3]``, and labels, int64 ``[batch]``."""
    generator = np.random.default_rng(0)
    images = 60 * generator.standard_normal([batch_size, size, size, 3], np.float32)
    return images, generator.integers(0, num_classes, batch_size)


def torch_builds(notes: list[str], build: Callable, *arguments: Any) -> list[tuple]:
    """Returns torch's builds for `measuring.in_subprocesses`; none, and a note, if torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        notes.append(f"{TORCH}: not installed")
        return []
    return [(build, *arguments)]


def product(*sizes: int) -> str:
    """Formats sizes as ``AxBxC``."""
    return "x".join(map(str, sizes))
