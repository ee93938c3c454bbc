"""Activations of a network's layers by the names of the paper, such as "conv5" and "fc7".

A name stands for a Keras layer, or for the same layer of both towers joined along the last axis: "conv5" is ``conv5_a``
and ``conv5_b``. If an activation function directly follows a layer, it is part of it, as in Caffe's and torchvision's
features: "fc7" is the output of its ReLU, before dropout. "relu7" is the same.
"""

from collections.abc import Sequence

import keras

_TOWERS = ("a", "b")


def names(model: keras.Model) -> list[str]:
    """Returns the names of what `part` can compute, in the order of computation.

    Args:
      model: a functional model.
    """
    single = [layer.name for layer in model.layers if _is_selectable(layer)]
    found = {}
    for name in single:
        base, _, tower = name.rpartition("_")
        joined = base and tower in _TOWERS and all(f"{base}_{each}" in single for each in _TOWERS)
        found.setdefault(base if joined else name)
    return list(found)


def _is_selectable(layer):
    # Lists of outputs, and layers that only join towers or hold the input, would repeat other layers.
    is_plumbing = isinstance(layer, (keras.layers.InputLayer, keras.layers.Concatenate))
    return not is_plumbing and not isinstance(layer.output, (list, tuple))


def part(model: keras.Model, selected: Sequence[str]) -> keras.Model:
    """Returns the part of a model that computes some activations.

    Args:
      model: a functional model of one input.
      selected: names as `names` returns them, or of single Keras layers, such as "conv5_a".

    Returns:
      A ``keras.Model`` with the same input and weights, whose outputs are the activations in the order of `selected`; a
      single one is not in a list. It contains only the layers that these need.

    Raises:
      ValueError: for a name that does not exist; the message lists those that do.
    """
    return keras.Model(model.inputs, [_output(model, name) for name in selected])


def outputs(model: keras.Model, name: str) -> list[keras.KerasTensor]:
    """Returns the symbolic activations that a name stands for: of one layer, or of towers a and b.

    Args:
      model: a functional model of one input.
      name: as for `part`.

    Raises:
      ValueError: as `part`.
    """
    return [_activated(model, layer.output) for layer in layers(model, name)]


def layers(model: keras.Model, name: str) -> list[keras.layers.Layer]:
    """Returns the layers that a name stands for: one, or those of towers a and b.

    Args:
      model, name: as for `outputs`.

    Raises:
      ValueError: as `part`.
    """
    found = {layer.name: layer for layer in model.layers if not isinstance(layer.output, (list, tuple))}
    if name in found:
        return [found[name]]
    towers = [found.get(f"{name}_{each}") for each in _TOWERS]
    if None in towers:
        raise ValueError(f"Expected layers among {', '.join(names(model))}. Received: {name!r}")
    return towers


def _output(model, name):
    found = outputs(model, name)
    joined = keras.layers.Concatenate(dtype=layers(model, name)[0].dtype_policy)
    return joined(found) if len(found) > 1 else found[0]


def _activated(model, output):
    """Returns the output of the activation function that reads a tensor, or the tensor itself if there is none."""
    kinds = (keras.layers.Activation, keras.layers.ReLU)
    return next((each.output for each in model.layers if isinstance(each, kinds) and each.input is output), output)
