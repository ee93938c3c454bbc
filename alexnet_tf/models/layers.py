"""The layers of AlexNet that Keras lacks: two response normalisations, the paper's dropout, and group normalisation."""

import functools

import keras
import tensorflow as tf

# What may be chosen in a network: activities, what follows a pooling, and the side of a pooling's windows, 2 apart.
ACTIVATIONS = ("relu", "tanh")
NORMALIZATIONS = ("response", "first", "none", "batch", "group", "layer")
POOLINGS = {"overlapping": 3, "nonoverlapping": 2}
# Channels a group of group normalisation (Wu and He 2018); 48, 96 and 256 are multiples of it.
GROUP_CHANNELS = 16


def kernel_initializer(initialization, stddev, seed):
    """Initial weights, N(0, stddev) not truncated (paper section 5; original #145), or N(0, 2 / inputs).

    Args:
      initialization: "recipe", or "he" (He et al., "Delving Deep into Rectifiers", 2015).
      stddev: float, the recipe's.
      seed: int, or None for a random one.
    """
    if initialization == "he":
        return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal", seed=seed)
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)


def later_normalization(kind, **kwargs):
    """A normalisation that came after the paper, in place of one of its own.

    Args:
      kind: "batch" (Ioffe and Szegedy 2015), "group" of `GROUP_CHANNELS` channels (Wu and He 2018), or "layer": one
        group of all.
      **kwargs: of ``keras.layers.Layer``.
    """
    if kind == "batch":
        return keras.layers.BatchNormalization(**kwargs)
    return GroupNormalization(GROUP_CHANNELS if kind == "group" else None, **kwargs)


@keras.saving.register_keras_serializable(package="alexnet_tf")
class GroupNormalization(keras.layers.GroupNormalization):
    """Keras's group normalisation, by the size of a group in place of their number.

    Args:
      group_channels: int, a divisor of the channels; None for all of them.
      **kwargs: of ``keras.layers.GroupNormalization``.
    """

    def __init__(self, group_channels=None, **kwargs):
        kwargs.pop("groups", None)
        super().__init__(groups=1, **kwargs)
        self.group_channels = group_channels

    def build(self, input_shape):
        channels = input_shape[-1]
        self.groups, rest = divmod(channels, self.group_channels or channels)
        if rest:
            raise ValueError(
                f"Expected the channels to be a multiple of group_channels={self.group_channels}. Received: {channels}"
            )
        super().build(input_shape)

    def get_config(self):
        return {**super().get_config(), "group_channels": self.group_channels}


def _powers(base, exponent):
    """base ** -exponent and 1 / base; where exponent is 0.75, by square roots, several times as fast as a power."""
    if exponent == 0.75:
        root = tf.math.rsqrt(base)
        return root * tf.sqrt(root), root * root
    return tf.pow(base, -exponent), 1.0 / base


def _bracket(x, window_sum, bias, alpha, beta):
    """The activity in the precision of its sums, and of the formula's bracket s: s ** -beta and 1 / s."""
    x = tf.cast(x, tf.float32 if x.dtype.size < 4 else x.dtype)
    return x, *_powers(bias + alpha * window_sum(tf.square(x)), beta)


def response_normalization(x, window_sum, *, bias, alpha, beta):
    """``x / (bias + alpha * window_sum(x ** 2)) ** beta``.

    Args:
      x: floating point tensor. Powers and sums are taken in float32 when it is narrower.
      window_sum: a linear, symmetric function from a tensor to one of the same shape.
      bias, alpha, beta: the paper's k, alpha and beta (section 3.3).

    Returns:
      A tensor with the shape and dtype of `x`.
    """
    wide, power, _ = _bracket(x, window_sum, bias, alpha, beta)
    return tf.cast(wide * power, x.dtype)


