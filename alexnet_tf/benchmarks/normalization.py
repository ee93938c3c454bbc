"""Local response normalization: its share of a training step, and ours against TensorFlow's (rows P3 and P4)."""

import functools

import keras
import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import sides
from alexnet_tf.models import normalizations

# Height, width and channels of the two normalized outputs, of both towers together.
SHAPES = ((55, 55, 96), (27, 27, 256))
BATCH = 32


def without_normalization(model: keras.Model) -> keras.Model:
    """Returns a network like `model` with new weights and without response normalization.

    Args:
      model: an `AlexNet`.
    """

    def clone(layer):
        if isinstance(layer, normalizations.LocalResponseNormalization):
            return keras.layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def share_of_step(request: measuring.Request) -> measuring.Result:
    """P3: our training step without local response normalization and with it.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.
    """
    run_config = request.config.resolved()
    without = sides.build_trainer(run_config, without_normalization)
    measured = {
        "without LRN": sides.training_step(run_config, without),
        sides.OURS: sides.training_step(run_config, sides.shared_trainer(run_config)),
    }
    ratios = [measuring.Ratio("without LRN", sides.OURS, 1.08, measuring.AT_MOST)]
    description = f"training steps, batches of {run_config.batch_size}, {run_config.precision}"
    return measuring.Result(description, "images/s", sides.interleave(request, measured), ratios)


def _sides(name, normalize, batch_size):
    """Returns sides of a normalization forward and backward, compiled, one for each of `SHAPES`."""

    @tf.function
    def forward_and_backward(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = normalize(x)
        return y, tape.gradient(y, x, output_gradients=upstream)

    found = {}
    for shape in SHAPES:
        generator = tf.random.Generator.from_seed(0)
        x, upstream = (generator.normal([batch_size, *shape], stddev=20.0) for _ in range(2))
        side = sides.repeat(batch_size, forward_and_backward, x, upstream)
        found[f"{name} {sides.product(batch_size, *shape)}"] = side
    return found


def tensorflow_normalization(batch_size: int) -> dict[str, measuring.Side]:
    """Sides for another process: TensorFlow's response normalization."""
    normalize = functools.partial(tf.nn.local_response_normalization, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)
    return _sides(sides.TENSORFLOW, normalize, batch_size)


def our_normalization(batch_size: int) -> dict[str, measuring.Side]:
    """Sides for another process: our response normalization, with all cores as TensorFlow's."""
    return _sides(sides.OURS, normalizations.LocalResponseNormalization(), batch_size)


def forward_and_backward(request: measuring.Request) -> measuring.Result:
    """P4: local response normalization and its gradient, TensorFlow's and ours, in float32 on all cores.

    Args:
      request: `measuring.Request`; the batch size is the configuration's, at most 32.

    Returns:
      `measuring.Result`.
    """
    batch_size = min(BATCH, request.config.batch_size)
    with measuring.in_subprocesses((our_normalization, batch_size), (tensorflow_normalization, batch_size)) as measured:
        rates = sides.interleave(request, measured)
    names = list(measured)
    count = len(SHAPES)
    ratios = [measuring.Ratio(our, their, 4.5) for our, their in zip(names[:count], names[count:])]
    return measuring.Result("LRN, forward and backward, float32", "images/s", rates, ratios)
