"""AlexNet and its training step as users of torch write them. This module does not load TensorFlow.

The network is that of `network_peers.keras_alexnet`: one tower with grouped convolutions, 60,965,224 parameters.
"""

from collections.abc import Callable

import torch

NUM_CLASSES = 1000


def build() -> torch.nn.Sequential:
    """Builds AlexNet from torch's layers.

    Returns:
      A network from float32 ``[batch, 3, 224, 224]`` to logits ``[batch, 1000]``.
    """
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


def device() -> torch.device:
    """Returns the device that TensorFlow would use: the GPU if there is one, with TensorFloat-32 products enabled."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device("cuda")


def train_step(
    model: torch.nn.Module, *, dtype: torch.dtype | None = None, compiled: bool = False
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Returns a training step.

    Args:
      model: a network; it and its batches are on the same device.
      dtype: in which the forward pass multiplies, with float32 weights; None for theirs.
      compiled: whether ``torch.compile`` compiles the forward and the backward pass.

    Returns:
      A function from images and labels to the loss, which a GPU may still be computing.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loss_of = torch.nn.CrossEntropyLoss()
    model.train()
    forward = torch.compile(model) if compiled else model

    def step(images, labels):
        optimizer.zero_grad()
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            loss = loss_of(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
