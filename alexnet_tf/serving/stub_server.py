"""A minimal PredictionService on the loopback interface, for tests and load tests; not for production.

It does in Python what TensorFlow Serving does in C++: loads the newest version of an export, runs its warm-up requests,
answers Predict over gRPC, and merges concurrent requests into batches. It implements no other method, no encryption and
no REST, and it does not watch for newer versions.

    python -m alexnet_tf.serving.stub_server --directory=EXPORT --port=0

The first line of its output is the port, printed when the server is ready.
"""

import argparse
import concurrent.futures
import math
import os
import sys
import time
from typing import NamedTuple

import google.protobuf.message
import grpc
import tensorflow as tf

from alexnet_tf.serving import batching
from alexnet_tf.serving import client
from alexnet_tf.serving import protocol
from alexnet_tf.serving import stub_model
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames

_SERVICE, _METHOD = protocol.PREDICT.strip("/").split("/")
_STATUS = {status.value[0]: status for status in grpc.StatusCode}
# Seconds that running requests may take when the server is stopped.
_GRACE = 10


class _Kind(NamedTuple):
    """What the requests of a batch have in common."""

    signature: str
    outputs: tuple  # names
    shapes: tuple  # of the inputs, sorted by name, without the first dimension


class Service:
    """Answers requests for one version of a model.

    Args:
      model: the loaded model; closed by `stop`.
      name: the name under which clients request the model.
      version: version number of the model.
      max_batch_size: maximum number of rows per batch.
      timeout: seconds that a request waits for others.
    """

    def __init__(self, model: stub_model.Model, name: str, version: int, max_batch_size: int, timeout: float):
        self._name, self._version, self._model = name, version, model
        self._batcher = batching.Batcher(self._run, max_batch_size, timeout)

    def _run(self, kind, inputs):
        return self._model.run(kind.signature, kind.outputs, inputs)

    def predict(
        self, request: google.protobuf.message.Message, expires: float = math.inf
    ) -> google.protobuf.message.Message:
        """Returns the PredictResponse for a PredictRequest, ignoring the model that it names.

        Args:
          request: the request.
          expires: as of `batching.Batcher.run`.

        Raises:
          stub_model.StatusError: if the request does not fit the signature.
          batching.StoppedError: if the service was stopped.
          batching.ExpiredError: if the request expired before it was run.
          tf.errors.OpError: if running the network fails.
        """
        signature = request.model_spec.signature_name or "serving_default"
        inputs = dict(sorted(self._model.checked_inputs(request, signature).items()))
        shapes = tuple(array.shape[1:] for array in inputs.values())
        kind = _Kind(signature, self._model.checked_outputs(request, signature), shapes)
        outputs = self._batcher.run(kind, inputs, expires)
        return protocol.predict_response(self._name, signature, self._version, outputs)

    def handle(self, request: google.protobuf.message.Message, context: grpc.ServicerContext):
        """Handles the gRPC method: checks the model's name and version and the tensors, then calls `predict`."""
        # Requests wait for a thread, and then for others of their batch.
        expires = time.monotonic() + context.time_remaining()
        try:
            self._check_model(request.model_spec)
            protocol.check_complete(request.inputs)
            return self.predict(request, expires)
        except stub_model.StatusError as error:
            status, details = error.status, error.details
        except batching.ExpiredError as error:
            status, details = grpc.StatusCode.DEADLINE_EXCEEDED, str(error)
        except batching.StoppedError as error:
            status, details = grpc.StatusCode.UNAVAILABLE, str(error)
        except ValueError as error:
            status, details = grpc.StatusCode.INVALID_ARGUMENT, messages.first_line(error)
        except tf.errors.OpError as error:
            status, details = _STATUS[error.error_code], messages.first_line(error)
        context.abort(status, details)

    def _check_model(self, spec):
        version = spec.version.value if spec.HasField("version") else spec.version_label or self._version
        if (spec.name, version) != (self._name, self._version):
            expected = f"Expected model {self._name!r}, version {self._version}"
            raise stub_model.StatusError(
                grpc.StatusCode.NOT_FOUND, f"{expected}. Received: {spec.name!r}, version {version}"
            )

    def stop(self) -> None:
        """Runs the waiting requests and frees the model."""
        self._batcher.stop()
        self._model.close()


