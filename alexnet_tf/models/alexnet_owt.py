"""AlexNet in one tower without response normalization, as torchvision's ``alexnet``."""

from typing import NamedTuple

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import network
from alexnet_tf.models import pooling

IMAGE_SIZE = 224
KERNELS = (64, 192, 384, 256, 256)
UNITS = 4096


def _check(num_classes, activation, initialization, image_size, conv1_stddev):
    if not layers.is_integer(num_classes, 2):
        raise ValueError(f"Expected num_classes to be an int of at least 2. Received: {num_classes=}")
    if activation not in layers.ACTIVATIONS:
        raise ValueError(f"Expected activation to be one of {', '.join(layers.ACTIVATIONS)}. Received: {activation!r}")
    if initialization not in layers.INITIALIZATIONS:
        raise ValueError(f"Expected initialization to be recipe, he or zeros. Received: {initialization!r}")
    if image_size != IMAGE_SIZE:
        raise ValueError(f"Expected image_size to be {IMAGE_SIZE}. Received: {image_size!r}")
    if conv1_stddev is not None and not (layers.is_finite(conv1_stddev) and conv1_stddev > 0):
        raise ValueError(f"Expected conv1_stddev to be a finite number above 0, or None. Received: {conv1_stddev!r}")


class _Builder(NamedTuple):
    """Builds the layers of the network from the arguments that they share."""

    activation: str
    initialization: str
    conv1_stddev: float | None
    dropout: float
    seed: int | None
    dtype: object

    def own_seed(self, number):
        return None if self.seed is None else 1000 * self.seed + number

    def initializer(self, number):
        if number == 1 and self.conv1_stddev is not None:
            return layers.kernel_initializer("recipe", self.conv1_stddev, self.own_seed(number))
        return layers.kernel_initializer(self.initialization, 0.01, self.own_seed(number))

    def activate(self, number, x):
        return keras.layers.Activation(self.activation, dtype=self.dtype, name=f"{self.activation}{number}")(x)

    def convolution(self, number, size, x, **options):
        options = {"padding": "same", "data_format": "channels_last", "dtype": self.dtype, **options}
        kernels, initializer = KERNELS[number - 1], self.initializer(number)
        x = keras.layers.Conv2D(kernels, size, kernel_initializer=initializer, name=f"conv{number}", **options)(x)
        return self.activate(number, x)

    def pooling(self, number, x):
        options = {"data_format": "channels_last", "dtype": self.dtype}
        return pooling.MaxPooling2D(3, 2, name=f"pool{number}", **options)(x)

    def dense(self, number, units, x):
        options = {"kernel_initializer": self.initializer(number), "dtype": self.dtype}
        return keras.layers.Dense(units, name=f"fc{number}", **options)(x)

    def convolutions(self, images):
        """Applies layers 1 to 5."""
        options = {"data_format": "channels_last", "dtype": self.dtype}
        x = keras.layers.ZeroPadding2D(((2, 1), (2, 1)), name="edge1", **options)(images)
        x = self.pooling(1, self.convolution(1, 11, x, strides=4, padding="valid"))  # 27
        x = self.pooling(2, self.convolution(2, 5, x))  # 13
        x = self.convolution(3, 3, x)  # 13
        x = self.convolution(4, 3, x)  # 13
        return self.pooling(5, self.convolution(5, 3, x))  # 6

    def logits(self, num_classes, x):
        """Applies layers 6 to 8, and returns float32 logits."""
        x = keras.layers.Flatten("channels_last", dtype=self.dtype, name="flatten5")(x)  # 9216
        for number in (6, 7):
            dropout = f"dropout{number - 1}"
            x = layers.Dropout(self.dropout, seed=self.own_seed(10 + number), dtype=self.dtype, name=dropout)(x)
            x = self.activate(number, self.dense(number, UNITS, x))
        return keras.layers.Activation("linear", dtype="float32", name="logits")(self.dense(8, num_classes, x))


