"""Asking an exported network about photographs: in this process, or a server over gRPC or REST.

Each of `SavedModel`, `Grpc` and `Rest` has `predict`, which takes the bytes of JPEG or PNG images and returns the
outputs of a signature under their names; all three give the same.
"""

import base64
import http.client
import json
import os
import re
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf

from alexnet_tf.serving import protocol
from alexnet_tf.utils import messages

REST_PORT = 8501
PROTOCOLS = ("auto", "grpc", "rest")

# Of the images of one request, and so of one image too: bytes.
MAX_REQUEST_BYTES = 64 * 2**20
# Of an answer: a thousand probabilities for each of thousands of images fit.
_MAX_ANSWER_BYTES = 64 * 2**20

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")

_BAR = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 20
_MAX_NAME_WIDTH = 40


class Prediction(NamedTuple):
    """What a network says of one photograph."""

    path: str
    classes: list  # of str, the most probable first; none after an error
    scores: list  # of float in [0, 1], their probabilities
    error: str  # one line; "" for none

    def first(self, top):
        """The same with its `top` first classes, or as many as there are."""
        return self._replace(classes=self.classes[:top], scores=self.scores[:top])

    def as_dict(self):
        """The path with classes and scores, or with the error: for JSON."""
        if self.error:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "classes": self.classes, "scores": self.scores}


class _Backend:
    """What holds something that must be let go: `close`, or the end of a `with` block, does it."""

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def newest_version(directory):
    """Where the SavedModel of an export is, as TensorFlow Serving chooses it.

    Args:
      directory: an export, with a directory for each version, named by its number; or a SavedModel itself.

    Returns:
      A pair: the directory of the highest number, or `directory` itself if that holds a saved_model.pb; the number as
      an int, 1 for a SavedModel itself.

    Raises:
      ValueError: if there is no SavedModel.
    """
    directory = os.fspath(directory)
    if _is_saved_model(directory):
        return directory, 1
    names = os.listdir(directory) if os.path.isdir(directory) else []
    versions = [name for name in names if name.isascii() and name.isdigit()]
    if not versions:
        what = "no version in it" if os.path.isdir(directory) else "none there"
        raise ValueError(f"Expected an export, DIR/1/saved_model.pb, in {directory}. Received: {what}")
    newest = max(versions, key=int)
    if not _is_saved_model(os.path.join(directory, newest)):
        raise ValueError(f"Expected a saved_model.pb in {os.path.join(directory, newest)}. Received: none there")
    return os.path.join(directory, newest), int(newest)


def _is_saved_model(directory):
    return os.path.isfile(os.path.join(directory, "saved_model.pb"))


def cause(error):
    """Why a network could not be run: the line of an error before the place in the graph where it arose.

    Args:
      error: a `tf.errors.OpError`.

    Returns:
      A string of one line.
    """
    lines = [line.strip() for line in error.message.partition("[[")[0].splitlines() if line.strip()]
    return messages.first_line(ValueError(lines[-1])) if lines else type(error).__name__


class SavedModel(_Backend):
    """An exported network in this process.

    Args:
      directory: as `newest_version` takes it.

    Raises:
      ValueError: if there is no SavedModel, or none that can be loaded.
    """

    def __init__(self, directory):
        self._directory, _ = newest_version(directory)
        try:
            self._model = tf.saved_model.load(self._directory)
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise ValueError(
                f"Expected a whole SavedModel in {self._directory}. Received: {messages.first_line(error)}"
            ) from None

    def predict(self, images, signature="serving_default"):
        """The outputs of a signature.

        Args:
          images: list of bytes, JPEG or PNG files.
          signature: name of one whose input is `image_bytes`.

        Returns:
          A dict from names to NumPy arrays, one row for each image; strings are arrays of `bytes` objects.

        Raises:
          ValueError: for another signature.
          OSError: if the network cannot be run.
        """
        function = self._model.signatures.get(signature)
        inputs = list(function.structured_input_signature[1]) if function else []
        if inputs != ["image_bytes"]:
            received = f"{signature!r} of {inputs}" if function else f"{signature!r}, none of {self._signatures()}"
            raise ValueError(f"Expected a signature of image_bytes in {self._directory}. Received: {received}")
        try:
            outputs = function(image_bytes=tf.constant(images, tf.string))
        except tf.errors.OpError as error:
            raise OSError(f"Expected an answer of {self._directory}. Received: {cause(error)}") from None
        return {name: value.numpy() for name, value in outputs.items()}

    def _signatures(self):
        return ", ".join(sorted(self._model.signatures))


