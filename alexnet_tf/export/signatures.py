"""The functions of a served model: decoding and preprocessing of images, the network, and class names.

They consist of TensorFlow operations only, so a server without Python returns the same outputs as an evaluation.
"""

from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import image_headers
from alexnet_tf.data import photograph
from alexnet_tf.evaluation import errors

# Decoding an image of this many pixels takes 300 MB.
MAX_PIXELS = image_headers.MAX_PIXELS
VIEWS = ("center", "ten")
# The spelling of version 0.1, accepted by `Signatures`.
_OLD_VIEWS = {"centre": "center"}

# Far above that of any pixel, and far below those whose products and sums overflow.
_MAX_PIXEL_VALUE = 2.0**16
# Keeps the logarithm of a probability that float32 rounded to zero finite.
_MIN_PROBABILITY = 1e-37
_NOT_PIXELS = "Expected RGB values in [0, 255]. Received: NaN, infinity or numbers above 65536"


def check_temperature(temperature: float) -> None:
    """Raises a ValueError unless the temperature is a positive number."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"Expected temperature to be a positive number. Received: {temperature=:g}")


class Preprocessing(NamedTuple):
    """How a run preprocesses images."""

    mean_image: np.ndarray  # float32 [image_size, image_size, 3], in [0, 255]
    crop_size: int
    # Which part of the mean image is subtracted from a crop, as for `augmentation.ten_views`.
    mean_crop: str = "aligned"
    scale: float = 1.0  # factor applied after the subtraction

    @property
    def image_size(self) -> int:
        return self.mean_image.shape[0]


def decode_images(image_bytes: tf.Tensor, *, size: int, max_pixels: int = MAX_PIXELS) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and resizes image files independently of each other.

    A server merges the requests of several clients into one call, and an operation that fails on one image fails the
    whole call. Therefore nothing fails here: the images go through a ``tf.data`` pipeline that drops unreadable ones.

    Args:
      image_bytes: string ``[batch]``, files of one of `image_headers.FORMATS`.
      size: height and width of the result.
      max_pixels: as of `image_headers.refusal`, which decides what is decoded, as in training.

    Returns:
      A pair: uint8 ``[batch, size, size, 3]``, the result of `photograph.decode_to_square` or zeros after an error; and
      string ``[batch]``, the error of each image or the empty string.
    """
    count = tf.size(image_bytes)
    blank = tf.zeros([size, size, 3], tf.uint8)

    def decode(index, encoded):
        reason = image_headers.refusal(encoded, max_pixels)
        square = lambda: photograph.to_square(photograph.decode_known(encoded), size)
        return index, tf.cond(tf.equal(reason, ""), square, lambda: blank), reason

    def decode_all(**parallel):
        numbered = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        readable = numbered.map(decode, **parallel).ignore_errors()
        # The first element stands in for dropped images, and guarantees that there is a batch.
        first = tf.data.Dataset.from_tensors((-1, blank, ""))
        return first.concatenate(readable).batch(tf.cast(count, tf.int64) + 1).get_single_element()

    # A single image is decoded faster without additional threads.
    several = lambda: decode_all(num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    indices, pixels, messages = tf.cond(count > 1, several, decode_all)
    rows = tf.scatter_nd(indices[1:, None], tf.range(1, tf.size(indices)), [count])
    is_read = rows > 0
    messages = tf.gather(messages, rows)
    messages = tf.cond(
        tf.reduce_all(is_read),
        lambda: messages,
        lambda: tf.where(is_read, messages, image_headers.damaged(image_bytes)),
    )
    return tf.ensure_shape(tf.gather(pixels, rows), [None, size, size, 3]), messages


class Signatures:
    """The functions of a served model.

    Args:
      network: maps float32 ``[batch, crop_size, crop_size, 3]`` to logits and features.
      preprocessing: how images were preprocessed during training.
      labels: path of a text file with one class name per line; it becomes an asset of the SavedModel.
      views: "center" for the central crop, "ten" for the mean of the probabilities of ten views.
      top: number of classes that a response names; all of them if there are fewer.
      max_pixels: as for `decode_images`.
      temperature: what the logits are divided by; of ten views, the logarithms of their mean probabilities.
      float32_network: the same network computing in float32, for `probabilities`, which then uses it with the weights
        of `network`: other engines lack operations in bfloat16. None if `network` computes in float32.

    Raises:
      ValueError: if `views`, `top`, `max_pixels` or `temperature` is out of range.
    """

    def __init__(
        self,
        network: keras.Model,
        preprocessing: Preprocessing,
        labels: str,
        *,
        views: str = "center",
        top: int = 5,
        max_pixels: int = MAX_PIXELS,
        temperature: float = 1.0,
        float32_network: keras.Model | None = None,
    ):
        self.views = _OLD_VIEWS.get(views, views)
        if self.views not in VIEWS:
            raise ValueError(f"Expected views to be one of {', '.join(VIEWS)}. Received: {views=}")
        if not top >= 1:
            raise ValueError(f"Expected top to be at least 1. Received: {top=}")
        if not 1 <= max_pixels <= MAX_PIXELS:
            raise ValueError(f"Expected max_pixels to be from 1 to {MAX_PIXELS}. Received: {max_pixels=}")
        check_temperature(temperature)
        self._temperature = temperature
        self._network = network
        self._preprocessing = preprocessing
        initializer = tf.lookup.TextFileInitializer(
            labels, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
        )
        self.class_names = tf.lookup.StaticHashTable(initializer, default_value="")
        self._top = min(top, int(self.class_names.size()))
        self._max_pixels = max_pixels
        cut = {"center": lambda images: [self._central_view(images)], "ten": self._ten_views}

        def probabilities_of_views(model):
            tempered = lambda images, training: self._tempered(model(images, training=training)[0], "center")
            return errors.probability_function(tempered, cut[self.views])

        self._probabilities_of_views = self._float32_probabilities_of_views = probabilities_of_views(network)
        if float32_network is not None:
            self._float32_probabilities_of_views = probabilities_of_views(_with_weights(float32_network, network))

    def endpoints(self) -> dict[str, tuple[Any, tf.TensorSpec]]:
        """Returns a dict from the name of each signature to its function and the ``tf.TensorSpec`` of its input."""
        size = self._preprocessing.image_size
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        return {
            "serving_default": (self.classify_bytes, image_bytes),
            "images": (self.classify_images, tf.TensorSpec([None, size, size, 3], tf.uint8, name="images")),
            "images_float": (self.classify_floats, tf.TensorSpec([None, size, size, 3], tf.float32, name="images")),
            "probabilities": (self.probabilities, tf.TensorSpec([None, size, size, 3], tf.float32, name="images")),
            "frames": (self.classify_frames, tf.TensorSpec([None, None, None, 3], tf.uint8, name="frames")),
            "features": (self.features, image_bytes),
        }

    def classify_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classifies image files.

        Args:
          image_bytes: string ``[batch]``, JPEG, PNG, GIF, BMP or WebP files of any size.

        Returns:
          The outputs of `classify_images`, and ``errors``, string ``[batch]``: the empty string, or why an image cannot
          be read. Such an image has probabilities and scores of 0 and empty class names.
        """
        images, messages = self._decode(image_bytes)
        return _with_errors(self.classify_images(images), messages)

    def classify_floats(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classifies images as `classify_images` does, except those with numbers that cannot be pixels.

        The network would answer NaN and infinity with finite probabilities, as a ReLU turns NaN into 0.

        Args:
          images: float32 ``[batch, image_size, image_size, 3]``, RGB in [0, 255].

        Returns:
          The outputs of `classify_bytes`. The error of an image with NaN, infinity or a number of more than 2^16 is not
          empty; such an image does not affect the others.
        """
        # Comparisons with NaN are false.
        is_valid = tf.reduce_all(tf.abs(images) <= _MAX_PIXEL_VALUE, axis=[1, 2, 3])
        outputs = self.classify_images(tf.where(is_valid[:, None, None, None], images, 0.0))
        return _with_errors(outputs, tf.where(is_valid, "", _NOT_PIXELS))

    def classify_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classifies images that were cropped to their central square and resized, as by `photograph.to_square`.

        Args:
          images: uint8 or float32 ``[batch, image_size, image_size, 3]``, RGB in [0, 255].

        Returns:
          A dict with ``probabilities``, float32 ``[batch, num_classes]``, and for the most probable classes, in
          descending order, ``classes``, string ``[batch, top]``, and ``scores``, their probabilities, float32
          ``[batch, top]``.
        """
        probabilities = self._mean_over_views(self._probabilities_of_views(images))
        scores, indices = tf.math.top_k(probabilities, self._top)
        classes = self.class_names.lookup(tf.cast(indices, tf.int64))
        return {"probabilities": probabilities, "classes": classes, "scores": scores}

    def probabilities(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes probabilities with arithmetic only, for engines without strings, tables and decoders.

        Args:
          images: as for `classify_images`; numbers that cannot be pixels are not reported.

        Returns:
          A dict with the ``probabilities`` of `classify_images`, computed in float32.
        """
        return {"probabilities": self._mean_over_views(self._float32_probabilities_of_views(images))}

    def classify_frames(self, frames: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classifies decoded images of any size, such as frames of a camera.

        Args:
          frames: uint8 ``[batch, height, width, 3]``, RGB.

        Returns:
          The outputs of `classify_images`.
        """
        size = self._preprocessing.image_size
        spec = tf.TensorSpec([size, size, 3], tf.uint8)
        return self.classify_images(
            tf.map_fn(lambda frame: photograph.to_square(frame, size), frames, fn_output_signature=spec)
        )

    def features(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the last layer's input for the central crop, for retrieval by Euclidean distance.

        Args:
          image_bytes: string ``[batch]``, JPEG, PNG, GIF, BMP or WebP files of any size.

        Returns:
          A dict with ``features``, float32 ``[batch, units]`` (4096 of AlexNet's fc7), 0 after an error, and ``errors``
          as in `classify_bytes`.

        References:
          Section 6.1 of the paper,
          https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks.
        """
        images, messages = self._decode(image_bytes)
        _, features = self._network(self._central_view(images), training=False)
        features = tf.where(tf.equal(messages, "")[:, None], tf.cast(features, tf.float32), 0.0)
        return {"features": features, "errors": messages}

    def _mean_over_views(self, probabilities):
        probabilities = tf.reduce_mean(probabilities, axis=0)
        if self.views == "ten" and self._temperature != 1:
            logarithms = tf.math.log(tf.maximum(probabilities, probabilities.dtype.as_numpy_dtype(_MIN_PROBABILITY)))
            probabilities = tf.nn.softmax(self._tempered(logarithms, "ten"))
        return probabilities

    def _tempered(self, logits, views):
        """Returns logits divided by the temperature, if they are those of the view set."""
        return logits / self._temperature if self.views == views and self._temperature != 1 else logits

    def _decode(self, image_bytes):
        return decode_images(image_bytes, size=self._preprocessing.image_size, max_pixels=self._max_pixels)

    def _central_view(self, images):
        preprocessing = self._preprocessing
        return augmentation.central_view(
            images, preprocessing.mean_image, size=preprocessing.crop_size, scale=preprocessing.scale
        )

    def _ten_views(self, images):
        preprocessing = self._preprocessing
        return augmentation.ten_views(
            images,
            preprocessing.mean_image,
            mean_crop=preprocessing.mean_crop,
            size=preprocessing.crop_size,
            scale=preprocessing.scale,
        )


def _with_weights(model, other):
    """Returns a function that calls a model with the weights of another one, cast to its dtypes."""

    def call(images, training):
        weights = [(own, tf.cast(value.value, own.dtype)) for own, value in zip(model.variables, other.variables)]
        with keras.StatelessScope(state_mapping=weights):
            return model(images, training=training)

    return call


def _with_errors(outputs, messages):
    """Returns the outputs of `Signatures.classify_images` with an error for each image, and none of its classes."""
    is_valid = tf.equal(messages, "")[:, None]
    return {
        "probabilities": tf.where(is_valid, outputs["probabilities"], 0.0),
        "classes": tf.where(is_valid, outputs["classes"], ""),
        "scores": tf.where(is_valid, outputs["scores"], 0.0),
        "errors": messages,
    }


def with_features(model: keras.Model) -> keras.Model:
    """Returns a model that outputs both the logits and the last layer's input.

    Args:
      model: a functional model whose last layer with weights computes the logits.

    Returns:
      A ``keras.Model`` with the same input. Its outputs are the logits and the features, ``[batch, units]``.
    """
    last = [layer for layer in model.layers if layer.weights][-1]
    return keras.Model(model.inputs, [model.outputs[0], last.input])
