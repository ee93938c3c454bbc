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
    top1_error: float | None = None
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
    parameters: int  # that are trained, at `num_classes` and with default options
    multiply_adds: int  # of the forward pass of one image, in convolutions and fully connected layers
    depth: int  # layers with weights, one after another
    year: int
    innovation: str  # what was new, in a few words
    first_layers: tuple[str, ...]  # layers that read the images, in all variants
    default_views: str  # views by which experiments compare it: "ten" or "center"
    recorded_errors: tuple[RecordedErrors, ...]
    last_layer: str = "fc8"  # the one that distinguishes the classes
    auxiliary_layers: tuple[str, ...] = ()  # those that do in auxiliary heads
    arguments: Mapping[str, object] = {}  # constant arguments of the class
    has_towers: bool = False  # has the option `towers`, and the class takes `devices`
    # Weight of the losses of auxiliary heads in training; if it is not 0, the class takes `auxiliary_heads`.
    auxiliary_weight: float = 0.0

    @property
    def output_layers(self) -> tuple[str, ...]:
        """The layers whose size is the number of classes."""
        return (self.last_layer, *self.auxiliary_layers)


_COMMON_OPTIONS = ("activation", "normalization", "pooling", "initialization")

# Options that no network refuses: a recipe also determines how a run trains, and runs of version 0.1 may have set a
# dropout that their network does not have.
_NEVER_REFUSED = ("recipe", "dropout")

_CIFAR10_CLASSES = frozenset("airplane automobile bird cat deer dog frog horse ship truck".split())


# Side of the images for which the parameters and the arithmetic of a network are stated, by its number of classes.
SIDES = {1000: 224, 10: 32}


def _cifar10(name, parameters, multiply_adds, depth, error, innovation):
    """The row of a net of AlexNet's authors for CIFAR-10, whose name is its layout."""
    return Network(
        name=name,
        description=f"{name} (a small network by AlexNet's authors)",
        path="alexnet_tf.models.cifar10:Cifar10Net",
        arguments={"layout": name},
        options=_COMMON_OPTIONS,
        crop_sizes=range(8, 257, 8),
        num_classes=10,
        parameters=parameters,
        multiply_adds=multiply_adds,
        depth=depth,
        year=2012,
        innovation=innovation,
        first_layers=("conv1",),
        last_layer="fc10",
        default_views="center",
        recorded_errors=(
            RecordedErrors("its authors", "CIFAR-10, one view of the whole image", error, class_names=_CIFAR10_CLASSES),
        ),
    )


def _vgg(layout, parameters, multiply_adds, depth, errors, innovation):
    """The row of a network of Simonyan and Zisserman."""
    return Network(
        name=f"vgg_{layout.lower().replace('-', '_')}",
        description=f"VGG {layout}, of {depth} layers (Simonyan and Zisserman 2014)",
        path="alexnet_tf.models.vgg:VGG",
        arguments={"layout": layout},
        options=("activation", "initialization", "dropout", "width"),
        crop_sizes=range(32, 257, 32),
        num_classes=1000,
        parameters=parameters,
        multiply_adds=multiply_adds,
        depth=depth,
        year=2014,
        innovation=innovation,
        first_layers=("conv1_1",),
        default_views="ten",
        recorded_errors=(RecordedErrors("paper, table 3", "dense evaluation, one scale", *errors, "imagenet2012"),),
    )


def _resnet(depth, parameters, multiply_adds, errors, innovation, *, residual=True):
    """The row of a residual network of He et al., or of its plain counterpart."""
    kind = "ResNet" if residual else "Plain network"
    return Network(
        name=f"{'resnet' if residual else 'plain'}_{depth}",
        description=f"{kind} of {depth} layers (He et al. 2015)",
        path="alexnet_tf.models.resnet:ResNet",
        arguments={"depth": depth, "residual": residual},
        options=("initialization", "width", *(("shortcuts",) if residual else ())),
        crop_sizes=range(32, 257, 32),
        num_classes=1000,
        parameters=parameters,
        multiply_adds=multiply_adds,
        depth=depth,
        year=2015,
        innovation=innovation,
        first_layers=("conv1",),
        last_layer="fc",
        default_views="ten",
        recorded_errors=(RecordedErrors("paper, tables 2 and 3", "ten views", *errors, dataset="imagenet2012"),),
    )


