"""The normalizations of the networks: the two response normalizations, and those that were published later."""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from alexnet_tf.models import layers

# Values of the networks' argument `normalization`.
NORMALIZATIONS = ("response", "first", "none", "batch", "group", "layer")
# Channels per group of group normalization (Wu and He, 2018). It divides 48, 96 and 256.
GROUP_CHANNELS = 16


def later_normalization(kind: str, **kwargs) -> keras.layers.Layer:
    """Returns a normalization published after the paper, to replace one of the paper's.

    Args:
      kind: "batch" (Ioffe and Szegedy, 2015); "group" with `GROUP_CHANNELS` channels per group (Wu and He, 2018); or
        "layer", a single group of all channels.
      **kwargs: arguments of ``keras.layers.Layer``.
    """
    if kind == "batch":
        return keras.layers.BatchNormalization(**kwargs)
    return GroupNormalization(GROUP_CHANNELS if kind == "group" else None, **kwargs)


@keras.saving.register_keras_serializable(package="alexnet_tf")
class GroupNormalization(keras.layers.GroupNormalization):
    """Group normalization with groups of a given size.

    ``keras.layers.GroupNormalization`` takes the number of groups instead, which has to change with the width of a
    layer.

    Args:
      group_channels: int, the number of channels per group, which must divide the number of channels; None for a single
        group of all channels.
      **kwargs: arguments of ``keras.layers.GroupNormalization``.

    Input: floating point ``[batch, ..., channels]``.

    Output: a tensor of the same shape.

    Raises:
      ValueError: If `group_channels` is not an int of at least 1; when built, if it does not divide the number of
        channels.

    Reference:

    - [Group Normalization](https://arxiv.org/abs/1803.08494), Wu and He, 2018
    """

    def __init__(self, group_channels: int | None = None, **kwargs):
        if group_channels is not None and not layers.is_integer(group_channels, 1):
            raise ValueError(
                f"Expected group_channels to be an int of at least 1, or None. Received: {group_channels=}"
            )
        # In files of version 0.1.
        kwargs.pop("groups", None)
        super().__init__(groups=1, **kwargs)
        self.group_channels = group_channels

    def build(self, input_shape):
        channels = input_shape[-1]
        self.groups, rest = divmod(channels, self.group_channels or channels)
        if rest:
            raise ValueError(
                f"Expected the number of channels to be a multiple of group_channels={self.group_channels}. "
                f"Received: {channels}"
            )
        super().build(input_shape)

    def get_config(self):
        config = {**super().get_config(), "group_channels": self.group_channels}
        # It follows from the number of channels.
        del config["groups"]
        return config


def _powers(base, exponent):
    """Returns base ** -exponent and 1 / base. For an exponent of 0.75, square roots are several times faster."""
    if exponent == 0.75:
        root = tf.math.rsqrt(base)
        return root * tf.sqrt(root), root * root
    return tf.pow(base, -exponent), 1.0 / base


def _bracket(x, window_sum, bias, alpha, beta):
    """Returns `x` in the precision of its sums and, for s = bias + alpha * window_sum(x ** 2), s ** -beta and 1 / s."""
    x = tf.cast(x, tf.float32 if x.dtype.size < 4 else x.dtype)
    return x, *_powers(bias + alpha * window_sum(tf.square(x)), beta)


def response_normalization(
    x: tf.Tensor, window_sum: Callable[[tf.Tensor], tf.Tensor], *, bias: float, alpha: float, beta: float
) -> tf.Tensor:
    """Computes ``x / (bias + alpha * window_sum(x ** 2)) ** beta``.

    Args:
      x: floating point tensor. Sums and powers of narrower types are computed in float32.
      window_sum: a linear, symmetric function from a tensor to a tensor of the same shape.
      bias, alpha, beta: floats, k, alpha and beta in section 3.3 of the paper.

    Returns:
      A tensor of the shape and dtype of `x`.
    """
    wide, power, _ = _bracket(x, window_sum, bias, alpha, beta)
    return tf.cast(wide * power, x.dtype)


