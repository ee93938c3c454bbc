"""How colored the kernels of the first layer become: recorded after each epoch, and a section of the report."""

import os
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from alexnet_tf.models import registry
from alexnet_tf.reporting import figures
from alexnet_tf.reporting import kernels
from alexnet_tf.reporting import pages
from alexnet_tf.reporting import pictures


def first_kernels(model: keras.Model, network: str) -> dict[str, np.ndarray]:
    """Returns the kernels of the layers that read the images, by layer.

    Args:
      model: a network.
      network: its name in the registry.

    Returns:
      A dict from a name to float ``[height, width, 3, count]``; with two towers it has two entries.
    """
    names = registry.find(network).first_layers
    side = model.input_shape[1]
    return {layer.name: kernels.as_images(layer.kernel.numpy(), side) for layer in model.layers if layer.name in names}


def color_shares(model: keras.Model, network: str) -> dict[str, float]:
    """Computes `kernels.color_share` of each layer that reads the images, by layer."""
    return _shares(first_kernels(model, network))


def _shares(weights):
    return {name: kernels.color_share(each) for name, each in weights.items()}


def blocks(
    workdir: str | os.PathLike, network: str, model: keras.Model, records: Sequence[dict[str, Any]]
) -> Iterator[pages.Block]:
    """Yields the section: the kernels and, with two towers, how colored those of each were after each epoch.

    There is no section of a network whose first layer has no kernels.

    Args:
      workdir: the run's directory; the pictures are written to it.
      network: the network's name in the registry.
      model: the trained network.
      records: of the run, from `metrics.read`.
    """
    weights = first_kernels(model, network)
    if not weights:
        return
    shares = _shares(weights)
    yield pages.Heading("First-layer kernels")
    kernels.save_png(kernels.tile(list(weights.values())), os.path.join(workdir, "kernels.png"))
    caption = (
        f"The {sum(each.shape[-1] for each in weights.values())} kernels of the first layer, each scaled to the full "
        "range of intensities. Trained on ImageNet, they become edges, gratings and color blobs; after little training "
        "they look like noise. "
    )
    if len(shares) == 2:
        first, second = shares.values()
        caption += (
            f"The upper half belongs to tower a, the lower half to tower b. Color accounts for {first:.2f} and "
            f"{second:.2f} of their squared weights (0 for gray kernels, 0.67 for noise); in the paper, one tower "
            "became gray and the other colored."
        )
    else:
        (only,) = shares.values()
        caption += f"Color accounts for {only:.2f} of their squared weights (0 for gray kernels, 0.67 for noise)."
    yield pages.Picture("kernels.png", caption)
    recorded = [each for each in records if each["kind"] == "kernels" and shares.keys() <= each["color_share"].keys()]
    if len(shares) == 2 and len(recorded) > 1:
        epochs = [each["epoch"] for each in recorded]
        curves = {name: (epochs, [each["color_share"][name] for each in recorded]) for name in shares}
        yield from pictures.blocks(
            workdir,
            "color_share.png",
            lambda: figures.lines(curves, "color's share of the squared weights"),
            "How colored the kernels of each tower were after each epoch: 0 for gray kernels, 0.67 for noise.",
        )
