"""The stub server: its responses, the requests that it rejects, and concurrent clients."""

import concurrent.futures
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
import stand_in
import tensorflow as tf

from alexnet_tf.serving import client
from alexnet_tf.serving import protocol
from alexnet_tf.serving import stub_server


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    stand_in.save(directory, 2)
    # The newer version by number, not alphabetically.
    stand_in.save(directory, 10)
    stand_in.write_warmup(directory, [stand_in.warmup_record()], 10)
    return directory


@pytest.fixture(scope="module")
def server(export_dir):
    with stub_server.serve(export_dir) as server:
        yield server


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture
def predict(channel):
    """Sends a request with our messages."""
    return channel.unary_unary(
        protocol.PREDICT,
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=protocol.message_class("PredictResponse").FromString,
    )


def test_newest_version_responds_with_its_number(predict):
    request = protocol.predict_request("alexnet", "", {"image_bytes": [stand_in.png(10, 20, 70)]})
    response = predict(request)
    assert response.model_spec.version.value == 10
    assert (response.model_spec.name, response.model_spec.signature_name) == ("alexnet", "serving_default")
    outputs = protocol.outputs(response)
    assert set(outputs) == {"probabilities", "classes", "scores", "errors"}
    np.testing.assert_allclose(outputs["probabilities"], [stand_in.probabilities(10, 20, 70)], rtol=1e-6)
    assert outputs["classes"].tolist() == [[b"blue", "größtes Grün".encode()]]


@pytest.mark.parametrize("signature, dtype", [("images", np.uint8), ("images_float", np.float32)])
def test_signatures_of_pixels_respond(predict, signature, dtype):
    pixels = np.full([2, 4, 4, 3], [30, 10, 60], dtype)
    outputs = protocol.outputs(predict(protocol.predict_request("alexnet", signature, {signature: pixels})))
    np.testing.assert_allclose(outputs["probabilities"], [stand_in.probabilities(30, 10, 60)] * 2, rtol=1e-6)


def test_only_the_requested_outputs_are_sent(predict):
    inputs = {"image_bytes": [stand_in.png(1, 1, 2)]}
    response = predict(protocol.predict_request("alexnet", "serving_default", inputs, output_filter=["scores"]))
    assert list(response.outputs) == ["scores"]


def test_clients_of_tensorflow_serving_get_responses(channel):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version.value = "alexnet", 10
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([stand_in.png(10, 20, 70), stand_in.BAD]))
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    assert response.model_spec.version.value == 10
    outputs = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
    expected = [stand_in.probabilities(10, 20, 70), np.zeros([3])]
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-6)
    assert outputs["errors"].tolist() == [b"", stand_in.ERROR.encode()]


ONE = {"image_bytes": [b"bad"]}


@pytest.mark.parametrize(
    "arguments, options, status, details",
    [
        (("other", "features", ONE), {}, "NOT_FOUND", "Expected model 'alexnet', version 10. Received: 'other', ver"),
        (("alexnet", "features", ONE), {"version": 2}, "NOT_FOUND", "Received: 'alexnet', version 2"),
        (("alexnet", "other", ONE), {}, "FAILED_PRECONDITION", "Received: 'other'"),
        (("alexnet", "features", {}), {}, "INVALID_ARGUMENT", "inputs image_bytes of 'features'. Received: none"),
        (("alexnet", "features", {**ONE, "x": [b""]}), {}, "INVALID_ARGUMENT", "Received: image_bytes, x"),
        (("alexnet", "features", ONE), {"output_filter": ["x"]}, "INVALID_ARGUMENT", "errors, features of 'features'"),
        (("alexnet", "images", {"images": np.zeros([1, 4, 4, 3])}), {}, "INVALID_ARGUMENT", "uint8. Received: float64"),
        (
            ("alexnet", "images", {"images": np.zeros([4, 4, 3], np.uint8)}),
            {},
            "INVALID_ARGUMENT",
            "Expected 'images' of shape (None, 4, 4, 3). Received: [4, 4, 3]",
        ),
        (("alexnet", "images", {"images": np.zeros([1, 5, 4, 3], np.uint8)}), {}, "INVALID_ARGUMENT", "[1, 5, 4, 3]"),
        (("alexnet", "images", {"images": np.zeros([0, 4, 4, 3], np.uint8)}), {}, "INVALID_ARGUMENT", "at least 1"),
        # Rejected by the network itself.
        (("alexnet", "features", {"image_bytes": [b"none"]}), {}, "INVALID_ARGUMENT", "nknown image"),
    ],
)
def test_invalid_requests_are_rejected_in_one_line(predict, arguments, options, status, details):
    with pytest.raises(grpc.RpcError) as caught:
        predict(protocol.predict_request(*arguments, **options))
    assert caught.value.code().name == status
    assert details in caught.value.details() and "\n" not in caught.value.details()


