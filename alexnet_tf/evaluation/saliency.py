"""Maps of the parts of an image that a network's prediction depends on: Grad-CAM and occlusion."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation import activations
from alexnet_tf.utils import messages

# Occluded copies of an image that are classified at once.
_BATCH_SIZE = 64


class Maps(NamedTuple):
    """Maps of a batch of images."""

    grids: np.ndarray  # float32 [batch, rows, columns]
    classes: np.ndarray  # int64 [batch], the class that each map explains
    probabilities: np.ndarray  # float32 [batch], of that class


# From float32 [batch, side, side, 3], preprocessed, and int64 [batch], a class of each image or -1 for the most
# probable one, to `Maps`.
Function = Callable[[tf.Tensor, tf.Tensor], Maps]


def has_maps(model: keras.Model) -> bool:
    """Returns whether a network has a convolution, and so a layer with positions that Grad-CAM can use."""
    return any(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)


def default_layer(model: keras.Model) -> str:
    """Returns the name of the last layer with positions, before the last pooling.

    In AlexNet that is "conv5", as in the paper of Grad-CAM; in GoogLeNet all paths of the last module, "inception5b";
    in a residual network the sum that ends the last block, such as "relu5_2".

    Args:
      model: a functional model from images to logits.

    Raises:
      ValueError: if the network has none, such as a multilayer perceptron.
    """
    if not has_maps(model):
        raise ValueError(
            "Expected a network with convolutions, for Grad-CAM. "
            f"Received: {model.name}; use {messages.program('explain')} --method=occlusion"
        )
    producers = {id(layer.output): layer for layer in model.layers if not isinstance(layer.output, (list, tuple))}
    ends = (keras.layers.Flatten, keras.layers.GlobalAveragePooling2D)
    output = next(layer.input for layer in model.layers if isinstance(layer, ends))
    while _is_pooled(output, producers):
        output = producers[id(output)].input
    names = [name for name in activations.names(model) if activations.outputs(model, name)[0] is output]
    if not names:
        # A concatenation, which is not among the named activations.
        return producers[id(output)].name
    is_convolution = isinstance(activations.layers(model, names[0])[0], keras.layers.Conv2D)
    return names[0] if is_convolution else names[-1]


def _is_pooled(output, producers):
    """Returns whether a tensor comes from a pooling, or from the activation function after one."""
    layer = producers[id(output)]
    if isinstance(layer, (keras.layers.Activation, keras.layers.ReLU)):
        layer = producers[id(layer.input)]
    return isinstance(layer, (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D))


def _is_cut_off_later(model, output):
    """Returns whether a tensor is read by a max pooling alone, and that by a ReLU."""
    readers = lambda tensor: [layer for layer in model.layers if layer.input is tensor]
    pools = readers(output)
    if len(pools) != 1 or not isinstance(pools[0], keras.layers.MaxPooling2D):
        return False
    followers = readers(pools[0].output)
    return len(followers) == 1 and getattr(followers[0], "activation", None) is keras.activations.relu


def _has_positions(outputs):
    return all(len(each.shape) == 4 for each in outputs)


def grad_cam(model: keras.Model, layer: str) -> Function:
    """Returns the function that computes class activation maps weighted by gradients (Grad-CAM).

    With the maps ``A_k`` of a layer and the logit ``y`` of a class, before the softmax, the result is

    ``ReLU(sum over k of alpha_k A_k)``, where ``alpha_k`` is the mean over positions of ``dy / dA_k``.

    The activation function that directly follows a layer is part of it. If a ReLU follows the pooling instead, as for
    conv5 in recipe "original", the gradient is taken with respect to the layer's maps, before the ReLU, and ``A_k`` is
    clipped at zero.

    Args:
      model: a functional model from images to logits.
      layer: a name as of `activations.outputs`, of a layer with positions. Both towers are one set of maps.

    Returns:
      A `Function`; the grid is that of the layer's positions, with values of at least 0.

    Raises:
      ValueError: for a layer that does not exist or has no positions.

    Reference:

    - [Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization](
      https://arxiv.org/abs/1610.02391), Selvaraju et al., ICCV 2017
    """
    selected = activations.outputs(model, layer)
    if not _has_positions(selected):
        raise ValueError(f"Expected a layer with positions, such as {default_layer(model)}. Received: {layer!r}")
    network = keras.Model(model.inputs, [*selected, model.outputs[0]])
    map_values = tf.nn.relu if _is_cut_off_later(model, selected[0]) else tf.identity

    @tf.function(reduce_retracing=True, autograph=False)
    def compute(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            *maps, logits = network(images, training=False)
            classes = tf.where(classes < 0, tf.argmax(logits, axis=1), classes)
            scores = tf.gather(logits, classes, batch_dims=1)
        gradients = tape.gradient(scores, maps)
        weighted = []
        for values, gradient in zip(maps, gradients):
            alpha = tf.reduce_mean(tf.cast(gradient, tf.float32), [1, 2])
            weighted.append(tf.einsum("bhwk,bk->bhw", map_values(tf.cast(values, tf.float32)), alpha))
        probabilities = tf.gather(tf.nn.softmax(logits), classes, batch_dims=1)
        return tf.nn.relu(tf.add_n(weighted)), classes, probabilities

    return lambda images, classes: Maps(*(each.numpy() for each in compute(images, classes)))


def occlusion(model: keras.Model, *, patch_size: int, positions: int) -> Function:
    """Returns the function that computes how much a square, put over a part of the image, lowers a probability.

    The square is centered at each of ``positions x positions`` regular positions; at the edges, its part inside the
    image counts. It consists of zeros, which are the mean image after preprocessing: gray for natural images.

    Args:
      model: a functional model from images to logits.
      patch_size: side of the square in pixels.
      positions: number of positions per side.

    Returns:
      A `Function`; the values are the probability of the class for the image minus that for the occluded image.

    Raises:
      ValueError: for a square or positions that do not fit the images.

    Reference:

    - [Visualizing and Understanding Convolutional Networks](https://arxiv.org/abs/1311.2901), Zeiler and Fergus, 2013,
      section 4.2
    """
    side = model.inputs[0].shape[1]
    for name, value in (("patch_size", patch_size), ("positions", positions)):
        if not 1 <= value <= side:
            raise ValueError(f"Expected {name} to be 1 to {side}, the side of the images. Received: {value}")
    masks = _masks(side, patch_size, positions)

    @tf.function(reduce_retracing=True, autograph=False)
    def classify(images):
        return tf.nn.softmax(model(images, training=False))

    @tf.function(reduce_retracing=True, autograph=False)
    def classify_occluded(image, kept):
        return tf.nn.softmax(model(image * tf.cast(kept[..., None], image.dtype), training=False))

    def compute(images, classes):
        whole, classes = classify(images).numpy(), np.array(classes)
        classes = np.where(classes < 0, whole.argmax(axis=1), classes)
        probabilities = np.take_along_axis(whole, classes[:, None], axis=1)[:, 0]
        grids = []
        for image, label, probability in zip(images, classes, probabilities):
            occluded = [
                classify_occluded(image, tf.constant(masks[first : first + _BATCH_SIZE])).numpy()[:, label]
                for first in range(0, len(masks), _BATCH_SIZE)
            ]
            grids.append((probability - np.concatenate(occluded)).reshape(positions, positions))
        return Maps(np.stack(grids), classes, probabilities)

    return compute


def _masks(side, patch_size, positions):
    """Returns which pixels stay visible, bool ``[positions * positions, side, side]``."""
    centers = (np.arange(positions) + 0.5) * side / positions
    first = np.round(centers - patch_size / 2)[:, None]
    covered = (np.arange(side) >= first) & (np.arange(side) < first + patch_size)
    return ~(covered[:, None, :, None] & covered[None, :, None, :]).reshape(-1, side, side)


def scale(grids: np.ndarray, side: int) -> np.ndarray:
    """Scales maps bilinearly to the pixels of their images.

    Args:
      grids: float32 ``[batch, rows, columns]``.
      side: of the images.

    Returns:
      float32 ``[batch, side, side]``.
    """
    return tf.image.resize(tf.constant(grids)[..., None], [side, side]).numpy()[..., 0]
