"""The smaller nets with which AlexNet's authors learnt CIFAR-10, as their released code lays them out.

Three convolutional layers of 5 x 5 kernels, and one or two fully connected ones, over
32 x 32 images, on one device.
"""

from typing import NamedTuple

import keras

from alexnet_tf.models import layers


class Layout(NamedTuple):
    """What differs between the nets (original: example-layers)."""

    normalization: bool  # a same-map normalisation behind the first and the second pooling
    hidden: bool  # a fully connected layer of 64 before the last
    dense_stddev: float  # of the initial weights of fully connected layers


# By the test error that the authors' code states for each, in percent.
LAYOUTS = {
    "cifar10_26": Layout(normalization=False, hidden=True, dense_stddev=0.1),
    "cifar10_19": Layout(normalization=False, hidden=False, dense_stddev=0.01),
    "cifar10_18": Layout(normalization=True, hidden=False, dense_stddev=0.01),
}
KERNELS = (32, 32, 64)
STDDEVS = (0.0001, 0.01, 0.01)
POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D, keras.layers.AveragePooling2D)
IMAGE_SIZE = 32


def _normalization(kind, number, jit_compile, dtype):
    """What follows pooling `number`: a layer, or None."""
    if kind == "none" or (kind == "first" and number > 1):
        return None
    if kind in ("response", "first"):
        # The authors' "rnorm" sums over 3 x 3 positions of the same map and divides its scale by their number.
        return layers.SameMapNormalization(
            3, bias=1.0, alpha=5e-5 / 9, jit_compile=jit_compile, dtype=dtype, name=f"norm{number}"
        )
    return layers.later_normalization(kind, dtype=dtype, name=f"norm{number}")


@keras.saving.register_keras_serializable(package="alexnet_tf")
class Cifar10Net(keras.Model):
    """One of the authors' nets for CIFAR-10, as a Keras functional model.

    Weights start normal with mean 0, biases at 0. The poolings' windows hang over the right and the bottom edge, and
    averages are over what lies inside.

    Example:

    >>> alexnet_tf.models.cifar10.Cifar10Net("cifar10_18")(tf.zeros([1, 32, 32, 3])).shape
    TensorShape([1, 10])

    Args:
      layout: one of `LAYOUTS`.
      num_classes: int, at least 2.
      image_size: int, the side of the images, a multiple of 8: 32, or less where parts are cut out of them.
      activation: "relu" or "tanh".
      normalization: "response" for the layout's own, "first" for it behind the first pooling alone, "none"; or
        "batch", "group" or "layer" in its places.
      pooling: "overlapping" for windows of 3 x 3, "nonoverlapping" for 2 x 2, either 2 apart.
      initialization: "recipe", or "he" for weights N(0, 2 / inputs).
      seed: int, of initial weights; None draws anew.
      jit_compile: compile the normalisations with XLA.
      dtype: a Keras dtype or dtype policy.
      name: of the model.

    Input: float32 ``[batch, image_size, image_size, 3]``, RGB in [0, 255] with the mean image subtracted. Output:
    logits, float32 ``[batch, num_classes]``.

    Raises:
      ValueError: for an argument outside its range.
    """

    def __init__(
        self,
        layout,
        num_classes=10,
        *,
        image_size=IMAGE_SIZE,
        activation="relu",
        normalization="response",
        pooling="overlapping",
        initialization="recipe",
        seed=None,
        jit_compile=True,
        dtype=None,
        name="cifar10",
        **kwargs,
    ):
        for argument, value, allowed in (
            ("layout", layout, tuple(LAYOUTS)),
            ("activation", activation, layers.ACTIVATIONS),
            ("normalization", normalization, layers.NORMALIZATIONS),
            ("pooling", pooling, tuple(layers.POOLINGS)),
            ("initialization", initialization, ("recipe", "he")),
        ):
            if value not in allowed:
                raise ValueError(f"Expected {argument} to be one of {', '.join(allowed)}. Received: {value!r}")
        if not (isinstance(num_classes, int) and num_classes >= 2):
            raise ValueError(f"Expected num_classes to be an int of at least 2. Received: {num_classes=}")
        # Of other sizes Keras lets the poolings' windows hang over the left and the top edge too.
        if not (isinstance(image_size, int) and image_size > 0 and image_size % 8 == 0):
            raise ValueError(f"Expected image_size to be a multiple of 8. Received: {image_size=}")
        arguments = {
            "layout": layout,
            "num_classes": num_classes,
            "image_size": image_size,
            "activation": activation,
            "normalization": normalization,
            "pooling": pooling,
            "initialization": initialization,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": dtype,
            "name": name,
        }
        facts = LAYOUTS[layout]

        def start(number, stddev):
            return layers.kernel_initializer(initialization, stddev, None if seed is None else 1000 * seed + number)

        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        x = images
        for number, (kernels, stddev, pool) in enumerate(zip(KERNELS, STDDEVS, POOLINGS), start=1):
            x = keras.layers.Conv2D(
                kernels,
                5,
                padding="same",
                kernel_initializer=start(number, stddev),
                dtype=dtype,
                name=f"conv{number}",
            )(x)
            x = keras.layers.Activation(activation, dtype=dtype, name=f"{activation}{number}")(x)
            x = pool(layers.POOLINGS[pooling], 2, padding="same", dtype=dtype, name=f"pool{number}")(x)
            if facts.normalization and number < 3:
                layer = _normalization(normalization, number, jit_compile, dtype)
                x = layer(x) if layer else x
        x = keras.layers.Flatten(dtype=dtype, name="flatten3")(x)
        if facts.hidden:
            x = keras.layers.Dense(
                64, activation, kernel_initializer=start(4, facts.dense_stddev), dtype=dtype, name="fc64"
            )(x)
        x = keras.layers.Dense(num_classes, kernel_initializer=start(5, facts.dense_stddev), dtype=dtype, name="fc10")(
            x
        )
        x = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
        super().__init__(inputs=images, outputs=x, name=name, **kwargs)
        self._arguments = arguments

    def get_config(self):
        return dict(self._arguments)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
