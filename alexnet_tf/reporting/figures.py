"""Figures drawn with matplotlib: curves, predictions, confusion matrices, reliability, galleries and neighbors.

Functions that return a ``matplotlib.figure.Figure`` raise ModuleNotFoundError if matplotlib is not installed.
"""

import importlib.util
import io
import itertools
import os
import textwrap
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np

from alexnet_tf.utils import files
from alexnet_tf.utils import messages

if TYPE_CHECKING:
    import matplotlib.figure

    from alexnet_tf.evaluation import calibration

# Letters of a class name, of a name below a small image, and of a line below an image of a gallery.
_MAX_NAME, _MAX_SMALL_NAME, _MAX_LINE = 22, 15, 36
# Largest numbers of classes of a confusion matrix with names and with percentages.
_MAX_NAMED_CLASSES, _MAX_NUMBERED_CLASSES = 40, 12


def require_matplotlib(purpose: str) -> None:
    """Checks for matplotlib, before work whose figure could not be drawn.

    Args:
      purpose: str, what needs it.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"Expected matplotlib for {purpose}: pip install -e '.[figures]'")


def save_figure(figure: "matplotlib.figure.Figure", path: str | os.PathLike) -> None:
    """Writes a ``matplotlib.figure.Figure`` as PNG, atomically."""
    # In memory first, so that a full disk raises a plain OSError.
    content = io.BytesIO()
    figure.savefig(content, format="png")
    with files.atomic_write(path, "wb") as file:
        file.write(content.getvalue())


def growth(
    batch_sizes: Sequence[int], seconds: Sequence[float], peak_bytes: Sequence[float]
) -> "matplotlib.figure.Figure":
    """Plots a training step by batch size: its time and images per second at the top, peak memory at the bottom.

    Args:
      batch_sizes: list of int, ascending.
      seconds: list of float, the time of a step at each batch size.
      peak_bytes: list of float, the peak memory at each batch size.

    Returns:
      A figure with three axes: the step in ms, memory in GB, and images/s (on the right of the first).
    """
    figure = blank(7.0, 6.0)
    import matplotlib.ticker

    times, memory = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    speeds = times.twinx()
    panels = [
        (times, [1e3 * each for each in seconds], "step (ms)", "tab:blue", "o-"),
        (speeds, [size / each for size, each in zip(batch_sizes, seconds)], "images/s", "tab:orange", "s--"),
        (memory, [each / 1e9 for each in peak_bytes], "peak memory (GB)", "tab:green", "o-"),
    ]
    for axes, values, label, color, style in panels:
        axes.plot(batch_sizes, values, style, color=color, label=label, markersize=4)
        axes.set_ylabel(label, color=color)
        axes.tick_params(axis="y", colors=color)
    times.set_yscale("log")
    times.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    times.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    for axes in (speeds, memory):
        axes.set_ylim(bottom=0)
    for axes in (times, memory):
        axes.grid(True, alpha=0.3)
    memory.set_xscale("log", base=2)
    memory.set_xticks(batch_sizes, [str(size) for size in batch_sizes])
    memory.minorticks_off()
    memory.set_xlabel("batch size")
    return figure


def training_curves(
    curves: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], *, threshold: float | None = None
) -> "matplotlib.figure.Figure":
    """Plots training errors by epoch, as in the paper's Figure 1: for each experiment, the mean and range over seeds.

    Args:
      curves: dict from a label to a list of curves, one per seed. A curve is a dict of two lists of float of the same
        length: "epoch", ascending, and "train_error" in [0, 1]. A line ends with the shortest of its curves.
      threshold: float in [0, 1], an error to mark with a horizontal line; None for none.

    Returns:
      A figure with one axes; the first line is solid, the second dashed, and so on.
    """
    figure = blank(7.0, 4.5)
    axes = figure.subplots()
    styles = itertools.cycle(["-", "--", ":", "-."])
    for (label, seeds), style in zip(curves.items(), styles):
        length = min(len(curve["epoch"]) for curve in seeds)
        epochs = seeds[0]["epoch"][:length]
        errors = np.array([curve["train_error"][:length] for curve in seeds])
        (line,) = axes.plot(epochs, errors.mean(axis=0), style, label=label)
        if len(seeds) > 1:
            axes.fill_between(epochs, errors.min(axis=0), errors.max(axis=0), color=line.get_color(), alpha=0.2)
    if threshold is not None:
        axes.axhline(threshold, color="gray", linewidth=0.8)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training error")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.3)
    axes.legend()
    return figure


def labeled_points(
    panels: Mapping[str, Mapping[str, tuple[float, float]]], *, x: str, y: str
) -> "matplotlib.figure.Figure":
    """Plots points with their names, next to each other for several values.

    Args:
      panels: dict from a title to a dict from a name to the point's coordinates; the first is above 0.
      x, y: labels of the axes. The first is logarithmic.

    Returns:
      A figure with one axes for each panel.
    """
    figure = blank(6.0 * len(panels), 5.5)
    for axes, (title, points) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items()):
        ordered = sorted(points.items(), key=lambda item: item[1])
        reach = 0.1 * np.ptp([value for _, value in points.values()])
        for (name, point), (_, following) in zip(ordered, [*ordered[1:], ("", (np.inf, np.inf))]):
            axes.plot(*point, "o", color="tab:blue", markersize=4)
            # The name of a point that is close to the next one is below it.
            is_close = following[0] < 1.4 * point[0] and abs(following[1] - point[1]) < reach
            offset, alignment = ((5, -2), ("left", "top")) if is_close else ((5, 2), ("left", "bottom"))
            options = dict(zip(("ha", "va"), alignment), fontsize="small", textcoords="offset points")
            axes.annotate(name, point, xytext=offset, **options)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        # Room for the names of the first and the last point.
        axes.margins(x=0.25, y=0.1)
        axes.set_title(title)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(True, alpha=0.3)
    return figure


def error_curves(
    training: Mapping[str, Sequence[float]], monitored: Mapping[str, Sequence[float]], *, name: str
) -> "matplotlib.figure.Figure":
    """Plots the errors and losses of a run by epoch, on the training set and on the monitored split.

    Args:
      training, monitored: dicts of three lists of float of the same length: "epoch", "error" in [0, 1], and "loss" in
        nats.
      name: str, the name of the monitored split, such as "validation".

    Returns:
      A figure with two axes: errors in percent, and losses.
    """
    figure = blank(7.0, 5.0)
    axes = figure.subplots(2, 1, sharex=True)
    for panel, key, label, scale in zip(axes, ("error", "loss"), ("top-1 error (%)", "loss (nats)"), (100.0, 1.0)):
        for curve, curve_name, style in ((training, "training", "-"), (monitored, name, "--")):
            # Points make short curves visible.
            marker = "o" if len(curve["epoch"]) < 20 else ""
            values = scale * np.array(curve[key], np.float64)
            panel.plot(curve["epoch"], values, style, marker=marker, markersize=3, label=curve_name)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(True, alpha=0.3)
    axes[0].legend()
    axes[1].set_xlabel("epoch")
    return figure


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str) -> "matplotlib.figure.Figure":
    """Plots values of at least 0 by epoch.

    Args:
      curves: dict from a name to two lists of float of the same length: epochs, ascending, and values.
      label: str, what the values are.

    Returns:
      A figure with one axes.
    """
    figure = blank(7.0, 3.0)
    axes = figure.subplots()
    for (name, (epochs, values)), style in zip(curves.items(), itertools.cycle(["-", "--", ":", "-."])):
        axes.plot(epochs, values, style, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.3)
    axes.legend()
    return figure


def predictions(
    images: Sequence[np.ndarray],
    true_names: Sequence[str],
    predicted: Sequence[Sequence[tuple[str, float]]],
    *,
    columns: int = 4,
) -> "matplotlib.figure.Figure":
    """Draws images with bars for their five most probable classes, the true one in red (paper Figure 4, left).

    Args:
      images: uint8 ``[count, height, width, 3]``.
      true_names: list of str, the true class of each image.
      predicted: for each image, a list of (class name, probability), most probable first.
      columns: int, images per row.

    Returns:
      A figure with two axes for each image.
    """
    rows = -(-len(images) // columns)
    figure = blank(2.1 * columns, 3.1 * rows)
    panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 2] * rows)
    for panel in panels.flat:
        panel.set_axis_off()
    for place, (image, true_name, classes) in enumerate(zip(images, true_names, predicted)):
        row, column = divmod(place, columns)
        top, bottom = panels[2 * row, column], panels[2 * row + 1, column]
        top.imshow(image)
        top.set_title(_short(true_name), fontsize=9, parse_math=False)
        for level, (name, probability) in enumerate(classes):
            color = "tab:red" if name == true_name else "tab:blue"
            bottom.barh(-level, probability, color=color, alpha=0.45, height=0.8)
            bottom.text(0.02, -level, _short(name), fontsize=8, va="center", parse_math=False)
        bottom.set_xlim(0, 1)
        bottom.set_ylim(-4.6, 0.6)
    return figure


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> "matplotlib.figure.Figure":
    """Draws a confusion matrix, each row in percent of the images of its class.

    Args:
      matrix: int ``[classes, classes]``, true classes in rows, predicted classes in columns.
      class_names: list of str.

    Returns:
      A figure with the matrix and a color bar. More than 40 classes are drawn without names, more than 12 without
      numbers.
    """
    matrix = np.asarray(matrix, np.float64)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(shares)
    side = min(9.0, 3.0 + 0.35 * count)
    figure = blank(side + 1.0, side)
    axes = figure.subplots()
    drawn = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    places = range(count) if count <= _MAX_NAMED_CLASSES else []
    names = [_short(class_names[place]) for place in places]
    axes.set_xticks(places, names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    if count <= _MAX_NUMBERED_CLASSES:
        for row, column in np.ndindex(count, count):
            text = f"{100 * shares[row, column]:.0f}"
            color = _readable_on(drawn.cmap(shares[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(drawn, label="% of the images of the true class")
    return figure


def reliability(curves: Mapping[str, "calibration.Reliability"]) -> "matplotlib.figure.Figure":
    """Draws reliability diagrams: accuracy by confidence at the top, the share of the images in each bin below.

    Args:
      curves: dict from a label to a `calibration.Reliability`, all of the same bins.

    Returns:
      A figure with two axes; the bars at the bottom are those of the first curve.
    """
    figure = blank(4.6, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    for (label, curve), style in zip(curves.items(), itertools.cycle(["o-", "s--", "^:"])):
        has_images = curve.counts > 0
        top.plot(curve.confidence[has_images], curve.accuracy[has_images], style, markersize=4, label=label)
    first = next(iter(curves.values()))
    shares = 100 * first.counts / first.counts.sum()
    bottom.bar(first.edges[:-1], shares, np.diff(first.edges), align="edge", color="tab:blue", alpha=0.6)
    top.set_ylabel("accuracy")
    top.set_xlim(0, 1)
    top.set_ylim(0, 1)
    top.legend(loc="upper left")
    bottom.set_ylabel("% of images")
    bottom.set_xlabel("confidence")
    for axes in (top, bottom):
        axes.grid(True, alpha=0.3)
    return figure


def _readable_on(background):
    """Returns black or white, whichever contrasts more with an RGB color in [0, 1] (WCAG 2.1, relative luminance)."""
    channels = np.array(background[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    # The contrast is (brighter + 0.05) / (darker + 0.05).
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def gallery(images: Sequence[np.ndarray], captions: Sequence[str], *, columns: int = 4) -> "matplotlib.figure.Figure":
    """Draws images with captions below them.

    Args:
      images: uint8 ``[count, height, width, 3]``.
      captions: list of str, of one or more lines.
      columns: int, images per row.

    Returns:
      A figure with one axes for each image.
    """
    rows = -(-len(images) // columns)
    figure = blank(2.1 * columns, 2.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, image, caption in zip(panels.flat, images, captions):
        panel.imshow(image)
        text = "\n".join(textwrap.fill(line, _MAX_LINE) for line in caption.split("\n"))
        panel.text(0.5, -0.03, text, fontsize=8, ha="center", va="top", parse_math=False, transform=panel.transAxes)
    return figure


def blank(width: float, height: float) -> "matplotlib.figure.Figure":
    """Returns an empty figure for this module and others of figures.

    Args:
      width, height: in inches.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    require_matplotlib("a figure")
    import matplotlib.figure

    # pyplot would need a display and keep global state; a Figure alone is drawn by Agg when it is saved.
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=120, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


