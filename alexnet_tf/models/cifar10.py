"""The smaller nets that AlexNet's authors trained on CIFAR-10, following their released code.

They have three convolutional layers of 5 x 5 kernels and one or two fully connected layers, and run on one device.
"""

from typing import NamedTuple

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import network
from alexnet_tf.models import normalizations
from alexnet_tf.models import pooling


class Layout(NamedTuple):
    """The differences between the nets (original: example-layers)."""

    normalization: bool  # whether a same-map normalization follows the first and the second pooling
    hidden: bool  # whether a fully connected layer of 64 units comes before the last
    dense_stddev: float  # standard deviation of the initial weights of fully connected layers


# The number in a name is the test error in percent that the authors' code states for the net.
LAYOUTS = {
    "cifar10_26": Layout(normalization=False, hidden=True, dense_stddev=0.1),
    "cifar10_19": Layout(normalization=False, hidden=False, dense_stddev=0.01),
    "cifar10_18": Layout(normalization=True, hidden=False, dense_stddev=0.01),
}
KERNELS = (32, 32, 64)
STDDEVS = (0.0001, 0.01, 0.01)
POOLINGS = (pooling.MaxPooling2D, keras.layers.AveragePooling2D, keras.layers.AveragePooling2D)
HIDDEN_UNITS = 64
IMAGE_SIZE = 32


class _Builder(NamedTuple):
    """Builds the stages of a net from the arguments that they share."""

    layout: Layout
    activation: str
    normalization: str
    pooling: str
    initialization: str
    seed: int | None
    jit_compile: bool
    dtype: object

    def kernel_initializer(self, number, stddev):
        seed = None if self.seed is None else 1000 * self.seed + number
        return layers.kernel_initializer(self.initialization, stddev, seed)

    def convolutional_stage(self, number, x):
        """Applies convolution, activation, pooling and normalization `number`."""
        x = keras.layers.Conv2D(
            KERNELS[number - 1],
            5,
            padding="same",
            data_format="channels_last",
            kernel_initializer=self.kernel_initializer(number, STDDEVS[number - 1]),
            dtype=self.dtype,
            name=f"conv{number}",
        )(x)
        x = keras.layers.Activation(self.activation, dtype=self.dtype, name=f"{self.activation}{number}")(x)
        window = layers.POOLINGS[self.pooling]
        options = {"padding": "same", "data_format": "channels_last", "dtype": self.dtype}
        x = POOLINGS[number - 1](window, 2, name=f"pool{number}", **options)(x)
        return self.normalize(number, x)

    def normalize(self, number, x):
        """Applies the layout's normalization after pooling `number`, or its replacement, if there is one."""
        kind, name = self.normalization, f"norm{number}"
        if not self.layout.normalization or number > 2 or kind == "none" or (kind == "first" and number > 1):
            return x
        if kind in ("response", "first"):
            # The authors' "rnorm" sums over 3 x 3 positions of the same map and divides its scale by their number.
            constants = {"bias": 1.0, "alpha": 5e-5 / 9, "jit_compile": self.jit_compile}
            return normalizations.SameMapNormalization(3, **constants, dtype=self.dtype, name=name)(x)
        return normalizations.later_normalization(kind, dtype=self.dtype, name=name)(x)

    def dense(self, number, units, x, *, activation=None, name):
        initializer = self.kernel_initializer(number, self.layout.dense_stddev)
        return keras.layers.Dense(units, activation, kernel_initializer=initializer, dtype=self.dtype, name=name)(x)

    def head(self, num_classes, x):
        """Applies the fully connected layers, and returns float32 logits."""
        x = keras.layers.Flatten("channels_last", dtype=self.dtype, name="flatten3")(x)
        if self.layout.hidden:
            x = self.dense(4, HIDDEN_UNITS, x, activation=self.activation, name="fc64")
        x = self.dense(5, num_classes, x, name="fc10")
        return keras.layers.Activation("linear", dtype="float32", name="logits")(x)


def _check(layout, num_classes, image_size, activation, normalization, pooling, initialization):
    for name, value, allowed in (
        ("layout", layout, tuple(LAYOUTS)),
        ("activation", activation, layers.ACTIVATIONS),
        ("normalization", normalization, normalizations.NORMALIZATIONS),
        ("pooling", pooling, tuple(layers.POOLINGS)),
        ("initialization", initialization, layers.INITIALIZATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"Expected {name} to be one of {', '.join(allowed)}. Received: {value!r}")
    if not layers.is_integer(num_classes, 2):
        raise ValueError(f"Expected num_classes to be an int of at least 2. Received: {num_classes=}")
    # For other sizes Keras pads the left and top edges too.
    if not (layers.is_integer(image_size, 1) and image_size % 8 == 0):
        raise ValueError(f"Expected image_size to be a multiple of 8. Received: {image_size=}")


@keras.saving.register_keras_serializable(package="alexnet_tf")
class Cifar10Net(network.Network):
    """One of the nets that AlexNet's authors trained on CIFAR-10, as a Keras functional model.

    Weights are initialized from a normal distribution of mean 0, biases to 0. Pooling windows extend past the right and
    bottom edges; average pooling divides by the number of positions inside.

    Example:

    >>> alexnet_tf.models.cifar10.Cifar10Net("cifar10_18")(tf.zeros([1, 32, 32, 3])).shape
    TensorShape([1, 10])

    Args:
      layout: one of `LAYOUTS`.
      num_classes: int, at least 2.
      image_size: int, a multiple of 8: 32 for whole images of CIFAR-10, or less for crops of them.
      activation: "relu", "tanh" or "sigmoid".
      normalization: "response" for the layout's own; "first" after the first pooling only; "none"; or "batch", "group"
        or "layer" to replace it. Only "cifar10_18" has normalizations.
      pooling: "overlapping" for windows of 3 x 3, "nonoverlapping" for 2 x 2, both with stride 2.
      initialization: "recipe"; "he" for weights N(0, 2 / inputs); "zeros", for weights that are assigned afterwards.
      seed: int, the seed of the initial weights; None for a random one.
      jit_compile: bool, whether to compile the normalizations with XLA. Set it to False for a model to be exported.
      dtype: a Keras dtype or dtype policy for the layers; None for the global policy, which a saved model keeps.
      name: str, the name of the model.
      **kwargs: arguments of ``keras.Model``.

    Input: float32 ``[batch, image_size, image_size, 3]``, RGB in [0, 255] minus the mean image of the training set.

    Output: float32 logits ``[batch, num_classes]``.

    Raises:
      ValueError: If an argument is outside its range.

    Reference:

    - [The authors' released code](https://github.com/computerhistory/AlexNet-Source-Code)
    """

    def __init__(
        self,
        layout: str,
        num_classes: int = 10,
        *,
        image_size: int = IMAGE_SIZE,
        activation: str = "relu",
        normalization: str = "response",
        pooling: str = "overlapping",
        initialization: str = "recipe",
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "cifar10",
        **kwargs,
    ):
        _check(layout, num_classes, image_size, activation, normalization, pooling, initialization)
        shared = {
            "activation": activation,
            "normalization": normalization,
            "pooling": pooling,
            "initialization": initialization,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": network.resolve_dtype(dtype),
        }
        builder = _Builder(LAYOUTS[layout], **shared)
        images = x = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        for number in (1, 2, 3):
            x = builder.convolutional_stage(number, x)  # 16, 8 and 4 for images of 32 x 32
        super().__init__(inputs=images, outputs=builder.head(num_classes, x), name=name, **kwargs)
        own = {"layout": layout, "num_classes": num_classes, "image_size": image_size, "name": name}
        self._arguments = own | shared
