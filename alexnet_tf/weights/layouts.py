"""Recognizes an AlexNet in the arrays of a weight file, and converts its layers to one layout, `convert.Layer`."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from alexnet_tf.utils import schema
from alexnet_tf.weights import contents
from alexnet_tf.weights import convert
from alexnet_tf.weights import stored_layers

# What the recipes "caffe" and "caffenet" have.
CAFFE_NORMALIZATION = convert.Normalization(5, 1.0, 2e-5, 0.75)
# Models of torchvision read images that are scaled to [0, 1] and standardized by ImageNet's statistics.
TORCHVISION_PREPROCESSING = convert.Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_UNSCALED = (1.0, 1.0, 1.0)


# What of an export's description an import reads.
_OWN_DESCRIPTION = schema.Object(
    {},
    optional={
        "network": schema.Object({}, optional={"name": schema.Text(), "recipe": schema.Text()}),
        "preprocessing": schema.Object(
            {},
            optional={
                "scale": schema.Number(positive=True),
                "mean_color": schema.List(schema.Number(low=0, high=255), length=3),
            },
        ),
        "classes": schema.List(schema.Text()),
    },
)


class Shapes(NamedTuple):
    """The shapes of a network's kernels, in the layout of `convert.Layer`; the last layer has any number of outputs."""

    network: str
    towers: str
    kernels: tuple[tuple[int, ...], ...]


_DENSE_SHAPES = ((9216, 4096), (4096, 4096), (4096,))
SHAPES = (
    Shapes(
        "alexnet",
        "two",
        ((11, 11, 3, 96), (5, 5, 48, 256), (3, 3, 256, 384), (3, 3, 192, 384), (3, 3, 192, 256), *_DENSE_SHAPES),
    ),
    Shapes(
        "alexnet",
        "one",
        ((11, 11, 3, 96), (5, 5, 96, 256), (3, 3, 256, 384), (3, 3, 384, 384), (3, 3, 384, 256), *_DENSE_SHAPES),
    ),
    Shapes(
        "alexnet_owt",
        "one",
        ((11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256), *_DENSE_SHAPES),
    ),
)


# The name of this package in the files that it writes.
_OWN_PRODUCER = "alexnet_tf"
# The layers of our networks that read outputs of dropout.
DROPOUT_READERS = {"alexnet": ("fc7", "fc8"), "alexnet_owt": ("fc6", "fc7")}


