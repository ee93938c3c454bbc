"""AlexNet: eight layers in two towers, which exchange outputs where the paper's do.

Sizes and parameter counts follow Figure 2 of the paper. `RECIPES` holds the differences between its text and the
authors' released code.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import network
from alexnet_tf.models import placement

IMAGE_SIZE = 224


class Recipe(NamedTuple):
    """The values for which the paper's text and the authors' released code differ."""

    # Whether the ReLU of layers 1 and 5 comes "before" or "after" normalization and pooling.
    activation: str
    # LRN's alpha for the sum of squares: 1e-4 in the paper; the original divides it by n = 5.
    alpha: float
    # Whether a same-map normalization follows layer 2's LRN (original #145 only).
    same_map_normalization: bool
    # Standard deviation of the initial weights of conv3, conv4 and conv5 (0.01 in all other layers).
    middle_stddev: float


RECIPES = {
    "paper": Recipe(activation="before", alpha=1e-4, same_map_normalization=False, middle_stddev=0.01),
    "original": Recipe(activation="after", alpha=2e-5, same_map_normalization=True, middle_stddev=0.03),
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
    "normalization": layers.NORMALIZATIONS,
    "pooling": tuple(layers.POOLINGS),
    "removed_layer": ("none", "conv3", "conv4", "conv5"),
    "image_size": (224, 32),
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
# as wide as both. "half": one of the paper's two, but with conv5, fc6 and fc7 as wide as both. The widths for 32 x 32
# are ours.
WIDTHS = {
    224: {
        "two": Widths(48, 128, 192, 192, 128, 128, 2048, 2048),
        "two, apart": Widths(48, 160, 192, 192, 128, 128, 4096, 2048),  # original #150
        "one": Widths(96, 256, 384, 384, 256, 256, 4096, 4096),
        "half": Widths(48, 128, 192, 192, 256, 256, 4096, 4096),  # original #145-half
    },
    32: {
        "two": Widths(16, 32, 48, 48, 32, 32, 256, 256),
        "two, apart": Widths(16, 48, 48, 48, 32, 32, 512, 256),
        "one": Widths(32, 64, 96, 96, 64, 64, 512, 512),
        "half": Widths(16, 32, 48, 48, 64, 64, 512, 512),
    },
}

Conv2D = placement.on_device(keras.layers.Conv2D)
Dense = placement.on_device(keras.layers.Dense)
Activation = placement.on_device(keras.layers.Activation)
MaxPooling2D = placement.on_device(keras.layers.MaxPooling2D)
ZeroPadding2D = placement.on_device(keras.layers.ZeroPadding2D)
Flatten = placement.on_device(keras.layers.Flatten)
Concatenate = placement.on_device(keras.layers.Concatenate)
FanOut = placement.on_device(placement.FanOut)
LocalResponseNormalization = placement.on_device(layers.LocalResponseNormalization)
SameMapNormalization = placement.on_device(layers.SameMapNormalization)
BatchNormalization = placement.on_device(keras.layers.BatchNormalization)
GroupNormalization = placement.on_device(layers.GroupNormalization)
Dropout = placement.on_device(layers.Dropout)


class _Tower(NamedTuple):
    """One half of the network, or all of it: a factory of layers with the tower's device, names and initial weights."""

    name: str  # "a" or "b"; empty for a single tower
    device: str | None
    dtype: object
    seed: int | None
    jit_compile: bool
    initialization: str
    recipe: Recipe
    variant: Variant

    @property
    def widths(self):
        apart = ", apart" if self.variant.communication == "fc8" else ""
        return WIDTHS[self.variant.image_size][self.variant.towers + apart]

    def layer(self, layer_class, *args, name, **kwargs):
        """Returns a layer on the tower's device, named as in the paper with the tower's letter appended."""
        name = f"{name}_{self.name}" if self.name else name
        return layer_class(*args, name=name, device=self.device, dtype=self.dtype, **kwargs)

    def layer_seed(self, number):
        """Returns a seed that no other layer of either tower uses."""
        return None if self.seed is None else 1000 * self.seed + 10 * number + (self.name == "b")

    def initializers(self, number, stddev, bias):
        """Returns the initializers of a layer's kernel and bias as keyword arguments."""
        return {
            "kernel_initializer": layers.kernel_initializer(self.initialization, stddev, self.layer_seed(number)),
            "bias_initializer": keras.initializers.Constant(0 if self.initialization == "he" else bias),
        }

    def convolution(self, number, size, *, strides=1, padding="same", stddev=0.01, bias, seed_number=None):
        name = f"conv{number}"
        initializers = self.initializers(seed_number or number, stddev, bias)
        if number == 1 and self.variant.conv1_stddev is not None:
            own = layers.kernel_initializer("recipe", self.variant.conv1_stddev, self.layer_seed(number))
            initializers["kernel_initializer"] = own
        kernels = getattr(self.widths, name)
        options = {"strides": strides, "padding": padding, "data_format": "channels_last"}
        return self.layer(Conv2D, kernels, size, name=name, **options, **initializers)

    def zero_padding(self, sides, name):
        return self.layer(ZeroPadding2D, sides, data_format="channels_last", name=name)

    def activation(self, number):
        kind = self.variant.activation
        return self.layer(Activation, kind, name=f"{kind}{number}")

    def normalize(self, number, x):
        """Applies the normalization of layer 1 or 2 (paper, section 3.3), or the variant's replacement for it."""
        kind, name = self.variant.normalization, f"norm{number}"
        if kind == "none" or (kind == "first" and number > 1):
            return x
        if kind == "batch":
            return self.layer(BatchNormalization, name=name)(x)
        if kind in ("group", "layer"):
            return self.layer(GroupNormalization, layers.GROUP_CHANNELS if kind == "group" else None, name=name)(x)
        alpha, jit_compile = self.recipe.alpha, self.jit_compile
        x = self.layer(LocalResponseNormalization, alpha=alpha, jit_compile=jit_compile, name=name)(x)
        if number == 2 and self.recipe.same_map_normalization:
            x = self.layer(SameMapNormalization, jit_compile=jit_compile, name="samemap2")(x)
        return x

    def pooling(self, number):
        """Returns max pooling with overlapping windows (paper, section 3.4) or without overlap (original #147)."""
        size = layers.POOLINGS[self.variant.pooling]
        # Windows of 2 x 2 extend past the edge where the side is odd; windows of 3 x 3 always fit here.
        padding = "same" if size == 2 else "valid"
        options = {"padding": padding, "data_format": "channels_last"}
        return self.layer(MaxPooling2D, size, 2, name=f"pool{number}", **options)


