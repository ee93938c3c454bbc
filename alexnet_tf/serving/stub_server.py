"""A small PredictionService on the loopback interface, for tests and load tests; not for production.

It does in Python what TensorFlow Serving does in C++: loads the newest version of an export by the session loader,
plays its warm-up requests, answers Predict over gRPC, and merges requests that come at the same time into batches. It
has no other method, no encryption, no REST, and never looks for a newer version.

    python -m alexnet_tf.serving.stub_server --directory=EXPORT --port=0

prints the port in its first line, once it answers.
"""

import argparse
import collections
import concurrent.futures
import os
import sys
import threading
import time
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf

from alexnet_tf.serving import client
from alexnet_tf.serving import protocol
from alexnet_tf.utils import messages

WARMUP = os.path.join("assets.extra", "tf_serving_warmup_requests")

_SERVICE, _METHOD = protocol.PREDICT.strip("/").split("/")
_STATUS = {status.value[0]: status for status in grpc.StatusCode}
# What a request in work may take when the server is stopped: seconds.
_GRACE = 10


class Refusal(Exception):
    """Why a request is not answered: a `grpc.StatusCode` and one line."""

    def __init__(self, status, details):
        super().__init__(details)
        self.status, self.details = status, details


def _invalid(expected, received):
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Expected {expected}. Received: {received}")


def _listed(names):
    return ", ".join(sorted(names)) or "none"


class Model:
    """A SavedModel in a session.

    Args:
      directory: of one version.
    """

    def __init__(self, directory):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            # TensorFlow Serving's own loader has no Python name; this one takes the same way, by graph and session.
            loaded = tf.compat.v1.saved_model.loader.load(self._session, [tf.saved_model.SERVING], directory)
        except BaseException:
            self._session.close()
            raise
        self._signatures = dict(loaded.signature_def)
        self._callables = {}

    def close(self):
        """Frees the variables."""
        self._session.close()

    def checked_inputs(self, request, name):
        """The arrays of a request, once they fit a signature.

        Args:
          request: a PredictRequest.
          name: of the signature.

        Returns:
          A dict from names to arrays, all of one length, 1 or more.

        Raises:
          Refusal: if they do not fit.
        """
        wanted = self._signature(name).inputs
        if request.inputs.keys() != wanted.keys():
            raise _invalid(f"the inputs {_listed(wanted)} of {name!r}", _listed(request.inputs))
        for key, info in wanted.items():
            given = request.inputs[key]
            if given.dtype != info.dtype:
                raise _invalid(f"{key!r} of dtype {_dtype_name(info.dtype)}", _dtype_name(given.dtype))
        arrays = _arrays(request)
        for key, info in wanted.items():
            shape = tf.TensorShape(info.tensor_shape)
            if not arrays[key].ndim or not shape.is_compatible_with(arrays[key].shape):
                raise _invalid(f"{key!r} of shape {shape}", list(arrays[key].shape))
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise _invalid("inputs of one length, 1 or more", sorted(lengths))
        return arrays

    def checked_outputs(self, request, name):
        """The names of the outputs to answer with, in order; raises what `checked_inputs` does."""
        known = self._signature(name).outputs
        unknown = set(request.output_filter) - known.keys()
        if unknown:
            raise _invalid(f"outputs among {_listed(known)} of {name!r}", _listed(unknown))
        return tuple(sorted(set(request.output_filter) or known))

    def _signature(self, name):
        if name not in self._signatures:
            # TensorFlow Serving's status for this.
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Expected a signature among {_listed(self._signatures)}. Received: {name!r}",
            )
        return self._signatures[name]

    def run(self, name, outputs, inputs):
        """Runs a signature.

        Args:
          name: of the signature.
          outputs: tuple of names.
          inputs: dict from names to arrays.

        Returns:
          A dict from the outputs' names to arrays.
        """
        key = (name, outputs, tuple(inputs))
        if key not in self._callables:
            signature = self._signatures[name]
            self._callables[key] = self._session.make_callable(
                [signature.outputs[output].name for output in outputs], [signature.inputs[name].name for name in inputs]
            )
        return dict(zip(outputs, self._callables[key](*inputs.values())))


def _arrays(request):
    try:
        return protocol.arrays(request.inputs)
    except ValueError as error:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None


def _dtype_name(number):
    try:
        return tf.as_dtype(number).name
    except TypeError:
        return f"number {number}"


class _Task(NamedTuple):
    """A request, or a piece of one, that waits for its batch."""

    inputs: dict
    deadline: float  # of time.monotonic, when it waits no longer for others
    outputs: concurrent.futures.Future

    def size(self):
        return len(next(iter(self.inputs.values())))