@dataclasses.dataclass(frozen=True)
class Recognized:
    """An AlexNet found in a weight file.

    Attributes:
      convention: how the file stores layers, such as "Caffe".
      network: "alexnet" or "alexnet_owt".
      towers: "two" or "one".
      layers: those that the file has, a part of `convert.LAYERS`.
      recipe: "caffe" or "caffenet" for a network of the order and the normalization of these; "" if the network has
        no response normalization; None if the file does not say.
      preprocessing: of the images; None if the file does not say the order of the channels.
      normalization: the constants of response normalization, of which `layers` have been freed; None if unknown.
      mean_image: float32 ``[height, width, 3]``, RGB, if the file has one.
      class_names: if the file has them.
      notes: what a user should know, one sentence each.
    """

    convention: str
    network: str
    towers: str
    layers: Mapping[str, convert.Layer]
    recipe: str | None
    preprocessing: convert.Preprocessing | None
    normalization: convert.Normalization | None = None
    mean_image: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None without fc8."""
        return len(self.layers["fc8"].bias) if "fc8" in self.layers else None

    @property
    def missing_layers(self) -> tuple[str, ...]:
        return tuple(name for name in convert.LAYERS if name not in self.layers)


def recognize(found: contents.Contents, *, channels: str | None = None) -> Recognized:
    """Recognizes an AlexNet, and converts its layers.

    Args:
      found: the contents of the file.
      channels: "RGB" or "BGR", the order of the channels, for a file that does not say; None if unknown.

    Raises:
      ValueError: if the file has no AlexNet that the package can be. The message names what does not fit.
    """
    _refuse_others(found)
    if found.metadata.get("producer") == _OWN_PRODUCER:
        raise ValueError(
            f"Expected weights of another program. Received: an ONNX file of {_OWN_PRODUCER}; import the .safetensors "
            "file of the same run, or use --initialize_from"
        )
    if own := _own_layers(found):
        return own
    convention, layers = stored_layers.find(found)
    order = channels or convention.channels
    shapes = _match(layers)
    if order == "BGR":
        kernel, bias = layers["conv1"]
        layers["conv1"] = convert.Layer(kernel[:, :, ::-1], bias)
    recipe, normalization, notes = _normalization(found, convention, shapes)
    if normalization and normalization != CAFFE_NORMALIZATION:
        layers = convert.rescale_normalization(layers, normalization, CAFFE_NORMALIZATION)
        notes.append(
            f"its response normalization has k={normalization.bias:g} and alpha={normalization.alpha:g}; the kernels "
            "are rescaled to those of the recipe, which changes no output"
        )
    return Recognized(
        convention=convention.name,
        network=shapes.network,
        towers=shapes.towers,
        layers={
            name: convert.Layer(*(np.ascontiguousarray(each, np.float32) for each in layers[name])) for name in layers
        },
        recipe=recipe,
        preprocessing=_preprocessing(found, convention, shapes, order),
        normalization=normalization,
        mean_image=_mean_image(found, order),
        class_names=tuple(found.metadata.get("class_names", ())),
        notes=tuple(notes),
    )


def _own_layers(found):
    """Recognizes an array file that this package has written, by the paths of variables; None for any other file."""
    towers = "two" if "conv1_a/kernel" in found.arrays else "one"
    expected = [f"conv{number}{'_a' * (towers == 'two')}/kernel" for number in range(1, 6)]
    description = _own_description(found)
    if not description and towers == "one":
        return None
    if missing := [path for path in expected if path not in found.arrays]:
        raise ValueError(f"Expected all of conv1 to conv5. Received: a file without {', '.join(missing)}")
    network = description.get("network", {}).get("name", "alexnet")
    if network not in DROPOUT_READERS:
        raise ValueError(f"Expected the weights of an AlexNet. Received: the network {network}")
    layers = convert.from_variables(found.arrays, towers=towers, dropout_readers=DROPOUT_READERS[network])
    for name, layer in layers.items():
        stored_layers.check_finite(name, layer)
    preprocessing = description.get("preprocessing", {})
    scale = preprocessing.get("scale")
    mean = preprocessing.get("mean_color")
    return Recognized(
        convention=_OWN_PRODUCER,
        network=_match(layers).network,
        towers=towers,
        layers=layers,
        recipe=description.get("network", {}).get("recipe") if network == "alexnet" else "",
        preprocessing=convert.Preprocessing(mean and tuple(mean), (1 / scale,) * 3) if scale else None,
        class_names=tuple(description.get("classes", ())),
        notes=("the mean image is constant here; import FILE.mean.npy with --mean for that of the run",) * bool(mean),
    )


def _own_description(found):
    """Returns what this package has written to the metadata of a .safetensors file; empty for any other file."""
    text = found.metadata.get("safetensors", {}).get("description", "{}")
    try:
        description = schema.parse(text, schema.Object({"names": schema.Text(("ours",))}), "", "")
    except ValueError:
        return {}
    schema.check(description, _OWN_DESCRIPTION, "the description of an export", "its metadata", "export the run again")
    return description


def _refuse_others(found):
    """Raises an error for networks that are related to AlexNet, but not it."""
    names = " ".join(found.arrays)
    kinds = {operation.kind for operation in found.operations}
    first = next((array for array in found.arrays.values() if array.ndim == 4), None)
    reasons = []
    if "running_mean" in names or "batch_normalization" in kinds:
        reasons.append("batch normalization")
    if first is not None and 11 in first.shape and 3 not in first.shape:
        planes = min(first.shape)
        reasons.append(f"a first layer that reads {planes} channels" + " (Sobel filters)" * (planes == 2))
    if any(array.shape[:3] == (5, 5, 256) and array.shape[-1] == 4096 for array in found.arrays.values()):
        reasons.append("an fc6 of 5 x 5 positions, as in TF-Slim's alexnet_v2")
    if reasons:
        raise ValueError(f"Expected the weights of an AlexNet. Received: a network with {' and '.join(reasons)}")


def _match(layers):
    """Returns the `Shapes` of a network whose layers, as far as they are there, have these shapes."""
    if missing := [name for name in convert.CONVOLUTIONS if name not in layers]:
        raise ValueError(f"Expected all of conv1 to conv5. Received: a file without {', '.join(missing)}")
    differing = {}
    for shapes in SHAPES:
        expected = dict(zip(convert.LAYERS, shapes.kernels))
        own = {name: layer.kernel.shape for name, layer in layers.items()}
        wrong = [name for name in own if own[name][: len(expected[name])] != expected[name]]
        if not wrong:
            return shapes
        differing[shapes] = wrong
    nearest = min(differing, key=lambda shapes: len(differing[shapes]))
    name = differing[nearest][0]
    expected = dict(zip(convert.LAYERS, nearest.kernels))[name]
    raise ValueError(
        f"Expected {nearest.network}'s shape {list(expected)} in {name}. Received: {list(layers[name].kernel.shape)}"
    )


def _normalization(found, convention, shapes):
    """Returns the recipe that a file states, its normalization constants, and notes."""
    if shapes.network == "alexnet_owt":
        return "", None, []
    if convention is stored_layers.THEANO:
        # convnets-keras: pooling before normalization, and alpha not divided by the window's size.
        return "caffenet", convert.Normalization(5, 2.0, 1e-4, 0.75), []
    kinds = [operation.kind for operation in found.operations]
    if "lrn" not in kinds:
        return None, None, []
    lrn = [operation.attributes for operation in found.operations if operation.kind == "lrn"]
    constants = {
        convert.Normalization(int(each["size"]), float(each["bias"]), float(each["alpha"]), float(each["beta"]))
        for each in lrn
    }
    normalization = constants.pop()
    if constants or len(lrn) != 2 or normalization.size != 5 or not np.isclose(normalization.beta, 0.75):
        raise ValueError(
            "Expected two response normalizations over 5 channels with beta 0.75. Received: "
            + "; ".join(", ".join(f"{key}={value:g}" for key, value in each.items()) for each in lrn)
        )
    if np.allclose(normalization, CAFFE_NORMALIZATION, rtol=1e-4):
        normalization = CAFFE_NORMALIZATION
    first = [kind for kind in kinds if kind in ("lrn", "max_pool")][0]
    return ("caffe" if first == "lrn" else "caffenet"), normalization, []


def _preprocessing(found, convention, shapes, order):
    if order is None:
        return None
    if convention in (stored_layers.TORCHVISION, stored_layers.FLAX) and shapes.network == "alexnet_owt":
        return TORCHVISION_PREPROCESSING
    mean = found.metadata.get("mean")
    if mean is not None:
        values = [float(value) for value in np.asarray(mean, np.float64).reshape(-1, 3).mean(0)]
        mean = tuple(values[::-1] if order == "BGR" else values)
    return convert.Preprocessing(mean, _UNSCALED)


def _mean_image(found, order):
    mean = found.metadata.get("mean")
    if mean is None or np.ndim(mean) != 3 or order is None:
        return None
    mean = np.asarray(mean, np.float32)
    return np.ascontiguousarray(mean[..., ::-1] if order == "BGR" else mean)
