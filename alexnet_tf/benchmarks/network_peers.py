"""The network and its training step as users of other libraries write them: with Keras's layers, and in torch.

Both have one tower with grouped convolutions, the usual way to write the two towers for one device, with as many
parameters and as much arithmetic as ours: 60,965,224 parameters, 4.1356 GFLOP per image. Their response normalization
spans the channels of both groups, ours those of one tower. Options have their defaults. Images are preprocessed
float32, while our step also preprocesses them from uint8.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

NUM_CLASSES = 1000


def keras_alexnet() -> keras.Model:
    """Builds AlexNet from Keras's layers.

    Returns:
      A compiled ``keras.Model``: float32 ``[batch, 224, 224, 3]`` to logits ``[batch, 1000]``.
    """

    def convolution(kernels, size, bias=0, **options):
        return keras.layers.Conv2D(kernels, size, activation="relu", **options, **weights(bias))

    def dense(units, bias=0, **options):
        return keras.layers.Dense(units, **options, **weights(bias))

    def weights(bias):
        return {
            "kernel_initializer": keras.initializers.RandomNormal(stddev=0.01),
            "bias_initializer": keras.initializers.Constant(bias),
        }

    def normalization():
        constants = {"depth_radius": 2, "bias": 2.0, "alpha": 1e-4, "beta": 0.75}
        return keras.layers.Lambda(tf.nn.local_response_normalization, arguments=constants)

    model = keras.Sequential(
        [
            keras.Input([224, 224, 3]),
            keras.layers.ZeroPadding2D(((0, 3), (0, 3))),  # 227
            convolution(96, 11, strides=4),  # 55
            normalization(),
            keras.layers.MaxPooling2D(3, 2),  # 27
            convolution(256, 5, bias=1, padding="same", groups=2),
            normalization(),
            keras.layers.MaxPooling2D(3, 2),  # 13
            convolution(384, 3, padding="same"),
            convolution(384, 3, bias=1, padding="same", groups=2),
            convolution(256, 3, bias=1, padding="same", groups=2),
            keras.layers.MaxPooling2D(3, 2),  # 6
            keras.layers.Flatten(),
            dense(4096, bias=1, activation="relu"),
            keras.layers.Dropout(0.5),
            dense(4096, bias=1, activation="relu"),
            keras.layers.Dropout(0.5),
            dense(NUM_CLASSES),
        ]
    )
    model.compile(
        optimizer=keras_optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def keras_optimizer() -> keras.optimizers.Optimizer:
    """Returns Keras's optimizer closest to the paper's rule; its weight decay is decoupled from the momentum."""
    return keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=5e-4)


def torch_alexnet() -> Any:
    """Builds AlexNet from torch's layers.

    Returns:
      A ``torch.nn.Sequential``: float32 ``[batch, 3, 224, 224]`` to logits ``[batch, 1000]``.

    Raises:
      ModuleNotFoundError: without torch.
    """
    import torch

    nn = torch.nn

    def normalization():
        # torch divides alpha by the size of the window, 5.
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    model = nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),  # 227
        nn.Conv2d(3, 96, 11, stride=4),  # 55
        nn.ReLU(inplace=True),
        normalization(),
        nn.MaxPool2d(3, 2),  # 27
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(inplace=True),
        normalization(),
        nn.MaxPool2d(3, 2),  # 13
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),  # 6
        nn.Flatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, NUM_CLASSES),
    )
    layers = [layer for layer in model if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer, bias in zip(layers, [0, 1, 0, 1, 1, 1, 1, 0]):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(layer.bias, bias)
    return model


def torch_device() -> Any:
    """Returns the device that TensorFlow would use: the GPU if there is one, with TensorFloat-32 products enabled."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device("cuda")


def torch_train_step(model: Any) -> Callable[[Any, Any], float]:
    """Returns a function of torch tensors (images, labels) that takes a training step and returns the loss."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loss_of = torch.nn.CrossEntropyLoss()
    model.train()

    def step(images, labels):
        optimizer.zero_grad()
        loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
