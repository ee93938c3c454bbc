"""Counts the arithmetic of training a network, and measures the speed of this machine to compare it with."""

import concurrent.futures
import time

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.training import parameter_groups
from alexnet_tf.utils import machine

# Side of the square matrices whose product measures the speed of the machine: as small as gives the full rate.
MATRIX_SIDES = {"CPU": 1024, "GPU": 3072}


def multiply_adds(model: keras.Model) -> int:
    """Counts the multiplications and additions, as pairs, of the convolutions and fully connected layers for one image.

    Args:
      model: a functional model.
    """
    return sum(_kernel_uses(layer) for layer in model.layers if getattr(layer, "kernel", None) is not None)


def _kernel_uses(layer):
    """Returns how many products with its kernel a layer computes for one image."""
    return int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:-1]))


def training_flops(model: keras.Model) -> int:
    """Counts the floating-point operations of training on one image, forward and backward.

    Counts two operations per multiplication and addition of convolutions and fully connected layers: forward; unless
    the layer is frozen, for the gradient of the weights; and unless no layer before it is trained, for the gradient of
    the inputs.

    Args:
      model: a functional model. A frozen layer is frozen in both towers.
    """
    total = 0
    lowest = None
    for layer in model.layers:
        if getattr(layer, "kernel", None) is None:
            continue
        if layer.trainable and lowest is None:
            lowest = parameter_groups.layer_of(layer.name)
        passes_on = lowest is not None and parameter_groups.layer_of(layer.name) != lowest
        total += 2 * _kernel_uses(layer) * (1 + layer.trainable + passes_on)
    return total


def matrix_side() -> int:
    """Returns the side of the matrices that `peak_flops` multiplies on this machine."""
    return MATRIX_SIDES["GPU" if tf.config.list_physical_devices("GPU") else "CPU"]


def peak_flops(rounds: int = 3) -> float:
    """Measures the float32 operations per second of large matrix products on this machine.

    Runs one product at a time on a GPU, and one per core on a CPU, whatever the number of TensorFlow's threads.

    Returns:
      The rate of the fastest round. It is too low if the machine is busy with other work.
    """
    side = matrix_side()
    first, second = tf.random.stateless_normal([2, side, side], [0, 0])
    at_once = 1 if tf.config.list_physical_devices("GPU") else machine.available_cores()
    multiply = lambda _: tf.matmul(first, second).numpy()
    seconds = []
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for _ in range(1 + rounds):
            start = time.perf_counter()
            list(pool.map(multiply, range(at_once)))
            seconds.append(time.perf_counter() - start)
    # The first round allocates memory.
    return 2 * side**3 * at_once / min(seconds[1:])
