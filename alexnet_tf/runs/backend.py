"""A trained run that answers requests as its export would, without an export."""

import os
import tempfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from alexnet_tf.data import sources
from alexnet_tf.export import signatures
from alexnet_tf.runs import export
from alexnet_tf.runs import pretrained
from alexnet_tf.runs import restore
from alexnet_tf.serving import client
from alexnet_tf.utils import messages


class Run(client.Closable):
    """A `classify.Backend` that runs the network of a trained run in this process.

    Classes whose names are identifiers, such as n01443537, are returned with their words: goldfish (n01443537).

    Args:
      workdir: the directory of a run, or ``pretrained:NAME``.
      checkpoint: "best", "newest" or "auto", as in `selection.select`.

    Attributes:
      checkpoint: str, the path of the checkpoint, and whether that is the best or the newest.

    Raises:
      FileNotFoundError: if there is no run.
      ValueError: if a file of the run is damaged, or the run has no classifier.
    """

    def __init__(self, workdir: str | os.PathLike, checkpoint: str = "auto"):
        self._workdir = os.fspath(workdir)
        run = restore.open_run(pretrained.find(workdir), checkpoint=checkpoint, jit_compile=False)
        self.checkpoint: str = f"{run.checkpoint} ({run.chosen.describe()})"
        preprocessing = export.preprocessing_of(run)
        words = restore.read_class_words(run.workdir)
        names = [sources.display_name(name, words.get(name, "")) for name in run.class_names]
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as labels:
            labels.writelines(f"{' '.join(name.split())}\n" for name in names)
            labels.flush()
            self._signatures = signatures.Signatures(
                signatures.with_features(run.model), preprocessing, labels.name, top=len(names)
            )
        self._functions = {
            name: tf.function(self._signatures.endpoints()[name][0], input_signature=[tf.TensorSpec([None], tf.string)])
            for name in ("serving_default", "features")
        }

    def predict(self, images: Sequence[bytes], signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Runs a signature, as `client.SavedModel.predict`.

        Args:
          images: encoded images.
          signature: "serving_default" or "features".

        Raises:
          ValueError: if there is no such signature.
          OSError: if running the network fails.
        """
        if signature not in self._functions:
            raise ValueError(f"Expected signature to be one of {', '.join(self._functions)}. Received: {signature}")
        try:
            outputs = self._functions[signature](tf.constant(images, tf.string))
        except tf.errors.OpError as error:
            raise OSError(f"Running the network of {self._workdir} failed: {messages.first_line(error)}") from None
        return {name: value.numpy() for name, value in outputs.items()}
