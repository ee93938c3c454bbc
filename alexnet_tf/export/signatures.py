"""What a served model does with a request: the whole of a photograph's preparation, the network, names of classes.

All of it is TensorFlow operations, so that a server without Python gives the answers of an evaluation.
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import photograph
from alexnet_tf.evaluation import errors

# A photograph of so many pixels takes 300 MB while it is decoded.
MAX_PIXELS = photograph.MAX_PIXELS
VIEWS = ("center", "ten")

# What files begin with.
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"


class Preparation(NamedTuple):
    """What a run did to its photographs."""

    mean_image: np.ndarray  # float32 [image_size, image_size, 3], in [0, 255]
    crop_size: int
    # As in `augmentation.ten_views`.
    mean_crop: str = "aligned"
    scale: float = 1.0

    @property
    def image_size(self):
        return self.mean_image.shape[0]


def read_photographs(image_bytes, *, size, max_pixels=MAX_PIXELS):
    """Decodes photographs, each for itself: one that cannot be read harms no other.

    A server merges the requests of several clients into one call, and an operation that fails, fails for all of them.
    So nothing fails here: the photographs go through a ``tf.data`` pipeline that leaves the unreadable ones out.

    Args:
      image_bytes: string ``[batch]``, JPEG or PNG files.
      size: int, the side of the result.
      max_pixels: int; a file that declares more is not decoded.

    Returns:
      uint8 ``[batch, size, size, 3]`` as from `photograph.decode_to_square`, zeros where there is an error; and the
      errors, string ``[batch]``, empty where there is none.
    """
    count = tf.size(image_bytes)
    blank = tf.zeros([size, size, 3], tf.uint8)

    def read(place, encoded):
        height, width = _declared_size(encoded)
        # In float64, which holds any product of two sizes that files can declare.
        fits = tf.cast(height, tf.float64) * tf.cast(width, tf.float64) <= max_pixels
        readable = lambda: (photograph.decode_to_square(encoded, size), "")
        return place, *tf.cond(fits, readable, lambda: (blank, _too_large(height, width, max_pixels)))

    def read_all(**parallel):
        numbered = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        readable = numbered.map(read, **parallel).ignore_errors()
        # The first element stands for those that are left out, and makes sure that there is a batch.
        first = tf.data.Dataset.from_tensors((-1, blank, ""))
        return first.concatenate(readable).batch(tf.cast(count, tf.int64) + 1).get_single_element()

    # One alone is read sooner without other threads.
    several = lambda: read_all(num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    places, pixels, said = tf.cond(count > 1, several, read_all)
    where = tf.scatter_nd(places[1:, None], tf.range(1, tf.size(places)), [count])
    is_read = where > 0
    said = tf.gather(said, where)
    said = tf.cond(tf.reduce_all(is_read), lambda: said, lambda: tf.where(is_read, said, _unreadable(image_bytes)))
    return tf.ensure_shape(tf.gather(pixels, where), [None, size, size, 3]), said


def _declared_size(encoded):
    """Height and width that a JPEG's or PNG's head declares, int64; fails for a damaged head, or another file's."""

    def of_png():
        # The first chunk: length, name, width, height.
        name = tf.strings.substr(encoded, 12, 4)
        with tf.control_dependencies([tf.debugging.assert_equal(name, b"IHDR")]):
            numbers = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
        # They have no sign.
        numbers = tf.math.floormod(tf.cast(tf.ensure_shape(numbers, [2]), tf.int64), 2**32)
        return tf.reverse(numbers, [0])

    is_png = tf.equal(tf.strings.substr(encoded, 0, len(_PNG)), _PNG)
    size = tf.cond(is_png, of_png, lambda: tf.image.extract_jpeg_shape(encoded, tf.int64)[:2])
    return size[0], size[1]


def _too_large(height, width, max_pixels):
    sizes = [tf.strings.as_string(width), " x ", tf.strings.as_string(height)]
    return tf.strings.join([f"Expected a photograph of at most {max_pixels} pixels. Received: ", *sizes])


def _unreadable(image_bytes):
    """Why each file, if it could not be read, could not; string ``[batch]``."""
    starts = tf.strings.substr(image_bytes, 0, len(_PNG))
    is_known = tf.equal(starts, _PNG) | tf.equal(tf.strings.substr(starts, 0, len(_JPEG)), _JPEG)
    length = tf.strings.as_string(tf.strings.length(image_bytes))
    not_whole = tf.strings.join(["Expected a whole JPEG or PNG. Received: ", length, " bytes that cannot be decoded"])
    unknown = tf.strings.join(["Expected a JPEG or PNG. Received: ", length, " bytes of something else"])
    return tf.where(is_known, not_whole, unknown)