def response_normalization_gradient(x, upstream, window_sum, *, bias, alpha, beta):
    """The gradient of `response_normalization` in closed form.

    With s the bracket, p = s ** -beta and g the gradient of the result, that of x is
    ``g p - 2 alpha beta x window_sum(g x p / s)``. The window must be symmetric: j lies in the window of i exactly
    when i lies in the window of j. The bracket is computed again, which costs less than keeping it in memory.

    Args:
      x: as in `response_normalization`.
      upstream: the gradient of the result, like `x`.
      window_sum, bias, alpha, beta: as in `response_normalization`.

    Returns:
      A tensor like `x`.
    """
    wide, power, inverse = _bracket(x, window_sum, bias, alpha, beta)
    upstream = tf.cast(upstream, wide.dtype)
    share = window_sum(upstream * wide * (power * inverse))
    return tf.cast(upstream * power - (2.0 * alpha * beta) * wide * share, x.dtype)


def channel_window_sum(x, radius):
    """Sum over the channels at most `radius` away, clipped at the first and the last channel."""
    channels = x.shape[-1]
    padding = [[0, 0]] * (x.shape.rank - 1) + [[radius, radius]]
    # Sums over 1, 2, 4, ... channels, each made of two of the one before, whose lengths add up to the window's: the
    # additions grow with the logarithm of the window.
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


def spatial_window_sum(x, size):
    """Sum over the size x size positions of the same map around each position, clipped at the border."""
    radius = size // 2
    padded = tf.pad(x, [[0, 0], [radius, radius], [0, 0], [0, 0]])
    rows = tf.add_n([padded[:, shift : shift - size + 1 or None] for shift in range(size)])
    padded = tf.pad(rows, [[0, 0], [0, 0], [radius, radius], [0, 0]])
    return tf.add_n([padded[:, :, shift : shift - size + 1 or None] for shift in range(size)])


