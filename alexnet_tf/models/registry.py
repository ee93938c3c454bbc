"""The networks by name: one row each, read by every part of the package that treats networks differently.

To add a network, add its row here and its class in a module of this folder. Nothing else depends on a network's name.
This module imports neither TensorFlow nor any other module of the package.
"""

import importlib
from collections.abc import Mapping
from typing import NamedTuple


class RecordedErrors(NamedTuple):
    """Test errors that a paper, or its authors' code, states for a network."""

    source: str  # who recorded them, such as "paper, table 2"
    protocol: str  # how images were viewed, such as "ten views"
    top1_error: float
    top5_error: float | None = None
    dataset: str = ""  # a part of the name of the data set
    class_names: frozenset[str] = frozenset()  # or the names of its classes

    @property
    def label(self) -> str:
        return f"{self.source}, {self.protocol}"


class Network(NamedTuple):
    """A row of the registry."""

    name: str  # value of the option `network`
    description: str  # as a subject of a sentence
    path: str  # "module:class"; the class is a `keras.Model` from images to logits
    options: tuple[str, ...]  # fields of `config.Config` that the class takes as arguments of the same names
    crop_sizes: tuple[int, ...] | range  # sides of the images that it accepts
    num_classes: int  # of the data set that it was made for
    parameters: int  # at `num_classes` and with default options
    first_layers: tuple[str, ...]  # layers that read the images, in all variants
    default_views: str  # views by which experiments compare it: "ten" or "center"
    recorded_errors: tuple[RecordedErrors, ...]
    arguments: Mapping[str, object] = {}  # constant arguments of the class
    has_towers: bool = False  # has the option `towers`, and the class takes `devices`


_COMMON_OPTIONS = ("activation", "normalization", "pooling", "initialization")

# Options that no network refuses: a recipe also determines how a run trains, and runs of version 0.1 may have set a
# dropout that their network does not have.
_NEVER_REFUSED = ("recipe", "dropout")

_CIFAR10_CLASSES = frozenset("airplane automobile bird cat deer dog frog horse ship truck".split())


def _cifar10(name, parameters, error):
    """The row of a net for CIFAR-10, whose name is its layout."""
    return Network(
        name=name,
        description=f"{name} (a small network by AlexNet's authors)",
        path="alexnet_tf.models.cifar10:Cifar10Net",
        arguments={"layout": name},
        options=_COMMON_OPTIONS,
        crop_sizes=range(8, 257, 8),
        num_classes=10,
        parameters=parameters,
        first_layers=("conv1",),
        default_views="center",
        recorded_errors=(
            RecordedErrors("its authors", "CIFAR-10, one view of the whole image", error, class_names=_CIFAR10_CLASSES),
        ),
    )


NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="alexnet",
            description="AlexNet (Krizhevsky, Sutskever and Hinton 2012)",
            path="alexnet_tf.models.alexnet:AlexNet",
            options=(
                "recipe",
                *_COMMON_OPTIONS,
                "conv1_stddev",
                "dropout",
                "towers",
                "communication",
                "removed_layer",
                "sixth_convolution",
                "bottleneck",
            ),
            crop_sizes=(224, 227, 56, 32),
            num_classes=1000,
            parameters=60_965_224,
            first_layers=("conv1", "conv1_a", "conv1_b"),
            default_views="ten",
            has_towers=True,
            recorded_errors=(
                RecordedErrors("paper, table 2", "ten views", 0.407, 0.182, "imagenet2012"),
                RecordedErrors("its authors' net #145", "ten views", 0.40664, 0.18210, "imagenet2012"),
                RecordedErrors("paper, table 1", "ten views", 0.375, 0.170, "ilsvrc2010"),
                RecordedErrors("paper, table 1", "center crop", 0.390, 0.183, "ilsvrc2010"),
                RecordedErrors("its authors' net #145", "ten views", 0.374727, 0.169987, "ilsvrc2010"),
                RecordedErrors("its authors' net #145", "center crop", 0.390247, 0.182953, "ilsvrc2010"),
            ),
        ),
        Network(
            name="alexnet_owt",
            description="AlexNet in one tower without normalization (Krizhevsky 2014, as in torchvision)",
            path="alexnet_tf.models.alexnet_owt:AlexNetOWT",
            options=("activation", "initialization", "conv1_stddev", "dropout"),
            crop_sizes=(224,),
            num_classes=1000,
            parameters=61_100_840,
            first_layers=("conv1",),
            default_views="ten",
            recorded_errors=(RecordedErrors("torchvision", "center crop", 0.43478, 0.20934, "imagenet2012"),),
        ),
        _cifar10("cifar10_26", 145_578, 0.26),
        _cifar10("cifar10_19", 89_578, 0.19),
        _cifar10("cifar10_18", 89_578, 0.18),
    )
}


def find(name: str) -> Network:
    """Returns the row of a network.

    Raises:
      ValueError: If there is no network of this name.
    """
    if name not in NETWORKS:
        raise ValueError(f"Expected network to be one of {', '.join(NETWORKS)}. Received: {name!r}")
    return NETWORKS[name]


def load_class(network: Network) -> type:
    """Imports the class of a network, and TensorFlow with it."""
    module, _, name = network.path.partition(":")
    return getattr(importlib.import_module(module), name)


def refused_options(name: str) -> tuple[str, ...]:
    """Returns the options that some other network takes and this one does not; they must keep their defaults."""
    own = find(name).options
    others = dict.fromkeys(option for network in NETWORKS.values() for option in network.options)
    return tuple(option for option in others if option not in own and option not in _NEVER_REFUSED)


def networks_with(option: str) -> tuple[str, ...]:
    """Returns the names of the networks that take an option."""
    return tuple(network.name for network in NETWORKS.values() if option in network.options)


def crop_sizes_text(sizes: tuple[int, ...] | range) -> str:
    """Describes crop sizes, for messages: "224, 227, 56 or 32", or "a multiple of 8"."""
    if isinstance(sizes, range):
        return f"a multiple of {sizes.step}"
    *first, last = map(str, sizes)
    return f"{', '.join(first)} or {last}" if first else last


def recipe_crop_sizes(recipe: str, network: Network) -> tuple[int, ...] | range:
    """Returns the crop sizes of a network under a recipe: Caffe's networks have no zeros at the edge of an image."""
    if recipe in ("caffe", "caffenet"):
        return tuple(size for size in network.crop_sizes if size != 224)
    return network.crop_sizes


def is_split(name: str, towers: str) -> bool:
    """Whether a network has two towers, which may be on two devices, under a value of the option `towers`."""
    return find(name).has_towers and towers == "two"


def recorded_errors(name: str, dataset: str, class_names: tuple[str, ...]) -> list[RecordedErrors]:
    """Returns the errors recorded for a network on a data set.

    Args:
      name: of the network.
      dataset: the name of the data set.
      class_names: the names of its classes.
    """
    return [
        errors
        for errors in find(name).recorded_errors
        if (errors.class_names == set(class_names) if errors.class_names else errors.dataset in dataset)
    ]
