"""The examples of one split, read by index: from memory, from prepared records or from photographs.

Reading has two steps. Copying is done for a batch at a time; decoding runs image by image on all cores.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from alexnet_tf.data import photograph
from alexnet_tf.data import sources
from alexnet_tf.utils import messages

IMAGE_SIZE = photograph.IMAGE_SIZE

# The color of a decoded pixel depends on pixels up to this distance.
_COLOR_REACH = 2

# Fetched batches among which an unreadable photograph is searched: more than a pipeline reads ahead.
_RECENT_BATCHES = 16
# What reading or decoding a photograph raises, as opposed to, say, another worker that is lost.
_READING_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnknownError,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Labeled images that are read by index.

    `fetch(indices, offsets, size)` takes int64 ``[images]`` and int32 ``[images, 2]`` and returns an array with one
    entry of `fetched_dtype` per image. `decode(entry, offset, size)` consists of TensorFlow operations. It turns an
    entry into a square of the image, uint8 ``[size, size, 3]``, whose first pixel is at the offset. If `decode` is
    None, `fetch` returns these squares itself.
    """

    labels: np.ndarray  # int64 [examples]
    fetch: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    fetched_dtype: tf.DType
    decode: Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor] | None = None
    image_size: int = IMAGE_SIZE  # side of the images that squares are cut from
    # Returns the name of a photograph among those fetched last that cannot be read any more, and why; or "".
    find_unreadable: Callable[[], str] = lambda: ""
    promised: int = 0  # bytes of memory that they take once all of them have been read

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices) -> np.ndarray:
        """Reads entire images.

        Args:
          indices: int ``[count]``, at least one.

        Returns:
          uint8 ``[count, image_size, image_size, 3]``.

        Raises:
          ValueError: if a photograph cannot be read any more; the message names it.
        """
        indices = np.asarray(indices, np.int64)
        offsets = np.zeros([len(indices), 2], np.int32)
        with naming_unreadable(self):
            fetched = self.fetch(indices, offsets, self.image_size)
            if self.decode is not None:
                fetched = [self.decode(entry, offset, self.image_size) for entry, offset in zip(fetched, offsets)]
            return np.stack(fetched)


def in_memory(labels: np.ndarray, images: np.ndarray) -> Examples:
    """Returns `Examples` of decoded images in memory.

    Args:
      labels: int64 ``[examples]``.
      images: uint8 ``[examples, size, size, 3]``.
    """
    fetch = functools.partial(_squares, images.__getitem__)
    return Examples(labels, fetch, tf.uint8, image_size=images.shape[1])


def kept_when_read(data: Examples) -> Examples:
    """Returns `Examples` that keep each decoded image in memory from the first time that it is read.

    Args:
      data: the examples to read, whose images are in memory only then.
    """
    # Memory that was not written to takes no space yet.
    images = np.empty([len(data), data.image_size, data.image_size, 3], np.uint8)
    is_kept = np.zeros(len(data), bool)

    def image_at(index):
        # Two threads may read the same image, and then write the same pixels.
        if not is_kept[index]:
            (images[index],) = data.images([index])
            is_kept[index] = True
        return images[index]

    fetch = functools.partial(_squares, image_at)
    return Examples(data.labels, fetch, tf.uint8, None, data.image_size, data.find_unreadable, images.nbytes)


def _squares(image_at, indices, offsets, size):
    """Implements `Examples.fetch` for a function that maps an index to an image's uint8 pixels."""
    squares = np.empty([len(indices), size, size, 3], np.uint8)
    for square, index, (top, left) in zip(squares, indices.tolist(), offsets.tolist()):
        square[:] = image_at(index)[top : top + size, left : left + size]
    return squares


def from_records(split: sources.Split) -> Examples:
    """Returns `Examples` of prepared images, read from disk on demand.

    Args:
      split: a `sources.Split` with records, as `prepared.open_data_dir` returns it.
    """
    records = split.records

    def fetch_encoded(indices, offsets, size):
        del offsets, size
        return np.array([bytes(records.image(index)) for index in indices.tolist()], object)

    def pixels(index):
        return np.frombuffer(records.image(index), np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 3)

    if split.is_raw:
        return Examples(split.labels, functools.partial(_squares, pixels), tf.uint8)
    return Examples(split.labels, fetch_encoded, tf.string, decode_jpeg_crop)


def decode_jpeg_crop(encoded: tf.Tensor, offset: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes a crop of a prepared JPEG image: `Examples.decode`.

    Only the blocks that the crop touches are decoded, and a few columns more: JPEG stores colors at half the
    resolution and interpolates them across blocks, so pixels at the crop's edge depend on their neighbors.
    """
    first = tf.maximum(offset[1] - _COLOR_REACH, 0)
    last = tf.minimum(offset[1] + size + _COLOR_REACH, IMAGE_SIZE)
    wide = tf.io.decode_and_crop_jpeg(encoded, [offset[0], first, size, last - first], channels=3)
    return wide[:, offset[1] - first : offset[1] - first + size]


def decode_raw_crop(stored: tf.Tensor, offset: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts a crop out of a prepared image that is stored as pixels: `Examples.decode`."""
    pixels = tf.reshape(tf.io.decode_raw(stored, tf.uint8), [IMAGE_SIZE, IMAGE_SIZE, 3])
    return tf.slice(pixels, tf.concat([offset, [0]], axis=0), [size, size, 3])


@contextlib.contextmanager
def naming_unreadable(data: Examples) -> Iterator[None]:
    """Names the photograph if reading one fails within the block.

    An error within a pipeline does not say which photograph it comes from, so the last ones are read again.

    Raises:
      ValueError: in place of the pipeline's error, if a photograph is found that cannot be read.
    """
    try:
        yield
    except _READING_ERRORS as error:
        if unreadable := data.find_unreadable():
            raise ValueError(
                "Expected photographs to stay readable while the program runs. "
                f"Received: {unreadable}; restore it, or remove it and use a new --workdir"
            ) from error
        raise


def reason_unreadable(split: sources.Split, index: int, image_size: int = IMAGE_SIZE) -> str:
    """Returns why a photograph of a split cannot be read, one line; the empty string if it can."""
    try:
        photograph.decode_to_square(split.read(tf.constant(index, tf.int64)), image_size)
    except (tf.errors.OpError, ValueError) as error:
        return messages.first_line(error)
    return ""


def from_photographs(split: sources.Split, readable: np.ndarray, image_size: int) -> Examples:
    """Returns `Examples` of photographs that are decoded on demand.

    Args:
      split: a `sources.Split`.
      readable: int64 ``[examples]``, the indices of the photographs that can be read.
      image_size: int, the side of the squares that photographs are scaled to.
    """

    def decode(index, offset, size):
        image = photograph.decode_to_square(split.read(index), image_size)
        return tf.slice(image, tf.concat([offset, [0]], axis=0), [size, size, 3])

    recent = collections.deque(maxlen=_RECENT_BATCHES)

    def fetch(indices, offsets, size):
        del offsets, size
        fetched = readable[indices]
        recent.append(fetched)
        return fetched

    def find_unreadable():
        for index in dict.fromkeys(np.concatenate([*recent, []]).astype(int).tolist()):
            if reason := reason_unreadable(split, index, image_size):
                return f"{split.name_of(index)} ({reason})"
        return ""

    return Examples(split.labels[readable], fetch, tf.int64, decode, image_size, find_unreadable)
