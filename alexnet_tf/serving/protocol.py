"""What TensorFlow Serving and its clients share: ports, the layout of an export, and the messages of a prediction.

The messages are built on first use. The package tensorflow-serving-api has all of them, but it depends on the package
tensorflow, whose files overwrite those of tensorflow-cpu, so it must not be installed next to tensorflow-cpu. Here five
of its messages are described by their field numbers, which is all that the wire format depends on:

    ModelSpec        name = 1, version = 2, signature_name = 3, version_label = 4
    PredictRequest   model_spec = 1, inputs = 2, output_filter = 3
    PredictResponse  outputs = 1, model_spec = 2
    PredictLog       request = 1, response = 2
    PredictionLog    predict_log = 6

(tensorflow_serving/apis/model.proto, predict.proto and prediction_log.proto). They are kept in a separate descriptor
pool, so both packages can be used in one process. Fields that are not described are preserved.
"""

import functools
import math
import os
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import google.protobuf.descriptor_pb2
import google.protobuf.descriptor_pool
import google.protobuf.message
import google.protobuf.message_factory
import google.protobuf.wrappers_pb2
import numpy as np
import tensorflow as tf

# TensorFlow Serving's default ports.
GRPC_PORT = 8500
REST_PORT = 8501

PREDICT = "/tensorflow.serving.PredictionService/Predict"

# Relative to the directory of a version: requests that a server runs before it answers any, a TFRecord file.
WARMUP_REQUESTS = os.path.join("assets.extra", "tf_serving_warmup_requests")

_PACKAGE = "tensorflow.serving"
_TENSORS = "map<string, tensorflow.TensorProto>"

# Message name: name, number and type of each field.
_FIELDS = {
    "ModelSpec": [
        ("name", 1, "string"),
        ("version", 2, "google.protobuf.Int64Value"),
        ("signature_name", 3, "string"),
        ("version_label", 4, "string"),
    ],
    "PredictRequest": [
        ("model_spec", 1, "tensorflow.serving.ModelSpec"),
        ("inputs", 2, _TENSORS),
        ("output_filter", 3, "repeated string"),
    ],
    "PredictResponse": [("outputs", 1, _TENSORS), ("model_spec", 2, "tensorflow.serving.ModelSpec")],
    "PredictLog": [
        ("request", 1, "tensorflow.serving.PredictRequest"),
        ("response", 2, "tensorflow.serving.PredictResponse"),
    ],
    "PredictionLog": [("predict_log", 6, "tensorflow.serving.PredictLog")],
}


def versions(export_dir: str | os.PathLike) -> dict[int, str]:
    """Returns the versions of an export: a dict from version number to directory path, in ascending order."""
    entries = [entry for entry in os.scandir(export_dir) if entry.name.isascii() and entry.name.isdigit()]
    return dict(sorted((int(entry.name), entry.path) for entry in entries if entry.is_dir()))


def message_class(name: str) -> type[google.protobuf.message.Message]:
    """Returns the class of a message.

    Args:
      name: "ModelSpec", "PredictRequest", "PredictResponse", "PredictLog" or "PredictionLog".
    """
    return _message_classes()[name]


@functools.cache
def _message_classes():
    pool = google.protobuf.descriptor_pool.DescriptorPool()
    _add_file(pool, type(tf.make_tensor_proto(0)).DESCRIPTOR.file)
    _add_file(pool, google.protobuf.wrappers_pb2.DESCRIPTOR)
    pool.AddSerializedFile(_file().SerializeToString())
    find, make = pool.FindMessageTypeByName, google.protobuf.message_factory.GetMessageClass
    return {name: make(find(f"{_PACKAGE}.{name}")) for name in _FIELDS}


def _add_file(pool, file):
    """Adds a file descriptor to a pool, after the files that it depends on."""
    for dependency in file.dependencies:
        _add_file(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)


def _file():
    file = google.protobuf.descriptor_pb2.FileDescriptorProto(
        name="alexnet_tf/serving/protocol.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["tensorflow/core/framework/tensor.proto", "google/protobuf/wrappers.proto"],
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, *field)
    return file


def _add_field(message, name, number, kind):
    if kind == _TENSORS:
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, "tensorflow.TensorProto")
        kind = f"repeated {_PACKAGE}.{message.name}.{entry.name}"
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if kind.startswith("repeated ") else field.LABEL_OPTIONAL
    kind = kind.removeprefix("repeated ")
    if kind == "string":
        field.type = field.TYPE_STRING
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{kind}"


