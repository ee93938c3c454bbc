"""A multilayer perceptron: fully connected layers only, the classic network before convolutions."""

import functools

import keras

from alexnet_tf.models import layers
from alexnet_tf.models import network

IMAGE_SIZE = 32
IMAGE_SIZES = range(8, 257, 8)


@keras.saving.register_keras_serializable(package="alexnet_tf")
class MLP(network.Network):
    """A multilayer perceptron as a Keras functional model.

    | layer | units | parameters of the default, 32 x 32 |
    | --- | --- | --- |
    | fc1, its activation | 47 | 144,431 |
    | fc2 | num_classes | 480 |

    With more hidden layers, fc1 to fc`n` have as many units each, and fc`n + 1` is the last. The default has 144,911
    parameters, almost as many as `cifar10_26`, whose 145,578 are in three convolutional and two fully connected layers.

    Args:
      hidden_layers: int, at least 1.
      num_classes: int, at least 2.
      units: int, the units of each hidden layer.
      activation: "relu", "tanh" or "sigmoid".
      width: float, a factor of `units`.
      image_size: int, a multiple of 8 from 8 to 256.
      initialization: "recipe" and "he" for weights N(0, 2 / inputs); "zeros", for weights that are assigned afterwards.
        Biases are 0.
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

    - [Learning representations by back-propagating errors](https://www.nature.com/articles/323533a0), Rumelhart,
      Hinton and Williams, 1986
    """

    def __init__(
        self,
        hidden_layers: int = 1,
        num_classes: int = 10,
        *,
        units: int = 47,
        activation: str = "relu",
        width: float = 1.0,
        image_size: int = IMAGE_SIZE,
        initialization: str = "recipe",
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "mlp",
        **kwargs,
    ):
        layers.check_arguments(
            num_classes=num_classes,
            image_size=image_size,
            image_sizes=IMAGE_SIZES,
            initialization=initialization,
            width=width,
        )
        layers.check_choice("activation", activation, layers.ACTIVATIONS)
        if not (layers.is_integer(hidden_layers, 1) and layers.is_integer(units, 1)):
            raise ValueError(
                f"Expected hidden_layers and units to be ints of at least 1. Received: {hidden_layers=}, {units=}"
            )
        dtype = network.resolve_dtype(dtype)
        counts = [layers.scaled(units, width)] * hidden_layers + [num_classes]
        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        logits = _connect(images, counts, activation, initialization, seed, dtype)
        super().__init__(inputs=images, outputs=logits, name=name, **kwargs)
        self._arguments = {
            "hidden_layers": hidden_layers,
            "num_classes": num_classes,
            "units": units,
            "activation": activation,
            "width": width,
            "image_size": image_size,
            "initialization": initialization,
            "seed": seed,
            "jit_compile": jit_compile,
            "dtype": dtype,
            "name": name,
        }


def _connect(images, counts, activation, initialization, seed, dtype):
    """Returns the logits: a fully connected layer for each of the counts, the last without an activation."""
    initializers = layers.Initializers(functools.partial(layers.kernel_initializer, "he", 0.0), initialization, seed)
    x = keras.layers.Flatten("channels_last", dtype=dtype, name="flatten")(images)  # 3072
    for number, count in enumerate(counts, start=1):
        initializer = initializers.next()
        x = keras.layers.Dense(count, kernel_initializer=initializer, dtype=dtype, name=f"fc{number}")(x)
        if number < len(counts):
            x = keras.layers.Activation(activation, dtype=dtype, name=f"{activation}{number}")(x)
    return keras.layers.Activation("linear", dtype="float32", name="logits")(x)
