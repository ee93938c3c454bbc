"""Figures of analyses: gradients by layer, features under translation, and errors by number of training images."""

import itertools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alexnet_tf.reporting import figures

if TYPE_CHECKING:
    import matplotlib.figure

_STYLES = ("o-", "s--", "^:", "d-.")


def gradients(panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> "matplotlib.figure.Figure":
    """Plots the norm of the gradient by layer, from the images to the loss.

    Args:
      panels: dict from a title, such as the activation function, to a dict from a label, such as the network, to the
        norms by seed and layer, all above 0.

    Returns:
      A figure with one axes for each panel, with the same logarithmic axis; lines are geometric means over seeds, and
      areas reach from the smallest to the largest.
    """
    figure = figures.blank(3.6 * len(panels), 3.8)
    row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (title, curves) in zip(row, panels.items()):
        for (label, norms), style in zip(curves.items(), itertools.cycle(_STYLES)):
            norms = np.asarray(norms, np.float64)
            places = np.arange(1, norms.shape[1] + 1)
            (line,) = axes.plot(places, np.exp(np.log(norms).mean(axis=0)), style, markersize=3, label=label)
            axes.fill_between(places, norms.min(axis=0), norms.max(axis=0), color=line.get_color(), alpha=0.2)
        axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel("layer, from the images")
        axes.grid(True, alpha=0.3)
    row[0].set_ylabel("norm of the gradient")
    row[0].legend(fontsize="small")
    return figure


def translation(
    shifts: Sequence[int], curves: Mapping[str, tuple[Sequence[str], np.ndarray, np.ndarray]]
) -> "matplotlib.figure.Figure":
    """Plots how much features move by shift: one panel for each layer, and one for the most probable class.

    Args:
      shifts: in pixels, ascending.
      curves: dict from the name of a run to names of layers, distances ``[shifts, layers]`` and shares ``[shifts]``, as
        of a `translation.Movement`.

    Returns:
      A figure with up to four axes in a row; those of layers have the same scale.
    """
    layers = list(dict.fromkeys(name for names, *_ in curves.values() for name in names))
    columns = min(4, len(layers) + 1)
    rows = -(-(len(layers) + 1) // columns)
    figure = figures.blank(2.9 * columns, 2.6 * rows + 0.4)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(layers) + 1 :]:
        axes.set_axis_off()
    highest = 1.05 * max(distances.max() for _, distances, _ in curves.values())
    for axes, title in zip(panels, [*layers, "same most probable class"]):
        for (label, (names, distances, shares)), style in zip(curves.items(), itertools.cycle(_STYLES)):
            if title in names:
                axes.plot(shifts, distances[:, list(names).index(title)], style, markersize=3, label=label)
            elif title not in layers:
                axes.plot(shifts, 100 * shares, style, markersize=3, label=label)
        is_layer = title in layers
        axes.set_ylim(*(0, highest) if is_layer else (None, 100))
        axes.set_title(title)
        axes.set_xlabel("shift (pixels)")
        axes.set_ylabel("relative distance" if is_layer else "% of images")
        axes.grid(True, alpha=0.3)
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=2)
    return figure


def errors_by_size(
    curves: Mapping[str, Mapping[int, Sequence[float]]], references: Mapping[str, Mapping[int, float]]
) -> "matplotlib.figure.Figure":
    """Plots errors by the number of training images, on a logarithmic axis.

    Args:
      curves: dict from a label to a dict from the number of images to the errors of the seeds, in percent.
      references: dict from a label to a dict from the number of images to an error in percent, drawn in gray.

    Returns:
      A figure with one axes; lines are means over seeds, and bars reach from the lowest to the highest error.
    """
    figure = figures.blank(7.0, 5.0)
    axes = figure.subplots()
    drawn = []
    for (label, by_size), style in zip(curves.items(), itertools.cycle(_STYLES)):
        means = np.array([np.mean(errors) for errors in by_size.values()])
        lowest, highest = (np.array([limit(errors) for errors in by_size.values()]) for limit in (min, max))
        # A mean may be rounded beyond its errors.
        bars = np.maximum([means - lowest, highest - means], 0)
        drawn.append(axes.errorbar(list(by_size), means, bars, fmt=style, markersize=4, capsize=3, label=label))
    for label, by_size in references.items():
        drawn += axes.plot(list(by_size), list(by_size.values()), "x:", color="gray", markersize=5, label=label)
    axes.set_xscale("log")
    places = sorted({size for by_size in (*curves.values(), *references.values()) for size in by_size})
    axes.set_xticks(places, [f"{size:,}" for size in places], rotation=45, ha="right", rotation_mode="anchor")
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_ylabel("top-1 error (%)")
    axes.grid(True, alpha=0.3)
    figure.legend(handles=drawn, fontsize="small", loc="outside upper center")
    return figure
