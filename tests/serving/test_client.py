"""The three clients return the same outputs, and report failing servers in one line."""

import http.server
import socket
import time

import numpy as np
import pytest
import stand_in

from alexnet_tf.serving import client
from alexnet_tf.serving import stub_server
from alexnet_tf.utils import checksums

COLORS = [(10, 20, 70), (90, 5, 5), (0, 200, 10)]


class Raw(http.server.BaseHTTPRequestHandler):
    """Responds with the bytes in the server's attribute `raw`."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(self.server.raw)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def silent_address():
    """The address of a server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def free_address():
    """An address on which nothing listens."""
    with socket.socket() as held:
        # Bound, so that no other process gets it; not listening, so that it refuses connections.
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_all_clients_return_the_same_outputs(backend):
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


def test_damaged_export_is_not_loaded(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    checksums.write(tmp_path, ["saved_model.pb"])
    (tmp_path / "saved_model.pb").write_bytes(b"grapf")
    for load in (client.SavedModel, stub_server.serve):
        with pytest.raises(
            ValueError, match="^Expected the files of an export in .* Received: saved_model.pb with other"
        ):
            load(tmp_path)


def test_all_clients_return_features(backend):
    outputs = backend.predict([stand_in.png(*color) for color in COLORS], "features")
    assert set(outputs) == {"features", "errors"}
    np.testing.assert_array_equal(outputs["features"], np.float32(COLORS))


def test_unknown_signature_is_named_in_the_error(backend):
    with pytest.raises(ValueError, match=r"^[^\n]*'other'[^\n]*$"):
        backend.predict([stand_in.BAD], "other")


def test_failing_network_reports_the_cause(backend):
    message = r"^(Running the network in \S+ failed|\S+ returned an error): [^\n]*Unknown image file form[^\n]*$"
    with pytest.raises((ValueError, OSError), match=message):
        backend.predict([b"\x89 no image"])


def test_rest_request_has_the_documented_form(rest_server, rest_address):
    client.Rest(f"http://{rest_address}/").predict([b"bad"], "features")
    path, body = rest_server.requests[-1]
    assert path == "/v1/models/alexnet:predict"
    assert body == {"signature_name": "features", "inputs": {"image_bytes": [{"b64": "YmFk"}]}}


def test_rest_parses_outputs_of_every_dtype():
    body = (
        b'{"outputs": {"x_bytes": [{"b64": "AAE="}], "ids": [[1, 2]], "names": ["a\\u0000", "\xc3\xa4"], "y": [1.5]}}'
    )
    with responding(b"HTTP/1.0 200 OK\r\n\r\n" + body) as backend:
        outputs = backend.predict([b""])
    assert {name: (array.tolist(), array.dtype) for name, array in outputs.items()} == {
        "x_bytes": ([b"\x00\x01"], object),
        "ids": ([[1, 2]], np.int64),
        "names": ([b"a\x00", "ä".encode()], object),
        "y": ([1.5], np.float32),
    }


class responding:
    """A REST client whose server responds with these bytes."""

    def __init__(self, raw):
        self._raw = raw

    def __enter__(self):
        self._server = stand_in.start(Raw, raw=self._raw)
        return client.Rest(f"127.0.0.1:{self._server.server_port}", timeout=30)

    def __exit__(self, *error):
        stand_in.stop(self._server)


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "6 bytes that are not a JSON object"),
        (b"HTTP/1.0 200 OK\r\n\r\n[1]", "3 bytes that are not a JSON object"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"predictions": []}', "a response without named outputs"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"outputs": [1]}', "a response without named outputs"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"outputs": {"x": [[1], [1, 2]]}}', "a response without named outputs"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"outputs": {"x": [null]}}', "a response without named outputs"),
        (b'HTTP/1.0 503 No\r\n\r\n{"error": "too\\nbusy"}', "HTTP status 503, too"),
        (b"HTTP/1.0 500 No\r\n\r\n<html>\n", "HTTP status 500"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{", "IncompleteRead"),
        (b"\x00\x00\x12\x04 no HTTP", "no HTTP"),
        (b"", "closed connection without response"),
    ],
)
def test_invalid_rest_responses_are_one_line_errors(raw, message):
    expected = r"^(Expected .*127\.0\.0\.1:\d+\. Received|127\.0\.0\.1:\d+ returned an error): [^\n]*$"
    with responding(raw) as backend:
        with pytest.raises(OSError, match=expected) as failure:
            backend.predict([b""])
    assert message in str(failure.value)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_unreachable_server_is_a_one_line_error(protocol, free_address):
    with client.open_server(free_address, protocol, timeout=30) as backend:
        with pytest.raises(
            ConnectionError, match=rf"^Expected a \w+ model server at {free_address}\. Received: [^\n]*$"
        ):
            backend.predict([b""])


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_silent_server_is_a_one_line_error_after_the_timeout(protocol, silent_address):
    begun = time.monotonic()
    with client.open_server(silent_address, protocol, timeout=0.2) as backend:
        with pytest.raises(TimeoutError, match=rf"^{silent_address} did not respond within 0\.2 s; [^\n]*$"):
            backend.predict([b""])
    assert time.monotonic() - begun < 10