class Signatures:
    """The functions of a served model.

    Args:
      network: maps float32 ``[batch, crop_size, crop_size, 3]`` to logits and features.
      preparation: `Preparation`.
      labels: path of a text file with the name of each class in a line; it becomes an asset of the SavedModel.
      views: "center" for the central crop, "ten" for the mean of ten views' probabilities.
      top: int, how many classes an answer names; all of them where there are fewer.
      max_pixels: as in `read_photographs`.
    """

    def __init__(self, network, preparation, labels, *, views="center", top=5, max_pixels=MAX_PIXELS):
        if views not in VIEWS:
            raise ValueError(f"Expected views to be one of {', '.join(VIEWS)}. Received: {views=}")
        if not top >= 1:
            raise ValueError(f"Expected top to be at least 1. Received: {top=}")
        if not 1 <= max_pixels <= MAX_PIXELS:
            raise ValueError(f"Expected max_pixels from 1 to {MAX_PIXELS}. Received: {max_pixels=}")
        self._network = network
        self._preparation = preparation
        initializer = tf.lookup.TextFileInitializer(
            labels, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
        )
        self.class_names = tf.lookup.StaticHashTable(initializer, default_value="")
        self._top = min(top, int(self.class_names.size()))
        self._max_pixels = max_pixels
        ways = {"center": lambda images: [self._central_view(images)], "ten": self._ten_views}
        self._probabilities_of_views = errors.probability_function(
            lambda images, training: network(images, training=training)[0], ways[views]
        )

    def endpoints(self):
        """A dict from the name of each signature to its function and the ``tf.TensorSpec`` of its argument."""
        size = self._preparation.image_size
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        return {
            "serving_default": (self.classify_bytes, image_bytes),
            "images": (self.classify_images, tf.TensorSpec([None, size, size, 3], tf.uint8, name="images")),
            "images_float": (self.classify_images, tf.TensorSpec([None, size, size, 3], tf.float32, name="images")),
            "frames": (self.classify_frames, tf.TensorSpec([None, None, None, 3], tf.uint8, name="frames")),
            "features": (self.features, image_bytes),
        }

    def classify_bytes(self, image_bytes):
        """Photographs as files.

        Args:
          image_bytes: string ``[batch]``, JPEG or PNG of any size.

        Returns:
          What `classify_images` does, and ``errors``, string ``[batch]``: empty, or why a photograph could not be read;
          its probabilities and scores are 0 and its classes empty.
        """
        images, said = self._read(image_bytes)
        answer = self.classify_images(images)
        is_right = tf.equal(said, "")[:, None]
        return {
            "probabilities": tf.where(is_right, answer["probabilities"], 0.0),
            "classes": tf.where(is_right, answer["classes"], ""),
            "scores": tf.where(is_right, answer["scores"], 0.0),
            "errors": said,
        }

    def classify_images(self, images):
        """Photographs that are prepared: cut to their central square and scaled, as `photograph.to_square` does.

        Args:
          images: uint8 or float32 ``[batch, image_size, image_size, 3]``, RGB in [0, 255].

        Returns:
          A dict: ``probabilities``, float32 ``[batch, num_classes]``; and, most probable first, ``classes``, string
          ``[batch, top]``, and ``scores``, their probabilities, float32 ``[batch, top]``.
        """
        probabilities = tf.reduce_mean(self._probabilities_of_views(images), axis=0)
        scores, places = tf.math.top_k(probabilities, self._top)
        classes = self.class_names.lookup(tf.cast(places, tf.int64))
        return {"probabilities": probabilities, "classes": classes, "scores": scores}

    def classify_frames(self, frames):
        """Pictures of any size, decoded, such as a camera's.

        Args:
          frames: uint8 ``[batch, height, width, 3]``, RGB.

        Returns:
          What `classify_images` does.
        """
        size = self._preparation.image_size
        spec = tf.TensorSpec([size, size, 3], tf.uint8)
        return self.classify_images(
            tf.map_fn(lambda frame: photograph.to_square(frame, size), frames, fn_output_signature=spec)
        )

    def features(self, image_bytes):
        """What the last layer reads of the central crop, for retrieval by Euclidean distance (paper section 6.1).

        Args:
          image_bytes: string ``[batch]``, JPEG or PNG of any size.

        Returns:
          A dict: ``features``, float32 ``[batch, units]``, AlexNet's 4096 of fc7; ``errors`` as in `classify_bytes`,
          where features are 0.
        """
        images, said = self._read(image_bytes)
        _, features = self._network(self._central_view(images), training=False)
        features = tf.where(tf.equal(said, "")[:, None], tf.cast(features, tf.float32), 0.0)
        return {"features": features, "errors": said}

    def _read(self, image_bytes):
        return read_photographs(image_bytes, size=self._preparation.image_size, max_pixels=self._max_pixels)

    def _central_view(self, images):
        preparation = self._preparation
        return augmentation.central_view(
            images, preparation.mean_image, size=preparation.crop_size, scale=preparation.scale
        )

    def _ten_views(self, images):
        preparation = self._preparation
        return augmentation.ten_views(
            images,
            preparation.mean_image,
            mean_crop=preparation.mean_crop,
            size=preparation.crop_size,
            scale=preparation.scale,
        )


def with_features(model):
    """A classifier that also returns what its last layer reads.

    Args:
      model: a functional ``keras.Model`` whose last layer with weights gives the logits.

    Returns:
      A ``keras.Model`` of the same input, with outputs logits and, ``[batch, units]``, the features.
    """
    last = [layer for layer in model.layers if layer.trainable_weights][-1]
    return keras.Model(model.inputs, [model.outputs[0], last.input])
