"""The layers of an AlexNet in one layout, and what can be folded into them without changing any output."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
DENSE = ("fc6", "fc7", "fc8")
LAYERS = (*CONVOLUTIONS, *DENSE)

# Side of the maps that fc6 reads.
_MAP_SIDE = 6


# Layers by their names in the module lists of torchvision.
TORCHVISION_NAMES = dict(
    zip(
        (*(f"features.{number}" for number in (0, 3, 6, 8, 10)), *(f"classifier.{number}" for number in (1, 4, 6))),
        LAYERS,
    )
)


class Layer(NamedTuple):
    """The weights of a layer, float32.

    Convolution kernels are cross-correlated with RGB images. fc6's inputs are in the order of [row, column, channel].
    """

    kernel: np.ndarray  # [height, width, inputs, outputs] or [inputs, outputs]
    bias: np.ndarray  # [outputs]


class Preprocessing(NamedTuple):
    """What a network expects as input: ``(pixels - mean) / deviation``, with RGB pixels in [0, 255]."""

    mean: tuple[float, float, float] | None  # in RGB order; None if the file does not say
    deviation: tuple[float, float, float]  # of each channel


class Normalization(NamedTuple):
    """The constants of local response normalization: ``x / (bias + alpha * sum) ** beta``."""

    size: int
    bias: float
    alpha: float
    beta: float


def channels_last(kernel: np.ndarray) -> np.ndarray:
    """Reorders the inputs of fc6 from ``[channel, row, column]`` to ``[row, column, channel]``."""
    inputs, outputs = kernel.shape
    if inputs % _MAP_SIDE**2:
        raise ValueError(f"Expected fc6 to read maps of 6 x 6. Received: {inputs} inputs")
    return kernel.reshape(-1, _MAP_SIDE, _MAP_SIDE, outputs).transpose(1, 2, 0, 3).reshape(inputs, outputs)


def channels_first(kernel: np.ndarray) -> np.ndarray:
    """Reorders the inputs of fc6 from ``[row, column, channel]`` to ``[channel, row, column]``."""
    inputs, outputs = kernel.shape
    return kernel.reshape(_MAP_SIDE, _MAP_SIDE, -1, outputs).transpose(2, 0, 1, 3).reshape(inputs, outputs)


def rescale_normalization(layers: Mapping[str, Layer], own: Normalization, other: Normalization) -> dict[str, Layer]:
    """Returns layers whose network computes the same with another k and alpha of its response normalizations.

    ReLU and max pooling are homogeneous, so conv1 and conv2 are multiplied by ``c = sqrt(alpha k' / (k alpha'))``, for
    which ``c x / (k' + alpha' sum((c x) ** 2)) ** beta`` is a multiple of ``x / (k + alpha sum(x ** 2)) ** beta``, and
    the kernels of the next layer are divided by that multiple.
    """
    scale = np.sqrt(own.alpha * other.bias / (own.bias * other.alpha))
    multiple = scale * (own.bias / other.bias) ** own.beta
    result = dict(layers)
    for name, following in (("conv1", "conv2"), ("conv2", "conv3")):
        kernel, bias = result[name]
        result[name] = Layer(kernel * np.float32(scale), bias * np.float32(scale))
        kernel, bias = result[following]
        result[following] = Layer(kernel * np.float32(1 / multiple), bias)
    return result


def fold_deviation(layers: Mapping[str, Layer], preprocessing: Preprocessing) -> tuple[dict[str, Layer], float]:
    """Folds what differs between the channels' deviations into conv1, and returns the scale that is common to them.

    The scale itself must multiply the images: in conv1 it would multiply the learning rate, too.

    Returns:
      Layers for images ``(pixels - mean) * scale``, and the scale.
    """
    deviation = np.asarray(preprocessing.deviation, np.float64)
    scale = float(1 / np.exp(np.log(deviation).mean()))
    factors = (1 / deviation / scale).astype(np.float32)
    if np.all(factors == 1):
        return dict(layers), scale
    kernel, bias = layers["conv1"]
    return {**layers, "conv1": Layer(kernel * factors[:, None], bias)}, scale


def split_towers(name: str, layer: Layer, reads_both: bool) -> dict[str, Layer]:
    """Splits a layer between the two towers.

    Args:
      name: of the layer.
      layer: its weights.
      reads_both: whether the layer reads the flattened maps of both towers, one after the other, as fc6 does.

    Returns:
      A dict from the tower's name, "a" or "b", to its layer.
    """
    kernel, bias = layer
    if reads_both:
        inputs, outputs = kernel.shape
        maps = kernel.reshape(_MAP_SIDE**2, 2, -1, outputs)  # position, tower, channel
        kernel = maps.transpose(1, 0, 2, 3).reshape(inputs, outputs)
    half = kernel.shape[-1] // 2
    return {"a": Layer(kernel[..., :half], bias[:half]), "b": Layer(kernel[..., half:], bias[half:])}


def join_towers(first: Layer, second: Layer, reads_both: bool) -> Layer:
    """Joins the layers of the two towers; the inverse of `split_towers`."""
    kernel = np.concatenate([first.kernel, second.kernel], -1)
    if reads_both:
        inputs, outputs = kernel.shape
        maps = kernel.reshape(2, _MAP_SIDE**2, -1, outputs)
        kernel = maps.transpose(1, 0, 2, 3).reshape(inputs, outputs)
    return Layer(kernel, np.concatenate([first.bias, second.bias]))


def to_variables(
    layers: Mapping[str, Layer], *, towers: str, dropout_readers: Sequence[str], dropout: float = 0.5
) -> dict[str, np.ndarray]:
    """Converts layers to the variables of our networks.

    Args:
      layers: of a network that scales dropout in training. Ours scales in inference, by ``1 - dropout``.
      towers: "two" or "one".
      dropout_readers: the layers that read outputs of dropout, whose kernels are divided by ``1 - dropout``.
      dropout: the rate, in [0, 1).

    Returns:
      A dict from a variable's path, such as "conv1_a/kernel", to its value.
    """
    variables = {}
    for name, layer in layers.items():
        if name in dropout_readers:
            layer = layer._replace(kernel=layer.kernel / np.float32(1 - dropout))
        own = {"": layer}
        if towers == "two" and name != "fc8":
            own = split_towers(name, layer, name == "fc6")
        for tower, (kernel, bias) in own.items():
            path = f"{name}_{tower}" if tower else name
            variables[f"{path}/kernel"], variables[f"{path}/bias"] = kernel, bias
    return variables


def from_variables(
    variables: Mapping[str, np.ndarray], *, towers: str, dropout_readers: Sequence[str], dropout: float = 0.5
) -> dict[str, Layer]:
    """Converts the variables of our networks to layers; the inverse of `to_variables`."""
    layers = {}
    for name in LAYERS:
        if f"{name}/kernel" in variables:
            layer = Layer(variables[f"{name}/kernel"], variables[f"{name}/bias"])
        elif towers == "two" and f"{name}_a/kernel" in variables:
            parts = [Layer(variables[f"{name}_{tower}/kernel"], variables[f"{name}_{tower}/bias"]) for tower in "ab"]
            layer = join_towers(*parts, name == "fc6")
        else:
            continue
        if name in dropout_readers:
            layer = layer._replace(kernel=layer.kernel * np.float32(1 - dropout))
        layers[name] = layer
    return layers


def to_torchvision(layers: Mapping[str, Layer]) -> dict[str, np.ndarray]:
    """Returns the layers of `alexnet_owt` under torchvision's names, in its layout."""
    arrays = {}
    for theirs, name in TORCHVISION_NAMES.items():
        if name in layers:
            kernel, bias = layers[name]
            if name in CONVOLUTIONS:
                kernel = kernel.transpose(3, 2, 0, 1)
            else:
                kernel = (channels_first(kernel) if name == "fc6" else kernel).T
            arrays[f"{theirs}.weight"] = np.ascontiguousarray(kernel)
            arrays[f"{theirs}.bias"] = bias
    return arrays
