"""The messages of TensorFlow Serving's protocol that a prediction needs, built when they are first asked for.

The package tensorflow-serving-api has them all. But it requires the package tensorflow, whose files overwrite those of
tensorflow-cpu, so whoever has that must not install it. Here five of its messages are described by their fields'
numbers, which is all that crosses the wire:

    ModelSpec        name = 1, version = 2, signature_name = 3, version_label = 4
    PredictRequest   model_spec = 1, inputs = 2, output_filter = 3
    PredictResponse  outputs = 1, model_spec = 2
    PredictLog       request = 1, response = 2
    PredictionLog    predict_log = 6

(tensorflow_serving/apis/model.proto, predict.proto and prediction_log.proto). They live in a pool of their own, so both
packages may be used in one process; fields that are not described are kept and passed on.
"""

import functools

import google.protobuf.descriptor_pb2
import google.protobuf.descriptor_pool
import google.protobuf.message
import google.protobuf.message_factory
import google.protobuf.wrappers_pb2
import numpy as np
import tensorflow as tf

PREDICT = "/tensorflow.serving.PredictionService/Predict"

_PACKAGE = "tensorflow.serving"
_TENSORS = "map<string, tensorflow.TensorProto>"

# Message: its fields' names, numbers and types.
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


def message_class(name):
    """The class of a message.

    Args:
      name: "ModelSpec", "PredictRequest", "PredictResponse", "PredictLog" or "PredictionLog".

    Returns:
      A class with the methods of every protobuf message.
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
    """Copies a file's descriptions into a pool, after those that they are made of."""
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


def predict_request(model_name, signature_name, inputs, output_filter=(), version=None):
    """What a client sends.

    Args:
      model_name: under which the server has the model.
      signature_name: of the model's signature.
      inputs: dict from names to arrays, or to lists of bytes for strings.
      output_filter: names of the outputs to answer with; none for all.
      version: int, the model's version; None for the newest.

    Returns:
      A PredictRequest.
    """
    request = message_class("PredictRequest")(output_filter=output_filter)
    _describe(request.model_spec, model_name, signature_name, version)
    _fill(request.inputs, inputs)
    return request


def predict_response(model_name, signature_name, version, outputs):
    """What a server answers.

    Args:
      model_name, signature_name, version: of the model that answers.
      outputs: dict from names to arrays.

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
        # As NumPy's own strings of bytes lose the zeros at their end, they stay Python's.
        array = values if isinstance(values, np.ndarray) else _strings(values)
        # TensorFlow's class of the message and ours are two; their bytes are the same.
        tensors[name].MergeFromString(tf.make_tensor_proto(array).SerializeToString())


def _strings(values):
    array = np.empty([len(values)], object)
    array[:] = values
    return array


def outputs(response):
    """What a server answered.

    Args:
      response: a PredictResponse, ours or of tensorflow-serving-api.

    Returns:
      A dict from names to NumPy arrays; strings are arrays of `bytes` objects.

    Raises:
      ValueError: for a tensor whose content does not fit its shape, or of an unknown dtype.
    """
    return arrays(response.outputs)


def arrays(tensors):
    """The arrays of a message's map of tensors; returns and raises what `outputs` does."""
    found = {}
    for name, tensor in tensors.items():
        try:
            found[name] = tf.make_ndarray(tensor)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Expected a whole tensor {name!r}. Received: {error}") from None
    return found


def warmup_record(request):
    """A request as TensorFlow Serving plays it when it loads a model.

    Args:
      request: a PredictRequest, ours or of tensorflow-serving-api.

    Returns:
      bytes, a PredictionLog: one record of assets.extra/tf_serving_warmup_requests, a TFRecord file.
    """
    log = message_class("PredictionLog")()
    log.predict_log.request.MergeFromString(request.SerializeToString(deterministic=True))
    return log.SerializeToString(deterministic=True)


def warmup_request(record):
    """The request of a record that `warmup_record` made.

    Args:
      record: bytes.

    Returns:
      A PredictRequest.

    Raises:
      ValueError: for another record.
    """
    expected = "Expected a PredictionLog with a predict_log. Received:"
    try:
        log = message_class("PredictionLog").FromString(record)
    except google.protobuf.message.DecodeError:
        raise ValueError(f"{expected} {len(record)} bytes of something else") from None
    if not log.predict_log.HasField("request"):
        raise ValueError(f"{expected} a record without")
    return log.predict_log.request