class _ResponseNormalization(keras.layers.Layer):
    """What both normalisations share: constants, dtype, compilation."""

    def __init__(self, bias, alpha, beta, jit_compile, **kwargs):
        if not bias > 0 or not alpha >= 0 or not beta > 0:
            raise ValueError(f"Expected bias > 0, alpha >= 0 and beta > 0. Received: {bias=}, {alpha=}, {beta=}")
        # Without autocasting a narrower input reaches `call` as it is, and leaves in the same dtype.
        super().__init__(autocast=False, **kwargs)
        self.bias = float(bias)
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.jit_compile = bool(jit_compile)
        self._forward = self._backward = None

    def _window_sum(self, x):
        raise NotImplementedError

    def build(self, input_shape):
        # Partials, not functions defined here: TensorFlow counts retracings by the code, and would warn of them
        # where a few layers, each traced once, share it.
        constants = {"window_sum": self._window_sum, "bias": self.bias, "alpha": self.alpha, "beta": self.beta}
        self._forward = functools.partial(response_normalization, **constants)
        self._backward = functools.partial(response_normalization_gradient, **constants)
        if self.jit_compile:
            self._forward = tf.function(self._forward, jit_compile=True, autograph=False)
            self._backward = tf.function(self._backward, jit_compile=True, autograph=False)
        super().build(input_shape)

    def call(self, inputs):
        @tf.custom_gradient
        def normalize(x):
            return self._forward(x), lambda upstream: self._backward(x, upstream)

        return normalize(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

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
    """Normalisation of an activity by those of the adjacent kernel maps at the same position.

    ``b[i] = a[i] / (bias + alpha * sum(a[j] ** 2 for j in i - depth_radius ... i + depth_radius)) ** beta``,
    where the window is clipped at the first and the last map (paper, section 3.3, with k = `bias`,
    n = 2 * `depth_radius` + 1).

    Not to be confused: `depth_radius` is half the window, as in ``tf.nn.local_response_normalization``, which
    this layer equals (with a faster gradient); PyTorch and Caffe take the whole window as ``size`` and divide alpha
    by it.

    Example:

    >>> alexnet_tf.LocalResponseNormalization()(tf.ones([1, 55, 55, 48])).shape
    TensorShape([1, 55, 55, 48])

    Args:
      depth_radius: int, at least 0: how many maps on each side. The paper's n = 5 is radius 2.
      bias: float above 0, the paper's k.
      alpha: float, at least 0, for the sum (not divided by n). The authors' code divides: its 1e-4 is 2e-5 here.
      beta: float above 0.
      jit_compile: compile with XLA, on by default. Turn off for a model to be exported.
      **kwargs: of ``keras.layers.Layer``.

    Input and output: floating point ``[batch, ..., channels]``, the same shape and dtype. Sums and powers are
    taken in float32 under mixed precision.

    Raises:
      ValueError: for an argument outside its range.
    """

    def __init__(self, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75, jit_compile=True, **kwargs):
        if not (isinstance(depth_radius, int) and depth_radius >= 0):
            raise ValueError(f"Expected depth_radius to be an int of at least 0. Received: {depth_radius=}")
        super().__init__(bias, alpha, beta, jit_compile, **kwargs)
        self.depth_radius = depth_radius

    def _window_sum(self, x):
        return channel_window_sum(x, self.depth_radius)

    def get_config(self):
        return {**super().get_config(), "depth_radius": self.depth_radius}


@keras.saving.register_keras_serializable(package="alexnet_tf")
class SameMapNormalization(_ResponseNormalization):
    """Normalisation of an activity by its neighbours in the same map.

    ``b[y, x] = a[y, x] / (bias + alpha * sum of a ** 2 over the size x size positions around) ** beta``, the
    window clipped at the border. The paper does not mention it; the authors' net #145 has one after the
    second layer's response normalisation (size 5, alpha 0.001 / 25 = 4e-5, bias 1, beta 0.75).

    Args:
      size: odd int, the window's side.
      bias, alpha, beta, jit_compile, **kwargs: as in `LocalResponseNormalization`.

    Input and output: floating point ``[batch, height, width, channels]``, the same shape and dtype.

    Raises:
      ValueError: for a size that is not odd and positive, or another argument outside its range.
    """

    def __init__(self, size=5, bias=1.0, alpha=4e-5, beta=0.75, jit_compile=True, **kwargs):
        if not (isinstance(size, int) and size % 2 == 1 and size > 0):
            raise ValueError(f"Expected size to be an odd int of at least 1. Received: {size=}")
        super().__init__(bias, alpha, beta, jit_compile, **kwargs)
        self.size = size

    def _window_sum(self, x):
        return spatial_window_sum(x, self.size)

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="alexnet_tf")
class Dropout(keras.layers.Layer):
    """The paper's dropout (section 4.2): nothing is rescaled in training, outputs are scaled down in use.

    In training each output is set to zero with probability `rate`; otherwise all are multiplied by
    ``1 - rate``. ``keras.layers.Dropout`` multiplies by ``1 / (1 - rate)`` in training instead: the same
    expectations, but twice the activity (and gradient) at the paper's rate.

    Args:
      rate: float in [0, 1).
      seed: int, or None for a random one. The draws follow from it, from the number of calls, a state that
        checkpoints keep, and among several replicas from the replica's number.
      **kwargs: of ``keras.layers.Layer``.

    Input: floating point, any shape. Output: the same shape, in the layer's compute dtype.

    Raises:
      ValueError: for a rate outside [0, 1).
    """

    def __init__(self, rate=0.5, seed=None, **kwargs):
        if not 0 <= rate < 1:
            raise ValueError(f"Expected rate to lie in [0, 1). Received: {rate=}")
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.seed_generator = None

    def build(self, input_shape):
        # Made here, under a fixed name: so the state's path begins with the layer's, and placed it lives there.
        self.seed_generator = keras.random.SeedGenerator(self.seed, name="seed_generator")
        # Keras leaves generators out of a tf.train.Checkpoint; a resumed run would repeat its first draws.
        self._seed_state = self.seed_generator.state.value
        super().build(input_shape)

    def call(self, inputs, training=False):
        if not training:
            return inputs * (1.0 - self.rate)
        if self.rate == 0:
            return inputs
        seed = self.seed_generator.next()
        if tf.distribute.has_strategy():
            # Each leaves out its own; the state is the same in all. Seeds are below 2 ** 31.
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed += tf.stack([tf.cast(replica, seed.dtype) * 2**32, 0])
        draws = tf.random.stateless_uniform(tf.shape(inputs), seed)
        return tf.where(draws >= self.rate, inputs, tf.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
