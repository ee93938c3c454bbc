"""Recipes and variants of AlexNet: what its arguments change, and the widths that follow from them."""

from collections.abc import Sequence
from typing import NamedTuple

from alexnet_tf.models import layers
from alexnet_tf.models import normalizations

IMAGE_SIZE = 224
# The side of images that need no zeros at the edge.
EDGELESS_SIZE = 227
# The sides of images for smaller networks of the same layers, which are ours.
SMALL_SIZES = (56, 32)


class Recipe(NamedTuple):
    """The values for which the paper's text, the authors' released code and Caffe's two networks differ."""

    # Whether the ReLU of layers 1 and 5 comes "before" or "after" normalization and pooling.
    activation: str
    # LRN's alpha for the sum of squares: 1e-4 in the paper; the original divides it by n = 5.
    alpha: float
    # Whether a same-map normalization follows layer 2's LRN (original #145 only).
    same_map_normalization: bool
    # Standard deviation of the initial weights of conv3, conv4 and conv5 (0.01 in other layers but fc6 and fc7).
    middle_stddev: float
    # LRN's k.
    bias: float = 2.0
    # Whether LRN comes "before" or "after" pooling.
    normalization: str = "before"
    # Whether LRN's window extends into the maps of the other tower.
    crosses_towers: bool = False
    # Standard deviation of the initial weights of fc6 and fc7.
    dense_stddev: float = 0.01
    # Initial biases of conv2, conv4, conv5, fc6 and fc7; those of other layers are 0.
    initial_bias: float = 1.0
    # Sides of the images that the network accepts.
    image_sizes: tuple[int, ...] = (IMAGE_SIZE, EDGELESS_SIZE, *SMALL_SIZES)


_CAFFE = {
    "activation": "before",
    "alpha": 2e-5,
    "same_map_normalization": False,
    "middle_stddev": 0.01,
    "bias": 1.0,
    "crosses_towers": True,
    "dense_stddev": 0.005,
    "image_sizes": (EDGELESS_SIZE, *SMALL_SIZES),
}
RECIPES = {
    "paper": Recipe(activation="before", alpha=1e-4, same_map_normalization=False, middle_stddev=0.01),
    "original": Recipe(activation="after", alpha=2e-5, same_map_normalization=True, middle_stddev=0.03),
    "caffe": Recipe(initial_bias=0.1, **_CAFFE),
    "caffenet": Recipe(normalization="after", **_CAFFE),
}


class Variant(NamedTuple):
    """The arguments of `AlexNet` that change the paper's network, mostly for its experiments, with their defaults."""

    towers: str = "two"
    communication: str = "paper"
    activation: str = "relu"
    normalization: str = "response"
    pooling: str = "overlapping"
    removed_layer: str = "none"
    sixth_convolution: bool = False
    bottleneck: int = 0
    dropout: float = 0.5
    image_size: int = IMAGE_SIZE
    conv1_stddev: float | None = None


# Values that `AlexNet` accepts for each argument.
CHOICES = {
    "towers": ("two", "one", "half"),
    "communication": ("paper", "fc8"),
    "activation": layers.ACTIVATIONS,
    "normalization": normalizations.NORMALIZATIONS,
    "pooling": tuple(layers.POOLINGS),
    "removed_layer": ("none", "conv3", "conv4", "conv5"),
    "image_size": (IMAGE_SIZE, EDGELESS_SIZE, *SMALL_SIZES),
}


class Geometry(NamedTuple):
    """What depends on the size of the images: the kernels of layer 1, and the padding of its input and of pool5's."""

    kernel: int  # side of a kernel of layer 1
    strides: int
    padding: str  # "same" or "valid"
    edge: int = 0  # zeros to add at the right and bottom edges of the image
    # "same" if windows of pool5 extend past the edge. Then pooling without overlap does not change conv5's padding.
    pool5: str = "valid"


# By image size. The paper gives the sizes of its layers only. As in original #145, the last of 55 positions extends 3
# pixels past the right and bottom edges and reads zeros there, the mean of the images. In images of 56 x 56 the last of
# 19 positions extends 5 pixels past them, and pool5 reduces 4 positions to 2.
GEOMETRIES = {
    IMAGE_SIZE: Geometry(11, 4, "valid", edge=3),
    EDGELESS_SIZE: Geometry(11, 4, "valid"),
    56: Geometry(7, 3, "valid", edge=5, pool5="same"),
    32: Geometry(5, 1, "same"),
}


