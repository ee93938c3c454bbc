"""Explains predictions of a run's network: which parts of an image they depend on."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.data import augmentation
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import saliency
from alexnet_tf.runs import builders

METHODS = ("grad_cam", "occlusion")
# Class names in a message.
_MAX_LISTED = 12


class Method(NamedTuple):
    """How maps are computed."""

    name: str = "grad_cam"
    layer: str = ""  # of Grad-CAM; empty for `saliency.default_layer`
    patch_size: int = 0  # side of the occluding square in pixels of the crop; 0 for a quarter of the crop's side
    positions: int = 16  # of the square, per side


DEFAULT_METHOD = Method()


class Explanation(NamedTuple):
    """An image with a map of what a prediction for it depends on."""

    class_name: str  # the class that the map explains
    probability: float  # of this class, in [0, 1]
    pixels: np.ndarray  # uint8 [crop_size, crop_size, 3]: the center crop, which the network sees
    values: np.ndarray  # float32 [crop_size, crop_size]: the map, scaled to these pixels
    grid: np.ndarray  # float32 [rows, columns]: the map as it was computed


def class_index(class_names: Sequence[str], class_words: Mapping[str, str], requested: str) -> int:
    """Returns the index of a class by its name, its words or its number.

    Raises:
      ValueError: if there is no such class.
    """
    for names in (list(class_names), [class_words.get(name) for name in class_names]):
        if requested in names:
            return names.index(requested)
    if requested.isdecimal() and int(requested) < len(class_names):
        return int(requested)
    others = f" and {len(class_names) - _MAX_LISTED} more" if len(class_names) > _MAX_LISTED else ""
    raise ValueError(
        f"Expected the name of a class, or its number from 0 to {len(class_names) - 1}: "
        f"{', '.join(class_names[:_MAX_LISTED])}{others}. Received: {requested!r}"
    )


def map_function(
    model: keras.Model,
    run_config: config.Config,
    image_statistics: statistics.Statistics,
    method: Method = DEFAULT_METHOD,
) -> Callable[[np.ndarray, Sequence[int]], saliency.Maps]:
    """Returns the function that computes maps of the center crops of images.

    Args:
      model: the network.
      run_config: the resolved configuration.
      image_statistics: of the training images.
      method: how maps are computed.

    Returns:
      A function of uint8 ``[batch, image_size, image_size, 3]`` and a class of each image, or -1 for the most probable.

    Raises:
      ValueError: for an unknown method, a layer that does not exist or has no positions, or a square that does not fit.
    """
    if method.name not in METHODS:
        raise ValueError(f"Expected method to be one of {', '.join(METHODS)}. Received: {method.name!r}")
    if method.name == "grad_cam":
        compute = saliency.grad_cam(model, method.layer or saliency.default_layer(model))
    else:
        patch_size = method.patch_size or max(1, run_config.crop_size // 4)
        compute = saliency.occlusion(model, patch_size=patch_size, positions=method.positions)
    view = builders.central_view(run_config, image_statistics)
    return lambda pixels, classes: compute(view(tf.constant(pixels)), tf.constant(classes, tf.int64))


def explain(
    compute: Callable[[np.ndarray, Sequence[int]], saliency.Maps],
    pixels: np.ndarray,
    classes: Sequence[int],
    class_names: Sequence[str],
    crop_size: int,
) -> list[Explanation]:
    """Computes the map of each image of a batch.

    Args:
      compute: from `map_function`.
      pixels: uint8 ``[batch, image_size, image_size, 3]``.
      classes: a class of each image, or -1 for the most probable one.
      class_names: of all classes.
      crop_size: side of the center crop.
    """
    maps = compute(pixels, classes)
    crops = np.asarray(augmentation.central_crop(pixels, crop_size))
    values = saliency.scale(maps.grids, crop_size)
    return [
        Explanation(class_names[label], float(probability), *arrays)
        for label, probability, *arrays in zip(maps.classes, maps.probabilities, crops, values, maps.grids)
    ]