def response_normalization_gradient(
    x: tf.Tensor,
    upstream: tf.Tensor,
    window_sum: Callable[[tf.Tensor], tf.Tensor],
    *,
    bias: float,
    alpha: float,
    beta: float,
) -> tf.Tensor:
    """Computes the gradient of `response_normalization` in closed form.

    With s = bias + alpha * window_sum(x ** 2), p = s ** -beta and the upstream gradient g, the gradient with respect to
    x is ``g p - 2 alpha beta x window_sum(g x p / s)``. The window must be symmetric: j is in the window of i exactly
    if i is in the window of j. s is recomputed, which costs less than keeping it in memory.

    Args:
      x: as in `response_normalization`.
      upstream: the gradient with respect to the result, of the shape and dtype of `x`.
      window_sum, bias, alpha, beta: as in `response_normalization`.

    Returns:
      A tensor of the shape and dtype of `x`.
    """
    wide, power, inverse = _bracket(x, window_sum, bias, alpha, beta)
    upstream = tf.cast(upstream, wide.dtype)
    share = window_sum(upstream * wide * (power * inverse))
    return tf.cast(upstream * power - (2.0 * alpha * beta) * wide * share, x.dtype)


def channel_window_sum(x: tf.Tensor, radius: int) -> tf.Tensor:
    """Sums over the channels at most `radius` away, clipped at the first and the last channel."""
    channels = x.shape[-1]
    padding = [[0, 0]] * (x.shape.rank - 1) + [[radius, radius]]
    # Sums over 1, 2, 4, ... channels are each computed from two of the previous length. Those whose lengths add up to
    # the window's are added, so the number of additions grows with the logarithm of the window.
    sums = tf.pad(x, padding)
    length, start, parts = 1, 0, []
    while start < 2 * radius + 1:
        if (2 * radius + 1) & length:
            parts.append(sums[..., start : start + channels])
            start += length
        if start < 2 * radius + 1:
            sums = sums[..., :-length] + sums[..., length:]
            length *= 2
    return tf.add_n(parts)


def spatial_window_sum(x: tf.Tensor, size: int) -> tf.Tensor:
    """Sums over the size x size positions of the same map around each position, clipped at the border."""
    radius = size // 2
    padded = tf.pad(x, [[0, 0], [radius, radius], [0, 0], [0, 0]])
    rows = tf.add_n([padded[:, shift : shift - size + 1 or None] for shift in range(size)])
    padded = tf.pad(rows, [[0, 0], [0, 0], [radius, radius], [0, 0]])
    return tf.add_n([padded[:, :, shift : shift - size + 1 or None] for shift in range(size)])


class _ResponseNormalization(keras.layers.Layer):
    """Base class of both response normalizations: constants, dtype and compilation."""

    def __init__(self, bias, alpha, beta, jit_compile, **kwargs):
        if not all(map(layers.is_finite, (bias, alpha, beta))) or bias <= 0 or alpha < 0 or beta <= 0:
            raise ValueError(
                f"Expected finite numbers bias > 0, alpha >= 0 and beta > 0. Received: {bias=}, {alpha=}, {beta=}"
            )
        # Without autocasting, inputs reach `call` in their own dtype, which is also the dtype of the outputs.
        super().__init__(autocast=False, **kwargs)
        self.bias = float(bias)
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.jit_compile = bool(jit_compile)
        self._forward = self._backward = None

    def _window_sum(self, x):
        raise NotImplementedError

    def build(self, input_shape):
        # Partials rather than functions defined here: TensorFlow counts retracing by the code of a function, and would
        # warn about several layers that share it, although each is traced once.
        constants = {"window_sum": self._window_sum, "bias": self.bias, "alpha": self.alpha, "beta": self.beta}
        self._forward = functools.partial(response_normalization, **constants)
        self._backward = functools.partial(response_normalization_gradient, **constants)
        if self.jit_compile:
            self._forward = tf.function(self._forward, jit_compile=True, autograph=False)
            self._backward = tf.function(self._backward, jit_compile=True, autograph=False)
        super().build(input_shape)

    def call(self, inputs):
        self._check_dtype(inputs)

        @tf.custom_gradient
        def normalize(x):
            # TensorFlow's optimizer does not see the shapes of a compiled function, so that the next convolution would
            # compute them, on the host.
            known = lambda y: tf.ensure_shape(y, x.shape) if self.jit_compile else y
            return known(self._forward(x)), lambda upstream: known(self._backward(x, upstream))

        return normalize(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs):
        self._check_dtype(inputs)
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def _check_dtype(self, inputs):
        if not tf.as_dtype(inputs.dtype).is_floating:
            dtype = tf.as_dtype(inputs.dtype).name
            raise ValueError(f"Expected floating point inputs for {self.name}; cast them. Received: {dtype}")

    def get_config(self):
        return {
            **super().get_config(),
            "bias": self.bias,
            "alpha": self.alpha,
            "beta": self.beta,
            "jit_compile": self.jit_compile,
        }