def predict_request(
    model_name: str,
    signature_name: str,
    inputs: Mapping[str, np.ndarray | Sequence[bytes]],
    output_filter: Iterable[str] = (),
    version: int | None = None,
) -> google.protobuf.message.Message:
    """Builds the request of a client.

    Args:
      model_name: the server's name for the model.
      signature_name: name of the signature to run.
      inputs: arrays by input name; lists of bytes for strings.
      output_filter: names of the outputs to return; empty for all.
      version: version of the model; None for the newest.

    Returns:
      A PredictRequest.
    """
    request = message_class("PredictRequest")(output_filter=output_filter)
    _describe(request.model_spec, model_name, signature_name, version)
    _fill(request.inputs, inputs)
    return request


def predict_response(
    model_name: str, signature_name: str, version: int, outputs: Mapping[str, np.ndarray]
) -> google.protobuf.message.Message:
    """Builds the response of a server.

    Args:
      model_name: the server's name for the model.
      signature_name: name of the signature that was run.
      version: version of the model that was run.
      outputs: arrays by output name.

    Returns:
      A PredictResponse.
    """
    response = message_class("PredictResponse")()
    _describe(response.model_spec, model_name, signature_name, version)
    _fill(response.outputs, outputs)
    return response


def _describe(model_spec, name, signature_name, version):
    model_spec.name, model_spec.signature_name = name, signature_name
    if version is not None:
        model_spec.version.value = version


def _fill(tensors, arrays):
    for name, values in arrays.items():
        # Objects, because NumPy's own strings drop trailing zero bytes.
        array = values if isinstance(values, np.ndarray) else _strings(values)
        # TensorFlow's TensorProto class is not the one of our descriptor pool, but the bytes are the same.
        tensors[name].MergeFromString(tf.make_tensor_proto(array).SerializeToString())


def _strings(values):
    array = np.empty([len(values)], object)
    array[:] = values
    return array


def outputs(response: google.protobuf.message.Message) -> dict[str, np.ndarray]:
    """Returns the outputs in a response.

    Args:
      response: a PredictResponse, of this module or of tensorflow-serving-api.

    Returns:
      A dict from output names to NumPy arrays; strings are object arrays of `bytes`.

    Raises:
      ValueError: if a tensor's content does not fit its shape, or its dtype is unknown.
    """
    return arrays(response.outputs)


def arrays(tensors: Mapping[str, google.protobuf.message.Message]) -> dict[str, np.ndarray]:
    """Converts a message's map of tensors to arrays; result and errors are those of `outputs`."""
    result = {}
    for name, tensor in tensors.items():
        try:
            result[name] = tf.make_ndarray(tensor)
        except (TypeError, ValueError) as error:
            raise ValueError(f"The tensor {name!r} is damaged: {error}") from None
    return result


def check_complete(tensors: Mapping[str, google.protobuf.message.Message]) -> None:
    """Checks that a message's tensors have a value for each of their elements, before `arrays` takes memory for them.

    TensorFlow's format lets a single value stand for all, so a request of a few bytes could declare any size.

    Raises:
      ValueError: for a tensor with fewer values than its shape declares, or with a negative size.
    """
    for name, tensor in tensors.items():
        sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
        if min(sizes, default=0) < 0:
            raise ValueError(f"The tensor {name!r} is damaged: expected sizes of at least 0. Received: {sizes}")
        # The bytes of `tensor_content` are compared with the shape by TensorFlow.
        values = sum(len(value) for field, value in tensor.ListFields() if field.name.endswith("_val"))
        if not tensor.tensor_content and values < math.prod(sizes):
            raise ValueError(
                f"The tensor {name!r} is damaged: expected {math.prod(sizes)} values for shape {sizes}. "
                f"Received: {values}"
            )


def warmup_record(request: google.protobuf.message.Message) -> bytes:
    """Returns a request as a record of the file `WARMUP_REQUESTS`.

    Args:
      request: a PredictRequest, of this module or of tensorflow-serving-api.

    Returns:
      A serialized PredictionLog.
    """
    log = message_class("PredictionLog")()
    log.predict_log.request.MergeFromString(request.SerializeToString(deterministic=True))
    return log.SerializeToString(deterministic=True)


def warmup_request(record: bytes) -> google.protobuf.message.Message:
    """Returns the request in a record of the file `WARMUP_REQUESTS`.

    Args:
      record: a serialized PredictionLog.

    Returns:
      A PredictRequest.

    Raises:
      ValueError: if the record is anything else.
    """
    expected = "Expected a PredictionLog with a predict_log. Received:"
    try:
        log = message_class("PredictionLog").FromString(record)
    except google.protobuf.message.DecodeError:
        raise ValueError(f"{expected} {len(record)} bytes that cannot be parsed") from None
    if not log.predict_log.HasField("request"):
        raise ValueError(f"{expected} a record without one")
    return log.predict_log.request