class Grpc(_Backend):
    """A network that TensorFlow Serving has, over gRPC without encryption.

    Args:
      address: HOST:PORT.
      model_name: under which the server has it.
      timeout: seconds to wait for one answer.

    Raises:
      ValueError: for another address.
    """

    def __init__(self, address, model_name="alexnet", timeout=10.0):
        self._address, self._model_name, self._timeout = checked_address(address), model_name, timeout
        self._channel = grpc.insecure_channel(
            self._address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
                # A model server is in one's own network.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._call = self._channel.unary_unary(
            protocol.PREDICT,
            request_serializer=protocol.message_class("PredictRequest").SerializeToString,
            response_deserializer=protocol.message_class("PredictResponse").FromString,
        )

    def predict(self, images, signature="serving_default"):
        """The outputs of a signature; takes and returns what `SavedModel.predict` does.

        Raises:
          ValueError: if the server has no such model or signature, or refuses the request.
          TimeoutError: if it does not answer in time.
          ConnectionError: if it cannot be reached.
          OSError: for any other failure.
        """
        request = protocol.predict_request(self._model_name, signature, {"image_bytes": images})
        try:
            return protocol.outputs(self._call(request, timeout=self._timeout))
        except grpc.RpcError as error:
            code, details = error.code(), _one_line(error.details() or "")
        raise self._failure(code, details)

    def _failure(self, code, details):
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return _late(self._address, self._timeout)
        if code == grpc.StatusCode.UNAVAILABLE:
            return _unreachable("gRPC", self._address, details)
        if code == grpc.StatusCode.NOT_FOUND:
            return _unknown_model(self._model_name, self._address, details)
        refused = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
        kind = ValueError if code in refused else OSError
        return kind(f"Expected an answer of {self._address}. Received: {code.name}, {details}")

    def close(self):
        """Closes the connection."""
        self._channel.close()