@keras.saving.register_keras_serializable(package="alexnet_tf")
class LocalResponseNormalization(_ResponseNormalization):
    """Normalizes activations across adjacent channels (LRN).

    ``b[i] = a[i] / (bias + alpha * sum(a[j] ** 2 for j in i - depth_radius ... i + depth_radius)) ** beta``,
    with the window clipped at the first and the last channel. In section 3.3 of the paper, k is `bias` and n is
    ``2 * depth_radius + 1``.

    `depth_radius` is half the window, as in ``tf.nn.local_response_normalization``. This layer computes the same values
    with a faster gradient. In contrast, PyTorch and Caffe take the entire window as ``size`` and divide alpha by it.

    Example:

    >>> alexnet_tf.LocalResponseNormalization()(tf.ones([1, 55, 55, 48])).shape
    TensorShape([1, 55, 55, 48])

    Args:
      depth_radius: int, at least 0, the number of channels on each side. The paper's n = 5 is a radius of 2.
      bias: float above 0, the paper's k.
      alpha: float, at least 0, the scale of the sum, which is not divided by n. The authors' code divides by n: its
        1e-4 is 2e-5 here.
      beta: float above 0, the exponent.
      jit_compile: bool, whether to compile with XLA. Set it to False for a model to be exported.
      **kwargs: arguments of ``keras.layers.Layer``.

    Input: floating point ``[batch, ..., channels]``.

    Output: a tensor of the same shape and dtype. Under mixed precision, sums and powers are computed in float32.

    Raises:
      ValueError: If an argument is outside its range, or inputs are not floating point.

    Reference:

    - [ImageNet Classification with Deep Convolutional Neural Networks](
      https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks), section 3.3
    """

    def __init__(
        self,
        depth_radius: int = 2,
        bias: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        jit_compile: bool = True,
        **kwargs,
    ):
        if not layers.is_integer(depth_radius, 0):
            raise ValueError(f"Expected depth_radius to be an int of at least 0. Received: {depth_radius=}")
        super().__init__(bias, alpha, beta, jit_compile, **kwargs)
        self.depth_radius = depth_radius

    def _window_sum(self, x):
        return channel_window_sum(x, self.depth_radius)

    def get_config(self):
        return {**super().get_config(), "depth_radius": self.depth_radius}


@keras.saving.register_keras_serializable(package="alexnet_tf")
class SameMapNormalization(_ResponseNormalization):
    """Normalizes activations across adjacent positions of the same channel.

    ``b[y, x] = a[y, x] / (bias + alpha * sum of a ** 2 over the size x size positions around) ** beta``,
    with the window clipped at the border. The paper does not mention this layer. The authors' net #145 has one after
    the LRN of layer 2, with size 5, alpha 0.001 / 25 = 4e-5, bias 1 and beta 0.75.

    Args:
      size: odd int, at least 1, the side of the window.
      bias, alpha, beta, jit_compile, **kwargs: as in `LocalResponseNormalization`.

    Input: floating point ``[batch, height, width, channels]``.

    Output: a tensor of the same shape and dtype.

    Raises:
      ValueError: If an argument is outside its range, or inputs are not floating point.

    Reference:

    - [The authors' released code](https://github.com/computerhistory/AlexNet-Source-Code)
    """

    def __init__(
        self,
        size: int = 5,
        bias: float = 1.0,
        alpha: float = 4e-5,
        beta: float = 0.75,
        jit_compile: bool = True,
        **kwargs,
    ):
        if not (layers.is_integer(size, 1) and size % 2 == 1):
            raise ValueError(f"Expected size to be an odd int of at least 1. Received: {size=}")
        super().__init__(bias, alpha, beta, jit_compile, **kwargs)
        self.size = size

    def _window_sum(self, x):
        return spatial_window_sum(x, self.size)

    def get_config(self):
        return {**super().get_config(), "size": self.size}
