"""The section of a report about what the network looks at in the hardest images."""

import os
import time
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np

from alexnet_tf import config
from alexnet_tf.evaluation import saliency
from alexnet_tf.reporting import figures
from alexnet_tf.reporting import overlays
from alexnet_tf.reporting import pages
from alexnet_tf.reporting import pictures
from alexnet_tf.runs import dataset
from alexnet_tf.runs import explanations
from alexnet_tf.runs import split_results
from alexnet_tf.utils import messages

# Images in the figure.
SHOWN = 4


def sections(
    workdir: str | os.PathLike,
    run_config: config.Config,
    model: keras.Model,
    data: dataset.Data,
    result: split_results.SplitResult,
    places: Sequence[int],
) -> Iterator[pages.Block]:
    """Yields the section, with Grad-CAM for the predicted and the true class of each image.

    A network without convolutions has no section.

    Args:
      workdir: the run's directory; the figure is written to it.
      run_config: its resolved configuration.
      model: its trained network.
      data: with the examples of the split.
      result: of the split.
      places: of the images among the examples, the hardest first.
    """
    if not saliency.has_maps(model):
        return
    places = np.asarray(places)[:SHOWN]
    names, crop_size = data.source.display_names, run_config.crop_size
    pixels = data.examples[result.split].images(places)
    started = time.monotonic()
    compute = explanations.map_function(model, run_config, data.statistics)
    predicted = explanations.explain(compute, pixels, [-1] * len(places), names, crop_size)
    true = explanations.explain(compute, pixels, result.labels[places], names, crop_size)
    seconds = time.monotonic() - started
    images, captions = [], []
    for number, (first, second) in enumerate(zip(predicted, true), start=1):
        images += [first.pixels, overlays.overlay(first.pixels, first.values)]
        images.append(overlays.overlay(second.pixels, second.values))
        captions += [f"{number}.", f"predicted {_caption(first)}", f"true class {_caption(second)}"]
    yield pages.Heading("What the network looks at")
    yield from pictures.blocks(
        workdir,
        "maps.png",
        lambda: figures.gallery(images, captions, columns=3),
        f"The center crops of the {len(places)} hardest images; Grad-CAM, by Selvaraju et al. (2017), for the most "
        "probable class of the crop, and for the true class. Bright parts support the class; each map is scaled to "
        f"its own largest value. {2 * len(places)} forward and backward passes took {messages.significant(seconds)} s, "
        "with compilation.",
    )


def _caption(explanation):
    share = f"{explanation.class_name}: {messages.significant(100 * explanation.probability)}%"
    return share if explanation.grid.any() else f"{share}\n(no position supports it)"
