"""AlexNet: eight layers in two towers that meet where the paper's towers meet.

Sizes and counts are those of the paper's Figure 2; where its text and the authors' released code differ, the
two recipes do (`RECIPES`).
"""

import math
from typing import NamedTuple

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import placement

IMAGE_SIZE = 224


class Recipe(NamedTuple):
    """What the network is under one recipe, where paper and original differ."""

    # Position of the ReLU of layers 1 and 5, which comes "before" or "after" normalisation and pooling.
    activation: str
    # LRN's alpha for the sum of squares: the paper's 1e-4; the original divides it by n = 5.
    alpha: float
    # A same-map normalisation after layer 2's LRN (original #145 only).
    same_map_normalization: bool
    # Standard deviation of the initial weights of conv3, conv4 and conv5 (0.01 everywhere else).
    middle_stddev: float


RECIPES = {
    "paper": Recipe(activation="before", alpha=1e-4, same_map_normalization=False, middle_stddev=0.01),
    "original": Recipe(activation="after", alpha=2e-5, same_map_normalization=True, middle_stddev=0.03),
}


class Variant(NamedTuple):
    """What may be otherwise than in the paper, for its experiments: the arguments of `AlexNet` of these names."""

    towers: str = "two"
    communication: str = "paper"
    activation: str = "relu"
    normalization: str = "response"
    pooling: str = "overlapping"
    removed_layer: str = "none"
    sixth_convolution: bool = False
    bottleneck: int = 0
    dropout: float = 0.5
    image_size: int = 224
    conv1_stddev: float | None = None


# What `AlexNet` takes for each.
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
    """Kernels of each convolutional layer of a tower, and neurons of its fully connected ones but the last."""

    conv1: int
    conv2: int
    conv3: int
    conv4: int
    conv5: int
    conv6: int
    fc6: int
    fc7: int


# Of a tower, by the images' side: one of the paper's two; one of two that meet before fc8 alone, with two wider layers
# that make up for what others read less; one as wide as both; or one of the two with last layers as wide as both's.
# Those for 32 x 32 are ours.
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
    """One of the two halves of the network, or all of it: where it lives, how its layers begin, what they are."""

    name: str  # "a" or "b"; empty for the only one
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
        """A layer of this tower, named as in the paper with the tower's letter."""
        name = f"{name}_{self.name}" if self.name else name
        return layer_class(*args, name=name, device=self.device, dtype=self.dtype, **kwargs)

    def seed_of(self, number):
        """A seed of its own for draw `number` of this tower."""
        return None if self.seed is None else 1000 * self.seed + 10 * number + (self.name == "b")

    def weights(self, number, stddev, bias):
        """Initial values: of the weights `layers.kernel_initializer`, of the biases a constant, 0 with He's."""
        return {
            "kernel_initializer": layers.kernel_initializer(self.initialization, stddev, self.seed_of(number)),
            "bias_initializer": keras.initializers.Constant(0 if self.initialization == "he" else bias),
        }

    def convolution(self, number, size, *, strides=1, padding="same", stddev=0.01, bias, draw=None):
        name = f"conv{number}"
        weights = self.weights(draw or number, stddev, bias)
        if number == 1 and self.variant.conv1_stddev is not None:
            weights["kernel_initializer"] = layers.kernel_initializer(
                "recipe", self.variant.conv1_stddev, self.seed_of(1)
            )
        kernels = getattr(self.widths, name)
        return self.layer(Conv2D, kernels, size, strides=strides, padding=padding, name=name, **weights)

    def activation(self, number):
        kind = self.variant.activation
        return self.layer(Activation, kind, name=f"{kind}{number}")

    def normalize(self, number, x):
        """What follows convolutional layer 1 or 2 (paper section 3.3), or what is there in its place."""
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
        """Max pooling whose windows overlap (paper section 3.4), or do not (original #147)."""
        size = layers.POOLINGS[self.variant.pooling]
        # Windows of 2 x 2 hang over the edge where the side is odd; those of 3 x 3 never do here.
        padding = "same" if size == 2 else "valid"
        return self.layer(MaxPooling2D, pool_size=size, strides=2, padding=padding, name=f"pool{number}")