def _layer1(tower, images):
    """Applies 48 kernels of 11 x 11 x 3 with stride 4 to the whole image; to a 32 x 32 image, 5 x 5 with stride 1."""
    if tower.variant.image_size == 32:
        x = tower.convolution(1, 5, bias=0)(images)
    else:
        # The paper gives the sizes only. As in original #145, the last of 55 positions extends 3 pixels past the right
        # and bottom edges and reads zeros there, the mean of the images.
        x = tower.zero_padding(((0, 3), (0, 3)), "edge1")(images)  # 227
        x = tower.convolution(1, 11, strides=4, padding="valid", bias=0)(x)  # 55
    if tower.recipe.activation == "before":
        x = tower.activation(1)(x)
    x = tower.normalize(1, x)
    x = tower.pooling(1)(x)  # 27
    if tower.recipe.activation == "after":
        x = tower.activation(1)(x)
    return x


def _layer2(tower, x):
    """Applies 128 kernels of 5 x 5 x 48 to the tower's own maps."""
    if tower.variant.pooling == "nonoverlapping":
        # 28 positions become 26, which pooling reduces to 13 (original #147).
        x = tower.zero_padding(1, "edge2")(x)
        x = tower.convolution(2, 5, padding="valid", bias=1)(x)
    else:
        x = tower.convolution(2, 5, bias=1)(x)  # 27
    x = tower.activation(2)(x)
    x = tower.normalize(2, x)
    return tower.pooling(2)(x)  # 13


def _layer3(tower, x):
    """Applies 192 kernels of 3 x 3 x 256 to the maps of both towers."""
    if tower.variant.removed_layer == "conv3":
        return x
    x = tower.convolution(3, 3, stddev=tower.recipe.middle_stddev, bias=0)(x)  # 13
    return tower.activation(3)(x)


