"""Residual networks for ImageNet of 18, 34 and 50 layers, and plain networks of the same layers without shortcuts."""

from typing import NamedTuple

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import network
from alexnet_tf.models import pooling
from alexnet_tf.models import residual_layers

IMAGE_SIZE = 224
# The last stage has a thirty-second of the image's side.
IMAGE_SIZES = range(32, 257, 32)
# Which convolution of a block of three has the stride.
STRIDED_LAYERS = ("1x1", "3x3")


class Layout(NamedTuple):
    """The blocks of a network (He et al., table 1)."""

    blocks: tuple[int, int, int, int]  # in stages 2 to 5
    bottleneck: bool  # whether a block has three convolutions, and four times the maps at its end
    shortcuts: str  # by default


LAYOUTS = {
    18: Layout((2, 2, 2, 2), bottleneck=False, shortcuts="A"),
    34: Layout((3, 4, 6, 3), bottleneck=False, shortcuts="A"),
    50: Layout((3, 4, 6, 3), bottleneck=True, shortcuts="B"),
}
MAPS = (64, 128, 256, 512)
_EXPANSION = 4


def _convolutions(layout, maps, strides, strided):
    """Returns (maps, size, strides) of the convolutions of a block."""
    if not layout.bottleneck:
        return [(maps, 3, strides), (maps, 3, 1)]
    first, second = (strides, 1) if strided == "1x1" else (1, strides)
    return [(maps, 1, first), (maps, 3, second), (_EXPANSION * maps, 1, 1)]


def _stages(builder, layout, width, strided, images):
    """Applies all convolutions. Sizes in comments are those for images of 224 x 224."""
    options = {"data_format": "channels_last", "dtype": builder.dtype}
    x = builder.convolution("1", layers.scaled(MAPS[0], width), 7, images, strides=2)  # 112
    x = builder.relu("1", x)
    # The maps are not negative, so zeros at the edge are never a maximum alone.
    x = keras.layers.ZeroPadding2D(1, name="edge_pool1", **options)(x)
    x = pooling.MaxPooling2D(3, 2, name="pool1", **options)(x)  # 56
    for stage, (blocks, maps) in enumerate(zip(layout.blocks, MAPS), start=2):  # 56, 28, 14 and 7
        for block in range(1, blocks + 1):
            strides = 2 if stage > 2 and block == 1 else 1
            convolutions = _convolutions(layout, layers.scaled(maps, width), strides, strided)
            x = builder.block(f"{stage}_{block}", convolutions, x)
    return x


@keras.saving.register_keras_serializable(package="alexnet_tf")
class ResNet(network.Network):
    """A residual network of He et al. (2015) for ImageNet, or its plain counterpart, as a Keras functional model.

    Every convolution is followed by batch normalization and has no biases. A block's input is added to the output of
    its last normalization, before the last ReLU; plain networks have no such shortcuts.

    | layer | 18 layers | 34 layers | 50 layers | output |
    | --- | --- | --- | --- | --- |
    | conv1, norm1, relu1 | 64 of 7 x 7, stride 2 | as 18 | as 18 | 112 x 112 |
    | pool1 | 3 x 3, stride 2 | as 18 | as 18 | 56 x 56 |
    | conv2_BLOCK_LAYER | 2 x (64, 64) | 3 x (64, 64) | 3 x (64, 64, 256) | 56 x 56 |
    | conv3_BLOCK_LAYER | 2 x (128, 128) | 4 x (128, 128) | 4 x (128, 128, 512) | 28 x 28 |
    | conv4_BLOCK_LAYER | 2 x (256, 256) | 6 x (256, 256) | 6 x (256, 256, 1024) | 14 x 14 |
    | conv5_BLOCK_LAYER | 2 x (512, 512) | 3 x (512, 512) | 3 x (512, 512, 2048) | 7 x 7 |
    | average | | | | 1 x 1 |
    | fc | num_classes | num_classes | num_classes | |
    | parameters with shortcuts A | 11,515,688 | 21,623,848 | | |
    | parameters with shortcuts B | 11,689,512 | 21,797,672 | 25,557,032 | |

    Blocks of two layers have kernels of 3 x 3, those of three layers 1 x 1, 3 x 3 and 1 x 1. The first block of stages
    3 to 5 has a stride of 2. Parameters are those that are trained, for 1,000 classes; the moving means and variances
    are not among them.

    Args:
      depth: 18, 34 or 50.
      num_classes: int, at least 2.
      residual: bool; False removes the shortcuts.
      shortcuts: how a block's input reaches the sum. "A" adds maps of zeros where there are more maps, and skips
        positions where there are fewer; "B" uses a 1 x 1 convolution there; "C" uses one in all blocks. None for "A"
        with 18 and 34 layers and "B" with 50, as in the paper's tables 2 and 4. Plain networks have none.
      strided: "1x1" for blocks of three layers whose first has the stride, as in the paper; "3x3" for the second, as
        in torchvision.
      width: float, a factor of the number of kernels.
      image_size: int, a multiple of 32 from 32 to 256.
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

    - [Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385), He et al., 2015, tables 1 to 4
    """

    def __init__(
        self,
        depth: int = 50,
        num_classes: int = 1000,
        *,
        residual: bool = True,
        shortcuts: str | None = None,
        strided: str = "1x1",
        width: float = 1.0,
        image_size: int = IMAGE_SIZE,
        initialization: str = "recipe",
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "resnet",
        **kwargs,
    ):
        layers.check_arguments(
            num_classes=num_classes,
            image_size=image_size,
            image_sizes=IMAGE_SIZES,
            initialization=initialization,
            width=width,
        )
        if depth not in LAYOUTS:
            raise ValueError(f"Expected depth to be one of {', '.join(map(str, LAYOUTS))}. Received: {depth=}")
        layers.check_choice("strided", strided, STRIDED_LAYERS)
        layout, dtype = LAYOUTS[depth], network.resolve_dtype(dtype)
        builder = residual_layers.Builder(initialization, seed, residual, shortcuts or layout.shortcuts, dtype)
        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        x = _stages(builder, layout, width, strided, images)
        super().__init__(inputs=images, outputs=builder.head(num_classes, x), name=name, **kwargs)
        self._arguments = {
            "depth": depth,
            "num_classes": num_classes,
            "residual": residual,
            "shortcuts": shortcuts,
            "strided": strided,
            "width": width,
            "image_size": image_size,
            "initialization": initialization,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": dtype,
            "name": name,
        }
