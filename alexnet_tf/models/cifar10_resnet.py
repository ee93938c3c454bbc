"""The residual networks of 6n + 2 layers for CIFAR-10, and plain networks of the same layers without shortcuts."""

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import network
from alexnet_tf.models import residual_layers

IMAGE_SIZE = 32
# The last stage has a quarter of the image's side.
IMAGE_SIZES = range(8, 257, 8)
MAPS = (16, 32, 64)


@keras.saving.register_keras_serializable(package="alexnet_tf")
class Cifar10ResNet(network.Network):
    """A residual network of He et al. (2015) for CIFAR-10, or its plain counterpart, as a Keras functional model.

    It has 6n + 2 layers: a convolution, three stages of n blocks of two convolutions, and a fully connected layer.
    Every convolution is followed by batch normalization and has no biases. A block's input is added to the output of
    its last normalization, before the last ReLU; plain networks have no such shortcuts.

    | layer | kernels | size, stride | output |
    | --- | --- | --- | --- |
    | conv1, norm1, relu1 | 16 | 3 x 3, 1 | 32 x 32 |
    | conv2_1_1 to conv2_n_2 | 16 | 3 x 3, 1 | 32 x 32 |
    | conv3_1_1 to conv3_n_2 | 32 | 3 x 3, 2 in the first | 16 x 16 |
    | conv4_1_1 to conv4_n_2 | 64 | 3 x 3, 2 in the first | 8 x 8 |
    | average | | | 1 x 1 |
    | fc | num_classes | | |

    With shortcuts A it has 269,722 parameters for 20 layers, 464,154 for 32, 658,586 for 44, 853,018 for 56 and
    1,727,962 for 110, as many as the plain network. The moving means and variances are not among them.

    Args:
      depth: int, 6n + 2 for an n of at least 1.
      num_classes: int, at least 2.
      residual: bool; False removes the shortcuts.
      shortcuts: how a block's input reaches the sum: "A", "B" or "C", as of `resnet.ResNet`; None for "A".
      width: float, a factor of the number of kernels.
      image_size: int, a multiple of 8 from 8 to 256.
      initialization: "recipe" and "he" for weights N(0, 2 / inputs); "zeros", for weights that are assigned afterwards.
      seed: int, the seed of the initial weights; None for a random one.
      jit_compile: bool, without effect: nothing in this network is compiled separately.
      dtype: a Keras dtype or dtype policy for the layers; None for the global policy, which a saved model keeps.
      name: str, the name of the model.
      **kwargs: arguments of ``keras.Model``.

    Input: float32 ``[batch, image_size, image_size, 3]``, RGB, mean subtracted.

    Output: float32 logits ``[batch, num_classes]``.

    Raises:
      ValueError: If an argument is outside its range.

    Reference:

    - [Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385), He et al., 2015, section 4.2
    """

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        *,
        residual: bool = True,
        shortcuts: str | None = None,
        width: float = 1.0,
        image_size: int = IMAGE_SIZE,
        initialization: str = "recipe",
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "cifar10_resnet",
        **kwargs,
    ):
        layers.check_arguments(
            num_classes=num_classes,
            image_size=image_size,
            image_sizes=IMAGE_SIZES,
            initialization=initialization,
            width=width,
        )
        if not (layers.is_integer(depth, 8) and depth % 6 == 2):
            raise ValueError(f"Expected depth to be 6n + 2 for an n of at least 1. Received: {depth=}")
        dtype = network.resolve_dtype(dtype)
        builder = residual_layers.Builder(initialization, seed, residual, shortcuts or "A", dtype)
        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        x = builder.relu("1", builder.convolution("1", layers.scaled(MAPS[0], width), 3, images))
        for stage, maps in enumerate(MAPS, start=2):  # 32, 16 and 8 for images of 32 x 32
            for block in range(1, depth // 6 + 1):
                strides = 2 if stage > 2 and block == 1 else 1
                scaled = layers.scaled(maps, width)
                x = builder.block(f"{stage}_{block}", [(scaled, 3, strides), (scaled, 3, 1)], x)
        super().__init__(inputs=images, outputs=builder.head(num_classes, x), name=name, **kwargs)
        self._arguments = {
            "depth": depth,
            "num_classes": num_classes,
            "residual": residual,
            "shortcuts": shortcuts,
            "width": width,
            "image_size": image_size,
            "initialization": initialization,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": dtype,
            "name": name,
        }
