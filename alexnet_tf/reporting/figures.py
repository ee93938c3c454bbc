"""Pictures of a network and of what it costs."""

import importlib.util
import io
import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.utils import files


def kernels(weights, *, columns=16, scale=8, gap=1):
    """The kernels of a first layer side by side, as in the paper's Figure 3.

    Each kernel is stretched to the whole range of grey levels on its own: its three colours together, with zero at
    middle grey.

    Args:
      weights: list of float ``[height, width, 3, kernels]``, one for each tower; a tower begins a new row.
      columns: int, kernels a row.
      scale: int, pixels of the picture for one of a kernel.
      gap: int, pixels of a kernel's size between two, white.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    rows = []
    for tower in weights:
        tower = np.asarray(tower, np.float64)
        largest = np.maximum(np.abs(tower).max(axis=(0, 1, 2)), 1e-30)
        tiles = np.moveaxis(0.5 + 0.5 * tower / largest, -1, 0)
        tiles = np.pad(tiles, [[0, 0], [gap, 0], [gap, 0], [0, 0]], constant_values=1)
        blanks = -len(tiles) % columns
        tiles = np.concatenate([tiles, np.ones([blanks, *tiles.shape[1:]])])
        for first in range(0, len(tiles), columns):
            rows.append(np.concatenate(list(tiles[first : first + columns]), axis=1))
    picture = np.pad(np.concatenate(rows, axis=0), [[0, gap], [0, gap], [0, 0]], constant_values=1)
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.round(255 * picture).astype(np.uint8)


def save_png(picture, path):
    """Writes a uint8 ``[height, width, 3]`` picture, aside first, so that `path` is whole or not there."""
    with files.atomic_write(path, "wb") as file:
        file.write(tf.io.encode_png(picture).numpy())


def require_matplotlib(purpose):
    """Says in time that a diagram cannot be drawn.

    Args:
      purpose: str, what it is needed for.

    Raises:
      ModuleNotFoundError: where matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"Expected matplotlib for {purpose}: pip install -e '.[figures]'")


def growth(batch_sizes, seconds, peak_bytes):
    """How a training step grows with the batch: its time and images a second above, peak memory below.

    Args:
      batch_sizes: list of int, ascending.
      seconds: list of float, the time of a step at each.
      peak_bytes: list of float, the most memory held at each.

    Returns:
      A ``matplotlib.figure.Figure`` of three axes: the step in ms, images/s (its twin, on the right), memory in GB.

    Raises:
      ModuleNotFoundError: where matplotlib is not installed.
    """
    figure = _blank(7.0, 6.0)
    import matplotlib.ticker

    times, memory = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    speeds = times.twinx()
    panels = [
        (times, [1e3 * each for each in seconds], "step, ms", "tab:blue", "o-"),
        (speeds, [size / each for size, each in zip(batch_sizes, seconds)], "images/s", "tab:orange", "s--"),
        (memory, [each / 1e9 for each in peak_bytes], "peak memory, GB", "tab:green", "o-"),
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


def save_figure(figure, path):
    """Writes a ``matplotlib.figure.Figure`` as PNG, aside first, so that `path` is whole or not there."""
    # First in memory: what the disk refuses then is one error of its own.
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    with files.atomic_write(path, "wb") as file:
        file.write(drawn.getvalue())


def training_curves(curves, *, threshold=None):
    """Training error over the epochs, as in the paper's Figure 1: a line an experiment, its seeds' range around it.

    Args:
      curves: dict from a label to a list of curves, one a seed, each a dict of two lists of float of one length:
        "epoch", rising, and "train_error" in [0, 1]. A line ends where the shortest of its curves does.
      threshold: float in [0, 1], an error to mark with a level line; None for none.

    Returns:
      A ``matplotlib.figure.Figure`` of one axes; the first line solid, the second dashed, and so on.

    Raises:
      ModuleNotFoundError: where matplotlib is not installed.
    """
    figure = _blank(7.0, 4.5)
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
        axes.axhline(threshold, color="grey", linewidth=0.8)
    axes.set_xlabel("epochs")
    axes.set_ylabel("training error")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.3)
    axes.legend()
    return figure