def test_port_of_the_other_protocol_is_a_one_line_error(grpc_address, rest_address):
    with client.Grpc(rest_address, timeout=30) as backend:
        with pytest.raises(
            ConnectionError, match=rf"^Expected a gRPC model server at {rest_address}\. Received: [^\n]*$"
        ):
            backend.predict([b""])
    with pytest.raises(OSError, match=rf"^Expected a REST model server at {grpc_address}\. Received: [^\n]*$"):
        client.Rest(grpc_address, timeout=30).predict([b""])


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_unknown_model_is_named_in_the_error(protocol, request):
    address = request.getfixturevalue(f"{protocol}_address")
    with client.open_server(address, protocol, model_name="an/other", timeout=30) as backend:
        message = rf"^{address} has no model 'an/other': [^\n]*$"
        with pytest.raises(ValueError, match=message):
            backend.predict([stand_in.BAD])


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "localhost:", ":8500", "a:b", "a:0", "a:65536", "a:1:2", "ftp://a:1", "a b:1", "a:8500/"],
)
def test_invalid_addresses_are_rejected(address):
    with pytest.raises(
        ValueError, match="^Expected an address HOST:PORT with a port from 1 to 65535. Received: "
    ) as caught:
        client.open_server(address)
    assert repr(address) in str(caught.value)


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
def test_protocol_is_inferred_from_the_address(arguments, kind):
    with client.open_server(*arguments) as backend:
        assert type(backend) is kind


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("localhost:1", "http"), "Expected protocol to be one of auto, grpc, rest. Received: protocol='http'"),
        (("http://localhost:1", "grpc"), "Expected HOST:PORT for gRPC. Received: 'http://localhost:1'"),
        (
            ("localhost:1", "auto", ""),
            "Expected model_name to be the server's name for the model. Received: model_name=''",
        ),
        (("localhost:1", "auto", "a", 0), "Expected timeout to be a positive number of seconds. Received: timeout=0"),
        (
            ("localhost:1", "auto", "a", float("nan")),
            "Expected timeout to be a positive number of seconds. Received: timeout=nan",
        ),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError) as caught:
        client.open_server(*arguments)
    assert str(caught.value) == message


def test_newest_version_is_the_highest_number(tmp_path):
    for name in ("2", "10", "9.part", "model", "-11"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
    assert client.newest_version(tmp_path) == (str(tmp_path / "10"), 10)
    assert client.newest_version(tmp_path / "2") == (str(tmp_path / "2"), 1)


def test_missing_or_damaged_saved_model_is_a_one_line_error(tmp_path):
    export = r"^Expected an export \(DIR/1/saved_model\.pb\) in "
    with pytest.raises(ValueError, match=export + r"/nowhere\. Received: no such directory$"):
        client.SavedModel("/nowhere")
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=export + r"\S+ Received: a directory without versions$"):
        client.SavedModel(tmp_path)
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match=r"^Expected saved_model\.pb in .*/1\. Received: a directory without it$"):
        client.SavedModel(tmp_path)
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match=r"^Cannot load the SavedModel in .*/1: [^\n]+$"):
        client.SavedModel(tmp_path)
