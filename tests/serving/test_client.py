"""The client: three ways to ask, what is said of files and servers that fail, and what is printed."""

import http.server
import json
import os
import socket
import time

import numpy as np
import pytest
import stand_in

from alexnet_tf.serving import client
from alexnet_tf.serving import stub_server

COLORS = [(10, 20, 70), (90, 5, 5), (0, 200, 10)]


class Raw(http.server.BaseHTTPRequestHandler):
    """Answers with the bytes that the server holds."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(self.server.raw)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    stand_in.save(directory)
    return directory


@pytest.fixture(scope="module")
def saved_model(export_dir):
    return client.SavedModel(export_dir)


@pytest.fixture(scope="module")
def grpc_address(export_dir):
    with stub_server.serve(export_dir) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def rest_server(saved_model):
    server = stand_in.started(stand_in.Rest, model=saved_model, requests=[])
    yield server
    stand_in.stopped(server)


@pytest.fixture
def rest_address(rest_server):
    return f"127.0.0.1:{rest_server.server_port}"


@pytest.fixture(params=["saved_model", "grpc", "rest"])
def backend(request, export_dir):
    if request.param == "saved_model":
        yield request.getfixturevalue("saved_model")
    else:
        address = request.getfixturevalue(f"{request.param}_address")
        with client.open_server(address, request.param, timeout=30) as server:
            yield server


@pytest.fixture
def silent_address():
    """Of one who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def free_address():
    """Where nobody listens."""
    with socket.socket() as held:
        # Bound, so that nobody takes it; not listening, so that it refuses.
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_three_backends_give_the_same(backend):
    outputs = backend.predict([stand_in.png(*COLORS[0]), stand_in.BAD, stand_in.png(*COLORS[1])])
    assert set(outputs) == {"probabilities", "classes", "scores", "errors"}
    expected = [stand_in.probabilities(*COLORS[0]), np.zeros([3]), stand_in.probabilities(*COLORS[1])]
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-6)
    assert outputs["probabilities"].dtype == outputs["scores"].dtype == np.float32
    assert outputs["classes"].dtype == outputs["errors"].dtype == object
    green = "größtes Grün".encode()
    assert outputs["classes"].tolist() == [[b"blue", green], [b"", b""], [b"red", green]]
    np.testing.assert_allclose(outputs["scores"], [[0.7, 0.2], [0, 0], [0.9, 0.05]], rtol=1e-6)
    assert outputs["errors"].tolist() == [b"", stand_in.ERROR.encode(), b""]


def test_three_backends_give_features(backend):
    outputs = backend.predict([stand_in.png(*color) for color in COLORS], "features")
    assert set(outputs) == {"features", "errors"}
    np.testing.assert_array_equal(outputs["features"], np.float32(COLORS))


def test_unknown_signatures_are_named(backend):
    with pytest.raises(ValueError, match=r"^Expected .* Received: .*'other'.*$"):
        backend.predict([stand_in.BAD], "other")


def test_a_network_that_cannot_be_run_gives_its_cause(backend):
    with pytest.raises(
        (ValueError, OSError), match=r"^Expected an answer of .* Received: [^\n]*Unknown image file form"
    ):
        backend.predict([b"\x89 no image"])


def test_rest_sends_what_the_documentation_says(rest_server, rest_address):
    client.Rest(f"http://{rest_address}/").predict([b"bad"], "features")
    path, body = rest_server.requests[-1]
    assert path == "/v1/models/alexnet:predict"
    assert body == {"signature_name": "features", "inputs": {"image_bytes": [{"b64": "YmFk"}]}}


def test_rest_reads_outputs_of_every_kind():
    body = (
        b'{"outputs": {"x_bytes": [{"b64": "AAE="}], "ids": [[1, 2]], "names": ["a\\u0000", "\xc3\xa4"], "y": [1.5]}}'
    )
    with answering(b"HTTP/1.0 200 OK\r\n\r\n" + body) as backend:
        outputs = backend.predict([b""])
    assert {name: (array.tolist(), array.dtype) for name, array in outputs.items()} == {
        "x_bytes": ([b"\x00\x01"], object),
        "ids": ([[1, 2]], np.int64),
        "names": ([b"a\x00", "ä".encode()], object),
        "y": ([1.5], np.float32),
    }