def color_share(weights):
    """How much of a first layer's kernels is colour (paper section 6.1: one device's were grey, the other's coloured).

    Args:
      weights: float ``[height, width, 3, kernels]``.

    Returns:
      Float in [0, 1]: of the squares of all weights, the share that is left when each position's mean over the three
      colours is taken away. 0 for kernels that see grey alone, 2 / 3 for independent weights, as before training.
    """
    weights = np.asarray(weights, np.float64)
    colors = weights - weights.mean(axis=2, keepdims=True)
    return float(np.square(colors).sum() / max(np.square(weights).sum(), 1e-30))


def error_curves(training, watched, *, name):
    """A run's errors and losses over the epochs, of training and of the images that it was watched by.

    Args:
      training, watched: dicts of three lists of float of one length: "epoch", "error" in [0, 1], and "loss" in nats.
      name: what the latter is called, such as "validation".

    Returns:
      A ``matplotlib.figure.Figure`` of two axes: errors in percent, losses.

    Raises:
      ModuleNotFoundError: where matplotlib is not installed.
    """
    figure = _blank(7.0, 5.0)
    axes = figure.subplots(2, 1, sharex=True)
    for panel, key, label, scale in zip(axes, ("error", "loss"), ("top-1 error, %", "loss, nats"), (100.0, 1.0)):
        for curve, curve_name, style in ((training, "training", "-"), (watched, name, "--")):
            # Of a short run, the points themselves are to be seen.
            marker = "o" if len(curve["epoch"]) < 20 else ""
            values = scale * np.array(curve[key], np.float64)
            panel.plot(curve["epoch"], values, style, marker=marker, markersize=3, label=curve_name)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(True, alpha=0.3)
    axes[0].legend()
    axes[1].set_xlabel("epochs")
    return figure


def answers(images, right, named, *, columns=4):
    """Photographs with the five most probable classes as bars, the right one in red, as the paper's Figure 4 (left).

    Args:
      images: uint8 ``[count, height, width, 3]``.
      right: list of str, the class of each.
      named: list of lists of pairs of a class and its probability, the most probable first.
      columns: int, pictures a row.

    Returns:
      A ``matplotlib.figure.Figure``.

    Raises:
      ModuleNotFoundError: where matplotlib is not installed.
    """
    rows = -(-len(images) // columns)
    figure = _blank(2.1 * columns, 3.1 * rows)
    panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 2] * rows)
    for panel in panels.flat:
        panel.set_axis_off()
    for place, (image, name, guesses) in enumerate(zip(images, right, named)):
        row, column = divmod(place, columns)
        above, below = panels[2 * row, column], panels[2 * row + 1, column]
        above.imshow(image)
        above.set_title(_short(name), fontsize=9, parse_math=False)
        for level, (guess, share) in enumerate(guesses):
            below.barh(-level, share, color="tab:red" if guess == name else "tab:blue", alpha=0.45, height=0.8)
            below.text(0.02, -level, _short(guess), fontsize=8, va="center", parse_math=False)
        below.set_xlim(0, 1)
        below.set_ylim(-4.6, 0.6)
    return figure


def confusion(matrix, class_names):
    """Which classes are taken for which: a square for each pair, the darker the larger the share of the row's images.

    Args:
      matrix: int ``[classes, classes]``, right classes in rows, answers in columns.
      class_names: list of str.

    Returns:
      A ``matplotlib.figure.Figure``; names are left out beyond 40 classes, shares in percent beyond 12.

    Raises:
      ModuleNotFoundError: where matplotlib is not installed.
    """
    matrix = np.asarray(matrix, np.float64)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(shares)
    side = min(9.0, 3.0 + 0.35 * count)
    figure = _blank(side + 1.0, side)
    axes = figure.subplots()
    drawn = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xlabel("answered")
    axes.set_ylabel("right")
    places = range(count) if count <= 40 else []
    names = [_short(class_names[place]) for place in places]
    axes.set_xticks(places, names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    if count <= 12:
        for row, column in np.ndindex(count, count):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=8, color=color
            )
    figure.colorbar(drawn, label="% of the right class's images")
    return figure