class Widths(NamedTuple):
    """Number of kernels in each convolutional layer of a tower, and of units in its fully connected layers."""

    conv1: int
    conv2: int
    conv3: int
    conv4: int
    conv5: int
    conv6: int
    fc6: int
    fc7: int


# The widths of one tower, by image size and kind of tower. "two": one of the paper's two. "two, apart": one of two that
# exchange outputs before fc8 only; conv2 and fc6 are wider, to compensate for their fewer inputs. "one": a single tower
# as wide as both. "half": one of the paper's two, but with conv5, fc6 and fc7 as wide as both. The widths for 56 x 56
# and 32 x 32 are ours.
WIDTHS = {
    224: {
        "two": Widths(48, 128, 192, 192, 128, 128, 2048, 2048),
        "two, apart": Widths(48, 160, 192, 192, 128, 128, 4096, 2048),  # original #150
        "one": Widths(96, 256, 384, 384, 256, 256, 4096, 4096),
        "half": Widths(48, 128, 192, 192, 256, 256, 4096, 4096),  # original #145-half
    },
    56: {
        "two": Widths(24, 48, 64, 64, 48, 48, 768, 768),
        "two, apart": Widths(24, 64, 64, 64, 48, 48, 1536, 768),
        "one": Widths(48, 96, 128, 128, 96, 96, 1536, 1536),
        "half": Widths(24, 48, 64, 64, 96, 96, 1536, 1536),
    },
    32: {
        "two": Widths(16, 32, 48, 48, 32, 32, 256, 256),
        "two, apart": Widths(16, 48, 48, 48, 32, 32, 512, 256),
        "one": Widths(32, 64, 96, 96, 64, 64, 512, 512),
        "half": Widths(16, 32, 48, 48, 64, 64, 512, 512),
    },
}


def default_image_size(recipe: str) -> int:
    """Returns the side of a recipe's images."""
    return RECIPES[recipe].image_sizes[0] if recipe in RECIPES else IMAGE_SIZE


def geometry(variant: Variant) -> Geometry:
    """Returns the geometry of a variant."""
    return GEOMETRIES[variant.image_size]


def widths(variant: Variant) -> Widths:
    """Returns the widths of a tower of a variant."""
    apart = ", apart" if variant.communication == "fc8" else ""
    return WIDTHS[IMAGE_SIZE if variant.image_size == EDGELESS_SIZE else variant.image_size][variant.towers + apart]


def check(
    variant: Variant, *, num_classes: int, recipe: str, initialization: str, devices: Sequence[str] | None
) -> None:
    """Checks arguments of `AlexNet`.

    Raises:
      ValueError: If an argument is outside its range, or does not go with another.
    """
    if not layers.is_integer(num_classes, 2):
        raise ValueError(f"Expected num_classes to be an int of at least 2. Received: {num_classes=}")
    if recipe not in RECIPES:
        raise ValueError(f"Expected recipe to be one of {sorted(RECIPES)}. Received: {recipe=}")
    if initialization not in layers.INITIALIZATIONS:
        raise ValueError(f"Expected initialization to be recipe, he or zeros. Received: {initialization=}")
    _check_values(variant)
    if variant.image_size not in RECIPES[recipe].image_sizes:
        *others, last = map(str, RECIPES[recipe].image_sizes)
        sizes = f"{', '.join(others)} or {last}"
        raise ValueError(f"Expected image_size to be {sizes} for {recipe=}. Received: {variant.image_size}")
    if variant.towers != "two" and devices:
        raise ValueError(f"Expected devices=None for towers={variant.towers!r}. Received: {devices=}")
    if variant.towers != "two" and variant.communication != "paper":
        raise ValueError(f"Expected towers='two' for communication='fc8'. Received: towers={variant.towers!r}")


def _check_values(variant):
    for name, allowed in CHOICES.items():
        value = getattr(variant, name)
        if value not in allowed:
            raise ValueError(f"Expected {name} to be one of {', '.join(map(str, allowed))}. Received: {name}={value!r}")
    if not isinstance(variant.sixth_convolution, bool):
        raise ValueError(f"Expected sixth_convolution to be a bool. Received: {variant.sixth_convolution!r}")
    if not (layers.is_integer(variant.bottleneck, 0) and variant.bottleneck % 2 == 0):
        raise ValueError(f"Expected bottleneck to be an even int of at least 0. Received: {variant.bottleneck!r}")
    stddev = variant.conv1_stddev
    if stddev is not None and not (layers.is_finite(stddev) and stddev > 0):
        raise ValueError(f"Expected conv1_stddev to be a finite number above 0, or None. Received: {stddev!r}")
