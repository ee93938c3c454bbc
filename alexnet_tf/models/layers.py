"""The paper's dropout, and what the networks' other layers share: choices, checks of arguments, initial kernels."""

import itertools
import math
import numbers
from collections.abc import Collection

import keras
import tensorflow as tf

from alexnet_tf.models import random_keys

# Values of the networks' arguments `activation` and `pooling`; of the latter with the size of its windows, whose stride
# is 2.
ACTIVATIONS = ("relu", "tanh", "sigmoid")
POOLINGS = {"overlapping": 3, "nonoverlapping": 2}


def is_integer(value: object, minimum: int) -> bool:
    """Returns whether a value is an int, and not a bool, of at least `minimum`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_finite(value: object) -> bool:
    """Returns whether a value is a finite real number, and not a bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # An int with more than 308 digits.
        return False


# How networks can be initialized. "zeros" is for weights that are assigned afterwards, which makes random ones a waste.
INITIALIZATIONS = ("recipe", "he", "zeros")
# Largest value of the argument `width` of the networks after AlexNet.
MAX_WIDTH = 16


def kernel_initializer(initialization: str, stddev: float, seed: int | None) -> keras.initializers.Initializer:
    """Returns an initializer of zeros, or one that draws from a normal distribution of mean 0, which is not truncated.

    Args:
      initialization: "recipe" for the standard deviation `stddev` (paper, section 5; original #145); "he" for
        ``sqrt(2 / inputs)`` (He et al., "Delving Deep into Rectifiers", 2015); "zeros".
      stddev: float.
      seed: int, or None for a random one.
    """
    if initialization == "zeros":
        return keras.initializers.Zeros()
    if initialization == "he":
        return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal", seed=seed)
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)


def check_arguments(
    *, num_classes: object, image_size: object, image_sizes: Collection[int], initialization: object, width: object
) -> None:
    """Checks the arguments that the networks after AlexNet have in common.

    Raises:
      ValueError: if one of them is outside its range.
    """
    if not is_integer(num_classes, 2):
        raise ValueError(f"Expected num_classes to be an int of at least 2. Received: {num_classes=}")
    if not (is_integer(image_size, 1) and image_size in image_sizes):
        sizes = sorted(image_sizes)
        raise ValueError(
            f"Expected image_size to be a multiple of {sizes[1] - sizes[0]} from {sizes[0]} to {sizes[-1]}. "
            f"Received: {image_size=}"
        )
    check_choice("initialization", initialization, INITIALIZATIONS)
    if not (is_finite(width) and 0 < width <= MAX_WIDTH):
        raise ValueError(f"Expected width to be above 0 and at most {MAX_WIDTH}. Received: {width=}")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raises ValueError if the value of an argument is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"Expected {name} to be one of {', '.join(allowed)}. Received: {value!r}")


def scaled(count: int, width: float) -> int:
    """Returns a number of kernels or units times a factor, rounded, and at least 1."""
    return max(1, round(count * width))


class Initializers:
    """Makes the initializers of a network's kernels, each with its own seed.

    Args:
      recipe: the initializer of the network's recipe: a function of a seed.
      initialization: one of `INITIALIZATIONS`.
      seed: int, the seed of the network; None for random ones.
    """

    def __init__(self, recipe, initialization: str, seed: int | None):
        self._recipe = recipe
        self._initialization = initialization
        self._seeds = itertools.repeat(None) if seed is None else itertools.count(1000 * seed)

    def next_seed(self) -> int | None:
        """Returns the seed of the next layer."""
        return next(self._seeds)

    def next(self) -> keras.initializers.Initializer:
        """Returns the initializer of the next layer's kernel."""
        if self._initialization == "recipe":
            return self._recipe(seed=self.next_seed())
        return kernel_initializer(self._initialization, 0.0, self.next_seed())


