"""Clients of an exported network: `SavedModel` in this process, `Grpc` and `Rest` for a server.

All three have the method `predict`, which takes encoded images (JPEG, PNG, GIF, BMP or WebP) and returns the outputs of
a signature by name. They return the same outputs.
"""

import base64
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

import grpc
import numpy as np
import tensorflow as tf

from alexnet_tf.serving import protocol
from alexnet_tf.utils import checksums
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames

PROTOCOLS = ("auto", "grpc", "rest")

# A thousand probabilities for each of thousands of images fit.
_MAX_RESPONSE_BYTES = 64 * 2**20

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


class Closable:
    """A context manager that calls `close` when its block ends."""

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def newest_version(directory: str | os.PathLike) -> tuple[str, int]:
    """Finds the SavedModel that TensorFlow Serving would load from an export.

    Args:
      directory: an export, which has a subdirectory for each version, named by its number; or a SavedModel.

    Returns:
      A pair: the path of the SavedModel with the highest version, and that version. If `directory` contains a
      saved_model.pb, the pair is `directory` and 1.

    Raises:
      ValueError: if there is no SavedModel.
    """
    directory = os.fspath(directory)
    if _is_saved_model(directory):
        return directory, 1
    versions = protocol.versions(directory) if os.path.isdir(directory) else {}
    if not versions:
        received = "a directory without versions" if os.path.isdir(directory) else "no such directory"
        raise ValueError(f"Expected an export (DIR/1/saved_model.pb) in {directory}. Received: {received}")
    newest = max(versions)
    if not _is_saved_model(versions[newest]):
        raise ValueError(f"Expected saved_model.pb in {versions[newest]}. Received: a directory without it")
    return versions[newest], newest


def check(directory: str | os.PathLike) -> None:
    """Checks the files of a version of an export that TensorFlow would read whatever their bytes are.

    Raises:
      ValueError: if one of them is not as it was exported.
    """
    checksums.check(directory, "the files of an export", "export the run again")


def _is_saved_model(directory):
    return os.path.isfile(os.path.join(directory, "saved_model.pb"))


