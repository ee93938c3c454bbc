"""The small server: what it answers, what it refuses, and how it merges requests."""

import concurrent.futures
import pathlib
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
    # Newer by number, not by the alphabet.
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
def ask(channel):
    """Sends a request with our messages."""
    return channel.unary_unary(
        protocol.PREDICT,
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=protocol.message_class("PredictResponse").FromString,
    )


def test_newest_version_answers_with_its_number(ask):
    request = protocol.predict_request("alexnet", "", {"image_bytes": [stand_in.png(10, 20, 70)]})
    response = ask(request)
    assert response.model_spec.version.value == 10
    assert (response.model_spec.name, response.model_spec.signature_name) == ("alexnet", "serving_default")
    outputs = protocol.outputs(response)
    assert set(outputs) == {"probabilities", "classes", "scores", "errors"}
    np.testing.assert_allclose(outputs["probabilities"], [stand_in.probabilities(10, 20, 70)], rtol=1e-6)
    assert outputs["classes"].tolist() == [[b"blue", "größtes Grün".encode()]]


@pytest.mark.parametrize("signature, dtype", [("images", np.uint8), ("images_float", np.float32)])
def test_signatures_of_pixels_answer(ask, signature, dtype):
    pixels = np.full([2, 4, 4, 3], [30, 10, 60], dtype)
    outputs = protocol.outputs(ask(protocol.predict_request("alexnet", signature, {signature: pixels})))
    np.testing.assert_allclose(outputs["probabilities"], [stand_in.probabilities(30, 10, 60)] * 2, rtol=1e-6)


def test_only_the_outputs_asked_for_are_sent(ask):
    inputs = {"image_bytes": [stand_in.png(1, 1, 2)]}
    response = ask(protocol.predict_request("alexnet", "serving_default", inputs, output_filter=["scores"]))
    assert list(response.outputs) == ["scores"]


