"""Chooses frozen layers, batch size, epochs and learning rate by the number of images, where options are "auto".

A run sees each image more often the fewer there are, because new layers need some hundred steps however small a data
set is; but not without limit, as a network soon knows a few images by heart. The constants come from the trials in
docs/measurements.md.
"""

import dataclasses
import math
from typing import NamedTuple

from alexnet_tf import config
from alexnet_tf import flagfiles

# A batch has 1 / 50 of the images, as a power of 2 within these bounds.
_BATCHES_PER_EPOCH = 50
_MIN_BATCH_SIZE, _MAX_BATCH_SIZE = 16, 128
_MAX_LEARNING_RATE = 0.01
# With fewer training images, the trained convolutions stay as they are.
_MIN_IMAGES_TO_TUNE = 100
# Images that are seen at most, however many there are: 20,000 steps of the largest batch.
_MAX_IMAGES = 2_560_000


class _Start(NamedTuple):
    """What depends on the initial weights."""

    learning_rate: float  # at `batch_size`
    batch_size: int
    min_epochs: int
    max_epochs: int
    min_images: int  # to be seen in all epochs, if `max_epochs` allows it


_TRAINED = _Start(learning_rate=0.01, batch_size=32, min_epochs=10, max_epochs=60, min_images=3_200)
_RANDOM = _Start(learning_rate=0.001, batch_size=16, min_epochs=20, max_epochs=60, min_images=32_000)


def frozen_layers(num_images: int, *, is_trained: bool) -> tuple[str, ...]:
    """Returns the names of the layers that are not trained: none with random weights, otherwise convolutions.

    Args:
      num_images: number of training images, at least 1.
      is_trained: whether the first layers start with the weights of another run.
    """
    if not is_trained:
        return ()
    return ("conv1", "conv2", "conv3", "conv4", "conv5") if num_images < _MIN_IMAGES_TO_TUNE else ("conv1",)


def batch_size(num_images: int) -> int:
    """Returns the number of images in a batch: a power of 2 from 16 to 128.

    Args:
      num_images: number of training images, at least 1.
    """
    wanted = max(1, num_images // _BATCHES_PER_EPOCH)
    return min(max(2 ** (wanted.bit_length() - 1), _MIN_BATCH_SIZE), _MAX_BATCH_SIZE)


def learning_rate(batch_size: int, *, is_trained: bool) -> float:
    """Returns the initial learning rate, in proportion to the batch size up to the paper's rate.

    Args:
      batch_size: images per step.
      is_trained: as of `frozen_layers`.
    """
    start = _TRAINED if is_trained else _RANDOM
    return min(float(f"{start.learning_rate * batch_size / start.batch_size:.2g}"), _MAX_LEARNING_RATE)


def epochs(num_images: int, *, is_trained: bool) -> tuple[float, str]:
    """Returns the number of passes over the images, and the rule that decided it.

    Args:
      num_images: number of training images, at least 1.
      is_trained: as of `frozen_layers`.
    """
    start = _TRAINED if is_trained else _RANDOM
    passes = math.ceil(start.min_images / num_images)
    if passes > start.max_epochs:
        return float(start.max_epochs), f"at most {start.max_epochs} passes"
    if passes > start.min_epochs:
        return float(passes), f"about {start.min_images:,} images seen"
    if start.min_epochs * num_images > _MAX_IMAGES:
        return max(1.0, float(f"{_MAX_IMAGES / num_images:.2g}")), f"about {_MAX_IMAGES:,} images seen"
    return float(start.min_epochs), f"at least {start.min_epochs} passes"


def resolve(run_config: config.Config, num_images: int) -> tuple[config.Config, str]:
    """Replaces "auto" in ``freeze``, ``batch_size``, ``epochs`` and ``learning_rate``.

    Args:
      run_config: the configuration.
      num_images: number of training images, at least 1.

    Returns:
      The configuration, and a line that says what was chosen and why; empty if nothing is "auto".
    """
    names = run_config.auto_fields()
    if not names:
        return run_config, ""
    is_trained = bool(run_config.initialize_from)
    values = {name: getattr(run_config, name) for name in ("freeze", "batch_size", "epochs", "learning_rate")}
    if "freeze" in names:
        values["freeze"] = frozen_layers(num_images, is_trained=is_trained)
    if "batch_size" in names:
        values["batch_size"] = batch_size(num_images)
    if "learning_rate" in names:
        values["learning_rate"] = learning_rate(values["batch_size"], is_trained=is_trained)
    texts = {name: f"{name}={flagfiles.format_value(values[name]) or 'none'}" for name in values if name in names}
    if "epochs" in names:
        values["epochs"], reason = epochs(num_images, is_trained=is_trained)
        texts["epochs"] = f"epochs={values['epochs']:g} ({reason})"
    weights = f"the weights of {run_config.initialize_from}" if is_trained else "random weights"
    chosen = "; ".join(texts[name] for name in values if name in texts)
    line = f"auto: {chosen}; for {num_images:,} training images and {weights}"
    return dataclasses.replace(run_config, **values), line
