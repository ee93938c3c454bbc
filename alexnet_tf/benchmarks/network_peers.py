"""The network as users of Keras write it: the textbook way, and as an expert would for speed.

Both have one tower, the usual way to write the two towers for one device, with as many parameters and as much
arithmetic as ours: 60,965,224 parameters, 4.1356 GFLOP per image. Their response normalization spans the channels of
both groups, ours those of one tower. Images are preprocessed float32, while our step also preprocesses them from uint8.
"""

import keras
import tensorflow as tf

NUM_CLASSES = 1000


def keras_alexnet() -> keras.Model:
    """Builds AlexNet from Keras's layers, with grouped convolutions and default options.

    Returns:
      A compiled ``keras.Model``: float32 ``[batch, 224, 224, 3]`` to logits ``[batch, 1000]``.
    """
    model = keras.Sequential(
        [
            keras.Input([224, 224, 3]),
            keras.layers.ZeroPadding2D(((0, 3), (0, 3))),  # 227
            _convolution(96, 11, strides=4),  # 55
            _normalization(),
            keras.layers.MaxPooling2D(3, 2),  # 27
            _convolution(256, 5, bias=1, padding="same", groups=2),
            _normalization(),
            keras.layers.MaxPooling2D(3, 2),  # 13
            _convolution(384, 3, padding="same"),
            _convolution(384, 3, bias=1, padding="same", groups=2),
            _convolution(256, 3, bias=1, padding="same", groups=2),
            keras.layers.MaxPooling2D(3, 2),  # 6
            *_fully_connected(),
        ]
    )
    return _compiled(model)


def expert_keras_alexnet() -> keras.Model:
    """Builds the network of `keras_alexnet` with its grouped convolutions split by hand.

    TensorFlow's grouped convolutions are slow on a CPU, and so is a training step that XLA compiles, which is Keras's
    default. On a CPU this one is not compiled.

    Returns:
      A compiled ``keras.Model``, as from `keras_alexnet`.
    """

    def halves(tensors, kernels, size):
        return [_convolution(kernels // 2, size, bias=1, padding="same")(tensor) for tensor in tensors]

    images = keras.Input([224, 224, 3])
    tensor = keras.layers.ZeroPadding2D(((0, 3), (0, 3)))(images)  # 227
    tensor = _normalization()(_convolution(96, 11, strides=4)(tensor))  # 55
    tensor = keras.layers.MaxPooling2D(3, 2)(tensor)  # 27
    tensor = keras.layers.Concatenate()(halves(keras.ops.split(tensor, 2, axis=-1), 256, 5))
    tensor = keras.layers.MaxPooling2D(3, 2)(_normalization()(tensor))  # 13
    tensor = _convolution(384, 3, padding="same")(tensor)
    tensors = halves(keras.ops.split(tensor, 2, axis=-1), 384, 3)
    tensor = keras.layers.Concatenate()(halves(tensors, 256, 3))
    tensor = keras.layers.MaxPooling2D(3, 2)(tensor)  # 6
    for layer in _fully_connected():
        tensor = layer(tensor)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return _compiled(keras.Model(images, tensor), jit_compile="auto" if on_gpu else False)


def _convolution(kernels, size, bias=0, **options):
    return keras.layers.Conv2D(kernels, size, activation="relu", **options, **_weights(bias))


def _fully_connected():
    return [
        keras.layers.Flatten(),
        keras.layers.Dense(4096, activation="relu", **_weights(1)),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(4096, activation="relu", **_weights(1)),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(NUM_CLASSES, **_weights(0)),
    ]


def _weights(bias):
    return {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=0.01),
        "bias_initializer": keras.initializers.Constant(bias),
    }


def _normalization():
    constants = {"depth_radius": 2, "bias": 2.0, "alpha": 1e-4, "beta": 0.75}
    return keras.layers.Lambda(tf.nn.local_response_normalization, arguments=constants)


def _compiled(model, **options):
    model.compile(
        optimizer=keras_optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    return model


def keras_optimizer() -> keras.optimizers.Optimizer:
    """Returns Keras's optimizer closest to the paper's rule; its weight decay is decoupled from the momentum."""
    return keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=5e-4)
