"""GoogLeNet: nine inception modules, each of four paths side by side, and two auxiliary classifiers in training."""

from typing import NamedTuple

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import network
from alexnet_tf.models import normalizations
from alexnet_tf.models import pooling

IMAGE_SIZE = 224
# The last stage has a thirty-second of the image's side.
IMAGE_SIZES = range(32, 257, 32)


class Module(NamedTuple):
    """The numbers of kernels of an inception module (Szegedy et al., table 1)."""

    conv1: int  # of 1 x 1
    reduce3: int  # of 1 x 1, before those of 3 x 3
    conv3: int
    reduce5: int  # of 1 x 1, before those of 5 x 5
    conv5: int
    projection: int  # of 1 x 1, after the pooling


MODULES = {
    "3a": Module(64, 96, 128, 16, 32, 32),
    "3b": Module(128, 128, 192, 32, 96, 64),
    "4a": Module(192, 96, 208, 16, 48, 64),
    "4b": Module(160, 112, 224, 24, 64, 64),
    "4c": Module(128, 128, 256, 24, 64, 64),
    "4d": Module(112, 144, 288, 32, 64, 64),
    "4e": Module(256, 160, 320, 32, 128, 128),
    "5a": Module(256, 160, 320, 32, 128, 128),
    "5b": Module(384, 192, 384, 48, 128, 128),
}
# Modules that an auxiliary classifier reads.
AUXILIARY = ("4a", "4d")
_DROPOUT = 0.4
# Of the auxiliary classifiers: kernels, units, dropout, and side and stride of the pooling.
_KERNELS, _UNITS, _AUXILIARY_DROPOUT, _WINDOW, _STRIDE = 128, 1024, 0.7, 5, 3


class _Builder:
    """Builds the layers of the network from the arguments that they share."""

    def __init__(self, num_classes, width, initialization, seed, jit_compile, dtype):
        self._num_classes = num_classes
        self._width = width
        self._initializers = layers.Initializers(keras.initializers.GlorotUniform, initialization, seed)
        self._jit_compile = jit_compile
        self._dtype = dtype
        self._options = {"data_format": "channels_last", "dtype": dtype}

    def convolution(self, place, kernels, size, x, *, strides=1, padding="same"):
        """Applies a convolution and a ReLU."""
        x = keras.layers.Conv2D(
            layers.scaled(kernels, self._width),
            size,
            strides=strides,
            padding=padding,
            kernel_initializer=self._initializers.next(),
            name=f"conv{place}",
            **self._options,
        )(x)
        return keras.layers.Activation("relu", dtype=self._dtype, name=f"relu{place}")(x)

    def pooling(self, place, x, *, strides=2):
        """Applies max pooling of 3 x 3, whose last windows extend past the edge."""
        return pooling.MaxPooling2D(3, strides, padding="same", name=f"pool{place}", **self._options)(x)

    def normalization(self, number, x):
        options = {"jit_compile": self._jit_compile, "dtype": self._dtype, "name": f"norm{number}"}
        return normalizations.LocalResponseNormalization(**options)(x)

    def stem(self, images):
        """Applies the layers before the modules. Sizes in comments are those for images of 224 x 224."""
        x = keras.layers.ZeroPadding2D(3, name="edge1", **self._options)(images)
        x = self.convolution("1", 64, 7, x, strides=2, padding="valid")  # 112
        x = self.normalization(1, self.pooling("1", x))  # 56
        x = self.convolution("2_reduce", 64, 1, x)  # 56
        x = self.normalization(2, self.convolution("2", 192, 3, x))  # 56
        return self.pooling("2", x)  # 28

    def module(self, name, x):
        """Applies the four paths of a module to the same maps, and concatenates their outputs."""
        kernels = MODULES[name]
        three = self.convolution(f"{name}_3x3_reduce", kernels.reduce3, 1, x)
        five = self.convolution(f"{name}_5x5_reduce", kernels.reduce5, 1, x)
        paths = [
            self.convolution(f"{name}_1x1", kernels.conv1, 1, x),
            self.convolution(f"{name}_3x3", kernels.conv3, 3, three),
            self.convolution(f"{name}_5x5", kernels.conv5, 5, five),
            self.convolution(f"{name}_projection", kernels.projection, 1, self.pooling(name, x, strides=1)),
        ]
        return keras.layers.Concatenate(dtype=self._dtype, name=f"inception{name}")(paths)

    def dropout(self, rate, name, x):
        return layers.Dropout(rate, seed=self._initializers.next_seed(), dtype=self._dtype, name=name)(x)

    def logits(self, name, x):
        """Applies a fully connected layer, and returns float32 logits."""
        options = {"kernel_initializer": self._initializers.next(), "dtype": self._dtype}
        x = keras.layers.Dense(self._num_classes, name=name, **options)(x)
        return keras.layers.Activation("linear", dtype="float32", name=name.replace("fc", "logits"))(x)

    def head(self, x):
        """Averages each map over all positions, and classifies."""
        x = keras.layers.GlobalAveragePooling2D(name="average", **self._options)(x)
        return self.logits("fc", self.dropout(_DROPOUT, "dropout", x))

    def auxiliary_head(self, module, x):
        """Classifies from the maps in the middle of the network."""
        # Small images have fewer positions than the window.
        window = min(_WINDOW, x.shape[1])
        x = keras.layers.AveragePooling2D(window, _STRIDE, name=f"auxiliary{module}_average", **self._options)(x)  # 4
        x = self.convolution(f"_auxiliary{module}", _KERNELS, 1, x)
        x = keras.layers.Flatten("channels_last", dtype=self._dtype, name=f"auxiliary{module}_flatten")(x)  # 2048
        units, initializer = layers.scaled(_UNITS, self._width), self._initializers.next()
        name = f"fc_auxiliary{module}_hidden"
        x = keras.layers.Dense(units, "relu", kernel_initializer=initializer, dtype=self._dtype, name=name)(x)
        return self.logits(f"fc_auxiliary{module}", self.dropout(_AUXILIARY_DROPOUT, f"dropout_auxiliary{module}", x))