def _first(tower, images):
    """Layer 1 of a tower: 48 kernels of 11 x 11 x 3, stride 4, over the whole image; of a small one 5 x 5, stride 1."""
    if tower.variant.image_size == 32:
        x = tower.convolution(1, 5, bias=0)(images)
    else:
        # 55 positions a side from 224 pixels: the last one hangs 3 pixels over the right and bottom edges and reads
        # zeros there, which is the mean (original #145; the paper gives the sizes only).
        x = tower.layer(ZeroPadding2D, ((0, 3), (0, 3)), name="edge1")(images)  # 227
        x = tower.convolution(1, 11, strides=4, padding="valid", bias=0)(x)  # 55
    if tower.recipe.activation == "before":
        x = tower.activation(1)(x)
    x = tower.normalize(1, x)
    x = tower.pooling(1)(x)  # 27
    if tower.recipe.activation == "after":
        x = tower.activation(1)(x)
    return x


def _second(tower, x):
    """Layer 2 of a tower: 128 kernels of 5 x 5 x 48 over the tower's own maps."""
    if tower.variant.pooling == "nonoverlapping":
        # From 28 positions to 26, so that the pooling makes 13 of them (original #147).
        x = tower.layer(ZeroPadding2D, 1, name="edge2")(x)
        x = tower.convolution(2, 5, padding="valid", bias=1)(x)
    else:
        x = tower.convolution(2, 5, bias=1)(x)  # 27
    x = tower.activation(2)(x)
    x = tower.normalize(2, x)
    return tower.pooling(2)(x)  # 13


def _third(tower, x):
    """Layer 3 of a tower: 192 kernels of 3 x 3 x 256 over the maps of both towers."""
    if tower.variant.removed_layer == "conv3":
        return x
    x = tower.convolution(3, 3, stddev=tower.recipe.middle_stddev, bias=0)(x)  # 13
    return tower.activation(3)(x)


def _fourth(tower, x):
    """Layer 4 of a tower: 192 kernels of 3 x 3 x 192 over the tower's own maps."""
    if tower.variant.removed_layer == "conv4":
        return x
    x = tower.convolution(4, 3, stddev=tower.recipe.middle_stddev, bias=1)(x)  # 13
    return tower.activation(4)(x)


def _fifth(tower, x):
    """Layer 5 of a tower: 128 kernels of 3 x 3 x 192 over the tower's own maps."""
    if tower.variant.removed_layer == "conv5":
        return tower.pooling(5)(x)
    # From 13 positions to 11, so that a pooling without overlap makes 6 of them (original #147).
    padding = "valid" if tower.variant.pooling == "nonoverlapping" else "same"
    x = tower.convolution(5, 3, padding=padding, stddev=tower.recipe.middle_stddev, bias=1)(x)  # 13
    if tower.recipe.activation == "before":
        x = tower.activation(5)(x)
    x = tower.pooling(5)(x)  # 6
    if tower.recipe.activation == "after":
        x = tower.activation(5)(x)
    return x


def _sixth(tower, x):
    """One more convolutional layer of a tower, over the pooled maps of both (original #146)."""
    # Draw 6 is fc6's.
    x = tower.convolution(6, 3, stddev=tower.recipe.middle_stddev, bias=1, draw=9)(x)  # 6
    return tower.layer(Activation, tower.variant.activation, name=f"{tower.variant.activation}_conv6")(x)


def _fully_connected(tower, number, x):
    """Layer 6 or 7 of a tower: 2048 neurons over all of both towers, with dropout (paper section 4.2)."""
    units = getattr(tower.widths, f"fc{number}")
    x = tower.layer(Dense, units, name=f"fc{number}", **tower.weights(number, 0.01, 1))(x)
    x = tower.activation(number)(x)
    return tower.layer(Dropout, tower.variant.dropout, seed=tower.seed_of(10 + number), name=f"dropout{number}")(x)


def _meet(towers, outputs, name):
    """Gives each tower the outputs of both, joined along the last axis: the crossing after stage `name`.

    Each tower joins for itself on one device too, where once would do: Keras numbers layers in checkpoints, and
    these shall fit either way. TensorFlow merges the equal joins.
    """
    if len(towers) == 1 or towers[0].variant.communication == "fc8":
        return outputs
    copies = [tower.layer(FanOut, len(towers), name=f"fanout{name}")(x) for tower, x in zip(towers, outputs)]
    return [tower.layer(Concatenate, name=f"join{name}")(parts) for tower, *parts in zip(towers, *copies)]


def _join(towers, outputs, name):
    """The outputs of all towers side by side, on the first one's device."""
    if len(towers) == 1:
        return outputs[0]
    return Concatenate(name=f"join{name}", device=towers[0].device, dtype=towers[0].dtype)(outputs)


