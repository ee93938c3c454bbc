"""The messages of the protocol, compared with hand-computed bytes and with those of tensorflow-serving-api."""

import google.protobuf.descriptor_pool
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.serving import protocol

# ModelSpec{name: "m", version: {value: 3}, signature_name: "s"}: tag, length and value of each field.
MODEL_SPEC = b"\x0a\x01m" + b"\x12\x02\x08\x03" + b"\x1a\x01s"
# TensorProto{dtype: DT_FLOAT, tensor_shape: {dim: {size: 1}}, float_val: [1.5]}.
TENSOR = b"\x08\x01" + b"\x12\x04\x12\x02\x08\x01" + b"\x2a\x04\x00\x00\xc0\x3f"
# An entry of a map is a message {key, value}.
ENTRY = b"\x0a\x01x" + b"\x12\x0e" + TENSOR
# PredictRequest{model_spec, inputs, output_filter: "y"}.
REQUEST = b"\x0a\x0a" + MODEL_SPEC + b"\x12\x13" + ENTRY + b"\x1a\x01y"


def small_request():
    inputs = {"x": np.array([1.5], np.float32)}
    return protocol.predict_request("m", "s", inputs, output_filter=["y"], version=3)


def request_of_every_kind():
    inputs = {
        "image_bytes": [b"\xff\xd8\x00\x00", b""],
        "images": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
        "images_float": np.linspace(0, 255, 6, dtype=np.float32).reshape(2, 3),
    }
    return inputs, protocol.predict_request("alexnet", "serving_default", inputs, version=7)


def assert_same(inputs, arrays):
    assert arrays.keys() == inputs.keys()
    assert arrays["image_bytes"].tolist() == inputs["image_bytes"]
    for name in ("images", "images_float"):
        assert arrays[name].dtype == inputs[name].dtype
        np.testing.assert_array_equal(arrays[name], inputs[name])


def test_request_has_the_hand_computed_bytes():
    assert small_request().SerializeToString() == REQUEST


def test_request_is_parsed_from_hand_computed_bytes():
    request = protocol.message_class("PredictRequest").FromString(REQUEST)
    assert (request.model_spec.name, request.model_spec.version.value) == ("m", 3)
    assert (request.model_spec.signature_name, list(request.output_filter)) == ("s", ["y"])
    np.testing.assert_array_equal(protocol.arrays(request.inputs)["x"], np.array([1.5], np.float32))


def test_response_is_parsed_from_hand_computed_bytes():
    # PredictResponse{outputs = 1, model_spec = 2}: a request's field numbers, swapped.
    response = protocol.message_class("PredictResponse").FromString(b"\x0a\x13" + ENTRY + b"\x12\x0a" + MODEL_SPEC)
    assert response.model_spec.name == "m"
    assert {name: array.tolist() for name, array in protocol.outputs(response).items()} == {"x": [1.5]}


def test_warmup_record_has_the_hand_computed_bytes():
    # PredictionLog{predict_log = 6: PredictLog{request = 1}}.
    assert protocol.warmup_record(small_request()) == b"\x32\x26" + b"\x0a\x24" + REQUEST


def test_no_version_is_sent_by_default():
    request = protocol.predict_request("m", "s", {})
    assert not request.model_spec.HasField("version")
    assert request.SerializeToString() == b"\x0a\x06" + b"\x0a\x01m" + b"\x1a\x01s"


def test_arrays_round_trip_with_trailing_zero_bytes():
    inputs, request = request_of_every_kind()
    again = type(request).FromString(request.SerializeToString())
    assert_same(inputs, protocol.arrays(again.inputs))


def test_response_round_trips():
    classes = np.array([[b"Katze", "größte Wüste".encode()]], object)
    sent = protocol.predict_response("alexnet", "images", 2, {"classes": classes, "scores": np.float32([[0.75, 0.25]])})
    response = type(sent).FromString(sent.SerializeToString())
    assert (response.model_spec.name, response.model_spec.version.value) == ("alexnet", 2)
    assert protocol.outputs(response)["classes"].tolist() == classes.tolist()
    assert protocol.outputs(response)["scores"].tolist() == [[0.75, 0.25]]


def test_requests_round_trip_through_warmup_records():
    inputs, request = request_of_every_kind()
    assert_same(inputs, protocol.arrays(protocol.warmup_request(protocol.warmup_record(request)).inputs))