@keras.saving.register_keras_serializable(package="alexnet_tf")
class AlexNetOWT(network.Network):
    """The AlexNet of "One weird trick" as torchvision has it, as a Keras functional model.

    It has 61,100,840 parameters for 1,000 classes. It differs from `AlexNet`:

    - It has a single tower, of 64, 192, 384, 256 and 256 kernels.
    - It has no response normalization.
    - The image is padded by two rows and columns before the first, and one after the last, in place of three after.
    - Dropout comes before fc6 and fc7 instead of after.

    | layer | kernels or units | size, stride | output |
    | --- | --- | --- | --- |
    | conv1, relu1, pool1 | 64 | 11 x 11, 4 | 27 x 27 |
    | conv2, relu2, pool2 | 192 | 5 x 5, 1 | 13 x 13 |
    | conv3, relu3 | 384 | 3 x 3, 1 | 13 x 13 |
    | conv4, relu4 | 256 | 3 x 3, 1 | 13 x 13 |
    | conv5, relu5, pool5 | 256 | 3 x 3, 1 | 6 x 6 |
    | dropout5, fc6, relu6 | 4096 | | |
    | dropout6, fc7, relu7 | 4096 | | |
    | fc8 | num_classes | | |

    Dropout scales activations in inference, as `layers.Dropout` describes. torchvision's scales them in training, so
    fc6 and fc7 of weights from there have to be doubled for the rate 0.5.

    Example:

    >>> model = alexnet_tf.models.alexnet_owt.AlexNetOWT(num_classes=1000)
    >>> model(tf.zeros([1, 224, 224, 3])).shape
    TensorShape([1, 1000])

    Args:
      num_classes: int, at least 2.
      dropout: float in [0, 1), the dropout rate before fc6 and fc7.
      activation: "relu", "tanh" or "sigmoid".
      initialization: "recipe" for weights N(0, 0.01 ** 2); "he" for weights N(0, 2 / inputs);
        "zeros", for weights that are assigned afterwards. Biases are 0.
      conv1_stddev: float above 0, the standard deviation of conv1's initial kernels; None to follow `initialization`.
      image_size: 224.
      seed: int, the seed of the initial weights and of dropout; None for a random one.
      jit_compile: bool, without effect: nothing in this network is compiled separately.
      dtype: a Keras dtype or dtype policy for the layers; None for the global policy, which a saved model keeps.
      name: str, the name of the model.
      **kwargs: arguments of ``keras.Model``.

    Input: float32 ``[batch, 224, 224, 3]``, RGB, mean subtracted. Weights of torchvision are for images that are
    divided by the standard deviation, too.

    Output: float32 logits ``[batch, num_classes]``.

    Raises:
      ValueError: If an argument is outside its range.

    References:

    - [One weird trick for parallelizing convolutional neural networks](https://arxiv.org/abs/1404.5997), Krizhevsky,
      2014
    - [torchvision's model](https://pytorch.org/vision/stable/models/alexnet.html)
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        dropout: float = 0.5,
        activation: str = "relu",
        initialization: str = "recipe",
        conv1_stddev: float | None = None,
        image_size: int = IMAGE_SIZE,
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "alexnet_owt",
        **kwargs,
    ):
        _check(num_classes, activation, initialization, image_size, conv1_stddev)
        dtype = network.resolve_dtype(dtype)

        builder = _Builder(activation, initialization, conv1_stddev, dropout, seed, dtype)
        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        logits = builder.logits(num_classes, builder.convolutions(images))
        super().__init__(inputs=images, outputs=logits, name=name, **kwargs)
        self._arguments = {
            "num_classes": num_classes,
            "dropout": dropout,
            "activation": activation,
            "initialization": initialization,
            "conv1_stddev": conv1_stddev,
            "image_size": image_size,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": dtype,
            "name": name,
        }