def _layer4(tower, x):
    """Applies 192 kernels of 3 x 3 x 192 to the tower's own maps."""
    if tower.variant.removed_layer == "conv4":
        return x
    x = tower.convolution(4, 3, stddev=tower.recipe.middle_stddev, bias=1)(x)  # 13
    return tower.activation(4)(x)


def _layer5(tower, x):
    """Applies 128 kernels of 3 x 3 x 192 to the tower's own maps."""
    if tower.variant.removed_layer == "conv5":
        return tower.pooling(5)(x)
    # 13 positions become 11, which pooling without overlap reduces to 6 (original #147).
    padding = "valid" if tower.variant.pooling == "nonoverlapping" else "same"
    x = tower.convolution(5, 3, padding=padding, stddev=tower.recipe.middle_stddev, bias=1)(x)  # 13
    if tower.recipe.activation == "before":
        x = tower.activation(5)(x)
    x = tower.pooling(5)(x)  # 6
    if tower.recipe.activation == "after":
        x = tower.activation(5)(x)
    return x


def _sixth_convolution(tower, x):
    """Applies one more convolution to the pooled maps of both towers (original #146)."""
    # Seed number 6 belongs to fc6.
    x = tower.convolution(6, 3, stddev=tower.recipe.middle_stddev, bias=1, seed_number=9)(x)  # 6
    return tower.layer(Activation, tower.variant.activation, name=f"{tower.variant.activation}_conv6")(x)


def _fully_connected(tower, number, x):
    """Applies layer 6 or 7: 2048 units, each reading all outputs of both towers, with dropout (paper, section 4.2)."""
    units = getattr(tower.widths, f"fc{number}")
    x = tower.layer(Dense, units, name=f"fc{number}", **tower.initializers(number, 0.01, 1))(x)
    x = tower.activation(number)(x)
    return tower.layer(Dropout, tower.variant.dropout, seed=tower.layer_seed(10 + number), name=f"dropout{number}")(x)


def _bottleneck(tower, units, x):
    """Applies a linear layer without dropout (original #146 of 2009 and 2011)."""
    return tower.layer(Dense, units, name="bottleneck", **tower.initializers(20, 0.01, 0))(x)


def _exchange(towers, outputs, name):
    """Gives each tower the outputs of both, concatenated along the last axis.

    Both towers concatenate even if they share a device, where one concatenation would do: Keras numbers the layers in
    checkpoints, which must not depend on the devices. TensorFlow merges the identical operations.
    """
    if len(towers) == 1 or towers[0].variant.communication == "fc8":
        return outputs
    copies = [tower.layer(FanOut, len(towers), name=f"fanout{name}")(x) for tower, x in zip(towers, outputs)]
    return [tower.layer(Concatenate, name=f"join{name}")(parts) for tower, *parts in zip(towers, *copies)]


def _join(towers, outputs, name):
    """Concatenates the outputs of all towers on the device of the first."""
    if len(towers) == 1:
        return outputs[0]
    return Concatenate(name=f"join{name}", device=towers[0].device, dtype=towers[0].dtype)(outputs)