@keras.saving.register_keras_serializable(package="alexnet_tf")
class GoogLeNet(network.Network):
    """The network of Szegedy et al. (2014), as a Keras functional model.

    An inception module applies 1 x 1 convolutions, 3 x 3 and 5 x 5 convolutions of fewer maps, and pooling to the same
    maps, and concatenates the results. Each convolution is followed by a ReLU. Response normalization has AlexNet's
    constants; the paper states none.

    | layer | kernels | size, stride | output |
    | --- | --- | --- | --- |
    | conv1, relu1, pool1, norm1 | 64 | 7 x 7, 2 | 56 x 56 |
    | conv2_reduce, conv2, norm2, pool2 | 64, 192 | 1 x 1, 3 x 3 | 28 x 28 |
    | inception3a, inception3b, pool3 | 256, 480 | | 14 x 14 |
    | inception4a to inception4e, pool4 | 512, 512, 512, 528, 832 | | 7 x 7 |
    | inception5a, inception5b | 832, 1024 | | 7 x 7 |
    | average, dropout of 0.4 | | | 1 x 1 |
    | fc | num_classes | | |

    It has 6,998,552 parameters for 1,000 classes, and 13,378,280 with the auxiliary heads. These are classifiers of the
    outputs of inception4a and inception4d: average pooling of 5 x 5 with stride 3, 128 kernels of 1 x 1, a fully
    connected layer of 1,024 units, dropout of 0.7 and another fully connected layer. With them, a call with
    ``training=True`` returns a list of the logits and those of both heads, whose losses are added with a weight of 0.3
    in the paper. All other calls, and models cut out of this one, do without the heads.

    Args:
      num_classes: int, at least 2.
      auxiliary_heads: bool, whether to have the auxiliary heads, for training.
      width: float, a factor of the number of kernels, and of the units of the auxiliary heads.
      image_size: int, a multiple of 32 from 32 to 256. At less than 96, the auxiliary heads average over all positions.
      initialization: "recipe" for Glorot's uniform initial weights, as the paper states none; "he" for weights
        N(0, 2 / inputs); "zeros", for weights that are assigned afterwards. Biases are 0.
      seed: int, the seed of the initial weights and of dropout; None for a random one.
      jit_compile: bool, whether to compile the normalizations with XLA. Set it to False for a model to be exported.
      dtype: a Keras dtype or dtype policy for the layers; None for the global policy, which a saved model keeps.
      name: str, the name of the model.
      **kwargs: arguments of ``keras.Model``.

    Input: float32 ``[batch, image_size, image_size, 3]``, RGB, mean subtracted.

    Output: float32 logits ``[batch, num_classes]``.

    Raises:
      ValueError: If an argument is outside its range.

    Reference:

    - [Going Deeper with Convolutions](https://arxiv.org/abs/1409.4842), Szegedy et al., 2014, table 1 and section 5
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        auxiliary_heads: bool = False,
        width: float = 1.0,
        image_size: int = IMAGE_SIZE,
        initialization: str = "recipe",
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "googlenet",
        **kwargs,
    ):
        layers.check_arguments(
            num_classes=num_classes,
            image_size=image_size,
            image_sizes=IMAGE_SIZES,
            initialization=initialization,
            width=width,
        )
        dtype = network.resolve_dtype(dtype)
        builder = _Builder(num_classes, width, initialization, seed, jit_compile, dtype)
        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        x = builder.stem(images)
        read = []
        for module in MODULES:
            x = builder.module(module, x)
            if module in AUXILIARY:
                read.append(x)
            if module in ("3b", "4e"):
                x = builder.pooling(module[0], x)  # 14 and 7
        logits = builder.head(x)
        super().__init__(inputs=images, outputs=logits, name=name, **kwargs)
        # A model of the same layers. It is an attribute, so that the variables of the heads are the network's, too.
        self._with_heads = None
        if auxiliary_heads:
            heads = [builder.auxiliary_head(module, maps) for module, maps in zip(AUXILIARY, read)]
            self._with_heads = keras.Model(images, [logits, *heads], name="with_heads")
        self._arguments = {
            "num_classes": num_classes,
            "auxiliary_heads": auxiliary_heads,
            "width": width,
            "image_size": image_size,
            "initialization": initialization,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": dtype,
            "name": name,
        }

    @property
    def training_layers(self) -> list[keras.layers.Layer]:
        return self.layers if self._with_heads is None else self._with_heads.layers

    def call(self, inputs, training=None, mask=None):
        if training and self._with_heads is not None:
            return self._with_heads(inputs, training=True)
        return super().call(inputs, training=training, mask=mask)
