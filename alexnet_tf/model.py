"""AlexNet: eight layers in two towers that meet where the paper's towers meet.

Sizes and counts are those of the paper's Figure 2; where its text and the authors' released code differ, the
two recipes do (`RECIPES`).
"""

from typing import NamedTuple

import keras

from alexnet_tf import layers
from alexnet_tf import placement

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


Conv2D = placement.on_device(keras.layers.Conv2D)
Dense = placement.on_device(keras.layers.Dense)
ReLU = placement.on_device(keras.layers.ReLU)
MaxPooling2D = placement.on_device(keras.layers.MaxPooling2D)
ZeroPadding2D = placement.on_device(keras.layers.ZeroPadding2D)
Flatten = placement.on_device(keras.layers.Flatten)
Concatenate = placement.on_device(keras.layers.Concatenate)
FanOut = placement.on_device(placement.FanOut)
LocalResponseNormalization = placement.on_device(layers.LocalResponseNormalization)
SameMapNormalization = placement.on_device(layers.SameMapNormalization)
Dropout = placement.on_device(layers.Dropout)


class _Tower(NamedTuple):
    """One of the two halves of the network: where it lives and how its layers begin."""

    name: str
    device: str | None
    dtype: object
    seed: int | None
    jit_compile: bool
    initialization: str

    def layer(self, layer_class, *args, name, **kwargs):
        """A layer of this tower, named as in the paper with the tower's letter."""
        return layer_class(*args, name=f"{name}_{self.name}", device=self.device, dtype=self.dtype, **kwargs)

    def seed_of(self, number):
        """A seed of its own for draw `number` of this tower."""
        return None if self.seed is None else 1000 * self.seed + 10 * number + (self.name == "b")

    def weights(self, number, stddev, bias):
        """Initial values, N(0, stddev) not truncated and a constant (paper section 5; original #145); or He's."""
        if self.initialization == "he":
            he = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal", seed=self.seed_of(number))
            return {"kernel_initializer": he, "bias_initializer": "zeros"}
        return {
            "kernel_initializer": keras.initializers.RandomNormal(stddev=stddev, seed=self.seed_of(number)),
            "bias_initializer": keras.initializers.Constant(bias),
        }

    def convolution(self, number, kernels, size, *, strides=1, padding="same", stddev=0.01, bias):
        return self.layer(
            Conv2D,
            kernels,
            size,
            strides=strides,
            padding=padding,
            name=f"conv{number}",
            **self.weights(number, stddev, bias),
        )

    def rectifier(self, number):
        return self.layer(ReLU, name=f"relu{number}")

    def normalization(self, number, alpha):
        return self.layer(LocalResponseNormalization, alpha=alpha, jit_compile=self.jit_compile, name=f"norm{number}")

    def pooling(self, number):
        """Overlapping max pooling (paper section 3.4)."""
        return self.layer(MaxPooling2D, pool_size=3, strides=2, name=f"pool{number}")


def _first(tower, images, recipe):
    """Layer 1 of a tower: 48 kernels of 11 x 11 x 3, stride 4, over the whole image."""
    # 55 positions a side from 224 pixels: the last one hangs 3 pixels over the right and bottom edges and reads
    # zeros there, which is the mean (original #145; the paper gives the sizes only).
    x = tower.layer(ZeroPadding2D, ((0, 3), (0, 3)), name="edge1")(images)  # 227
    x = tower.convolution(1, 48, 11, strides=4, padding="valid", bias=0)(x)  # 55
    if recipe.activation == "before":
        x = tower.rectifier(1)(x)
    x = tower.normalization(1, recipe.alpha)(x)
    x = tower.pooling(1)(x)  # 27
    if recipe.activation == "after":
        x = tower.rectifier(1)(x)
    return x


def _second(tower, x, recipe):
    """Layer 2 of a tower: 128 kernels of 5 x 5 x 48 over the tower's own maps."""
    x = tower.convolution(2, 128, 5, bias=1)(x)  # 27
    x = tower.rectifier(2)(x)
    x = tower.normalization(2, recipe.alpha)(x)
    if recipe.same_map_normalization:
        x = tower.layer(SameMapNormalization, jit_compile=tower.jit_compile, name="samemap2")(x)
    return tower.pooling(2)(x)  # 13


def _third(tower, x, recipe):
    """Layer 3 of a tower: 192 kernels of 3 x 3 x 256 over the maps of both towers."""
    x = tower.convolution(3, 192, 3, stddev=recipe.middle_stddev, bias=0)(x)  # 13
    return tower.rectifier(3)(x)


