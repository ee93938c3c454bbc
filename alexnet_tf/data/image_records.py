"""The images of a prepared split, read by index from its shards."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_tf.data import records


class Index(NamedTuple):
    """The location of a split's records: arrays with one entry per record."""

    labels: np.ndarray  # int64
    shards: np.ndarray  # int32: number of the shard
    places: np.ndarray  # int64: offset of the record in the shard
    lengths: np.ndarray  # int64: number of bytes of the record's data
    image_places: np.ndarray  # int32: offset of the image in the data
    image_lengths: np.ndarray  # int32: number of bytes of the image
    names: np.ndarray  # bytes, UTF-8: name of the photograph in its source


class ImageRecords:
    """The images of a split, read by index.

    Args:
      directory: of the data set.
      files: names of the shards in it.
      index: `Index`.

    Attributes:
      index: `Index`.
      paths: list of the shards' paths.
    """

    def __init__(self, directory: str | os.PathLike, files: Sequence[str], index: Index):
        self.index = index
        self.paths = [pathlib.Path(directory) / file for file in files]
        self._records = records.Records(self.paths, index.shards, index.places, index.lengths, self.name_of)

    def subset(self, indices: np.ndarray) -> "ImageRecords":
        """Returns the images at `indices`, an int array."""
        index = Index(*(column[indices] for column in self.index))
        return ImageRecords(self.paths[0].parent, [path.name for path in self.paths], index)

    def name_of(self, number: int) -> str:
        """Returns the name of the photograph in its source."""
        return self.index.names[number].decode()

    def image(self, number: int) -> memoryview:
        """Reads the bytes of an image: an encoded file or pixels.

        Raises:
          records.DamagedRecordError: if they differ from what was written; the message names the image and the shard.
        """
        first = self.index.image_places[number]
        return memoryview(self._records.read(number))[first : first + self.index.image_lengths[number]]
