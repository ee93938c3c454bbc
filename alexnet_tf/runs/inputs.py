"""Images as users have them: image files, pixels in memory, Pillow images and examples of a split; read as squares.

Every image becomes uint8 ``[image_size, image_size, 3]`` by `photograph.decode_to_square`, as in training, evaluation
and served models.
"""

import concurrent.futures
import os
import stat
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from alexnet_tf.data import loading
from alexnet_tf.data import photograph
from alexnet_tf.data import sources
from alexnet_tf.utils import machine
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames

# Pillow's modes whose conversion to 8-bit RGB keeps the picture.
_PILLOW_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_KINDS = "paths, Pillow images or uint8 arrays [height, width, 3]"


def read_file(path: str | os.PathLike, image_size: int) -> np.ndarray:
    """Reads an image file.

    Args:
      path: a JPEG, PNG, GIF, BMP or WebP file.
      image_size: side of the square.

    Returns:
      uint8 ``[image_size, image_size, 3]``.

    Raises:
      ValueError: naming the file, if it cannot be read.
    """
    path = os.fspath(path)
    try:
        # TensorFlow would wait for a pipe, and read a folder of other systems' names.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("a folder or a special file")
        return photograph.decode_to_square(tf.io.read_file(os.fsencode(path)), image_size).numpy()
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise _unreadable(pathnames.printable(path), getattr(error, "strerror", None) or error) from None


def read_encoded(encoded: bytes, image_size: int) -> np.ndarray:
    """Decodes the bytes of an image file as `read_file` does.

    Raises:
      ValueError: if they cannot be decoded; in one line, without a name.
    """
    try:
        return photograph.decode_to_square(tf.constant(encoded), image_size).numpy()
    except tf.errors.OpError as error:
        raise ValueError(messages.first_line(error)) from None


def read_example(part: sources.Split, place: int, image_size: int) -> np.ndarray:
    """Reads one image of a split.

    Args:
      part: the split.
      place: the index of the image.
      image_size: side of the square.

    Returns:
      uint8 ``[image_size, image_size, 3]``.

    Raises:
      ValueError: naming the image, if it cannot be read.
    """
    try:
        return photograph.decode_to_square(part.read(tf.constant(place, tf.int64)), image_size).numpy()
    except tf.errors.OpError as error:
        raise _unreadable(part.name_of(place), error) from None


def _unreadable(name, error):
    reason = error if isinstance(error, str) else messages.first_line(error)
    return ValueError(f"Expected an image in {name}. Received: {reason}")


def from_user(images: Any) -> list[str | np.ndarray]:
    """Checks images in any accepted form, without reading files.

    Args:
      images: a path; a Pillow image; a uint8 array ``[height, width, 3]`` or ``[images, height, width, 3]``; or an
        iterable of paths, Pillow images and arrays ``[height, width, 3]``.

    Returns:
      A list with the path, or uint8 ``[height, width, 3]``, of each image.

    Raises:
      ValueError: for anything else, and without an image.
    """
    if isinstance(images, (str, os.PathLike)) or _is_pillow(images):
        return [_checked(images, "images")]
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        images = [array] if array.ndim == 3 else array
        if array.ndim not in (3, 4):
            raise _other_kind("images", array)
    elif isinstance(images, (bytes, Mapping)) or not isinstance(images, Iterable):
        raise _other_kind("images", images)
    checked = [_checked(image, f"image {number}") for number, image in enumerate(images)]
    if not checked:
        raise ValueError("Expected at least one image. Received: none")
    return checked


def _is_pillow(image):
    return hasattr(image, "getexif") and hasattr(image, "mode") and hasattr(image, "convert")


def _checked(image, name):
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image)
    if _is_pillow(image):
        return _from_pillow(image, name)
    if not hasattr(image, "__array__"):
        raise _other_kind(name, image)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise _other_kind(name, array)
    return array


def _from_pillow(image, name):
    """Returns the pixels of a Pillow image, upright as those of a file."""
    import PIL.ImageOps

    if image.mode not in _PILLOW_MODES:
        raise ValueError(f"Expected {name} to be an image of 8 bits. Received: a Pillow image of mode {image.mode}")
    try:
        return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise _unreadable(name, error) from None


def _other_kind(name, value):
    received = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
    return ValueError(f"Expected {name} to be {_KINDS}, RGB in [0, 255]. Received: {received}")


def read(image: str | np.ndarray, image_size: int) -> np.ndarray:
    """Reads one image that `from_user` returned, as `read_file` does.

    Raises:
      ValueError: naming the file, if it cannot be read.
    """
    if isinstance(image, str):
        return read_file(image, image_size)
    return photograph.decode_to_square(tf.constant(image), image_size).numpy()


def reporting_slow(
    read_one: Callable[[int], np.ndarray], name_of: Callable[[int], str], report: Callable[[str, float], None]
) -> Callable[[int], np.ndarray]:
    """Returns a function that reads images as `read_one` does, and reports those that take long.

    Args:
      read_one: function from an index to an image. It may raise ValueError.
      name_of: function from an index to the name of the image.
      report: called with the name of each image that took longer than `loading.SLOW_SECONDS` to read, whether it could
        be read or not, and with the seconds.
    """

    def read(index):
        begun = time.monotonic()
        try:
            return read_one(index)
        finally:
            seconds = time.monotonic() - begun
            if seconds > loading.SLOW_SECONDS:
                report(name_of(index), seconds)

    return read


def batches(
    read_one: Callable[[int], np.ndarray], indices: Sequence[int], batch_size: int
) -> Iterator[list[np.ndarray | ValueError]]:
    """Reads images on all cores, one batch ahead of the caller.

    Args:
      read_one: function from an index to an image. It may raise ValueError.
      indices: of the images.
      batch_size: number of images per batch; the last may have fewer.

    Yields:
      For each batch a list of images. In place of an image that could not be read is the error.
    """

    def attempt(index):
        try:
            return read_one(index)
        except ValueError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(machine.available_cores()) as pool:
        submit = lambda first: [pool.submit(attempt, index) for index in indices[first : first + batch_size]]
        ahead = submit(0)
        try:
            for first in range(batch_size, len(indices) + batch_size, batch_size):
                current, ahead = ahead, submit(first)
                yield [future.result() for future in current]
        finally:
            for future in ahead:
                future.cancel()
