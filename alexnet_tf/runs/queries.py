"""Reads the query images of a nearest-neighbor search: image files, or images of the data set."""

import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_tf.data import sources
from alexnet_tf.evaluation import feature_index
from alexnet_tf.runs import inputs


class Queries(NamedTuple):
    """The requested queries: image files, images of a split, and images drawn at random from that split."""

    images: Sequence[str | os.PathLike] = ()  # paths of image files
    split: str = "test"
    indices: Sequence[int] = ()  # of images in the split
    random: int = 0  # how many images of the split to draw
    seed: int = 0


class Query(NamedTuple):
    """A query whose image was read."""

    name: str
    pixels: np.ndarray  # uint8 [image_size, image_size, 3]
    # None for an image file.
    split: str | None = None
    place: int | None = None  # index in the split
    label: int | None = None


def check_split(source: sources.Source, split: str) -> None:
    """Raises ValueError if the data set has no such split."""
    if split not in source.splits:
        raise ValueError(f"Expected split to be one of {', '.join(source.splits)}. Received: {split}")


def load_files(
    request: Queries, image_size: int, report_slow: Callable[[str, float], None] = lambda name, seconds: None
) -> list[Query]:
    """Reads the queries that are image files.

    Args:
      request: the queries.
      image_size: side of the square images that the network is evaluated on.
      report_slow: as the `report` of `inputs.reporting_slow`.

    Raises:
      ValueError: if there is no query, or an image cannot be read.
    """
    if not (request.images or request.indices or request.random):
        raise ValueError("Expected at least one query. Received: none")
    names = [str(path) for path in request.images]
    read = inputs.reporting_slow(
        lambda place: inputs.read_file(names[place], image_size), names.__getitem__, report_slow
    )
    return [Query(name, read(place)) for place, name in enumerate(names)]


def load_from_split(
    source: sources.Source,
    request: Queries,
    image_size: int,
    report_slow: Callable[[str, float], None] = lambda name, seconds: None,
) -> list[Query]:
    """Reads the queries that are images of a split.

    Args:
      source: the data set.
      request, image_size, report_slow: as of `load_files`.

    Raises:
      ValueError: if an index is outside its split, or an image cannot be read.
    """
    if not (request.indices or request.random):
        return []
    check_split(source, request.split)
    loaded = []
    part = source.splits[request.split]
    count = len(part.labels)
    for place in request.indices:
        if not 0 <= place < count:
            raise ValueError(f"Expected queries from 0 to {count - 1} in the {request.split} split. Received: {place}")
    if not 0 <= request.random <= count:
        raise ValueError(
            f"Expected random to be 0 to {count}, the number of {request.split} images. Received: {request.random}"
        )
    drawn = np.random.default_rng(request.seed).permutation(count)[: request.random]
    read = inputs.reporting_slow(lambda place: inputs.read_example(part, place, image_size), part.name_of, report_slow)
    for place in [*request.indices, *drawn.tolist()]:
        pixels = read(place)
        loaded.append(Query(part.name_of(place), pixels, request.split, place, int(part.labels[place])))
    return loaded


def place_in_index(query: Query, index: feature_index.Index) -> int:
    """Returns the place of a query's own image in an index, -1 if it is not there."""
    if query.split is not None:
        if query.split != index.metadata["split"]:
            return -1
        same = np.flatnonzero(index.images.places == query.place)
        return int(same[0]) if len(same) else -1
    # Names of images are paths; in prepared data they are relative to the original folder.
    paths = {f"/{os.path.abspath(query.name)}", f"/{os.path.realpath(query.name)}"}
    for place, name in enumerate(index.images.names):
        if any(path.endswith(f"/{name}") for path in paths):
            return place
    return -1
