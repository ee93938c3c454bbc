"""Answers pictures for the page of `demo_server`: classes, Grad-CAM and nearest training images."""

import base64
import os
import pathlib
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.data import sources
from alexnet_tf.evaluation import feature_index
from alexnet_tf.export import signatures
from alexnet_tf.reporting import overlays
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.runs import explanations
from alexnet_tf.runs import inputs
from alexnet_tf.runs import loaded
from alexnet_tf.runs import neighbours
from alexnet_tf.runs import pretrained
from alexnet_tf.runs import restore
from alexnet_tf.serving import classify
from alexnet_tf.serving import client
from alexnet_tf.utils import messages

# Split of the index that is searched.
_SPLIT = "train"
# Side of the images of neighbors.
_MAX_THUMBNAIL = 192


class Demo(NamedTuple):
    """What is served."""

    answer: Callable[[bytes], dict[str, Any]]  # from an encoded image to values for JSON; raises ValueError
    about: dict[str, Any]  # values for JSON


class _Neighbors(NamedTuple):
    """An index of training images, with the features of the network that it was built by."""

    index: feature_index.Index
    features: Callable[[np.ndarray], np.ndarray]
    part: sources.Split | None  # to read the images from; None if they are not there
    image_size: int
    count: int


def of_export(saved_model: str | os.PathLike, *, top: int = 5) -> Demo:
    """Answers with the classes of an exported network.

    Args:
      saved_model: as for `client.SavedModel`.
      top: maximum number of classes per picture.

    Raises:
      ValueError: if there is no SavedModel, or it is damaged.
    """
    backend = client.SavedModel(saved_model)

    def answer(image):
        prediction = classify.classify_image(backend, image).top(top)
        if prediction.error:
            raise ValueError(prediction.error)
        return {
            "classes": [
                {"name": name, "probability": score} for name, score in zip(prediction.classes, prediction.scores)
            ]
        }

    name = os.path.basename(os.path.abspath(saved_model))
    return Demo(answer, {"description": f"Classifies pictures with the export {name}."})


def of_run(
    workdir: str | os.PathLike,
    *,
    top: int = 5,
    neighbors: int = 6,
    log: Callable[[str], None] = lambda line: None,
    checkpoint: str = "auto",
) -> Demo:
    """Answers with the classes of a run, Grad-CAM for each of them, and the nearest training images.

    Args:
      workdir: as in `loaded.load`.
      top: maximum number of classes per picture.
      neighbors: number of training images; 0 for none. They are found if the run has an index (`neighbours.index_run`)
        of this checkpoint, and shown if its data set is there.
      log: called with a line about an index or a data set that cannot be used.
      checkpoint: as in `loaded.load`.

    Raises:
      ValueError, OSError: as `loaded.load`, and for a run without a classifier.
    """
    run = loaded.load(workdir, checkpoint=checkpoint)
    explain = run.explainer(explanations.Method())
    nearest = _open_neighbors(run, neighbors, log) if neighbors else None

    def answer(image):
        pixels = inputs.read_encoded(image, run.config.image_size)
        predictions = run.classify(pixels, top)[0]
        labels = [run.class_names.index(each.class_name) for each in predictions]
        explained = explain(np.stack([pixels] * len(labels)), labels)
        return {
            "classes": [
                {
                    "name": each.class_name,
                    "words": run.class_words.get(each.class_name, ""),
                    "probability": each.probability,
                    "map": _png(overlays.overlay(own.pixels, own.values)),
                    "speaks": bool(own.grid.any()),
                }
                for each, own in zip(predictions, explained)
            ],
            "crop": _png(explained[0].pixels),
            "neighbors": _find(nearest, pixels, run.class_words) if nearest else [],
        }

    name = run_name(workdir, run.workdir)
    classes = f"{len(run.class_names):,} classes"
    description = (
        f"Classifies pictures with {name}: {run.config.network}, {classes}. Its checkpoint is the "
        f"{run.chosen.describe()}."
    )
    return Demo(answer, {"description": description})


def run_name(requested: str | os.PathLike, directory: str | os.PathLike) -> str:
    """Returns what the page calls a run.

    Args:
      requested: as in `loaded.load`.
      directory: where that is.
    """
    requested = os.fspath(requested)
    if requested.startswith(pretrained.PREFIX):
        return requested
    return f"the run {os.path.basename(os.path.abspath(directory))}"


def _open_neighbors(run, count, log):
    """Returns the index of a run with what is needed to search it; None without a usable one."""
    directory = neighbours.default_index_dir(run.workdir, _SPLIT)
    try:
        index = feature_index.open_index(directory)
    except FileNotFoundError:
        log(f"no nearest training images: no index in {directory}; build one with {messages.program('neighbours')}")
        return None
    except ValueError as error:
        log(f"no nearest training images: {error}")
        return None
    if any(index.metadata.get(name) != run.identity[name] for name in ("weights", "precision")):
        program = messages.program("neighbours")
        log(
            f"no nearest training images: the index in {directory} is for another checkpoint; rebuild it with {program}"
        )
        return None
    network = signatures.with_features(run.model)
    view = builders.central_view(run.config, restore.read_statistics(run.workdir))

    @tf.function(reduce_retracing=True, autograph=False)
    def features(pixels):
        return tf.cast(network(view(pixels), training=False)[1], tf.float32)

    part = _open_split(run, index, log)
    count = min(count, len(index))
    return _Neighbors(index, lambda pixels: features(pixels).numpy(), part, run.config.image_size, count)


def _open_split(run, index, log):
    """Returns the split of the run's data set that an index is of; None if it is not there, or differs."""
    try:
        source, _ = dataset.open_data(restore.read_config(run.workdir), workdir=run.workdir)
        part = source.splits[_SPLIT]
    except (ValueError, OSError, ModuleNotFoundError) as error:
        log(f"nearest training images are named, not shown: {messages.first_line(error)}")
        return None
    places = index.images.places
    if places.max() >= len(part.labels) or not np.array_equal(part.labels[places], index.images.labels):
        log("nearest training images are named, not shown: the images of the data set and of the index differ")
        return None
    return part


def _find(nearest, pixels, words):
    """Returns the nearest training images of an image, for JSON."""
    index = nearest.index
    found = index.search(nearest.features(pixels[None]), nearest.count, method="exact")
    names = [index.class_names[index.images.labels[place]] for place in found.indices[0]]
    return [
        {
            # Without the place of the data set on this machine.
            "name": "/".join(pathlib.Path(index.images.names[place]).parts[-2:]),
            "class_name": name,
            "words": words.get(name, ""),
            "distance": distance,
            "image": _thumbnail(nearest, int(index.images.places[place])),
        }
        for name, place, distance in zip(names, found.indices[0].tolist(), found.distances[0].tolist())
    ]


def _thumbnail(nearest, place):
    if nearest.part is None:
        return ""
    try:
        return _png(inputs.read_example(nearest.part, place, min(nearest.image_size, _MAX_THUMBNAIL)))
    except ValueError:
        # It is named, as an image that was moved.
        return ""


def _png(pixels):
    """Returns an image as the address of its data."""
    return f"data:image/png;base64,{base64.b64encode(tf.io.encode_png(pixels).numpy()).decode()}"


def warm_up(demo: Demo) -> None:
    """Answers a gray picture, so that the first answer of a user does not wait for compilation.

    Raises:
      ValueError: if the network cannot answer.
    """
    demo.answer(tf.io.encode_png(np.full([64, 64, 3], 128, np.uint8)).numpy())