@pytest.mark.parametrize("record", [b"", b"\x12\x00", b"not a record"], ids=["empty", "classify_log", "garbage"])
def test_invalid_warmup_records_are_rejected(record):
    with pytest.raises(ValueError, match=r"^Expected a PredictionLog with a predict_log\. Received: "):
        protocol.warmup_request(record)


def test_damaged_tensors_are_rejected():
    response = protocol.message_class("PredictResponse")()
    response.outputs["scores"].dtype = tf.float32.as_datatype_enum
    response.outputs["scores"].tensor_shape.dim.add().size = 3
    response.outputs["scores"].tensor_content = b"\x00" * 5
    with pytest.raises(ValueError, match=r"^The tensor 'scores' is damaged: "):
        protocol.outputs(response)
    response.outputs["scores"].dtype = 99
    with pytest.raises(ValueError, match=r"^The tensor 'scores' is damaged: "):
        protocol.outputs(response)


def test_messages_are_not_in_the_default_pool():
    protocol.message_class("PredictRequest")
    pool = protocol.message_class("PredictRequest").DESCRIPTOR.file.pool
    assert pool is not google.protobuf.descriptor_pool.Default()


@pytest.fixture
def apis():
    """The messages of tensorflow-serving-api, imported next to ours."""
    pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    from tensorflow_serving import apis
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis import prediction_log_pb2

    assert apis.predict_pb2 is predict_pb2 and apis.prediction_log_pb2 is prediction_log_pb2
    return apis


def test_fields_are_those_of_tensorflow_serving(apis):
    from tensorflow_serving.apis import model_pb2

    for module, names in {
        model_pb2: ["ModelSpec"],
        apis.predict_pb2: ["PredictRequest", "PredictResponse"],
        apis.prediction_log_pb2: ["PredictLog", "PredictionLog"],
    }.items():
        for name in names:
            theirs = getattr(module, name).DESCRIPTOR
            ours = protocol.message_class(name).DESCRIPTOR
            assert ours.full_name == theirs.full_name
            for field in ours.fields:
                other = theirs.fields_by_name[field.name]
                assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
                assert getattr(field.message_type, "full_name", "") == getattr(other.message_type, "full_name", "")


def test_tensorflow_serving_parses_our_requests(apis):
    inputs, ours = request_of_every_kind()
    theirs = apis.predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.version.value) == ("alexnet", 7)
    assert theirs.model_spec.signature_name == "serving_default"
    assert_same(inputs, {name: tf.make_ndarray(proto) for name, proto in theirs.inputs.items()})


def test_we_read_requests_of_tensorflow_serving(apis):
    inputs, ours = request_of_every_kind()
    theirs = apis.predict_pb2.PredictRequest(output_filter=["scores"], client_id=b"someone")
    theirs.model_spec.version_label = "stable"
    for name, values in inputs.items():
        theirs.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    read = type(ours).FromString(theirs.SerializeToString())
    assert (read.model_spec.version_label, list(read.output_filter)) == ("stable", ["scores"])
    assert_same(inputs, protocol.arrays(read.inputs))
    # Fields that ours lack are kept.
    assert apis.predict_pb2.PredictRequest.FromString(read.SerializeToString()) == theirs


def test_responses_are_parsed_by_both(apis):
    sent = {"probabilities": np.float32([[0.5, 0.5]]), "errors": np.array([b""], object)}
    ours = protocol.predict_response("alexnet", "serving_default", 1, sent)
    theirs = apis.predict_pb2.PredictResponse.FromString(ours.SerializeToString())
    assert {name: tf.make_ndarray(proto).tolist() for name, proto in theirs.outputs.items()} == {
        name: array.tolist() for name, array in sent.items()
    }
    read = protocol.outputs(theirs)
    assert read["errors"].tolist() == [b""] and read["probabilities"].tolist() == [[0.5, 0.5]]


def test_warmup_records_are_parsed_by_both(apis):
    inputs, ours = request_of_every_kind()
    log = apis.prediction_log_pb2.PredictionLog.FromString(protocol.warmup_record(ours))
    assert log.WhichOneof("log_type") == "predict_log"
    assert_same(inputs, {name: tf.make_ndarray(proto) for name, proto in log.predict_log.request.inputs.items()})
    assert_same(inputs, protocol.arrays(protocol.warmup_request(log.SerializeToString()).inputs))
    assert protocol.warmup_record(log.predict_log.request) == protocol.warmup_record(ours)
