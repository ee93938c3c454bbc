"""Other ways to compute the layers whose towers read the same input (row layers).

The network computes conv1, conv3, fc6 and fc7 of each tower on their own, so that the towers may be on two devices. On
one device, a single operation could compute both towers; and conv1 could be a convolution of 3 x 3 with stride 1 on
blocks of 4 x 4 pixels (space to depth). The variables stay the same: kernels are concatenated, padded and reshaped in
the step.
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import sides
from alexnet_tf.runs import builders

SEPARATE, JOINT = "one operation per tower", "one operation"
BLOCKS, JOINT_BLOCKS = "space to depth, one operation per tower", "space to depth, one operation"
# Strides of conv1, and pixels on a side of a block.
STRIDE = 4

Layer = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Product(NamedTuple):
    """A layer of AlexNet, as each of the two towers computes it."""

    inputs: tuple[int, ...]  # shape without the batch
    kernel: tuple[int, ...]  # shape of a tower's
    apply: Layer
    by_blocks: Layer | None = None  # equal to `apply`, by space to depth
    reads_images: bool = False  # whether the gradient with respect to the inputs is not needed


def _strided_convolution(images, kernel):
    """Applies conv1: kernels of 11 x 11 with stride 4 to images of 224 x 224, with zeros on the right and below."""
    return tf.nn.conv2d(_pad(images, 3), kernel, STRIDE, "VALID")


def _block_convolution(images, kernel):
    """Applies conv1 as a convolution of 3 x 3 to blocks of 4 x 4 x 3; the added row and column of the kernel are 0."""
    blocks = tf.nn.space_to_depth(_pad(images, 4), STRIDE)
    kernel = tf.pad(kernel, [[0, 1], [0, 1], [0, 0], [0, 0]])
    height, width, channels, kernels = kernel.shape
    rows, columns = height // STRIDE, width // STRIDE
    kernel = tf.reshape(kernel, [rows, STRIDE, columns, STRIDE, channels, kernels])
    kernel = tf.transpose(kernel, [0, 2, 1, 3, 4, 5])
    kernel = tf.reshape(kernel, [rows, columns, STRIDE * STRIDE * channels, kernels])
    return tf.nn.conv2d(blocks, kernel, 1, "VALID")


def _pad(images, zeros):
    return tf.pad(images, [[0, 0], [0, zeros], [0, zeros], [0, 0]])


def _convolution(x, kernel):
    return tf.nn.conv2d(x, kernel, 1, "SAME")


PRODUCTS = {
    "conv1": Product((224, 224, 3), (11, 11, 3, 48), _strided_convolution, _block_convolution, reads_images=True),
    "conv3": Product((13, 13, 256), (3, 3, 256, 192), _convolution),
    "fc6": Product((9216,), (9216, 2048), tf.matmul),
    "fc7": Product((4096,), (4096, 2048), tf.matmul),
}


def _separate(apply, x, kernels):
    return [apply(x, kernel) for kernel in kernels]


def _joint(apply, x, kernels):
    return tf.split(apply(x, tf.concat(kernels, axis=-1)), len(kernels), axis=-1)


def ways(product: Product) -> dict[str, Callable[[tf.Tensor, Sequence[tf.Tensor]], list[tf.Tensor]]]:
    """Returns the ways to compute a layer, by name; each maps the input and the towers' kernels to their outputs.

    Args:
      product: one of `PRODUCTS`.
    """
    found = {SEPARATE: functools.partial(_separate, product.apply), JOINT: functools.partial(_joint, product.apply)}
    if product.by_blocks:
        found[BLOCKS] = functools.partial(_separate, product.by_blocks)
        found[JOINT_BLOCKS] = functools.partial(_joint, product.by_blocks)
    return found


def forward_and_backward(
    product: Product, way: Callable, precision: str, jit_compile: bool = False
) -> tf.types.experimental.PolymorphicFunction:
    """Returns a compiled function of a layer's input, the kernels and the gradients of the outputs.

    Args:
      product: one of `PRODUCTS`.
      way: one of the values of `ways`.
      precision: "float32" or "bfloat16"; kernels are float32 and are cast, as in a training step.
      jit_compile: whether XLA compiles it.

    Returns:
      A function that returns the outputs, and the gradients with respect to the kernels and, unless it is images, to
      the input.
    """

    @tf.function(jit_compile=jit_compile)
    def compute(x, kernels, upstream):
        with tf.GradientTape() as tape:
            sources = [*kernels] if product.reads_images else [*kernels, x]
            tape.watch(sources)
            outputs = way(x, [tf.cast(kernel, precision) for kernel in kernels])
        return outputs, tape.gradient(outputs, sources, output_gradients=upstream)

    return compute


def arguments(product: Product, batch_size: int, precision: str) -> tuple:
    """Returns arguments of a function of `forward_and_backward`: random numbers."""
    generator = tf.random.Generator.from_seed(0)
    x = tf.cast(generator.normal([batch_size, *product.inputs]), precision)
    kernels = [generator.normal(product.kernel, stddev=0.01) for _ in range(2)]
    shapes = [product.apply(x, tf.cast(kernel, precision)).shape for kernel in kernels]
    return x, kernels, [tf.cast(generator.normal(shape), precision) for shape in shapes]


def layers(request: measuring.Request) -> measuring.Result:
    """Row layers: conv1, conv3, fc6 and fc7 of two towers on one device, forward and backward, in other ways.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.
    """
    run_config = request.config.resolved()
    is_compiled = builders.compiles_step(run_config)
    batch_size, precision = run_config.batch_size, run_config.precision
    rates, ratios = {}, []
    for name, product in PRODUCTS.items():
        inputs = arguments(product, batch_size, precision)
        measured = {
            f"{name}, {way}": sides.repeat(
                batch_size, forward_and_backward(product, function, precision, is_compiled), *inputs
            )
            for way, function in ways(product).items()
        }
        rates |= sides.interleave(request, measured)
        ours, *others = measured
        ratios += [measuring.Ratio(other, ours) for other in others]
    description = f"layers of both towers, forward and backward, batches of {batch_size}, {precision}"
    notes = ["compiled by XLA" if is_compiled else "not compiled by XLA"]
    return measuring.Result(description, "images/s", rates, ratios, notes)
