"""A trained run in one line: predictions, features and explanations of images, as `alexnet_tf.load` returns it."""

import os
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.evaluation import activations
from alexnet_tf.evaluation import errors
from alexnet_tf.export import signatures
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.runs import explanations
from alexnet_tf.runs import inputs
from alexnet_tf.runs import pretrained
from alexnet_tf.runs import restore
from alexnet_tf.runs import selection
from alexnet_tf.serving import protocol
from alexnet_tf.training import parameter_groups
from alexnet_tf.utils import schema

_CARD = "model_card.json"
_CARD_STRUCTURE = schema.Object({"run": schema.Text(), "step": schema.Number(low=0, integer=True)})


class Prediction(NamedTuple):
    """A class of an image with its probability."""

    class_name: str
    probability: float  # in [0, 1]


class Activations(NamedTuple):
    """The compiled computation of some layers' activations."""

    # From uint8 [batch, image_size, image_size, 3] to a list of float32 [batch, *shape], one for each layer.
    compute: Callable[[tf.Tensor], list[tf.Tensor]]
    shapes: list[tuple[int, ...]]


class LoadedRun:
    """A trained run; `load` returns it.

    Attributes:
      model: a ``keras.Model`` from float32 ``[batch, crop_size, crop_size, 3]``, preprocessed, to logits. Of a run with
        convolutions alone, it ends where their weights do.
      class_names: list of str in the order of the logits; empty if the run has no classifier.
      class_words: dict of str, the words of those classes whose names are identifiers, such as n01443537, by name.
      config: the `config.Config` of the run.
      workdir: str, the run's directory.
      checkpoint: str, the path of the checkpoint that was loaded.
      chosen: `selection.Selection`, whether that is the best or the newest checkpoint.
      step: int, the number of steps that it was trained for.
      layers: list of str, the names that `features` takes, in the order of computation.
    """

    def __init__(self, run: restore.OpenedRun):
        self._run = run
        self._network = run.model
        self._functions = {}
        self.layers = _available(run)
        self.model: keras.Model = activations.part(run.model, self.layers[-1:]) if run.missing_layers else run.model
        self.class_names: list[str] = run.class_names
        self.class_words: dict[str, str] = restore.read_class_words(run.workdir)
        self.config: config.Config = run.config
        self.workdir: str = run.workdir
        self.checkpoint: str = run.checkpoint
        self.chosen: selection.Selection = run.chosen
        self.step: int = run.step

    @property
    def identity(self) -> dict[str, Any]:
        """What features depend on, as of `restore.identity`."""
        return restore.identity(self._run)

    def __repr__(self) -> str:
        return f"<{self.config.network} of {self.workdir}, step {self.step}, {len(self.class_names)} classes>"

    def classify(self, images: Any, top: int = 5, *, views: str = "center") -> list[list[Prediction]]:
        """Classifies images with the probabilities of an evaluation.

        Args:
          images: a path, a Pillow image, a uint8 array ``[height, width, 3]`` or ``[images, height, width, 3]``, RGB in
            [0, 255] of any size; or an iterable of paths, Pillow images and arrays ``[height, width, 3]``.
          top: number of classes per image; all of them if there are fewer.
          views: "center" for the center crop, or "ten" for the mean over ten views.

        Returns:
          For each image a list of `Prediction`, the most probable first.

        Raises:
          ValueError: for other images, an image that cannot be read, or a run without a classifier.
        """
        if isinstance(top, bool) or not isinstance(top, (int, np.integer)) or top < 1:
            raise ValueError(f"Expected top to be an int of at least 1. Received: {top!r}")
        predictions = []
        for probabilities in self._computed(images, self._probability_function(views)):
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
            for row, places in zip(probabilities.tolist(), order.tolist()):
                predictions.append([Prediction(self.class_names[place], row[place]) for place in places])
        return predictions

    def features(self, images: Any, layer: str = "fc7") -> np.ndarray:
        """Computes the activations of a layer for the center crop of each image.

        Args:
          images: as in `classify`.
          layer: a name among `layers`, such as "conv5" (both towers, joined along the last axis), or of a single Keras
            layer, such as "conv5_a". If an activation function directly follows the layer, it is part of it: "fc7" is
            the output of its ReLU, before dropout.

        Returns:
          float32 ``[images, ...]``, such as ``[images, 4096]`` of fc7 and ``[images, 13, 13, 256]`` of conv5.

        Raises:
          ValueError: for other images, an image that cannot be read, or a layer that does not exist or has no weights.
        """
        if not isinstance(layer, str):
            raise ValueError(f"Expected layer to be a name among {', '.join(self.layers)}. Received: {layer!r}")
        compute = self.activations([layer]).compute
        return np.concatenate(list(self._computed(images, lambda pixels: compute(pixels)[0].numpy())))

    def activations(self, layers: Sequence[str]) -> Activations:
        """Compiles the computation of some layers' activations.

        Args:
          layers: names as in `features`.

        Raises:
          ValueError: for a layer that does not exist or has no weights.
        """
        key = tuple(layers)
        if key not in self._functions:
            part = activations.part(self._network, key)
            if without := [name for name in key if name not in self.layers and _missing(self._run, name)]:
                raise ValueError(
                    f"Expected layers with weights in {self.checkpoint}: {', '.join(self.layers)}. "
                    f"Received: {without[0]}, which needs those of {_missing(self._run, without[0])}"
                )
            view = builders.central_view(self.config, self._run.image_statistics)

            @tf.function(input_signature=[self._pixels()], autograph=False)
            def compute(pixels):
                return [tf.cast(each, tf.float32) for each in tf.nest.flatten(part(view(pixels), training=False))]

            self._functions[key] = Activations(compute, [tuple(output.shape[1:]) for output in part.outputs])
        return self._functions[key]

    def explain(
        self,
        images: Any,
        *,
        method: str = "grad_cam",
        class_name: str = "",
        layer: str = "",
        patch_size: int = 0,
        positions: int = 16,
    ) -> list[explanations.Explanation]:
        """Computes maps of the parts of images that a prediction depends on.

        Args:
          images: as in `classify`.
          method: "grad_cam", as in `saliency.grad_cam`, or "occlusion", as in `saliency.occlusion`.
          class_name: the class to explain, by its name, its words or its number; empty for the most probable one.
          layer: of Grad-CAM, a name among `layers` with positions; empty for `saliency.default_layer`.
          patch_size: side of the occluding square, in pixels of the center crop; 0 for a quarter of the crop's side.
          positions: number of positions of the square, per side.

        Returns:
          For each image an `explanations.Explanation`.

        Raises:
          ValueError: for other images, an image that cannot be read, invalid options, or a run without a classifier.
        """
        compute = self.explainer(explanations.Method(method, layer, patch_size, positions))
        label = self.class_index(class_name) if class_name else -1
        batches = self._computed(images, lambda pixels: compute(pixels, [label] * len(pixels)))
        return [each for batch in batches for each in batch]

    def class_index(self, requested: str) -> int:
        """Returns the index of a class by its name, its words or its number.

        Raises:
          ValueError: if there is no such class.
        """
        return explanations.class_index(self.class_names, self.class_words, requested)

    def explainer(
        self, method: explanations.Method
    ) -> Callable[[np.ndarray, Sequence[int]], list[explanations.Explanation]]:
        """Returns the function that explains a batch of square images.

        Args:
          method: how maps are computed.

        Returns:
          A function of uint8 ``[batch, image_size, image_size, 3]`` and the index of a class for each image, or -1 for
          the most probable one.

        Raises:
          ValueError: for an invalid method, or a run without a classifier.
        """
        self._check_classifier()
        if method not in self._functions:
            run = self._run
            self._functions[method] = explanations.map_function(self._network, run.config, run.image_statistics, method)
        compute, crop_size = self._functions[method], self.config.crop_size
        return lambda pixels, classes: explanations.explain(compute, pixels, classes, self.class_names, crop_size)

    def _probability_function(self, views):
        """Returns the compiled function from square images to float32 ``[batch, classes]``."""
        views = flagfiles.current_value("views", views)
        if views not in signatures.VIEWS:
            raise ValueError(f"Expected views to be one of {', '.join(signatures.VIEWS)}. Received: {views!r}")
        self._check_classifier()
        if views not in self._functions:
            center = builders.central_view(self.config, self._run.image_statistics)
            ten = builders.ten_views(self.config, self._run.image_statistics)
            cut = {"center": lambda pixels: [center(pixels)], "ten": ten}[views]
            of_views = errors.probability_function(self._network, cut)

            @tf.function(input_signature=[self._pixels()], autograph=False)
            def compute(pixels):
                return tf.reduce_mean(of_views(pixels), axis=0)

            self._functions[views] = lambda pixels: compute(pixels).numpy()
        return self._functions[views]

    def _check_classifier(self):
        if self._run.missing_layers or not self.class_names:
            raise ValueError(
                f"Expected a run with a classifier. Received: {self.workdir}, which has weights up to "
                f"{self.layers[-1]} only; compute features, or train the other layers in a new --workdir with "
                f"--initialize_from={self.workdir}"
            )

    def _pixels(self):
        size = self.config.image_size
        return tf.TensorSpec([None, size, size, 3], tf.uint8)

    def _computed(self, images, compute) -> Iterator[Any]:
        """Yields what a function of square images returns for each batch."""
        checked = inputs.from_user(images)
        read = lambda index: inputs.read(checked[index], self.config.image_size)
        for batch in inputs.batches(read, range(len(checked)), dataset.EVALUATION_BATCH_SIZE):
            for each in batch:
                if isinstance(each, ValueError):
                    raise each
            yield compute(tf.constant(np.stack(batch)))