class Batcher:
    """Merges requests of the same kind along their first dimension, in a thread of its own.

    A batch is run as soon as it is full, or its first request has waited long enough.

    Args:
      function: called with a kind and a dict of arrays ``[batch, ...]``; returns a dict of arrays ``[batch, ...]``.
      max_batch_size: rows of a batch at most; what is larger is run in pieces.
      timeout: seconds that a request waits for others.
    """

    def __init__(self, function, max_batch_size, timeout):
        self._function, self._max_batch_size, self._timeout = function, max_batch_size, timeout
        self._changed = threading.Condition()
        self._queues = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def run(self, kind, inputs):
        """Runs a request together with others, and waits for its outputs.

        Args:
          kind: hashable; only requests of equal kinds, whose arrays agree in all but the first dimension, are merged.
          inputs: dict from names to arrays of one length, 1 or more.

        Returns:
          A dict of arrays of that length.

        Raises:
          Refusal: if the batcher was stopped, or the outputs are not of the inputs' length.
          Exception: what the function raised, for every request of the batch.
        """
        tasks = self._add(kind, inputs)
        parts = [task.outputs.result() for task in tasks]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def stop(self):
        """Runs what waits, and ends the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _add(self, kind, inputs):
        step, deadline = self._max_batch_size, time.monotonic() + self._timeout
        length = len(next(iter(inputs.values())))
        tasks = [
            _Task({name: array[first : first + step] for name, array in inputs.items()}, deadline, _future())
            for first in range(0, length, step)
        ]
        with self._changed:
            if self._stopped:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "Expected a server at work. Received: one that stops")
            self._queues.setdefault(kind, collections.deque()).extend(tasks)
            self._changed.notify_all()
        return tasks

    def _work(self):
        while batch := self._next_batch():
            self._run(*batch)

    def _next_batch(self):
        """Waits for a batch: its kind and tasks, or None at the end."""
        with self._changed:
            while True:
                ready = [kind for kind, queue in self._queues.items() if self._is_ready(queue)]
                if ready:
                    kind = min(ready, key=self._deadline)
                    return kind, self._take(kind)
                if self._stopped:
                    return None
                deadlines = [self._deadline(kind) for kind in self._queues]
                self._changed.wait(max(0, min(deadlines) - time.monotonic()) if deadlines else None)

    def _deadline(self, kind):
        return self._queues[kind][0].deadline

    def _is_ready(self, queue):
        is_full = sum(task.size() for task in queue) >= self._max_batch_size
        return is_full or self._stopped or queue[0].deadline <= time.monotonic()

    def _take(self, kind):
        """The first tasks of a kind that make a batch together."""
        queue = self._queues[kind]
        tasks, room = [], self._max_batch_size
        while queue and queue[0].size() <= room:
            tasks.append(queue.popleft())
            room -= tasks[-1].size()
        if not queue:
            del self._queues[kind]
        return tasks

    def _run(self, kind, tasks):
        try:
            answers = self._answers(kind, tasks)
        except Exception as error:
            for task in tasks:
                task.outputs.set_exception(error)
        else:
            for task, answer in zip(tasks, answers):
                task.outputs.set_result(answer)

    def _answers(self, kind, tasks):
        """The outputs of a batch, cut apart again: a dict for each task."""
        merged = {name: np.concatenate([task.inputs[name] for task in tasks]) for name in tasks[0].inputs}
        outputs = self._function(kind, merged)
        ends = np.cumsum([task.size() for task in tasks])
        for name, output in outputs.items():
            if output.shape[:1] != (ends[-1],):
                raise _invalid(f"the output {name!r} to have {ends[-1]} rows", list(output.shape))
        cut = {name: np.split(output, ends[:-1]) for name, output in outputs.items()}
        return [{name: pieces[place] for name, pieces in cut.items()} for place in range(len(tasks))]


def _future():
    return concurrent.futures.Future()


class _Kind(NamedTuple):
    """What the requests of a batch have in common."""

    signature: str
    outputs: tuple  # names
    shapes: tuple  # of the inputs, by their names' order, without the first dimension


class Service:
    """Answers requests for one version of one model.

    Args:
      model: `Model`.
      name: of the model.
      version: int.
      max_batch_size, timeout: as `Batcher` takes them.
    """

    def __init__(self, model, name, version, max_batch_size, timeout):
        self._name, self._version, self._model = name, version, model
        self._batcher = Batcher(self._run, max_batch_size, timeout)

    def _run(self, kind, inputs):
        return self._model.run(kind.signature, kind.outputs, inputs)

    def answer(self, request):
        """The PredictResponse for a PredictRequest, whatever model it names.

        Raises:
          Refusal: for a request that does not fit.
          tf.errors.OpError: if the network cannot be run.
        """
        signature = request.model_spec.signature_name or "serving_default"
        inputs = dict(sorted(self._model.checked_inputs(request, signature).items()))
        shapes = tuple(array.shape[1:] for array in inputs.values())
        kind = _Kind(signature, self._model.checked_outputs(request, signature), shapes)
        return protocol.predict_response(self._name, signature, self._version, self._batcher.run(kind, inputs))

    def handle(self, request, context):
        """As `answer`, for gRPC, after a look at the model's name and version."""
        try:
            self._check_model(request.model_spec)
            return self.answer(request)
        except Refusal as refusal:
            status, details = refusal.status, refusal.details
        except tf.errors.OpError as error:
            status, details = _STATUS[error.error_code], client.cause(error)
        context.abort(status, details)

    def _check_model(self, spec):
        version = spec.version.value if spec.HasField("version") else spec.version_label or self._version
        if (spec.name, version) != (self._name, self._version):
            expected = f"Expected model {self._name!r}, version {self._version}"
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"{expected}. Received: {spec.name!r}, version {version}")

    def stop(self):
        """Answers what waits, and frees the model."""
        self._batcher.stop()
        self._model.close()