def test_damaged_tensor_is_rejected(predict):
    request = protocol.predict_request("alexnet", "images", {"images": np.zeros([1, 4, 4, 3], np.uint8)})
    request.inputs["images"].tensor_content = b"\x00"
    with pytest.raises(grpc.RpcError, match="The tensor 'images' is damaged") as caught:
        predict(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "signature, dtype, shape, values, received",
    [
        ("images_float", 1, [10**6, 1000, 1000, 3], {"float_val": [0.5]}, "3000000000000 values .* Received: 1"),
        ("images_float", 1, [1000, 1000, 1000, 3], {}, "3000000000 values .* Received: 0"),
        ("images", 4, [10**9, 4, 4, 3], {"int_val": [1] * 7}, "48000000000 values .* Received: 7"),
        ("serving_default", 7, [10**12], {"string_val": [b"x"]}, "1000000000000 values .* Received: 1"),
        ("images_float", 1, [-1, -4, 4, 3], {"float_val": [0.5]}, "sizes of at least 0"),
        ("images_float", 1, [10**12, 0, 4, 3], {}, "with sizes of at least 1"),
        (
            "images_float",
            1,
            [10**6, 1000, 1000, 3],
            {"tensor_content": bytes(12)},
            "The tensor 'images_float' is damaged",
        ),
    ],
    ids=["one_value", "no_value", "few_values", "strings", "negative", "empty", "content"],
)
def test_tensors_larger_than_their_bytes_are_rejected_before_memory_is_taken(
    predict, signature, dtype, shape, values, received
):
    request = protocol.predict_request("alexnet", signature, {})
    tensor = request.inputs["image_bytes" if signature == "serving_default" else signature]
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    for name, value in values.items():
        setattr(tensor, name, value) if name == "tensor_content" else getattr(tensor, name).extend(value)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(grpc.RpcError) as caught:
        predict(request, timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(received, caught.value.details()) and "\n" not in caught.value.details()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100 * 1024


def test_requests_whose_deadline_has_passed_are_not_run(export_dir, monkeypatch):
    """One request is running when the client of the next gives up."""
    running, may_continue, calls = threading.Event(), threading.Event(), []

    def held(self, kind, inputs):
        calls.append(len(inputs["image_bytes"]))
        running.set()
        assert may_continue.wait(30)
        return self._model.run(kind.signature, kind.outputs, inputs)

    monkeypatch.setattr(stub_server.Service, "_run", held)
    with stub_server.serve(export_dir / "2", batch_timeout_ms=0) as server:
        address = f"127.0.0.1:{server.port}"
        with client.Grpc(address, timeout=60) as patient, client.Grpc(address, timeout=0.2) as hasty:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                first = pool.submit(patient.predict, [stand_in.BAD])
                assert running.wait(30)
                with pytest.raises(TimeoutError):
                    hasty.predict([stand_in.BAD] * 3)
                second = pool.submit(patient.predict, [stand_in.BAD] * 2)
                may_continue.set()
                assert len(first.result(60)["errors"]) == 1 and len(second.result(60)["errors"]) == 2
    assert calls == [1, 2]


def test_concurrent_clients_get_their_own_responses(export_dir):
    def shades(number):
        return [(number + 1, shade + 1, 100) for shade in range(1 + number % 3)]

    def query(number):
        images = [stand_in.png(*color) for color in shades(number)] + [stand_in.BAD]
        with client.Grpc(f"127.0.0.1:{server.port}", timeout=30) as backend:
            return [backend.predict(images) for _ in range(5)]

    # Requests do not fill these batches evenly, so many are merged and some are split.
    with stub_server.serve(export_dir, max_batch_size=3, batch_timeout_ms=5) as server:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(query, range(8)))
    for number, outputs in enumerate(responses):
        expected = [stand_in.probabilities(*color) for color in shades(number)] + [np.zeros([3])]
        for each in outputs:
            np.testing.assert_allclose(each["probabilities"], expected, rtol=1e-6)
            assert [bool(error) for error in each["errors"]] == [False] * len(shades(number)) + [True]
            assert each["classes"][-1].tolist() == [b"", b""]


@pytest.mark.parametrize(
    "records, message",
    [([b"none"], "PredictionLog"), ([protocol.warmup_record(protocol.predict_request("m", "x", {}))], "Received: 'x'")],
)
def test_failing_warmup_requests_are_reported(tmp_path, export_dir, records, message):
    shutil.copytree(export_dir / "10", tmp_path / "1")
    stand_in.write_warmup(tmp_path, records)
    with pytest.raises(ValueError, match=f"^Cannot run the warm-up requests in .*requests: .*{message}"):
        stub_server.serve(tmp_path)


def test_damaged_file_of_warmup_requests_is_reported(tmp_path, export_dir):
    shutil.copytree(export_dir / "10", tmp_path / "1")
    (tmp_path / "1" / protocol.WARMUP_REQUESTS).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="^Cannot run the warm-up requests in .*requests: corrupted record at 0"):
        stub_server.serve(tmp_path)


def test_invalid_arguments_are_rejected(tmp_path, export_dir, server):
    with pytest.raises(
        ValueError, match=r"Expected an export \(DIR/1/saved_model\.pb\) in .* Received: a directory without versions"
    ):
        stub_server.serve(tmp_path)
    with pytest.raises(ValueError, match="max_batch_size=0"):
        stub_server.serve(export_dir, max_batch_size=0)
    with pytest.raises(OSError, match=f"Cannot listen on port {server.port}; use a free port"):
        stub_server.serve(export_dir, port=server.port)


def test_program_prints_its_port_first(export_dir):
    command = [
        sys.executable,
        "-m",
        "alexnet_tf.serving.stub_server",
        f"--directory={export_dir}",
        "--model_name=flowers",
    ]
    root = str(pathlib.Path(__file__).resolve().parents[2])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root) as process:
        try:
            with client.Grpc(f"127.0.0.1:{int(process.stdout.readline())}", "flowers", 30) as backend:
                assert backend.predict([stand_in.BAD])["errors"].tolist() == [stand_in.ERROR.encode()]
        finally:
            process.terminate()


def test_program_ends_with_a_one_line_error(tmp_path, capsys):
    with pytest.raises(SystemExit, match="^stub_server: Expected an export"):
        stub_server.main([f"--directory={tmp_path}"])
    assert not capsys.readouterr().out
