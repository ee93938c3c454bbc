"""Converts a network, with the preprocessing of pixels, to a LiteRT (TensorFlow Lite) file, and runs it."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf


def convert(
    classify: Callable[[tf.Tensor], dict[str, tf.Tensor]], image_size: int, *, weights_dtype: str = "float32"
) -> bytes:
    """Converts a function of pixels with TensorFlow's converter.

    Args:
      classify: maps uint8 ``[batch, image_size, image_size, 3]`` to a dict of tensors. LiteRT must have its operations:
        it has none that decode image files, and no tables of class names.
      image_size: int, the side of the images.
      weights_dtype: "float32"; or "float16" for weights of half the size.

    Returns:
      The contents of the file. Its signature ``serving_default`` maps ``images`` to the outputs of `classify`.
    """
    spec = tf.TensorSpec([None, image_size, image_size, 3], tf.uint8, name="images")
    # As for a SavedModel, the archive finds the variables that the function uses.
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serving_default", classify, [spec])
    with tempfile.TemporaryDirectory() as folder, _without_log():
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if weights_dtype == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


def run(model: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """Runs a LiteRT file with TensorFlow's interpreter.

    Args:
      model: the contents of the file.
      images: its input.

    Returns:
      Its outputs by name.
    """
    # TensorFlow announces that the interpreter will move to a package of its own.
    with _without_log(), warnings.catch_warnings(action="ignore", category=UserWarning):
        interpreter = tf.lite.Interpreter(model_content=model)
        return interpreter.get_signature_runner("serving_default")(images=images)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Drops what TensorFlow's converter and interpreter log to standard error, unless the block fails."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            log.seek(0)
            os.write(standard_error, log.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
