"""What the residual networks and their plain counterparts consist of: convolutions with batch normalization, blocks."""

import functools

import keras

from alexnet_tf.models import layers

# How a block's input reaches the sum where sizes change: "A" without parameters, "B" by a projection; "C" has
# projections in all blocks.
SHORTCUTS = ("A", "B", "C")
# Constants of batch normalization: the share of the old moving statistics that each step keeps, and epsilon.
_MOMENTUM = 0.9
_EPSILON = 1e-5


class Builder:
    """Builds layers from the arguments that they share.

    Args:
      initialization: as of the networks; the recipe's initial weights are He's.
      seed: int, or None.
      residual: bool; False builds plain networks, whose blocks have no shortcuts.
      shortcuts: one of `SHORTCUTS`.
      dtype: a Keras dtype policy.

    Raises:
      ValueError: If `shortcuts` is unknown.
    """

    def __init__(self, initialization: str, seed: int | None, residual: bool, shortcuts: str, dtype):
        layers.check_choice("shortcuts", shortcuts, SHORTCUTS)
        he = functools.partial(layers.kernel_initializer, "he", 0.0)
        self.dtype = dtype
        self._initializers = layers.Initializers(he, initialization, seed)
        self._residual = residual
        self._shortcuts = shortcuts

    def convolution(self, place: str, maps: int, size: int, x, *, strides: int = 1):
        """Applies a convolution without biases, and batch normalization.

        Args:
          place: end of the names of the layers, such as "2_1_1".
          maps: number of kernels.
          size: their side, odd. ``size // 2`` zeros surround the maps.
          x: the input.
          strides: of the kernels.
        """
        padding = "same"
        if strides > 1 and size > 1:
            # Keras's own padding would be narrower at the top and at the left than at the bottom and at the right.
            x = keras.layers.ZeroPadding2D(size // 2, name=f"edge{place}", **self._options())(x)
            padding = "valid"
        x = keras.layers.Conv2D(
            maps,
            size,
            strides=strides,
            padding=padding,
            use_bias=False,
            kernel_initializer=self._initializers.next(),
            name=f"conv{place}",
            **self._options(),
        )(x)
        return keras.layers.BatchNormalization(
            momentum=_MOMENTUM, epsilon=_EPSILON, dtype=self.dtype, name=f"norm{place}"
        )(x)

    def relu(self, place: str, x):
        """Applies a ReLU."""
        return keras.layers.Activation("relu", dtype=self.dtype, name=f"relu{place}")(x)

    def block(self, place: str, convolutions, x):
        """Applies convolutions, each but the last with a ReLU; adds the block's input; and applies a ReLU.

        Args:
          place: such as "2_1": the first block of the second stage.
          convolutions: list of (maps, size, strides).
          x: the input.
        """
        strides = 1
        block_input = x
        for number, (maps, size, own_strides) in enumerate(convolutions, start=1):
            x = self.convolution(f"{place}_{number}", maps, size, x, strides=own_strides)
            if number < len(convolutions):
                x = self.relu(f"{place}_{number}", x)
            strides *= own_strides
        if self._residual:
            shortcut = self._shortcut(place, x.shape[-1], strides, block_input)
            x = keras.layers.Add(dtype=self.dtype, name=f"add{place}")([shortcut, x])
        return self.relu(place, x)

    def _shortcut(self, place, maps, strides, x):
        changes = strides > 1 or x.shape[-1] != maps
        if self._shortcuts == "C" or (changes and self._shortcuts == "B"):
            return self.convolution(f"{place}_shortcut", maps, 1, x, strides=strides)
        if not changes:
            return x
        return layers.IdentityShortcut(maps, strides, dtype=self.dtype, name=f"shortcut{place}")(x)

    def head(self, num_classes: int, x):
        """Averages each map over all positions, and applies a fully connected layer; returns float32 logits."""
        x = keras.layers.GlobalAveragePooling2D(name="average", **self._options())(x)
        x = keras.layers.Dense(num_classes, kernel_initializer=self._initializers.next(), dtype=self.dtype, name="fc")(
            x
        )
        return keras.layers.Activation("linear", dtype="float32", name="logits")(x)

    def _options(self):
        return {"data_format": "channels_last", "dtype": self.dtype}