class SavedModel(Closable):
    """An exported network, loaded into this process.

    Args:
      directory: an export or a SavedModel, as for `newest_version`.

    Raises:
      ValueError: if there is no SavedModel, or it is damaged.
    """

    def __init__(self, directory: str | os.PathLike):
        self._directory, _ = newest_version(directory)
        check(self._directory)
        try:
            self._model = tf.saved_model.load(pathnames.without_patterns(self._directory))
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise ValueError(f"Cannot load the SavedModel in {self._directory}: {messages.first_line(error)}") from None

    def predict(self, images: Sequence[bytes], signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
          images: encoded images.
          signature: name of a signature whose only input is `image_bytes`.

        Returns:
          A dict from output names to NumPy arrays with one row per image; strings are object arrays of `bytes`.

        Raises:
          ValueError: if there is no such signature.
          OSError: if running the network fails.
        """
        function = self._model.signatures.get(signature)
        inputs = list(function.structured_input_signature[1]) if function else []
        if inputs != ["image_bytes"]:
            names = ", ".join(sorted(self._model.signatures))
            received = f"{signature!r} with inputs {inputs}" if function else f"{signature!r}, not one of {names}"
            raise ValueError(
                f"Expected a signature with the input image_bytes in {self._directory}. Received: {received}"
            )
        try:
            outputs = function(image_bytes=tf.constant(images, tf.string))
        except tf.errors.OpError as error:
            raise OSError(f"Running the network in {self._directory} failed: {messages.first_line(error)}") from None
        return {name: value.numpy() for name, value in outputs.items()}


class Grpc(Closable):
    """A client of TensorFlow Serving over gRPC, without encryption.

    Args:
      address: HOST:PORT.
      model_name: the server's name for the model.
      timeout: seconds to wait for each response.

    Raises:
      ValueError: if the address is not HOST:PORT.
    """

    def __init__(self, address: str, model_name: str = "alexnet", timeout: float = 10.0):
        self._address, self._model_name, self._timeout = check_address(address), model_name, timeout
        self._channel = grpc.insecure_channel(
            self._address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
                # Model servers are on the local network.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._call = self._channel.unary_unary(
            protocol.PREDICT,
            request_serializer=protocol.message_class("PredictRequest").SerializeToString,
            response_deserializer=protocol.message_class("PredictResponse").FromString,
        )

    def predict(self, images: Sequence[bytes], signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Runs a signature on the server; see `SavedModel.predict` for arguments and result.

        Raises:
          ValueError: if the server has no such model or signature, or rejects the request.
          TimeoutError: if the server does not respond in time.
          ConnectionError: if the server cannot be reached.
          OSError: for any other failure.
        """
        request = protocol.predict_request(self._model_name, signature, {"image_bytes": images})
        try:
            return protocol.outputs(self._call(request, timeout=self._timeout))
        except grpc.RpcError as error:
            code, details = error.code(), _one_line(error.details() or "")
        raise self._error(code, details)

    def _error(self, code, details):
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return _timeout_error(self._address, self._timeout)
        if code == grpc.StatusCode.UNAVAILABLE:
            return _not_a_server("gRPC", self._address, details)
        if code == grpc.StatusCode.NOT_FOUND:
            return _unknown_model(self._model_name, self._address, details)
        rejected = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
        kind = ValueError if code in rejected else OSError
        return kind(f"{self._address} returned an error: {code.name}, {details}")

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


class Rest(Closable):
    """A client of TensorFlow Serving over REST: HTTP and JSON, without encryption.

    Args:
      address: HOST:PORT or http://HOST:PORT.
      model_name: the server's name for the model.
      timeout: seconds to wait for the connection, and for each part of the response.

    Raises:
      ValueError: if the address is neither.
    """

    def __init__(self, address: str, model_name: str = "alexnet", timeout: float = 10.0):
        self._address = check_address(address.removeprefix("http://").removesuffix("/"))
        self._model_name, self._timeout = model_name, timeout
        self._url = f"http://{self._address}/v1/models/{urllib.parse.quote(model_name, safe='')}:predict"
        # Model servers are on the local network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def predict(self, images: Sequence[bytes], signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Runs a signature on the server; arguments, result and errors are those of `Grpc.predict`.

        JSON does not carry dtypes: numbers with a fraction become float32, integers int64.
        """
        encoded = [{"b64": base64.b64encode(image).decode("ascii")} for image in images]
        body = json.dumps({"signature_name": signature, "inputs": {"image_bytes": encoded}}).encode("ascii")
        outputs = self._post(body).get("outputs")
        try:
            return {name: _array(values) for name, values in outputs.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _not_a_server("REST", self._address, "a response without named outputs", OSError) from None

    def _post(self, body):
        """Sends a request; returns the JSON object of the response as a dict."""
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                content = response.read(_MAX_RESPONSE_BYTES + 1)
                # `read` with a limit does not raise when the body is shorter than its declared length.
                if response.length and len(content) <= _MAX_RESPONSE_BYTES:
                    raise http.client.IncompleteRead(content, response.length)
                return self._parse(content)
        except urllib.error.HTTPError as error:
            with error:
                raise self._error(error.code, error.read(_MAX_RESPONSE_BYTES)) from None
        except TimeoutError:
            raise _timeout_error(self._address, self._timeout) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _timeout_error(self._address, self._timeout) from None
            raise _not_a_server("REST", self._address, messages.first_line(error.reason)) from None
        except (http.client.HTTPException, ConnectionError) as error:
            raise _not_a_server("REST", self._address, messages.first_line(error)) from None

    def _parse(self, content):
        if len(content) > _MAX_RESPONSE_BYTES:
            raise _not_a_server("REST", self._address, f"more than {_MAX_RESPONSE_BYTES} bytes", OSError)
        try:
            response = json.loads(content)
        except (ValueError, RecursionError):
            response = None
        if not isinstance(response, dict):
            raise _not_a_server("REST", self._address, f"{len(content)} bytes that are not a JSON object", OSError)
        return response

    def _error(self, status, content):
        try:
            details = _one_line(json.loads(content)["error"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _not_a_server("REST", self._address, f"HTTP status {status}", OSError)
        if status == http.HTTPStatus.NOT_FOUND:
            return _unknown_model(self._model_name, self._address, details)
        kind = ValueError if status in (http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.PRECONDITION_FAILED) else OSError
        return kind(f"{self._address} returned an error: HTTP status {status}, {details}")


def _one_line(details):
    return messages.first_line(ValueError(details)) if details.strip() else "no details"


def _timeout_error(address, seconds):
    return TimeoutError(f"{address} did not respond within {seconds:g} s; check the address or raise the timeout")


def _not_a_server(kind, address, received, error=ConnectionError):
    return error(f"Expected a {kind} model server at {address}. Received: {received}")


def _unknown_model(name, address, details):
    return ValueError(f"{address} has no model {name!r}: {details}")


def _array(values):
    """Converts an output from JSON to an array. Strings are text, or base64 if the output's name ends in _bytes."""
    array = np.array(values, object)
    if all(isinstance(value, (int, float)) for value in array.flat):
        numbers = np.array(values)
        return numbers.astype(np.float32) if numbers.dtype == np.float64 else numbers
    # Objects, because NumPy's own strings drop trailing zero bytes.
    strings = np.empty([array.size], object)
    strings[:] = [base64.b64decode(text["b64"]) if isinstance(text, dict) else text.encode() for text in array.flat]
    return strings.reshape(array.shape)


def check_address(address: str) -> str:
    """Returns an address if it is HOST:PORT, an IPv6 host in brackets.

    Raises:
      ValueError: if it is anything else.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"Expected an address HOST:PORT with a port from 1 to 65535. Received: {address!r}")
    return address


def open_server(
    address: str, protocol: str = "auto", model_name: str = "alexnet", timeout: float = 10.0
) -> Grpc | Rest:
    """Creates the client for a server. Nothing is sent yet.

    Args:
      address: HOST:PORT, or http://HOST:PORT for REST.
      protocol: "grpc", "rest" or "auto". "auto" uses REST if the address begins with http:// or the port is 8501,
        TensorFlow Serving's default for REST, and gRPC otherwise.
      model_name: the server's name for the model.
      timeout: seconds to wait for each response.

    Returns:
      A `Grpc` or `Rest` client.

    Raises:
      ValueError: if an argument is invalid.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Expected protocol to be one of {', '.join(PROTOCOLS)}. Received: {protocol=}")
    if not model_name:
        raise ValueError(f"Expected model_name to be the server's name for the model. Received: {model_name=}")
    if not 0 < timeout < float("inf"):
        raise ValueError(f"Expected timeout to be a positive number of seconds. Received: {timeout=:g}")
    if protocol == "grpc" and address.startswith("http://"):
        raise ValueError(f"Expected HOST:PORT for gRPC. Received: {address!r}")
    kind = Rest if protocol == "rest" or (protocol == "auto" and _looks_like_rest(address)) else Grpc
    return kind(address, model_name, timeout)


def _looks_like_rest(address):
    return address.startswith("http://") or address.endswith(f":{protocol.REST_PORT}")