class answering:
    """A REST backend whose server answers with these bytes."""

    def __init__(self, raw):
        self._raw = raw

    def __enter__(self):
        self._server = stand_in.started(Raw, raw=self._raw)
        return client.Rest(f"127.0.0.1:{self._server.server_port}", timeout=30)

    def __exit__(self, *error):
        stand_in.stopped(self._server)


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "6 bytes that are no JSON object"),
        (b"HTTP/1.0 200 OK\r\n\r\n[1]", "3 bytes that are no JSON object"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"predictions": []}', "an answer without outputs by name"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"outputs": [1]}', "an answer without outputs by name"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"outputs": {"x": [[1], [1, 2]]}}', "an answer without outputs by name"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"outputs": {"x": [null]}}', "an answer without outputs by name"),
        (b'HTTP/1.0 503 No\r\n\r\n{"error": "too\\nbusy"}', "HTTP status 503, too"),
        (b"HTTP/1.0 500 No\r\n\r\n<html>\n", "HTTP status 500"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{", "IncompleteRead"),
        (b"\x00\x00\x12\x04 no HTTP", "no HTTP"),
        (b"", "closed connection without response"),
    ],
)
def test_rest_answers_that_are_none_get_one_line(raw, message):
    with answering(raw) as backend:
        with pytest.raises(OSError, match=r"^Expected .*127\.0\.0\.1:\d+\. Received: [^\n]*$") as failure:
            backend.predict([b""])
    assert message in str(failure.value)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_servers_that_are_not_there_get_one_line(protocol, free_address):
    with client.open_server(free_address, protocol, timeout=30) as backend:
        with pytest.raises(
            ConnectionError, match=rf"^Expected a \w+ model server at {free_address}\. Received: [^\n]*$"
        ):
            backend.predict([b""])


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_servers_that_say_nothing_get_one_line_in_time(protocol, silent_address):
    begun = time.monotonic()
    with client.open_server(silent_address, protocol, timeout=0.2) as backend:
        with pytest.raises(
            TimeoutError, match=rf"^Expected an answer of {silent_address} within 0\.2 s\. Received: none$"
        ):
            backend.predict([b""])
    assert time.monotonic() - begun < 10


def test_ports_of_the_other_protocol_get_one_line(grpc_address, rest_address):
    with client.Grpc(rest_address, timeout=30) as backend:
        with pytest.raises(
            ConnectionError, match=rf"^Expected a gRPC model server at {rest_address}\. Received: [^\n]*$"
        ):
            backend.predict([b""])
    with pytest.raises(OSError, match=rf"^Expected a REST model server at {grpc_address}\. Received: [^\n]*$"):
        client.Rest(grpc_address, timeout=30).predict([b""])


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_unknown_models_are_named(protocol, request):
    address = request.getfixturevalue(f"{protocol}_address")
    with client.open_server(address, protocol, model_name="an/other", timeout=30) as backend:
        message = rf"^Expected the name of a model of {address}\. Received: 'an/other', [^\n]*$"
        with pytest.raises(ValueError, match=message):
            backend.predict([stand_in.BAD])


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "localhost:", ":8500", "a:b", "a:0", "a:65536", "a:1:2", "ftp://a:1", "a b:1", "a:8500/"],
)
def test_addresses_that_are_none_are_refused(address):
    with pytest.raises(ValueError, match="^Expected HOST:PORT, the port 1 to 65535. Received: ") as refused:
        client.open_server(address)
    assert repr(address) in str(refused.value)


@pytest.mark.parametrize(
    "arguments, kind",
    [
        (("localhost:8500",), client.Grpc),
        (("10.0.0.1:9999",), client.Grpc),
        (("[::1]:8501",), client.Rest),
        (("http://model-server.local:80",), client.Rest),
        (("http://localhost:8500/",), client.Rest),
        (("localhost:18501",), client.Grpc),
        (("localhost:8501", "grpc"), client.Grpc),
        (("localhost:8500", "rest"), client.Rest),
    ],
)
def test_protocol_follows_from_the_address(arguments, kind):
    with client.open_server(*arguments) as backend:
        assert type(backend) is kind


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("localhost:1", "http"), "Expected protocol to be auto | grpc | rest. Received: 'http'"),
        (("http://localhost:1", "grpc"), "Expected HOST:PORT for gRPC. Received: 'http://localhost:1'"),
        (("localhost:1", "auto", ""), "Expected the name of a model. Received: none"),
        (("localhost:1", "auto", "a", 0), "Expected a timeout of more than 0 s. Received: 0"),
        (("localhost:1", "auto", "a", float("nan")), "Expected a timeout of more than 0 s. Received: nan"),
    ],
)
def test_values_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError) as refused:
        client.open_server(*arguments)
    assert str(refused.value) == message


def test_newest_version_is_the_highest_number(tmp_path):
    for name in ("2", "10", "9.part", "model", "-11"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
    assert client.newest_version(tmp_path) == (str(tmp_path / "10"), 10)
    assert client.newest_version(tmp_path / "2") == (str(tmp_path / "2"), 1)


def test_directories_without_a_whole_saved_model_get_one_line(tmp_path):
    with pytest.raises(
        ValueError, match=r"^Expected an export, DIR/1/saved_model.pb, in /nowhere\. Received: none there$"
    ):
        client.SavedModel("/nowhere")
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=r"^Expected an export, .* Received: no version in it$"):
        client.SavedModel(tmp_path)
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match=r"^Expected a saved_model.pb in .*/1\. Received: none there$"):
        client.SavedModel(tmp_path)
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match=r"^Expected a whole SavedModel in .*/1\. Received: [^\n]+$"):
        client.SavedModel(tmp_path)