def test_answers_the_stubs_of_tensorflow_serving(channel):
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
        (("alexnet", "images", {"images": np.zeros([0, 4, 4, 3], np.uint8)}), {}, "INVALID_ARGUMENT", "1 or more"),
        # What the network itself refuses.
        (("alexnet", "features", {"image_bytes": [b"none"]}), {}, "INVALID_ARGUMENT", "nknown image"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(ask, arguments, options, status, details):
    with pytest.raises(grpc.RpcError) as refused:
        ask(protocol.predict_request(*arguments, **options))
    assert refused.value.code().name == status
    assert details in refused.value.details() and "\n" not in refused.value.details()


def test_broken_tensor_is_refused(ask):
    request = protocol.predict_request("alexnet", "images", {"images": np.zeros([1, 4, 4, 3], np.uint8)})
    request.inputs["images"].tensor_content = b"\x00"
    with pytest.raises(grpc.RpcError, match="Expected a whole tensor 'images'") as refused:
        ask(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_concurrent_clients_get_their_own_answers(export_dir):
    def shades(person):
        return [(person + 1, shade + 1, 100) for shade in range(1 + person % 3)]

    def ask_often(person):
        images = [stand_in.png(*color) for color in shades(person)] + [stand_in.BAD]
        with client.Grpc(f"127.0.0.1:{server.port}", timeout=30) as backend:
            return [backend.predict(images) for _ in range(5)]

    # Batches that requests do not fill evenly, so that many are merged and some are split.
    with stub_server.serve(export_dir, max_batch_size=3, batch_timeout_ms=5) as server:
        with concurrent.futures.ThreadPoolExecutor(8) as people:
            answers = list(people.map(ask_often, range(8)))
    for person, outputs in enumerate(answers):
        expected = [stand_in.probabilities(*color) for color in shades(person)] + [np.zeros([3])]
        for each in outputs:
            np.testing.assert_allclose(each["probabilities"], expected, rtol=1e-6)
            assert [bool(error) for error in each["errors"]] == [False] * len(shades(person)) + [True]
            assert each["classes"][-1].tolist() == [b"", b""]


class Held:
    """A function for a batcher that doubles numbers, notes its batches, and waits in the first until it may go on."""

    def __init__(self):
        self.batches, self.begun, self.may_go_on = [], threading.Event(), threading.Event()

    def __call__(self, kind, inputs):
        self.batches.append((kind, inputs["x"].tolist()))
        self.begun.set()
        assert self.may_go_on.wait(30)
        if kind == "broken":
            raise ValueError("broken")
        return {"y": 2 * inputs["x"][: None if kind != "short" else 1]}


def results_of(requests, max_batch_size):
    """What a batcher makes of requests that all wait while another is run, in their order; and the batches."""
    function = Held()
    batcher = stub_server.Batcher(function, max_batch_size, 0)
    with concurrent.futures.ThreadPoolExecutor(len(requests) + 1) as people:
        first = people.submit(batcher.run, "first", {"x": np.array([0])})
        assert function.begun.wait(30)
        waiting = []
        for kind, numbers in requests:
            waiting.append(people.submit(batcher.run, kind, {"x": np.array(numbers)}))
            wait_until_queued(batcher, requests[: len(waiting)])
        function.may_go_on.set()
        concurrent.futures.wait([first, *waiting], 30)
    batcher.stop()
    return waiting, function.batches[1:]


def wait_until_queued(batcher, requests):
    """Waits until these are in the batcher, so that their order is known."""
    expected = sum(len(numbers) for _, numbers in requests)
    with batcher._changed:
        assert batcher._changed.wait_for(
            lambda: sum(task.size() for queue in batcher._queues.values() for task in queue) == expected, 30
        )


def test_requests_of_a_kind_are_merged_and_cut_apart():
    requests = [("a", [1]), ("b", [2, 3]), ("a", [4, 5]), ("b", [6])]
    results, batches = results_of(requests, 4)
    assert [each.result()["y"].tolist() for each in results] == [[2], [4, 6], [8, 10], [12]]
    assert batches == [("a", [1, 4, 5]), ("b", [2, 3, 6])]


def test_a_batch_is_never_larger_than_may_be():
    results, batches = results_of([("a", [1, 2]), ("a", [3, 4]), ("a", [5])], 3)
    assert [each.result()["y"].tolist() for each in results] == [[2, 4], [6, 8], [10]]
    assert batches == [("a", [1, 2]), ("a", [3, 4, 5])]


def test_a_large_request_is_run_in_pieces():
    results, batches = results_of([("a", [1, 2, 3, 4, 5]), ("a", [6])], 2)
    assert [each.result()["y"].tolist() for each in results] == [[2, 4, 6, 8, 10], [12]]
    assert batches == [("a", [1, 2]), ("a", [3, 4]), ("a", [5, 6])]


@pytest.mark.parametrize("kind, message", [("broken", "broken"), ("short", r"'y' to have 3 rows\. Received: \[1\]")])
def test_an_error_reaches_every_request_of_its_batch_and_no_other(kind, message):
    results, _ = results_of([(kind, [1]), (kind, [2, 3]), ("whole", [4])], 4)
    for each in results[:2]:
        with pytest.raises((ValueError, stub_server.Refusal), match=message):
            each.result()
    assert results[2].result()["y"].tolist() == [8]


def test_a_request_waits_for_others_until_its_time_is_over():
    function = Held()
    function.may_go_on.set()
    # The time never comes, the batch is full.
    batcher = stub_server.Batcher(function, 2, 1e6)
    with concurrent.futures.ThreadPoolExecutor(2) as people:
        results = list(people.map(lambda number: batcher.run("a", {"x": np.array([number])})["y"].tolist(), [1, 2]))
    assert results == [[2], [4]] and len(function.batches) == 1
    batcher.stop()
    # The batch never fills, the time comes.
    batcher = stub_server.Batcher(function, 100, 0.001)
    assert batcher.run("a", {"x": np.array([3])})["y"].tolist() == [6]
    batcher.stop()


def test_a_stopped_batcher_runs_what_waits_and_takes_no_more():
    function = Held()
    batcher = stub_server.Batcher(function, 100, 1e6)
    with concurrent.futures.ThreadPoolExecutor(1) as people:
        waiting = people.submit(batcher.run, "a", {"x": np.array([1])})
        wait_until_queued(batcher, [("a", [1])])
        function.may_go_on.set()
        batcher.stop()
        assert waiting.result(30)["y"].tolist() == [2]
    with pytest.raises(stub_server.Refusal, match="one that stops"):
        batcher.run("a", {"x": np.array([1])})


@pytest.mark.parametrize(
    "records, message",
    [([b"none"], "PredictionLog"), ([protocol.warmup_record(protocol.predict_request("m", "x", {}))], "Received: 'x'")],
)
def test_warmup_requests_are_played_and_those_that_fail_are_named(tmp_path, export_dir, records, message):
    shutil.copytree(export_dir / "10", tmp_path / "1")
    stand_in.write_warmup(tmp_path, records)
    with pytest.raises(ValueError, match=f"^Expected warm-up requests in .*requests. Received: .*{message}"):
        stub_server.serve(tmp_path)


def test_a_broken_file_of_warmup_requests_is_named(tmp_path, export_dir):
    shutil.copytree(export_dir / "10", tmp_path / "1")
    (tmp_path / "1" / stub_server.WARMUP).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="^Expected warm-up requests in .*requests. Received: corrupted record at 0"):
        stub_server.serve(tmp_path)


def test_bad_arguments_are_refused(tmp_path, export_dir, server):
    with pytest.raises(ValueError, match=r"Expected an export, DIR/1/saved_model\.pb, in .* Received: no version"):
        stub_server.serve(tmp_path)
    with pytest.raises(ValueError, match="max_batch_size=0"):
        stub_server.serve(export_dir, max_batch_size=0)
    with pytest.raises(OSError, match=f"Expected a free port. Received: {server.port}"):
        stub_server.serve(export_dir, port=server.port)


def test_as_a_process_it_says_its_port_first(export_dir):
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


def test_as_a_process_it_ends_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="^loopback: Expected an export"):
        stub_server.main([f"--directory={tmp_path}"])
    assert not capsys.readouterr().out
