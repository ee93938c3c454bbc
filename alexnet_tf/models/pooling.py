"""Max pooling with a gradient that XLA can compile when only deterministic operations are allowed.

XLA compiles the gradient of ``tf.nn.max_pool2d`` to an operation that adds in any order, and refuses it after
``tf.config.experimental.enable_op_determinism``, on every device.
"""

import keras
import tensorflow as tf


def max_pool_gradient(inputs: tf.Tensor, outputs: tf.Tensor, upstream: tf.Tensor, size: int, stride: int) -> tf.Tensor:
    """Computes the gradient of ``tf.nn.max_pool2d`` by comparing each position of the windows with their maxima.

    Of equal maxima in a window, the first in row-major order gets the gradient, as in TensorFlow's gradient. Where
    windows overlap, only the order of the sums differs.

    Args:
      inputs: floating point ``[batch, height, width, channels]``.
      outputs: the result of the pooling, with or without padding.
      upstream: the gradient with respect to `outputs`.
      size: side of the windows.
      stride: distance between the windows.

    Returns:
      The gradient with respect to `inputs`, of the same shape and dtype.
    """
    height, width = inputs.shape[1:3]
    # The windows cover this many positions. Only padded ones cover more than there are.
    covered = [(count - 1) * stride + size for count in outputs.shape[1:3]]
    excess = [max(0, length - side) for length, side in zip(covered, (height, width))]
    top, left = (each // 2 for each in excess)
    borders = [[0, 0], [top, excess[0] - top], [left, excess[1] - left], [0, 0]]
    padded = tf.pad(inputs, borders, constant_values=inputs.dtype.min)
    gradient = tf.zeros_like(padded)
    taken = tf.zeros_like(outputs, tf.bool)
    for row in range(size):
        for column in range(size):
            place = {
                "begin": [0, row, column, 0],
                "end": [0, row + covered[0] - size + 1, column + covered[1] - size + 1, 0],
                "strides": [1, stride, stride, 1],
                # All images and all channels.
                "begin_mask": 0b1001,
                "end_mask": 0b1001,
            }
            is_maximum = tf.logical_and(tf.equal(tf.strided_slice(padded, **place), outputs), tf.logical_not(taken))
            taken = tf.logical_or(taken, is_maximum)
            part = tf.where(is_maximum, upstream, tf.zeros_like(upstream))
            gradient += tf.raw_ops.StridedSliceGrad(shape=tf.shape(padded), dy=part, **place)
    return gradient[:, top : top + height, left : left + width]


@keras.saving.register_keras_serializable(package="alexnet_tf")
class MaxPooling2D(keras.layers.MaxPooling2D):
    """``keras.layers.MaxPooling2D`` with a choice of the gradient.

    Args:
      *args, **kwargs: arguments of ``keras.layers.MaxPooling2D``, with square windows and ``"channels_last"``.

    Input: floating point ``[batch, height, width, channels]``.

    Output: ``[batch, pooled height, pooled width, channels]``, of the same dtype.

    Attributes:
      in_compiled_step: bool, whether XLA compiles the training step as one program. The gradient is then that of
        `max_pool_gradient` instead of TensorFlow's. Not saved with the layer.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.in_compiled_step = False

    def call(self, inputs):
        if not self.in_compiled_step:
            return super().call(inputs)

        @tf.custom_gradient
        def pool(x):
            y = tf.nn.max_pool2d(x, self.pool_size, self.strides, self.padding.upper())
            return y, lambda upstream: max_pool_gradient(x, y, upstream, self.pool_size[0], self.strides[0])

        return pool(inputs)