def _cifar10_resnet(depth, parameters, multiply_adds, error, innovation, *, residual=True):
    """The row of a residual network of He et al. for CIFAR-10, or of its plain counterpart."""
    protocol = "CIFAR-10, one view of the whole image"
    recorded = RecordedErrors("paper, table 6", protocol, error, class_names=_CIFAR10_CLASSES)
    return Network(
        name=f"cifar10_{'resnet' if residual else 'plain'}_{depth}",
        description=f"{'ResNet' if residual else 'Plain network'} of {depth} layers for CIFAR-10 (He et al. 2015)",
        path="alexnet_tf.models.cifar10_resnet:Cifar10ResNet",
        arguments={"depth": depth, "residual": residual},
        options=("initialization", "width", *(("shortcuts",) if residual else ())),
        crop_sizes=range(8, 257, 8),
        num_classes=10,
        parameters=parameters,
        multiply_adds=multiply_adds,
        depth=depth,
        year=2015,
        innovation=innovation,
        first_layers=("conv1",),
        last_layer="fc",
        default_views="center",
        # The paper has the plain networks as curves only.
        recorded_errors=(recorded,) if residual else (),
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
            multiply_adds=724_406_816,
            depth=8,
            year=2012,
            innovation="ReLU, dropout, response normalization, two GPUs",
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
            multiply_adds=714_188_480,
            depth=8,
            year=2014,
            innovation="one tower, no normalization",
            first_layers=("conv1",),
            default_views="ten",
            recorded_errors=(RecordedErrors("torchvision", "center crop", 0.43478, 0.20934, "imagenet2012"),),
        ),
        _cifar10("cifar10_26", 145_578, 12_354_176, 5, 0.26, "small enough for minutes"),
        _cifar10("cifar10_19", 89_578, 12_298_240, 4, 0.19, "no hidden fully connected layer"),
        _cifar10("cifar10_18", 89_578, 12_298_240, 4, 0.18, "normalization within maps"),
        Network(
            name="cifar10_mlp",
            description="Multilayer perceptron of one hidden layer (Rumelhart, Hinton and Williams 1986)",
            path="alexnet_tf.models.mlp:MLP",
            options=("activation", "initialization", "width"),
            crop_sizes=range(8, 257, 8),
            num_classes=10,
            parameters=144_911,
            multiply_adds=144_854,
            depth=2,
            year=1986,
            innovation="back-propagation",
            first_layers=("fc1",),
            last_layer="fc2",
            default_views="center",
            recorded_errors=(),
        ),
        _vgg("A", 132_863_336, 7_609_090_048, 11, (0.296, 0.104), "3 x 3 kernels only"),
        _vgg(
            "A-LRN",
            132_863_336,
            7_609_090_048,
            11,
            (0.297, 0.105),
            "as A with response normalization, which gains nothing",
        ),
        _vgg("B", 133_047_848, 11_308_466_176, 13, (0.287, 0.099), "two more layers than A"),
        _vgg("D", 138_357_544, 15_470_264_320, 16, (0.270, 0.088), "VGG-16"),
        _vgg("E", 143_667_240, 19_632_062_464, 19, (0.273, 0.090), "VGG-19"),
        Network(
            name="googlenet",
            description="GoogLeNet (Szegedy et al. 2014)",
            path="alexnet_tf.models.googlenet:GoogLeNet",
            options=("initialization", "width"),
            crop_sizes=range(32, 257, 32),
            num_classes=1000,
            parameters=6_998_552,
            multiply_adds=1_582_671_872,
            depth=22,
            year=2014,
            innovation="paths side by side, 1 x 1 kernels, auxiliary heads",
            first_layers=("conv1",),
            last_layer="fc",
            auxiliary_layers=("fc_auxiliary4a", "fc_auxiliary4d"),
            default_views="ten",
            recorded_errors=(
                RecordedErrors("paper, table 3", "ten views", top5_error=0.0915, dataset="imagenet2012"),
                RecordedErrors("paper, table 3", "center crop", top5_error=0.1007, dataset="imagenet2012"),
            ),
            auxiliary_weight=0.3,
        ),
        _resnet(18, 11_515_688, 1_794_805_760, (0.2794,), "batch normalization throughout", residual=False),
        _resnet(34, 21_623_848, 3_644_493_824, (0.2854,), "deeper than plain_18, and worse", residual=False),
        _resnet(18, 11_515_688, 1_794_805_760, (0.2788,), "shortcuts"),
        _resnet(34, 21_623_848, 3_644_493_824, (0.2503,), "deeper than resnet_18, and better"),
        _resnet(50, 25_557_032, 3_857_973_248, (0.2285, 0.0671), "blocks of 1 x 1, 3 x 3 and 1 x 1 kernels"),
        _cifar10_resnet(20, 269_722, 40_551_040, None, "batch normalization throughout", residual=False),
        _cifar10_resnet(56, 853_018, 125_485_696, None, "deeper than cifar10_plain_20, and worse", residual=False),
        _cifar10_resnet(20, 269_722, 40_551_040, 0.0875, "shortcuts"),
        _cifar10_resnet(56, 853_018, 125_485_696, 0.0697, "deeper than cifar10_resnet_20, and better"),
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