class Server:
    """A server at work; the end of a `with` block stops it.

    Args:
      server: a `grpc.Server`, started.
      service: `Service`.
      port: int, where it listens on 127.0.0.1.
    """

    def __init__(self, server, service, port):
        self.port = port
        self._server, self._service = server, service

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()

    def wait(self):
        """Returns when the server has stopped."""
        self._server.wait_for_termination()

    def stop(self):
        """Answers the requests in work, for ten seconds at most, takes no more, and frees the model."""
        self._server.stop(_GRACE).wait()
        self._service.stop()


def serve(directory, *, port=0, max_batch_size=32, batch_timeout_ms=2, workers=16, model_name="alexnet"):
    """Starts a server on 127.0.0.1 in threads of this process.

    Args:
      directory: an export, as `client.newest_version` takes it.
      port: int; 0 for any that is free.
      max_batch_size: images that are run together at most.
      batch_timeout_ms: milliseconds that a request waits for others.
      workers: int, requests in work at a time.
      model_name: under which clients ask for the network.

    Returns:
      `Server`.

    Raises:
      ValueError: if there is no export, or its warm-up requests are none.
      OSError: if the port is taken, or the export cannot be read.
      tf.errors.OpError: if the export is broken.
    """
    if min(max_batch_size, workers) < 1 or batch_timeout_ms < 0:
        received = f"max_batch_size={max_batch_size}, workers={workers}, batch_timeout_ms={batch_timeout_ms}"
        raise ValueError(f"Expected a batch and workers of 1 or more, and a timeout of 0 or more. Received: {received}")
    newest, version = client.newest_version(directory)
    service = Service(Model(newest), model_name, version, max_batch_size, batch_timeout_ms / 1000)
    try:
        _warm_up(service, os.path.join(newest, WARMUP))
        return _listening(service, port, workers)
    except BaseException:
        service.stop()
        raise


def _warm_up(service, path):
    """Plays the requests of a TFRecord file, if it is there."""
    if not os.path.exists(path):
        return
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            service.answer(protocol.warmup_request(record))
    except (ValueError, Refusal) as error:
        raise ValueError(f"Expected warm-up requests in {path}. Received: {error}") from None
    except tf.errors.OpError as error:
        raise ValueError(f"Expected warm-up requests in {path}. Received: {client.cause(error)}") from None


def _listening(service, port, workers):
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(workers),
        # Without the last, two servers may share a port.
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
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
        raise OSError(f"Expected a free port. Received: {port}")
    server.start()
    return Server(server, service, bound)


def main(arguments):
    """Serves until it is interrupted.

    Args:
      arguments: list of strings of the command line.
    """
    parser = argparse.ArgumentParser("loopback", description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", required=True, help="an export")
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument("--max_batch_size", type=int, default=32, help="images that are run together at most")
    parser.add_argument("--batch_timeout_ms", type=float, default=2, help="that a request waits for others")
    parser.add_argument("--workers", type=int, default=16, help="requests in work at a time")
    parser.add_argument("--model_name", default="alexnet", help="under which clients ask for the network")
    try:
        with serve(**vars(parser.parse_args(arguments))) as server:
            print(server.port, flush=True)
            server.wait()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, tf.errors.OpError) as error:
        sys.exit(f"loopback: {messages.first_line(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])
