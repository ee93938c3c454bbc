"""AlexNet and its training step as users of torch write them. This module does not load TensorFlow.

The network is that of `network_peers.keras_alexnet`: one tower with grouped convolutions, 60,965,224 parameters.
"""

import json
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import torch

from alexnet_tf.benchmarks import measuring

NUM_CLASSES = 1000
# What the forward pass multiplies in, by precision; None for the weights' own.
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
OUT_OF_MEMORY = "out of memory"


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
      compiled: whether ``torch.compile`` compiles the forward and the backward pass, and the update is one kernel.

    Returns:
      A function from images and labels to the loss, which a GPU may still be computing.
    """
    fused = True if compiled else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused)
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


def measure(
    batches: Sequence[int],
    precisions: Sequence[str],
    *,
    rounds: int = 5,
    seconds: float = 0.4,
    compiled: bool = True,
    image_size: int = 224,
    model: Callable[[], torch.nn.Module] = build,
) -> Iterator[dict[str, Any]]:
    """Measures training steps of the network, queued as in training: channels last, compiled, at several batch sizes.

    Args:
      batches: batch sizes.
      precisions: of `DTYPES`.
      rounds, seconds: as in `measuring.queued`.
      compiled: as in `train_step`. If the compiler fails, the step is measured without it.
      image_size: side of the images.
      model: builds the network.

    Yields:
      For each batch size and precision, a dict of ``side``, and either ``rates`` in images/s or ``problem``.
    """
    for size in batches:
        for precision in precisions:
            side = f"torch, {precision}, batch {size}"
            arguments = (size, DTYPES[precision], image_size, model, rounds, seconds)
            found = _attempt(side, *arguments, compiled)
            yield found
            if compiled and found.get("problem", OUT_OF_MEMORY) != OUT_OF_MEMORY:
                yield _attempt(f"{side}, not compiled", *arguments, False)


def _attempt(side, *arguments):
    try:
        return {"side": side, "rates": _rates(*arguments)}
    except torch.cuda.OutOfMemoryError:
        return {"side": side, "problem": OUT_OF_MEMORY}
    # Whatever the compiler raises, such as that there is no C compiler.
    except Exception as error:
        message = " ".join(str(error).split())
        return {"side": side, "problem": f"{type(error).__name__}: {message[:200]}"}


def _rates(size, dtype, image_size, build_model, rounds, seconds, compiled):
    place, layout = device(), torch.channels_last
    is_gpu = place.type == "cuda"
    torch.backends.cudnn.benchmark = is_gpu
    images = 60 * torch.randn(size, 3, image_size, image_size, device=place).contiguous(memory_format=layout)
    labels = torch.randint(NUM_CLASSES, [size], device=place)
    step = train_step(build_model().to(place, memory_format=layout), dtype=dtype, compiled=compiled)
    synchronize = torch.cuda.synchronize if is_gpu else lambda: None
    calls = {"": lambda: step(images, labels)}
    (found,) = measuring.queued(calls, synchronize, size, rounds=rounds, seconds=seconds).values()
    return found.rates


def main(request: str) -> None:
    """Runs `measure` with arguments from JSON, and prints each result as a line of JSON."""
    for found in measure(**json.loads(request)):
        print(json.dumps(found), flush=True)
        torch.compiler.reset()