class Rest(_Backend):
    """A network that TensorFlow Serving has, over HTTP and JSON.

    Args:
      address: HOST:PORT, with http:// before it or without.
      model_name: under which the server has it.
      timeout: seconds to wait for the connection, and for each part of the answer.

    Raises:
      ValueError: for another address.
    """

    def __init__(self, address, model_name="alexnet", timeout=10.0):
        self._address = checked_address(address.removeprefix("http://").removesuffix("/"))
        self._model_name, self._timeout = model_name, timeout
        self._url = f"http://{self._address}/v1/models/{urllib.parse.quote(model_name, safe='')}:predict"
        # A model server is in one's own network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def predict(self, images, signature="serving_default"):
        """The outputs of a signature; takes, returns and raises what `Grpc.predict` does.

        The dtype of numbers does not cross the wire: floats are float32, whole numbers int64.
        """
        encoded = [{"b64": base64.b64encode(image).decode("ascii")} for image in images]
        body = json.dumps({"signature_name": signature, "inputs": {"image_bytes": encoded}}).encode("ascii")
        outputs = self._answer(body).get("outputs")
        try:
            return {name: _array(values) for name, values in outputs.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _unreachable("REST", self._address, "an answer without outputs by name", OSError) from None

    def _answer(self, body):
        """What the server says: the object of its JSON."""
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                answer = response.read(_MAX_ANSWER_BYTES + 1)
                # With a limit, an end before the promised length is no error to it.
                if response.length and len(answer) <= _MAX_ANSWER_BYTES:
                    raise http.client.IncompleteRead(answer, response.length)
                return self._parsed(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error.code, error.read(_MAX_ANSWER_BYTES)) from None
        except TimeoutError:
            raise _late(self._address, self._timeout) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _late(self._address, self._timeout) from None
            raise _unreachable("REST", self._address, messages.first_line(error.reason)) from None
        except (http.client.HTTPException, ConnectionError) as error:
            raise _unreachable("REST", self._address, messages.first_line(error)) from None

    def _parsed(self, body):
        if len(body) > _MAX_ANSWER_BYTES:
            raise _unreachable("REST", self._address, f"more than {_MAX_ANSWER_BYTES} bytes", OSError)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise _unreachable("REST", self._address, f"{len(body)} bytes that are no JSON object", OSError)
        return answer

    def _refusal(self, status, body):
        try:
            details = _one_line(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _unreachable("REST", self._address, f"HTTP status {status}", OSError)
        if status == http.HTTPStatus.NOT_FOUND:
            return _unknown_model(self._model_name, self._address, details)
        kind = ValueError if status in (http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.PRECONDITION_FAILED) else OSError
        return kind(f"Expected an answer of {self._address}. Received: HTTP status {status}, {details}")


def _one_line(details):
    return messages.first_line(ValueError(details)) if details.strip() else "nothing more"


def _late(address, seconds):
    return TimeoutError(f"Expected an answer of {address} within {seconds:g} s. Received: none")


def _unreachable(kind, address, received, error=ConnectionError):
    return error(f"Expected a {kind} model server at {address}. Received: {received}")


def _unknown_model(name, address, details):
    return ValueError(f"Expected the name of a model of {address}. Received: {name!r}, {details}")


def _array(values):
    """An output out of JSON, whose strings are text, or base64 where its name ends in _bytes."""
    array = np.array(values, object)
    if all(isinstance(value, (int, float)) for value in array.flat):
        numbers = np.array(values)
        return numbers.astype(np.float32) if numbers.dtype == np.float64 else numbers
    # As NumPy's own strings lose the zeros at their end, these are Python's.
    strings = np.empty([array.size], object)
    strings[:] = [base64.b64decode(text["b64"]) if isinstance(text, dict) else text.encode() for text in array.flat]
    return strings.reshape(array.shape)


def checked_address(address):
    """An address that is one.

    Args:
      address: HOST:PORT; an IPv6 address in brackets.

    Returns:
      The same.

    Raises:
      ValueError: for anything else.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"Expected HOST:PORT, the port 1 to 65535. Received: {address!r}")
    return address


def open_server(address, protocol="auto", model_name="alexnet", timeout=10.0):
    """The backend for a server; nothing is sent yet.

    Args:
      address: HOST:PORT, or http://HOST:PORT for REST.
      protocol: "grpc", "rest" or "auto", which takes REST for an address that begins with http:// and for port 8501,
        where TensorFlow Serving has it by custom, and gRPC for any other.
      model_name: under which the server has the network.
      timeout: seconds to wait for one answer.

    Returns:
      `Grpc` or `Rest`.

    Raises:
      ValueError: for other values.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Expected protocol to be {' | '.join(PROTOCOLS)}. Received: {protocol!r}")
    if not model_name:
        raise ValueError("Expected the name of a model. Received: none")
    if not 0 < timeout < float("inf"):
        raise ValueError(f"Expected a timeout of more than 0 s. Received: {timeout:g}")
    is_url = address.startswith("http://")
    if protocol == "grpc" and is_url:
        raise ValueError(f"Expected HOST:PORT for gRPC. Received: {address!r}")
    by_custom = address.endswith(f":{REST_PORT}")
    kind = Rest if protocol == "rest" or (protocol == "auto" and (is_url or by_custom)) else Grpc
    return kind(address, model_name, timeout)


class _File(NamedTuple):
    """A photograph's file, read or not."""

    path: str
    image: bytes
    error: str


def classify(backend, paths, batch_size=32):
    """What a network says of photographs.

    Args:
      backend: `SavedModel`, `Grpc` or `Rest`.
      paths: of JPEG or PNG files, any number. In memory are those of one request, 64 MiB at most, and one more.
      batch_size: int, images in a request at most.

    Yields:
      `Prediction` for each path, in their order. A file that cannot be read, or is no image, is an error of its own.

    Raises:
      ValueError, OSError: if the backend gives no answer, or one that is none of an export's.
    """
    if batch_size < 1:
        raise ValueError(f"Expected a batch_size of 1 or more. Received: {batch_size}")
    for batch in _batches(map(_read, paths), batch_size):
        yield from _predictions(backend, batch)


def _read(path):
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            image = file.read(MAX_REQUEST_BYTES + 1)
    except (OSError, ValueError) as error:
        return _File(path, b"", f"Expected a file that can be read. Received: {_reason(error)}")
    if len(image) > MAX_REQUEST_BYTES:
        return _File(path, b"", f"Expected a file of {MAX_REQUEST_BYTES // 2**20} MiB at most. Received: more")
    return _File(path, image, "")


def _reason(error):
    return getattr(error, "strerror", None) or str(error)


def _batches(files, batch_size):
    """Lists of files: up to `batch_size`, and up to the bytes of one request."""
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
    answers = iter(_rows(backend.predict(images), len(images)) if images else [])
    for file in batch:
        classes, scores, error = ([], [], file.error) if file.error else next(answers)
        yield Prediction(file.path, classes, scores, error)


def _rows(outputs, count):
    """For each image its classes, scores and error."""
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


def table(predictions, top=5):
    """Names, probabilities in percent, and bars, as text.

    Args:
      predictions: a list of `Prediction`.
      top: int, how many classes of each to show; fewer where the network names fewer.

    Returns:
      Lines of text: each path, and below it its classes, or the error.
    """
    lines = []
    for prediction in predictions:
        lines.append(_printable(prediction.path))
        if prediction.error:
            lines.append(f"  {_printable(prediction.error)}")
        for name, score in list(zip(prediction.classes, prediction.scores))[:top]:
            lines.append(f"  {_column(name)} {100 * score:>6.2f} %  {_bar(score)}".rstrip())
    return "\n".join(lines)


def _printable(text):
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _column(name):
    """A name cut and filled up to a fixed number of a terminal's columns."""
    name = _printable(name)
    if _columns(name) > _MAX_NAME_WIDTH:
        while _columns(name) > _MAX_NAME_WIDTH - 3:
            name = name[:-1]
        name += "..."
    return name + " " * (_MAX_NAME_WIDTH - _columns(name))


def _columns(text):
    """The columns of a terminal that a text takes: two for wide characters, none for accents by themselves."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _bar(score):
    """A bar of up to 20 columns, to an eighth of one."""
    whole, rest = divmod(round(min(max(score, 0), 1) * _BAR_WIDTH * 8), 8)
    return "█" * whole + _BAR[rest].strip()