def _fourth(tower, x, recipe):
    """Layer 4 of a tower: 192 kernels of 3 x 3 x 192 over the tower's own maps."""
    x = tower.convolution(4, 192, 3, stddev=recipe.middle_stddev, bias=1)(x)  # 13
    return tower.rectifier(4)(x)


def _fifth(tower, x, recipe):
    """Layer 5 of a tower: 128 kernels of 3 x 3 x 192 over the tower's own maps."""
    x = tower.convolution(5, 128, 3, stddev=recipe.middle_stddev, bias=1)(x)  # 13
    if recipe.activation == "before":
        x = tower.rectifier(5)(x)
    x = tower.pooling(5)(x)  # 6
    if recipe.activation == "after":
        x = tower.rectifier(5)(x)
    return tower.layer(Flatten, name="flatten5")(x)


def _fully_connected(tower, number, x, dropout):
    """Layer 6 or 7 of a tower: 2048 neurons over all of both towers, with dropout (paper section 4.2)."""
    x = tower.layer(Dense, 2048, name=f"fc{number}", **tower.weights(number, 0.01, 1))(x)
    x = tower.rectifier(number)(x)
    return tower.layer(Dropout, dropout, seed=tower.seed_of(10 + number), name=f"dropout{number}")(x)


def _meet(towers, outputs, number):
    """Gives each tower the outputs of both, joined along the last axis: the crossing after stage `number`.

    Each tower joins for itself on one device too, where once would do: Keras numbers layers in checkpoints, and
    these shall fit either way. TensorFlow merges the equal joins.
    """
    copies = [tower.layer(FanOut, len(towers), name=f"fanout{number}")(x) for tower, x in zip(towers, outputs)]
    return [tower.layer(Concatenate, name=f"join{number}")(parts) for tower, *parts in zip(towers, *copies)]


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
      initialization: "recipe" starts as the recipe does; "he", for few classes and few images, with weights
        N(0, 2 / inputs) and biases 0 (He et al., "Delving Deep into Rectifiers", 2015).
      seed: int, of initial weights and dropout; None draws anew.
      jit_compile: compile the normalisations with XLA. Turn off for a model to be exported.
      dtype: a Keras dtype or dtype policy, such as "mixed_bfloat16", for the layers.
      name: of the model.

    Input: float32 ``[batch, 224, 224, 3]``, RGB in [0, 255] with the training set's mean subtracted, so within
    [-255, 255]. Output: logits float32 ``[batch, num_classes]``.

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
        initialization="recipe",
        seed=None,
        jit_compile=True,
        dtype=None,
        name="alexnet",
        **kwargs,
    ):
        if not (isinstance(num_classes, int) and num_classes >= 2):
            raise ValueError(f"Expected num_classes to be an int of at least 2. Received: {num_classes=}")
        if recipe not in RECIPES:
            raise ValueError(f"Expected recipe to be one of {sorted(RECIPES)}. Received: {recipe=}")
        if initialization not in ("recipe", "he"):
            raise ValueError(f"Expected initialization to be recipe or he. Received: {initialization=}")
        device_a, device_b = placement.check_devices(devices) if devices else (None, None)

        facts = RECIPES[recipe]
        towers = [
            _Tower("a", device_a, dtype, seed, jit_compile, initialization),
            _Tower("b", device_b, dtype, seed, jit_compile, initialization),
        ]
        images = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 3], dtype="float32", name="images")
        x = [_first(tower, images, facts) for tower in towers]  # 27 x 27 x 48
        x = [_second(tower, own, facts) for tower, own in zip(towers, x)]  # 13 x 13 x 128
        x = _meet(towers, x, 2)  # 13 x 13 x 256
        x = [_third(tower, both, facts) for tower, both in zip(towers, x)]  # 13 x 13 x 192
        x = [_fourth(tower, own, facts) for tower, own in zip(towers, x)]  # 13 x 13 x 192
        x = [_fifth(tower, own, facts) for tower, own in zip(towers, x)]  # 6 x 6 x 128
        x = _meet(towers, x, 5)  # 9216
        x = [_fully_connected(tower, 6, both, dropout) for tower, both in zip(towers, x)]  # 2048
        x = _meet(towers, x, 6)  # 4096
        x = [_fully_connected(tower, 7, both, dropout) for tower, both in zip(towers, x)]  # 2048
        x = Concatenate(name="join7", device=device_a, dtype=dtype)(x)  # 4096
        logits = Dense(num_classes, name="fc8", device=device_a, dtype=dtype, **towers[0].weights(8, 0.01, 0))(x)
        logits = keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
        super().__init__(inputs=images, outputs=logits, name=name, **kwargs)
        self._arguments = {
            "num_classes": num_classes,
            "recipe": recipe,
            "devices": [device_a, device_b] if devices else None,
            "dropout": dropout,
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