def _layers_1_to_7(towers, images):
    """Applies all layers before fc8. Sizes in comments are those of one of the paper's towers."""
    x = [_layer1(tower, images) for tower in towers]  # 27 x 27 x 48
    x = [_layer2(tower, own) for tower, own in zip(towers, x)]  # 13 x 13 x 128
    x = _exchange(towers, x, 2)  # 13 x 13 x 256
    x = [_layer3(tower, both) for tower, both in zip(towers, x)]  # 13 x 13 x 192
    x = [_layer4(tower, own) for tower, own in zip(towers, x)]  # 13 x 13 x 192
    x = [_layer5(tower, own) for tower, own in zip(towers, x)]  # 6 x 6 x 128
    if towers[0].variant.sixth_convolution:
        x = _exchange(towers, x, "_conv6")  # 6 x 6 x 256
        x = [_sixth_convolution(tower, both) for tower, both in zip(towers, x)]  # 6 x 6 x 128
    # Stated, as everywhere: the default of Keras is a setting of the machine.
    x = [tower.layer(Flatten, "channels_last", name="flatten5")(own) for tower, own in zip(towers, x)]  # 4608
    x = _exchange(towers, x, 5)  # 9216
    x = [_fully_connected(tower, 6, both) for tower, both in zip(towers, x)]  # 2048
    x = _exchange(towers, x, 6)  # 4096
    x = [_fully_connected(tower, 7, both) for tower, both in zip(towers, x)]  # 2048
    if units := towers[0].variant.bottleneck:
        x = _exchange(towers, x, 7)  # 4096
        x = [_bottleneck(tower, units // len(towers), both) for tower, both in zip(towers, x)]
        return _join(towers, x, "_bottleneck")
    return _join(towers, x, 7)  # 4096


def _head(tower, num_classes, x):
    """Applies fc8 on the device of a tower, and returns float32 logits."""
    initializers = tower.initializers(8, 0.01, 0)
    x = Dense(num_classes, name="fc8", device=tower.device, dtype=tower.dtype, **initializers)(x)
    return keras.layers.Activation("linear", dtype="float32", name="logits")(x)


def _check_arguments(num_classes, recipe, initialization):
    if not layers.is_integer(num_classes, 2):
        raise ValueError(f"Expected num_classes to be an int of at least 2. Received: {num_classes=}")
    if recipe not in RECIPES:
        raise ValueError(f"Expected recipe to be one of {sorted(RECIPES)}. Received: {recipe=}")
    if initialization not in ("recipe", "he"):
        raise ValueError(f"Expected initialization to be recipe or he. Received: {initialization=}")


def _check_variant(variant, devices):
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
    if variant.towers != "two" and devices:
        raise ValueError(f"Expected devices=None for towers={variant.towers!r}. Received: {devices=}")
    if variant.towers != "two" and variant.communication != "paper":
        raise ValueError(f"Expected towers='two' for communication='fc8'. Received: towers={variant.towers!r}")


def _towers(variant, devices, **shared):
    """Returns the towers of a variant."""
    if variant.towers != "two":
        return [_Tower("", None, variant=variant, **shared)]
    return [_Tower(name, device, variant=variant, **shared) for name, device in zip("ab", devices or (None, None))]


@keras.saving.register_keras_serializable(package="alexnet_tf")
class AlexNet(network.Network):
    """The network of Krizhevsky, Sutskever and Hinton (2012), as a Keras functional model.

    It has 60,965,224 parameters for 1,000 classes. Every layer of the two towers is a pair of Keras layers, from
    ``conv1_a`` and ``conv1_b`` to ``fc7_a`` and ``fc7_b``. The towers exchange outputs before layer 3 and before each
    fully connected layer. ``fc8`` is on the device of tower a. Variables, their names, results and checkpoints do not
    depend on `devices`.

    Example:

    >>> model = alexnet_tf.AlexNet(num_classes=1000)
    >>> model(tf.zeros([1, 224, 224, 3])).shape
    TensorShape([1, 1000])

    On two GPUs, as in the paper: ``alexnet_tf.AlexNet(devices=("/GPU:0", "/GPU:1"))``.

    Args:
      num_classes: int, at least 2.
      recipe: "paper" to follow the paper's text; "original" to follow the authors' released code (net #145), which
        applies layer 1's ReLU after normalization and pooling, uses an LRN alpha of 2e-5, adds a same-map
        normalization to layer 2, and initializes layers 3 to 5 with standard deviation 0.03.
      devices: two TensorFlow device names, one for each tower; or None to leave placement to TensorFlow. The
        variables, forward operations and backward operations of each tower are placed by explicit ``tf.device``
        scopes.
      dropout: float in [0, 1), the dropout rate of layers 6 and 7.
      towers: "two"; "one" for a single tower as wide as both, with layers ``conv1`` to ``fc8`` (62,378,344 parameters);
        or "half" for one of the two towers alone, with conv5, fc6 and fc7 as wide as both (original #145-half,
        59,798,312 parameters).
      communication: "paper" for towers that exchange outputs before layers 3, 6, 7 and 8; "fc8" for an exchange there
        only, with 160 kernels per tower in conv2 and 4096 units in fc6 (original #150, 60,714,408 parameters).
      activation: "relu" or "tanh" (paper, section 3.1).
      normalization: "response"; "first" after layer 1 only (original #167); "none" (#148); or "batch", "group" or
        "layer" to replace both.
      pooling: "overlapping" for windows of 3 x 3 (paper, section 3.4); "nonoverlapping" for 2 x 2, with less padding
        in conv2 and conv5 so that the pooled sizes stay the same (original #147).
      removed_layer: "none", or "conv3", "conv4" or "conv5" to remove that layer (paper, section 7). The next layer
        takes over its input; without conv5, fc6 has 6 x 6 x 384 inputs.
      sixth_convolution: bool, whether to add a layer of 128 kernels of 3 x 3 per tower before fc6, over the pooled maps
        of both towers (original #146).
      bottleneck: even int, the number of units of a linear layer before fc8, half in each tower, for a very
        large number of classes (original #146: 2048); 0 for no such layer.
      image_size: 224; or 32 for a smaller network of the same layers, to test the paper's claims on small images. It is
        ours: 16, 32, 48, 48 and 32 kernels and 256 units per tower (48 in conv2 and 512 in fc6 with
        ``communication="fc8"``), and 5 x 5 kernels with stride 1 in conv1.
      initialization: "recipe" for the recipe's initial weights; "he" for weights N(0, 2 / inputs) and biases 0, for few
        classes and few images.
      seed: int, the seed of the initial weights and of dropout; None for a random one.
      jit_compile: bool, whether to compile the normalizations with XLA. Set it to False for a model to be exported.
      dtype: a Keras dtype or dtype policy for the layers, such as "mixed_bfloat16"; None for the global policy, which a
        saved model keeps.
      name: str, the name of the model.
      conv1_stddev: float above 0, the standard deviation of conv1's initial kernels; None to follow `recipe` and
        `initialization`.
      left_out: the former name of `removed_layer`, accepted for saved models.
      **kwargs: arguments of ``keras.Model``.

    Input: float32 ``[batch, image_size, image_size, 3]``, RGB in [0, 255] minus the mean of the training set, thus
    within [-255, 255].

    Output: float32 logits ``[batch, num_classes]``.

    Raises:
      ValueError: If an argument is outside its range, or a device is not present (the message lists those that are).

    References:

    - [ImageNet Classification with Deep Convolutional Neural Networks](
      https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks), NIPS 2012
    - [The authors' released code](https://github.com/computerhistory/AlexNet-Source-Code), "original" with the number
      of a net
    - [Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852), He et al., 2015, for ``initialization="he"``
    """

    def __init__(
        self,
        num_classes: int = 1000,
        recipe: str = "paper",
        devices: Sequence[str] | None = None,
        *,
        dropout: float = 0.5,
        towers: str = "two",
        communication: str = "paper",
        activation: str = "relu",
        normalization: str = "response",
        pooling: str = "overlapping",
        removed_layer: str = "none",
        sixth_convolution: bool = False,
        bottleneck: int = 0,
        image_size: int = IMAGE_SIZE,
        initialization: str = "recipe",
        conv1_stddev: float | None = None,
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "alexnet",
        left_out: str | None = None,
        **kwargs,
    ):
        variant = Variant(
            towers=towers,
            communication=communication,
            activation=activation,
            normalization=normalization,
            pooling=pooling,
            removed_layer=removed_layer if left_out is None else left_out,
            sixth_convolution=sixth_convolution,
            bottleneck=bottleneck,
            dropout=dropout,
            image_size=image_size,
            conv1_stddev=conv1_stddev,
        )
        dtype = network.resolve_dtype(dtype)
        shared = {"initialization": initialization, "seed": seed, "jit_compile": jit_compile, "dtype": dtype}
        _check_arguments(num_classes, recipe, initialization)
        _check_variant(variant, devices)
        devices = placement.check_devices(devices) if devices else None
        parts = _towers(variant, devices, recipe=RECIPES[recipe], **shared)
        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        logits = _head(parts[0], num_classes, _layers_1_to_7(parts, images))
        super().__init__(inputs=images, outputs=logits, name=name, **kwargs)
        own = {"num_classes": num_classes, "recipe": recipe, "devices": devices and list(devices), "name": name}
        self._arguments = {**own, **variant._asdict(), **shared}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        devices = config.get("devices")
        if devices and None in [placement.present_device(device) for device in devices]:
            devices = None
        return super().from_config({**config, "devices": devices}, custom_objects)
