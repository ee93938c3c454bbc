"""How much features move when an image shifts by some pixels."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation import activations


class Movement(NamedTuple):
    """The effect of shifts on a network."""

    layers: list[str]
    # float64 [shifts, layers]: the mean distance between the features of an image and of the shifted image, divided by
    # the mean distance between the features of two different images.
    distances: np.ndarray
    same_class: np.ndarray  # float64 [shifts], the share of the shifted images whose most probable class is the same


def default_layers(model: keras.Model) -> list[str]:
    """Returns the names of the layers that pool or are fully connected, in the order of computation."""
    kinds = (
        keras.layers.MaxPooling2D,
        keras.layers.AveragePooling2D,
        keras.layers.GlobalAveragePooling2D,
        keras.layers.Dense,
    )
    return [name for name in activations.names(model) if isinstance(activations.layers(model, name)[0], kinds)]


def movement(
    model: keras.Model,
    view: Callable[[tf.Tensor], tf.Tensor],
    batches: Iterable[np.ndarray],
    *,
    crop_size: int,
    shifts: Sequence[int],
    layers: Sequence[str],
) -> Movement:
    """Measures how much features move when images shift to the left, and when they shift upwards.

    All pixels are the image's own: a shift takes another crop of it. The crops of all shifts together are in the middle
    of the image.

    Args:
      model: a functional model from images to logits.
      view: from uint8 ``[batch, crop_size, crop_size, 3]`` to what the model takes.
      batches: uint8 ``[batch, size, size, 3]`` with at least two images each; images next to each other in a batch, and
        its first and last, are compared as different ones.
      crop_size: side of the crops.
      shifts: in pixels, 1 to ``size - crop_size``.
      layers: names as of `activations.part`.

    Raises:
      ValueError: for a layer that does not exist, or a shift that the margin of the images does not allow.
    """
    features = keras.Model(model.inputs, [*tf.nest.flatten(activations.part(model, layers).outputs), *model.outputs])

    @tf.function(reduce_retracing=True, autograph=False)
    def compute(pixels):
        *found, logits = features(view(pixels), training=False)
        return [tf.reshape(tf.cast(each, tf.float32), [tf.shape(each)[0], -1]) for each in found], tf.argmax(logits, 1)

    moved, same = np.zeros([len(shifts), len(layers)]), np.zeros(len(shifts))
    apart, count = np.zeros(len(layers)), 0
    for pixels in batches:
        crop = _cropper(pixels, crop_size, max(shifts))
        before, classes = compute(crop(0, 0))
        apart += [_distances(each, tf.roll(each, 1, axis=0)) for each in before]
        count += len(pixels)
        for row, shift in enumerate(shifts):
            for down, right in ((0, shift), (shift, 0)):
                after, shifted_classes = compute(crop(down, right))
                moved[row] += [_distances(*pair) / 2 for pair in zip(before, after)]
                same[row] += np.mean(classes == shifted_classes) * len(pixels) / 2
    return Movement(list(layers), moved / np.maximum(apart, 1e-30), same / count)


def _cropper(pixels, size, largest_shift):
    """Returns the function that cuts crops at a distance from the first one."""
    margin = min(pixels.shape[1:3]) - size
    if not 1 <= largest_shift <= margin:
        raise ValueError(
            f"Expected shifts of 1 to {margin} pixels, the margin around crops of {size} x {size}. "
            f"Received: {largest_shift}"
        )
    first = (margin - largest_shift) // 2

    def crop(down, right):
        top, left = first + down, first + right
        return tf.constant(pixels[:, top : top + size, left : left + size])

    return crop


def _distances(features, others):
    """Returns the sum over the batch of the Euclidean distances between features."""
    return float(tf.reduce_sum(tf.norm(features - others, axis=1)))
