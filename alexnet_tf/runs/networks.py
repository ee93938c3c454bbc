"""The networks of the registry as a table and as a figure: from AlexNet to what came later."""

import os

from alexnet_tf.models import registry
from alexnet_tf.reporting import figures

# Titles of the columns, by the number of classes.
_HEADS = {
    1000: ("network", "year", "layers", "parameters", "GFLOP", "top-1 / top-5 error", "what was new"),
    10: ("network", "year", "layers", "parameters", "GFLOP", "error", "what was new"),
}


def table(num_classes: int) -> str:
    """Returns the networks that were made for a number of classes as a table in Markdown.

    GFLOP are those of the forward pass of one image, two per multiplication and addition, in convolutions and fully
    connected layers. Errors, in percent, are the first that are recorded for the network.

    Args:
      num_classes: 1000 for ImageNet, 10 for CIFAR-10.
    """
    head = _HEADS[num_classes]
    rows = [_row(network) for network in _networks(num_classes)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def _networks(num_classes):
    """Returns the rows of the registry for a number of classes, by year."""
    found = [network for network in registry.NETWORKS.values() if network.num_classes == num_classes]
    return sorted(found, key=lambda network: network.year)


def _row(network):
    return [
        f"`{network.name}`",
        str(network.year),
        str(network.depth),
        f"{network.parameters:,}",
        f"{_gflop(network):.3g}",
        _errors(network),
        network.innovation,
    ]


def _gflop(network):
    return 2 * network.multiply_adds / 1e9


def _errors(network):
    if not network.recorded_errors:
        return "-"
    recorded = network.recorded_errors[0]
    stated = (recorded.top1_error, recorded.top5_error)[: 1 if network.num_classes == 10 else 2]
    percents = ["-" if error is None else f"{100 * error:.2f}".removesuffix("0") for error in stated]
    return f"{' / '.join(percents)} ({recorded.protocol.removeprefix('CIFAR-10, ')})"


def draw(path: str | os.PathLike) -> None:
    """Writes a figure of error against arithmetic for the networks that were made for ImageNet.

    Args:
      path: of the PNG.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    figures.require_matplotlib("the figure of the networks")
    panels = {}
    for kind in ("top1_error", "top5_error"):
        panels[kind.replace("_", " ").replace("top", "top-")] = {
            network.name: (_gflop(network), 100 * getattr(network.recorded_errors[0], kind))
            for network in _networks(1000)
            if getattr(network.recorded_errors[0], kind) is not None
        }
    figures.save_figure(figures.labeled_points(panels, x="GFLOP per image, forward", y="percent"), path)