def test_files_are_classified_in_order_and_fail_alone(backend, tmp_path):
    images = [stand_in.png(*COLORS[0]), stand_in.BAD, stand_in.png(*COLORS[1]), stand_in.png(*COLORS[2])]
    paths = stand_in.written(tmp_path, images)
    paths[2:2] = [str(tmp_path / "none.png"), str(tmp_path)]
    predictions = list(client.classify(backend, paths, batch_size=2))
    assert [prediction.path for prediction in predictions] == paths
    expected = [
        (["blue", "größtes Grün"], ""),
        ([], stand_in.ERROR),
        ([], "Expected a file that can be read. Received: No such file or directory"),
        ([], "Expected a file that can be read. Received: Is a directory"),
        (["red", "größtes Grün"], ""),
        (["größtes Grün", "blue"], ""),
    ]
    assert [(prediction.classes, prediction.error) for prediction in predictions] == expected
    np.testing.assert_allclose(predictions[0].scores, [0.7, 0.2], rtol=1e-6)
    assert predictions[1].as_dict() == {"path": paths[1], "error": stand_in.ERROR}
    assert json.loads(json.dumps(predictions[4].as_dict()))["classes"] == ["red", "größtes Grün"]


class Counting:
    """A backend that knows nothing and notes the sizes of what it is asked."""

    def __init__(self):
        self.sizes = []

    def predict(self, images, signature="serving_default"):
        self.sizes.append([len(image) for image in images])
        count = len(images)
        strings = np.full([count], b"", object)
        return {"classes": strings[:, None], "scores": np.zeros([count, 1], np.float32), "errors": strings}


def test_requests_stay_within_images_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "MAX_REQUEST_BYTES", 10)
    paths = stand_in.written(tmp_path, [b"x" * size for size in (4, 6, 1, 10, 11, 3, 3, 3, 0)])
    backend = Counting()
    predictions = list(client.classify(backend, paths, batch_size=3))
    assert backend.sizes == [[4, 6], [1], [10], [3, 3, 3], [0]]
    assert [bool(prediction.error) for prediction in predictions] == [False] * 4 + [True] + [False] * 4
    assert "MiB at most. Received: more" in predictions[4].error


def test_files_are_read_as_answers_are_taken(tmp_path):
    paths = stand_in.written(tmp_path, [b"x"] * 3)
    answers = client.classify(Counting(), paths, batch_size=1)
    next(answers)
    os.remove(paths[2])
    assert [bool(prediction.error) for prediction in answers] == [False, True]


def test_nothing_is_asked_without_images(tmp_path):
    backend = Counting()
    assert list(client.classify(backend, [])) == []
    assert [prediction.path for prediction in client.classify(backend, [tmp_path / "none"])] == [str(tmp_path / "none")]
    assert not backend.sizes


def test_outputs_of_another_network_are_refused(tmp_path):
    (path,) = stand_in.written(tmp_path, [b"x"])
    backend = Counting()
    backend.predict = lambda images: {"logits": np.zeros([1, 10])}
    with pytest.raises(ValueError, match=r"Expected the outputs classes, scores and errors of 1 images\. .*\[1, 10\]"):
        list(client.classify(backend, [path]))
    with pytest.raises(ValueError, match="Expected a batch_size of 1 or more. Received: 0"):
        list(client.classify(backend, [path], batch_size=0))


def test_table_lines_up_whatever_the_names():
    names = ["cat", "größte Wüste", "n01440764 " + "very long " * 9, "日本犬", "e\u0301", "a\nb\x1b[31m"]
    prediction = client.Prediction("cat.jpg", names, [1.0, 0.5, 0.25, 0.00625, 0.0, 1e-9], "")
    path, *lines = client.table([prediction], top=6).splitlines()
    assert path == "cat.jpg" and len(lines) == 6
    assert lines[0] == "  cat" + " " * 37 + " 100.00 %  " + "█" * 20
    assert lines[1].endswith("  50.00 %  " + "█" * 10)
    assert lines[2].startswith("  n01440764 very long very long very lo...  25.00 %  █████")
    # Two columns each; none for the accent by itself.
    assert lines[3] == "  日本犬" + " " * 34 + "   0.62 %  ▏"
    assert lines[4] == "  e\u0301" + " " * 39 + "   0.00 %"
    assert lines[5].startswith("  a\ufffdb\ufffd[31m ")


def test_table_shows_as_many_as_there_are_and_errors():
    predictions = [
        client.Prediction("a", ["x", "y"], [0.5, 0.25], ""),
        client.Prediction("b", [], [], "Expected an image. Received: none"),
    ]
    lines = client.table(predictions, top=1).splitlines()
    assert [line.split()[0] for line in lines] == ["a", "x", "b", "Expected"]
    assert len(client.table(predictions, top=5).splitlines()) == 5
