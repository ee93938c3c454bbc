"""Converts a network, with the preprocessing of pixels, to a LiteRT (TensorFlow Lite) file, and runs it."""

import tempfile
import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.utils import standard_error


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
    with tempfile.TemporaryDirectory() as folder, standard_error.suppressed():
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if weights_dtype == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


def run(model: bytes, images: np.ndarray, signature: str = "serving_default") -> dict[str, np.ndarray]:
    """Runs a LiteRT file with TensorFlow's interpreter.

    Args:
      model: the contents of the file.
      images: its input.
      signature: the name of the signature to call.

    Returns:
      Its outputs by name.
    """
    # TensorFlow announces that the interpreter will move to another package.
    with standard_error.suppressed(), warnings.catch_warnings(action="ignore", category=UserWarning):
        interpreter = tf.lite.Interpreter(model_content=model)
        return interpreter.get_signature_runner(signature)(images=images)
