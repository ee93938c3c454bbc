"""Classifies image files with an exported or served network, and prints the predictions."""

import collections
import concurrent.futures
import os
import unicodedata
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import numpy as np

from alexnet_tf.utils import escaping

# Maximum bytes of the images in one request, and therefore of a single image.
MAX_REQUEST_BYTES = 64 * 2**20

_BAR = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 20
_MAX_NAME_WIDTH = 40


class Backend(Protocol):
    """A network to query: `client.SavedModel`, `client.Grpc` or `client.Rest`."""

    def predict(self, images: Sequence[bytes], signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Returns the outputs of a signature by name, one row per image."""


class Prediction(NamedTuple):
    """The most probable classes of one image file, or why there are none."""

    path: str
    classes: list[str]  # the most probable first; empty after an error
    scores: list[float]  # probabilities of these classes, in [0, 1]
    error: str  # one line; empty if the image was classified

    def top(self, count: int) -> "Prediction":
        """Returns the same prediction with its `count` most probable classes, or with all if there are fewer."""
        return self._replace(classes=self.classes[:count], scores=self.scores[:count])

    def as_dict(self) -> dict[str, Any]:
        """Returns a dict for JSON: the path with either the classes and scores or the error."""
        if self.error:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "classes": self.classes, "scores": self.scores}


class _File(NamedTuple):
    """An image file, read or not."""

    path: str
    image: bytes
    error: str


def classify_files(
    backend: Backend, paths: Iterable[str | os.PathLike], batch_size: int = 32, requests: int = 1
) -> Iterator[Prediction]:
    """Classifies image files in batches.

    Args:
      backend: the network to query.
      paths: paths of JPEG, PNG, GIF, BMP or WebP files. They are read as predictions are consumed: memory holds the
        files of one request, at most 64 MiB, and one more.
      batch_size: maximum number of images per request.
      requests: number of requests in progress. With more than one, the backend is called from as many threads, and
        images are read and decoded while it computes. Memory holds the files of each of them and of one more.

    Yields:
      A `Prediction` for each path, in order. A file that cannot be read or decoded yields a prediction with an error
      and does not affect the others.

    Raises:
      ValueError: if `batch_size` is less than 1, the backend refuses the request, or its outputs are not those of an
        export.
      OSError: if the backend does not answer.
    """
    if batch_size < 1:
        raise ValueError(f"Expected batch_size to be at least 1. Received: {batch_size=}")
    batches = _batches(map(_read, paths), batch_size)
    if requests == 1:
        for batch in batches:
            yield from _predictions(backend, batch)
    else:
        yield from _overlapped(backend, batches, requests)


def classify_image(backend: Backend, image: bytes) -> Prediction:
    """Classifies an encoded image, as `classify_files` does; the path of the prediction is empty.

    Raises:
      ValueError, OSError: as `classify_files`.
    """
    (prediction,) = _predictions(backend, [_File("", image, "")])
    return prediction


def _overlapped(backend, batches, requests):
    """Yields the predictions for all batches in order, with several requests in progress."""
    pending = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(requests) as pool:
        try:
            for batch in batches:
                pending.append(pool.submit(lambda batch=batch: list(_predictions(backend, batch))))
                if len(pending) > requests:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _read(path):
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            image = file.read(MAX_REQUEST_BYTES + 1)
    except (OSError, ValueError) as error:
        return _File(path, b"", f"Cannot read the file: {getattr(error, 'strerror', None) or error}")
    if len(image) > MAX_REQUEST_BYTES:
        return _File(path, b"", f"Expected a file of at most {MAX_REQUEST_BYTES // 2**20} MiB. Received: a larger one")
    return _File(path, image, "")


def _batches(files, batch_size):
    """Yields lists of at most `batch_size` files that fit into one request."""
    batch, total = [], 0
    for file in files:
        if batch and (len(batch) == batch_size or total + len(file.image) > MAX_REQUEST_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(file)
        total += len(file.image)
    if batch:
        yield batch


def _predictions(backend, batch):
    images = [file.image for file in batch if not file.error]
    rows = iter(_rows(backend.predict(images), len(images)) if images else [])
    for file in batch:
        classes, scores, error = ([], [], file.error) if file.error else next(rows)
        yield Prediction(file.path, classes, scores, error)


def _rows(outputs, count):
    """Returns the classes, scores and error of each image."""
    names = ("classes", "scores", "errors")
    shapes = {name: list(array.shape) for name, array in outputs.items()}
    if not set(names) <= set(outputs) or any(shapes[name][:1] != [count] for name in names):
        raise ValueError(f"Expected the outputs classes, scores and errors of {count} images. Received: {shapes}")
    rows = []
    for classes, scores, error in zip(*(outputs[name] for name in names)):
        text = " ".join(_text(error).split())
        rows.append(([], [], text) if text else ([_text(name) for name in classes], scores.tolist(), ""))
    return rows


def _text(string):
    return string.decode(errors="replace")


def format_table(predictions: Iterable[Prediction], top: int = 5) -> str:
    """Formats predictions as text: class names, probabilities in percent, and bars.

    Args:
      predictions: the predictions to format.
      top: number of classes per image; fewer if the network returns fewer.

    Returns:
      Lines of text: each path, followed by its classes or its error, indented.
    """
    lines = []
    for prediction in predictions:
        lines.append(escaping.one_line(prediction.path))
        if prediction.error:
            lines.append(f"  {escaping.one_line(prediction.error)}")
        for name, score in list(zip(prediction.classes, prediction.scores))[:top]:
            lines.append(f"  {_fixed_width(name)} {100 * score:>6.2f}%  {_bar(score)}".rstrip())
    return "\n".join(lines)


def _fixed_width(name):
    """Returns a name truncated or padded to a fixed number of terminal columns."""
    name = escaping.one_line(name)
    if _columns(name) > _MAX_NAME_WIDTH:
        while _columns(name) > _MAX_NAME_WIDTH - 3:
            name = name[:-1]
        name += "..."
    return name + " " * (_MAX_NAME_WIDTH - _columns(name))


def _columns(text):
    """Returns the terminal columns that a text occupies: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _bar(score):
    """Returns a bar of at most 20 columns, drawn to an eighth of a column."""
    whole, rest = divmod(round(min(max(score, 0), 1) * _BAR_WIDTH * 8), 8)
    return "█" * whole + _BAR[rest].strip()
