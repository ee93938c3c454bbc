"""Pictures of a network and of what it costs."""

import importlib.util
import io
import itertools

import numpy as np
import tensorflow as tf

from alexnet_tf import files


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
    with files.whole(path, "wb") as file:
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
    require_matplotlib("a diagram")
    import matplotlib.figure
    import matplotlib.ticker

    # Without pyplot: no window, no state of the process; it is drawn by Agg when it is saved.
    figure = matplotlib.figure.Figure(figsize=(7.0, 6.0), dpi=120, layout="constrained")
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
    with files.whole(path, "wb") as file:
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
    require_matplotlib("a diagram")
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7.0, 4.5), dpi=120, layout="constrained")
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