def _short(name, limit=_MAX_NAME):
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


class NamedImage(NamedTuple):
    """An image in a figure of `neighbors`."""

    pixels: np.ndarray  # uint8 [size, size, 3]
    name: str  # of its class, or of its file
    distance: float | None = None  # from the query


class NeighborsRow(NamedTuple):
    """A row of a figure of `neighbors`."""

    query: NamedImage
    has_class: bool  # whether the query's name is that of its class
    neighbors: Sequence[NamedImage]  # nearest first, as many in each row


def neighbors(rows: Sequence[NeighborsRow]) -> "matplotlib.figure.Figure":
    """Draws queries and their nearest images, as in the paper's Figure 4 (right): one row for each query.

    The query is on the left. A neighbor of the same class has a solid green frame, one of another class a dashed red
    frame. There are no frames if the class of the query is unknown.

    Args:
      rows: list of `NeighborsRow`.

    Returns:
      A figure with one axes for each image.
    """
    require_matplotlib("a figure")
    import matplotlib.figure

    columns = len(rows[0].neighbors)
    # In inches: an image with its margin, the lines below it, the gap after the queries.
    side, line, gap = 1.12, 0.31, 0.2
    width, height = side * (1 + columns) + gap, (side + line) * len(rows)
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=120, facecolor="white")
    for number, row in enumerate(rows):
        for column, image in enumerate([row.query, *row.neighbors]):
            left = side * column + gap * (column > 0)
            bottom = height - (side + line) * number - side
            inches = [left + 0.055, bottom + 0.055, side - 0.11, side - 0.11]
            place = [value / total for value, total in zip(inches, [width, height, width, height])]
            axes = figure.add_axes(place, xticks=[], yticks=[])
            _draw_named_image(axes, image, image.name == row.query.name if row.has_class and column else None)
    return figure


def _draw_named_image(axes, image, is_same_class):
    """Draws an image with its name and distance below, and a frame unless `is_same_class` is None."""
    axes.imshow(image.pixels, interpolation="nearest")
    color, style = {True: ("#1a9641", "-"), False: ("#d7191c", (0, (2.5, 1.2))), None: ("none", "-")}[is_same_class]
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2, linestyle=style, capstyle="butt")
    axes.set_xlabel(_short(image.name, _MAX_SMALL_NAME), fontsize=7, labelpad=2.5, parse_math=False)
    if image.distance is not None:
        distance = messages.significant(image.distance)
        axes.text(0.5, -0.16, distance, transform=axes.transAxes, ha="center", va="top", fontsize=6.5)
