"""The VGG networks: eight to sixteen convolutions of 3 x 3 and three fully connected layers."""

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import network
from alexnet_tf.models import normalizations
from alexnet_tf.models import pooling

IMAGE_SIZE = 224
# Five poolings halve the side.
IMAGE_SIZES = range(32, 257, 32)
# Convolutions in each of the five stages (Simonyan and Zisserman, table 1).
LAYOUTS = {
    "A": (1, 1, 2, 2, 2),
    "A-LRN": (1, 1, 2, 2, 2),
    "B": (2, 2, 2, 2, 2),
    "D": (2, 2, 3, 3, 3),
    "E": (2, 2, 4, 4, 4),
}
KERNELS = (64, 128, 256, 512, 512)
UNITS = 4096


class _Builder:
    """Builds the layers of a network from the arguments that they share."""

    def __init__(self, width, activation, initialization, seed, jit_compile, dtype):
        self._width = width
        self._activation = activation
        self._initializers = layers.Initializers(keras.initializers.GlorotUniform, initialization, seed)
        self._jit_compile = jit_compile
        self._dtype = dtype

    def activation(self, place, x):
        return keras.layers.Activation(self._activation, dtype=self._dtype, name=f"{self._activation}{place}")(x)

    def stage(self, number, convolutions, x):
        """Applies convolutions, each with an activation function."""
        for layer in range(1, convolutions + 1):
            x = keras.layers.Conv2D(
                layers.scaled(KERNELS[number - 1], self._width),
                3,
                padding="same",
                data_format="channels_last",
                kernel_initializer=self._initializers.next(),
                dtype=self._dtype,
                name=f"conv{number}_{layer}",
            )(x)
            x = self.activation(f"{number}_{layer}", x)
        return x

    def normalization(self, x):
        return normalizations.LocalResponseNormalization(
            jit_compile=self._jit_compile, dtype=self._dtype, name="norm1"
        )(x)

    def pooling(self, number, x):
        options = {"data_format": "channels_last", "dtype": self._dtype}
        return pooling.MaxPooling2D(2, 2, name=f"pool{number}", **options)(x)

    def dense(self, number, units, x):
        initializer = self._initializers.next()
        return keras.layers.Dense(units, kernel_initializer=initializer, dtype=self._dtype, name=f"fc{number}")(x)

    def head(self, num_classes, dropout, x):
        """Applies the fully connected layers, and returns float32 logits."""
        x = keras.layers.Flatten("channels_last", dtype=self._dtype, name="flatten5")(x)  # 25088
        for number in (6, 7):
            x = self.activation(number, self.dense(number, layers.scaled(UNITS, self._width), x))
            seed = self._initializers.next_seed()
            x = layers.Dropout(dropout, seed=seed, dtype=self._dtype, name=f"dropout{number}")(x)
        return keras.layers.Activation("linear", dtype="float32", name="logits")(self.dense(8, num_classes, x))


@keras.saving.register_keras_serializable(package="alexnet_tf")
class VGG(network.Network):
    """A network of Simonyan and Zisserman (2014), as a Keras functional model.

    All kernels are 3 x 3 with stride 1, and each is followed by a ReLU. Five stages end with max pooling of 2 x 2.

    | stage | kernels | A, A-LRN | B | D (VGG-16) | E (VGG-19) | output |
    | --- | --- | --- | --- | --- | --- | --- |
    | conv1_1 ..., pool1 | 64 | 1 | 2 | 2 | 2 | 112 x 112 |
    | conv2_1 ..., pool2 | 128 | 1 | 2 | 2 | 2 | 56 x 56 |
    | conv3_1 ..., pool3 | 256 | 2 | 2 | 3 | 4 | 28 x 28 |
    | conv4_1 ..., pool4 | 512 | 2 | 2 | 3 | 4 | 14 x 14 |
    | conv5_1 ..., pool5 | 512 | 2 | 2 | 3 | 4 | 7 x 7 |
    | fc6, fc7, each with dropout | 4096 | | | | | |
    | fc8 | num_classes | | | | | |
    | parameters | | 132,863,336 | 133,047,848 | 138,357,544 | 143,667,240 | |

    Parameters are those for 1,000 classes. In "A-LRN", response normalization with AlexNet's constants follows relu1_1.

    Dropout scales activations in inference, as `layers.Dropout` describes; weights of networks whose dropout scales in
    training, such as those of ``keras.applications``, have to be doubled in fc7 and fc8 for the rate 0.5.

    Args:
      layout: one of `LAYOUTS`.
      num_classes: int, at least 2.
      activation: "relu" as in the paper, "tanh" or "sigmoid".
      dropout: float in [0, 1), the dropout rate after fc6 and fc7.
      width: float, a factor of the number of kernels and of the units of fc6 and fc7.
      image_size: int, a multiple of 32 from 32 to 256.
      initialization: "recipe" for Glorot's uniform initial weights, with which the authors found that no network has to
        be trained before another one; "he" for weights N(0, 2 / inputs); "zeros", for weights that are assigned
        afterwards. Biases are 0.
      seed: int, the seed of the initial weights and of dropout; None for a random one.
      jit_compile: bool, whether to compile the normalization with XLA. Set it to False for a model to be exported.
      dtype: a Keras dtype or dtype policy for the layers; None for the global policy, which a saved model keeps.
      name: str, the name of the model.
      **kwargs: arguments of ``keras.Model``.

    Input: float32 ``[batch, image_size, image_size, 3]``, RGB, mean subtracted.

    Output: float32 logits ``[batch, num_classes]``.

    Raises:
      ValueError: If an argument is outside its range.

    References:

    - [Very Deep Convolutional Networks for Large-Scale Image Recognition](https://arxiv.org/abs/1409.1556), Simonyan
      and Zisserman, 2014, table 1 and section 3.1
    - [Understanding the difficulty of training deep feedforward neural networks](
      https://proceedings.mlr.press/v9/glorot10a.html), Glorot and Bengio, 2010
    """

    def __init__(
        self,
        layout: str = "D",
        num_classes: int = 1000,
        *,
        activation: str = "relu",
        dropout: float = 0.5,
        width: float = 1.0,
        image_size: int = IMAGE_SIZE,
        initialization: str = "recipe",
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "vgg",
        **kwargs,
    ):
        layers.check_arguments(
            num_classes=num_classes,
            image_size=image_size,
            image_sizes=IMAGE_SIZES,
            initialization=initialization,
            width=width,
        )
        layers.check_choice("layout", layout, LAYOUTS)
        layers.check_choice("activation", activation, layers.ACTIVATIONS)
        dtype = network.resolve_dtype(dtype)
        builder = _Builder(width, activation, initialization, seed, jit_compile, dtype)
        images = x = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        for number, convolutions in enumerate(LAYOUTS[layout], start=1):
            x = builder.stage(number, convolutions, x)
            if number == 1 and layout == "A-LRN":
                x = builder.normalization(x)
            x = builder.pooling(number, x)  # 112, 56, 28, 14 and 7 for images of 224 x 224
        logits = builder.head(num_classes, dropout, x)
        super().__init__(inputs=images, outputs=logits, name=name, **kwargs)
        self._arguments = {
            "layout": layout,
            "num_classes": num_classes,
            "activation": activation,
            "dropout": dropout,
            "width": width,
            "image_size": image_size,
            "initialization": initialization,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": dtype,
            "name": name,
        }