def _layers_one_to_seven(towers, images):
    """The network up to what its last layer reads."""
    x = [_first(tower, images) for tower in towers]  # 27 x 27 x 48
    x = [_second(tower, own) for tower, own in zip(towers, x)]  # 13 x 13 x 128
    x = _meet(towers, x, 2)  # 13 x 13 x 256
    x = [_third(tower, both) for tower, both in zip(towers, x)]  # 13 x 13 x 192
    x = [_fourth(tower, own) for tower, own in zip(towers, x)]  # 13 x 13 x 192
    x = [_fifth(tower, own) for tower, own in zip(towers, x)]  # 6 x 6 x 128
    if towers[0].variant.sixth_convolution:
        x = _meet(towers, x, "_conv6")  # 6 x 6 x 256
        x = [_sixth(tower, both) for tower, both in zip(towers, x)]  # 6 x 6 x 128
    x = [tower.layer(Flatten, name="flatten5")(own) for tower, own in zip(towers, x)]
    x = _meet(towers, x, 5)  # 9216
    x = [_fully_connected(tower, 6, both) for tower, both in zip(towers, x)]  # 2048
    x = _meet(towers, x, 6)  # 4096
    x = [_fully_connected(tower, 7, both) for tower, both in zip(towers, x)]  # 2048
    if units := towers[0].variant.bottleneck:
        # Linear, without dropout (original #146 of 2009 and 2011).
        x = _meet(towers, x, 7)
        x = [
            tower.layer(Dense, units // len(towers), name="bottleneck", **tower.weights(20, 0.01, 0))(both)
            for tower, both in zip(towers, x)
        ]
        return _join(towers, x, "_bottleneck")
    return _join(towers, x, 7)  # 4096


def _check(variant, devices):
    for name, allowed in CHOICES.items():
        value = getattr(variant, name)
        if value not in allowed:
            raise ValueError(f"Expected {name} to be one of {', '.join(map(str, allowed))}. Received: {name}={value!r}")
    if not isinstance(variant.sixth_convolution, bool):
        raise ValueError(f"Expected sixth_convolution to be a bool. Received: {variant.sixth_convolution!r}")
    if not (isinstance(variant.bottleneck, int) and variant.bottleneck >= 0 and variant.bottleneck % 2 == 0):
        raise ValueError(f"Expected bottleneck to be an even int of at least 0. Received: {variant.bottleneck!r}")
    stddev = variant.conv1_stddev
    if stddev is not None and not (isinstance(stddev, (int, float)) and 0 < stddev < math.inf):
        raise ValueError(f"Expected conv1_stddev to be a finite number above 0, or None. Received: {stddev!r}")
    if variant.towers != "two" and devices:
        raise ValueError(f"Expected devices=None for towers={variant.towers!r}. Received: {devices=}")
    if variant.towers != "two" and variant.communication != "paper":
        raise ValueError(f"Expected towers='two' for communication='fc8'. Received: towers={variant.towers!r}")


@keras.saving.register_keras_serializable(package="alexnet_tf")
class AlexNet(keras.Model):
    """The network of Krizhevsky, Sutskever and Hinton (2012), as a Keras functional model.

    60,965,224 parameters at 1,000 classes. Every split stage is two layers, ``conv1_a`` and ``conv1_b`` to ``fc7_a``
    and ``fc7_b``; the towers meet before layer 3 and before each fully connected layer, and ``fc8`` lives with
    tower a. Variables, their names and the numbers do not depend on `devices`, nor do checkpoints.

    Example:

    >>> model = alexnet_tf.AlexNet(num_classes=1000, devices=("/GPU:0", "/GPU:1"))
    >>> model(tf.zeros([1, 224, 224, 3])).shape
    TensorShape([1, 1000])

    Args:
      num_classes: int, at least 2.
      recipe: "paper" for what the text says, "original" for what the authors' released code did (net #145):
        layer 1 normalised before it is rectified, LRN's alpha 2e-5, a same-map normalisation in layer 2, initial
        standard deviation 0.03 in layers 3 to 5.
      devices: None for one device, whichever is current; or two TensorFlow device names, the homes of the towers:
        variables, forward and backward operations of each are placed there by explicit ``tf.device`` scopes.
      dropout: float in [0, 1), the rate in layers 6 and 7.
      towers: "two"; "one" of the width of both, whose layers are ``conv1`` to ``fc8`` (62,378,344 parameters); or
        "half", one tower alone whose conv5, fc6 and fc7 are as wide as both (original #145-half, 59,798,312).
      communication: "paper" for towers that meet before layers 3, 6, 7 and 8; "fc8" for there alone, with 160 kernels a
        tower in conv2 and 4096 neurons in fc6 (original #150, 60,714,408 parameters).
      activation: "relu", or "tanh" (paper section 3.1).
      normalization: "response"; "first" for layer 1 alone (original #167); "none" (#148); or "batch", "group" or
        "layer" in its places.
      pooling: "overlapping" for windows of 3 x 3 (paper section 3.4); "nonoverlapping" for 2 x 2, with convolutions 2
        and 5 over less of a border, so that the sizes behind come out the same (original #147).
      removed_layer: "none", or "conv3", "conv4" or "conv5" to remove that layer (paper section 7). The next layer
        takes over its input; without conv5, fc6 has 6 x 6 x 384 inputs.
      sixth_convolution: bool, a layer of 128 kernels of 3 x 3 a tower over the pooled maps of both, before fc6
        (original #146).
      bottleneck: int, units of a linear layer before fc8, half in each tower, for very many classes (original #146:
        2048); 0 for none.
      image_size: int, 224; or 32 for the same layers in small, to try on small pictures what the paper claims (ours):
        16, 32, 48, 48 and 32 kernels and 256 neurons a tower (48 in conv2 and 512 in fc6 of towers that are apart), the
        first 5 x 5 at every position.
      initialization: "recipe" starts as the recipe does; "he", for few classes and few images, with weights
        N(0, 2 / inputs) and biases 0 (He et al., "Delving Deep into Rectifiers", 2015).
      conv1_stddev: float above 0, the standard deviation of conv1's initial kernels; None for what `recipe` and
        `initialization` say (0.01 for either recipe).
      seed: int, of initial weights and dropout; None draws anew.
      jit_compile: compile the normalisations with XLA. Turn off for a model to be exported.
      dtype: a Keras dtype or dtype policy, such as "mixed_bfloat16", for the layers.
      name: of the model.
      left_out: the old name of `removed_layer`.

    Input: float32 ``[batch, image_size, image_size, 3]``, RGB in [0, 255] with the training set's mean subtracted, so
    within [-255, 255]. Output: logits float32 ``[batch, num_classes]``.

    Raises:
      ValueError: for an argument outside its range, or a device that is not there (listing those that are).

    Reference: "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012.
    """

    def __init__(
        self,
        num_classes=1000,
        recipe="paper",
        devices=None,
        *,
        dropout=0.5,
        towers="two",
        communication="paper",
        activation="relu",
        normalization="response",
        pooling="overlapping",
        removed_layer="none",
        sixth_convolution=False,
        bottleneck=0,
        image_size=IMAGE_SIZE,
        initialization="recipe",
        conv1_stddev=None,
        seed=None,
        jit_compile=True,
        dtype=None,
        name="alexnet",
        left_out=None,
        **kwargs,
    ):
        if not (isinstance(num_classes, int) and num_classes >= 2):
            raise ValueError(f"Expected num_classes to be an int of at least 2. Received: {num_classes=}")
        if recipe not in RECIPES:
            raise ValueError(f"Expected recipe to be one of {sorted(RECIPES)}. Received: {recipe=}")
        if initialization not in ("recipe", "he"):
            raise ValueError(f"Expected initialization to be recipe or he. Received: {initialization=}")
        variant = Variant(
            towers,
            communication,
            activation,
            normalization,
            pooling,
            removed_layer if left_out is None else left_out,
            sixth_convolution,
            bottleneck,
            dropout,
            image_size,
            conv1_stddev,
        )
        _check(variant, devices)
        device_a, device_b = placement.check_devices(devices) if devices else (None, None)
        shared = (dtype, seed, jit_compile, initialization, RECIPES[recipe], variant)
        if towers == "two":
            parts = [_Tower("a", device_a, *shared), _Tower("b", device_b, *shared)]
        else:
            parts = [_Tower("", None, *shared)]
        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        x = _layers_one_to_seven(parts, images)
        logits = Dense(num_classes, name="fc8", device=device_a, dtype=dtype, **parts[0].weights(8, 0.01, 0))(x)
        logits = keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
        super().__init__(inputs=images, outputs=logits, name=name, **kwargs)
        self._arguments = {
            "num_classes": num_classes,
            "recipe": recipe,
            "devices": [device_a, device_b] if devices else None,
            **variant._asdict(),
            "initialization": initialization,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": dtype,
            "name": name,
        }

    def get_config(self):
        return dict(self._arguments)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