def gallery(images, captions, *, columns=4):
    """Photographs side by side, with lines of text below each.

    Args:
      images: uint8 ``[count, height, width, 3]``.
      captions: list of str, of as many lines as wanted.
      columns: int, pictures a row.

    Returns:
      A ``matplotlib.figure.Figure``.

    Raises:
      ModuleNotFoundError: where matplotlib is not installed.
    """
    rows = -(-len(images) // columns)
    figure = _blank(2.1 * columns, 2.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, image, caption in zip(panels.flat, images, captions):
        panel.imshow(image)
        panel.text(0.5, -0.03, caption, fontsize=8, ha="center", va="top", parse_math=False, transform=panel.transAxes)
    return figure


def _blank(width, height):
    """An empty diagram of so many inches."""
    require_matplotlib("a diagram")
    import matplotlib.figure

    # Without pyplot: no window, no state of the process; it is drawn by Agg when it is saved.
    return matplotlib.figure.Figure(figsize=(width, height), dpi=120, layout="constrained")


def _short(name, most=22):
    return name if len(name) <= most else f"{name[: most - 1]}…"


class Shown(NamedTuple):
    """An image in a figure of `neighbours`."""

    picture: np.ndarray  # uint8 [size, size, 3]
    name: str  # of its class, or of its file
    distance: float | None = None


# Letters that fit below an image.
_NAME_LENGTH = 15


def neighbours(rows):
    """Queries and the images that are nearest to them, as in the paper's Figure 4 (right): a row a query.

    The query stands at the left; a neighbour of its class has a green frame, one of another class a red and dashed one.
    Where the query's class is not known there are no frames.

    Args:
      rows: list of (`Shown` of the query, whether its name is that of a class, list of `Shown` of its neighbours, as
        many in each row).

    Returns:
      A ``matplotlib.figure.Figure``, with one axes for each image.

    Raises:
      ModuleNotFoundError: where matplotlib is not installed.
    """
    require_matplotlib("a figure")
    import matplotlib.figure

    columns = len(rows[0][2])
    # Inches: an image, the line below it, the gap behind the queries.
    side, line, gap = 1.12, 0.27, 0.2
    width, height = side * (1 + columns) + gap, (side + line) * len(rows)
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=120, facecolor="white")
    for number, (query, has_class, near) in enumerate(rows):
        for column, shown in enumerate([query, *near]):
            left = side * column + gap * (column > 0)
            bottom = height - (side + line) * number - side
            # A margin around each.
            inches = [left + 0.055, bottom + 0.055, side - 0.11, side - 0.11]
            place = [value / whole for value, whole in zip(inches, [width, height, width, height])]
            axes = figure.add_axes(place, xticks=[], yticks=[])
            agrees = shown.name == query.name if has_class and column else None
            _show(axes, shown, agrees)
    return figure


def _show(axes, shown, agrees):
    """One image with its name below, framed unless nobody knows whether it agrees."""
    axes.imshow(shown.picture, interpolation="nearest")
    color, style = {True: ("#1a9641", "-"), False: ("#d7191c", (0, (2.5, 1.2))), None: ("none", "-")}[agrees]
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2, linestyle=style, capstyle="butt")
    axes.set_xlabel(_short(shown.name, _NAME_LENGTH), fontsize=7, labelpad=2.5, parse_math=False)
    if shown.distance is not None:
        axes.text(0.5, -0.15, f"{shown.distance:.3g}", transform=axes.transAxes, ha="center", va="top", fontsize=5.5)