class Server:
    """A running server; leaving a `with` block stops it.

    Args:
      server: the started gRPC server.
      service: the service that it calls.
      port: the port on 127.0.0.1 that it listens on.
    """

    def __init__(self, server: grpc.Server, service: Service, port: int):
        self.port = port
        self._server, self._service = server, service

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()

    def wait(self) -> None:
        """Returns when the server has stopped."""
        self._server.wait_for_termination()

    def stop(self) -> None:
        """Rejects new requests, finishes running ones for at most ten seconds, and frees the model."""
        self._server.stop(_GRACE).wait()
        self._service.stop()


def serve(
    directory: str | os.PathLike,
    *,
    port: int = 0,
    max_batch_size: int = 32,
    batch_timeout_ms: float = 2,
    workers: int = 16,
    model_name: str = "alexnet",
) -> Server:
    """Starts a server on 127.0.0.1, in threads of this process.

    Args:
      directory: an export or a SavedModel, as for `client.newest_version`.
      port: port to listen on; 0 for any free port.
      max_batch_size: maximum number of images per batch.
      batch_timeout_ms: milliseconds that a request waits for others.
      workers: maximum number of concurrent requests.
      model_name: the name under which clients request the model.

    Returns:
      The running `Server`.

    Raises:
      ValueError: if there is no export, its warm-up requests are invalid, or an argument is out of range.
      OSError: if the port is taken or the export cannot be read.
      tf.errors.OpError: if the export is damaged.
    """
    if min(max_batch_size, workers) < 1 or batch_timeout_ms < 0:
        raise ValueError(
            "Expected max_batch_size and workers to be at least 1, and batch_timeout_ms at least 0. "
            f"Received: {max_batch_size=}, {workers=}, {batch_timeout_ms=}"
        )
    newest, version = client.newest_version(directory)
    client.check(newest)
    model = stub_model.Model(newest)
    service = Service(model, model_name, version, max_batch_size, batch_timeout_ms / 1000)
    try:
        _warm_up(service, os.path.join(newest, protocol.WARMUP_REQUESTS))
        return _listen(service, port, workers)
    except BaseException:
        service.stop()
        raise


def _warm_up(service, path):
    """Runs the requests in a TFRecord file, if it exists."""
    if not os.path.exists(path):
        return
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            service.predict(protocol.warmup_request(record))
    except (ValueError, stub_model.StatusError, tf.errors.OpError) as error:
        raise ValueError(f"Cannot run the warm-up requests in {path}: {messages.first_line(error)}") from None


def _listen(service, port, workers):
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(workers),
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Otherwise two servers can share a port.
            ("grpc.so_reuseport", 0),
        ],
    )
    handler = grpc.unary_unary_rpc_method_handler(
        service.handle,
        request_deserializer=protocol.message_class("PredictRequest").FromString,
        response_serializer=protocol.message_class("PredictResponse").SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})])
    try:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError:
        bound = 0
    if not bound:
        raise OSError(f"Cannot listen on port {port}; use a free port, or 0 for any")
    server.start()
    return Server(server, service, bound)


def main(arguments: list[str]) -> None:
    """Serves an export until interrupted.

    Args:
      arguments: the command line, without the program's name.
    """
    parser = argparse.ArgumentParser("stub_server", description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", required=True, type=pathnames.expand, help="an export")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 for any free port")
    parser.add_argument("--max_batch_size", type=int, default=32, help="maximum number of images per batch")
    parser.add_argument(
        "--batch_timeout_ms", type=float, default=2, help="milliseconds that a request waits for others"
    )
    parser.add_argument("--workers", type=int, default=16, help="maximum number of concurrent requests")
    parser.add_argument("--model_name", default="alexnet", help="name under which clients request the model")
    try:
        with serve(**vars(parser.parse_args(arguments))) as server:
            print(server.port, flush=True)
            server.wait()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, tf.errors.OpError) as error:
        sys.exit(f"stub_server: {messages.first_line(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])