def load(workdir: str | os.PathLike, *, jit_compile: bool = False, checkpoint: str = "auto") -> LoadedRun:
    """Loads a trained run at its best or newest checkpoint. Its data set is not needed.

    Example:

    >>> run = alexnet_tf.load("runs/mine")
    >>> run.classify("cat.jpg")[0][0].class_name
    'cat'
    >>> run.features(["cat.jpg", "dog.png"], layer="fc7").shape
    (2, 4096)

    Args:
      workdir: the directory of a run; an export, or a version of one, whose run is loaded; or the name of a trained
        network in the package, such as "pretrained:tiny_imagenet_small".
      jit_compile: whether to compile the normalizations with XLA: faster for many images, slower for the first batch of
        each size.
      checkpoint: "best" for the epoch with the lowest validation error, which is optimistic for that reason; "newest";
        or "auto" for the setting of the run, by default the best if it has recorded one.

    Raises:
      FileNotFoundError: if there is no run.
      ValueError: if a file of the run is damaged.
    """
    directory, card = _find_run(pretrained.find(workdir))
    log = lambda line: warnings.warn(line.removeprefix("warning: "), stacklevel=2)
    run = restore.open_available(directory, log, checkpoint, jit_compile=jit_compile)
    if card and card["step"] != run.step:
        message = f"{workdir} was exported at step {card['step']}; its run, {directory}, is loaded at step {run.step}"
        warnings.warn(message, stacklevel=2)
    return LoadedRun(run)


def _find_run(directory):
    """Returns the directory of a run, and the model card if the given directory is that of an export."""
    if os.path.isfile(os.path.join(directory, "config.flags")) or not os.path.isdir(directory):
        return directory, None
    versions = protocol.versions(directory)
    path = os.path.join(versions[max(versions)] if versions else directory, _CARD)
    if not os.path.isfile(path):
        return directory, None
    card = schema.read_json(path, _CARD_STRUCTURE, "the model card of an export", "export the run again")
    if not os.path.isfile(os.path.join(card["run"], "config.flags")):
        raise FileNotFoundError(
            f"Expected the run of the export {directory} in {card['run']}. Received: none; give the run's directory"
        )
    return card["run"], card


def _available(run):
    """Returns the names of all layers that can be computed with the weights of a run."""
    return [name for name in activations.names(run.model) if not _missing(run, name)]


def _missing(run, name):
    """Returns the layers without weights that a layer needs, as text; empty if there are none."""
    if not run.missing_layers:
        return ""
    needed = {layer.name for layer in activations.part(run.model, [name]).layers}
    return ", ".join(dict.fromkeys(parameter_groups.layer_of(each) for each in run.missing_layers if each in needed))