@keras.saving.register_keras_serializable(package="alexnet_tf")
class IdentityShortcut(keras.layers.Layer):
    """A shortcut without parameters: takes every `strides`-th position, and adds maps of zeros.

    Args:
      channels: int, the number of maps of the output, at least that of the input.
      strides: int, at least 1.
      **kwargs: arguments of ``keras.layers.Layer``.

    Input: ``[batch, height, width, maps]``.

    Output: ``[batch, ceil(height / strides), ceil(width / strides), channels]``.

    Raises:
      ValueError: If an argument is outside its range; when built, if the input has more maps.

    Reference:

    - [Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385), He et al., 2015, shortcut A
    """

    def __init__(self, channels: int, strides: int = 1, **kwargs):
        if not (is_integer(channels, 1) and is_integer(strides, 1)):
            raise ValueError(
                f"Expected channels and strides to be ints of at least 1. Received: {channels=}, {strides=}"
            )
        super().__init__(**kwargs)
        self.channels = channels
        self.strides = strides

    def build(self, input_shape):
        if input_shape[-1] > self.channels:
            raise ValueError(f"Expected at most {self.channels} maps. Received: {input_shape[-1]}")
        super().build(input_shape)

    def call(self, inputs):
        subsampled = inputs[:, :: self.strides, :: self.strides]
        return tf.pad(subsampled, [[0, 0], [0, 0], [0, 0], [0, self.channels - inputs.shape[-1]]])

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return (batch, -(-height // self.strides), -(-width // self.strides), self.channels)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "strides": self.strides}


@keras.saving.register_keras_serializable(package="alexnet_tf")
class ChannelRange(keras.layers.Layer):
    """Returns a range of the channels.

    Args:
      start: int, the first channel.
      stop: int, the channel after the last; 0 for the end. Both count from the end if negative.
      **kwargs: arguments of ``keras.layers.Layer``.

    Input: ``[batch, ..., channels]``.

    Output: ``[batch, ..., stop - start]``.
    """

    def __init__(self, start: int, stop: int, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.stop = stop

    def call(self, inputs):
        return inputs[..., self.start : self.stop or None]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], len(range(input_shape[-1])[self.start : self.stop or None]))

    def get_config(self):
        return {**super().get_config(), "start": self.start, "stop": self.stop}


@keras.saving.register_keras_serializable(package="alexnet_tf")
class Dropout(keras.layers.Layer):
    """Dropout as in the paper: scales outputs in inference, and not in training.

    In training, each output is set to zero with probability `rate`. In inference, all outputs are multiplied by
    ``1 - rate``. ``keras.layers.Dropout`` multiplies by ``1 / (1 - rate)`` in training instead, so at the paper's rate
    of 0.5 its activations and gradients are twice as large.

    Args:
      rate: float in [0, 1).
      seed: int, or None for a random one. Random numbers depend on it, on the number of calls (which checkpoints save)
        and, under a ``tf.distribute.Strategy``, on the replica.
      **kwargs: arguments of ``keras.layers.Layer``.

    Input: floating point, any shape.

    Output: a tensor of the same shape, in the layer's compute dtype.

    Raises:
      ValueError: If `rate` is outside [0, 1).

    Attributes:
      in_compiled_step: bool, whether XLA compiles the training step as one program. The random numbers are the same,
        but computed in a way that XLA can compile. Not saved with the layer.

    Reference:

    - [ImageNet Classification with Deep Convolutional Neural Networks](
      https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks), section 4.2
    """

    def __init__(self, rate: float = 0.5, seed: int | None = None, **kwargs):
        if not (is_finite(rate) and 0 <= rate < 1):
            raise ValueError(f"Expected rate to be in [0, 1). Received: {rate=}")
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.seed_generator = None
        self.in_compiled_step = False

    def build(self, input_shape):
        # Created here, under a fixed name, so that the state's path begins with the layer's, and its device is the
        # layer's.
        self.seed_generator = keras.random.SeedGenerator(self.seed, name="seed_generator")
        # Keras does not track generators in a tf.train.Checkpoint; a resumed run would repeat its first random numbers.
        self._seed_state = self.seed_generator.state.value
        super().build(input_shape)

    def call(self, inputs, training=False):
        if not training:
            return inputs * (1.0 - self.rate)
        if self.rate == 0:
            return inputs
        seed = self.seed_generator.next()
        if tf.distribute.has_strategy():
            # The state is the same in all replicas, but each drops different outputs. Seeds are below 2 ** 31.
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed += tf.stack([tf.cast(replica, seed.dtype) * 2**32, 0])
        if self.in_compiled_step:
            draws = random_keys.compilable_uniform(inputs.shape, seed)
        else:
            draws = random_keys.uniform(tf.shape(inputs), seed)
        return tf.where(draws >= self.rate, inputs, tf.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
