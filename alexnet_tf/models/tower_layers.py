"""The layers of a tower of AlexNet, with its device, names, widths and initial weights."""

from collections.abc import Sequence
from typing import NamedTuple

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import normalizations
from alexnet_tf.models import placement
from alexnet_tf.models import pooling
from alexnet_tf.models import variants

Conv2D = placement.on_device(keras.layers.Conv2D)
Dense = placement.on_device(keras.layers.Dense)
Activation = placement.on_device(keras.layers.Activation)
MaxPooling2D = placement.on_device(pooling.MaxPooling2D)
# Not built any more, but in saved models of AlexNet's layers.
KerasMaxPooling2D = placement.on_device(keras.layers.MaxPooling2D)
ZeroPadding2D = placement.on_device(keras.layers.ZeroPadding2D)
Flatten = placement.on_device(keras.layers.Flatten)
Concatenate = placement.on_device(keras.layers.Concatenate)
FanOut = placement.on_device(placement.FanOut)
LocalResponseNormalization = placement.on_device(normalizations.LocalResponseNormalization)
SameMapNormalization = placement.on_device(normalizations.SameMapNormalization)
BatchNormalization = placement.on_device(keras.layers.BatchNormalization)
GroupNormalization = placement.on_device(normalizations.GroupNormalization)
Dropout = placement.on_device(layers.Dropout)
# Half of the window of LRN.
RADIUS = 2
ChannelRange = placement.on_device(layers.ChannelRange)


class Tower(NamedTuple):
    """One half of the network, or all of it: a factory of layers with the tower's device, names and initial weights."""

    name: str  # "a" or "b"; empty for a single tower
    device: str | None
    dtype: object
    seed: int | None
    jit_compile: bool
    initialization: str
    recipe: variants.Recipe
    variant: variants.Variant

    @property
    def widths(self):
        return variants.widths(self.variant)

    @property
    def geometry(self):
        return variants.geometry(self.variant)

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
            "bias_initializer": keras.initializers.Constant(bias if self.initialization == "recipe" else 0),
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
            return self.layer(
                GroupNormalization, normalizations.GROUP_CHANNELS if kind == "group" else None, name=name
            )(x)
        constants = {"bias": self.recipe.bias, "alpha": self.recipe.alpha}
        jit_compile = self.jit_compile
        x = self.layer(LocalResponseNormalization, **constants, jit_compile=jit_compile, name=name)(x)
        if number == 2 and self.recipe.same_map_normalization:
            x = self.layer(SameMapNormalization, jit_compile=jit_compile, name="samemap2")(x)
        return x

    def normalization_crosses_towers(self, number):
        """Returns whether the window of the normalization of layer 1 or 2 extends into the other tower."""
        kinds = ("response", "first") if number == 1 else ("response",)
        is_joined = self.variant.communication == "paper"
        return self.recipe.crosses_towers and is_joined and self.variant.normalization in kinds

    def pooling(self, number):
        """Returns max pooling with overlapping windows (paper, section 3.4) or without overlap (original #147)."""
        size = layers.POOLINGS[self.variant.pooling]
        # Windows of 2 x 2 extend past the edge where the side is odd. Windows of 3 x 3 fit, except for pool5 of small
        # networks.
        padding = "same" if size == 2 or (number == 5 and self.geometry.pool5 == "same") else "valid"
        options = {"padding": padding, "data_format": "channels_last"}
        return self.layer(MaxPooling2D, size, 2, name=f"pool{number}", **options)

    def flatten(self, number):
        # "channels_last" is stated, as everywhere, because Keras's default is a setting of the machine.
        return self.layer(Flatten, "channels_last", name=f"flatten{number}")

    def dropout(self, number):
        return self.layer(Dropout, self.variant.dropout, seed=self.layer_seed(10 + number), name=f"dropout{number}")


def towers(variant: variants.Variant, devices: Sequence[str] | None, **shared) -> list[Tower]:
    """Returns the towers of a variant: two, a and b, or a single one. `shared` are fields that they have in common."""
    if variant.towers != "two":
        return [Tower("", None, variant=variant, **shared)]
    return [Tower(name, device, variant=variant, **shared) for name, device in zip("ab", devices or (None, None))]
