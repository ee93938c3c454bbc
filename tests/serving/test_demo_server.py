"""The demo page's server over HTTP: what it answers, and what it refuses before it reads a picture."""

import http.client
import json
import re
import socket
import threading
import time

import pytest

from alexnet_tf.serving import demo_server

BINARY = {"Content-Type": "application/octet-stream"}


class Served:
    """A server with a function that answers short texts, and what it was called with."""

    def __init__(self):
        self.calls = []
        self.server = demo_server.Server("127.0.0.1", 0, self.answer, {"description": "a <b>test</b>"})
        self.port = self.server.server_address[1]

    def answer(self, image):
        self.calls.append(image)
        if image == b"bad":
            raise ValueError("Expected a picture.\nReceived: \x1b[31mtext")
        if image == b"worse":
            raise RuntimeError("secret /home/someone")
        if image == b"nan":
            return {"classes": [float("nan")]}
        return {"classes": [{"name": image.decode(), "probability": 0.5}]}

    def request(self, method, path, body=None, headers=None, **changes):
        """Returns the status, the headers and the body of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {**BINARY, "Origin": f"http://127.0.0.1:{self.port}", **(headers or {})} if body else headers or {}
        connection.request(method, path, body, {name: each for name, each in headers.items() if each is not None})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), content

    def post(self, body, headers=None):
        status, _, content = self.request("POST", "/answer", body, headers)
        return status, json.loads(content)

    def raw(self, text):
        """Sends bytes and returns everything that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def served():
    served = Served()
    thread = threading.Thread(target=lambda: served.server.serve_forever(0.01))
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


def test_the_page_and_its_files_are_served_with_strict_headers(served):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, content = served.request("GET", path)
        assert status == 200 and headers["Content-Type"].startswith(kind) and len(content) > 500
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and "Python" not in headers["Server"]
        assert not re.search(rb"https?://|//[a-z]+\.|innerHTML|outerHTML|insertAdjacent|eval\(|style=|onclick", content)
    about = json.loads(served.request("GET", "/about")[2])
    assert about == {"description": "a <b>test</b>", "max_bytes": demo_server.MAX_BYTES}


def test_a_picture_is_answered(served):
    assert served.post(b"cat") == (200, {"classes": [{"name": "cat", "probability": 0.5}]})
    assert served.calls[-1] == b"cat"
    # A program that is not a browser states no origin; a browser that does states the host as the user typed it.
    assert served.post(b"cat", {"Origin": None})[0] == 200
    host = {"Host": f"localhost:{served.port}", "Origin": f"http://localhost:{served.port}"}
    assert served.post(b"cat", {**host, "Sec-Fetch-Site": "same-origin"})[0] == 200


@pytest.mark.parametrize(
    "body, status, error",
    [
        (b"bad", 422, "Expected a picture."),
        (b"nan", 500, "Expected finite numbers from the network."),
        (b"worse", 500, "The server failed on this picture; see its terminal for the reason"),
    ],
)
def test_pictures_that_cannot_be_answered_get_one_line(served, body, status, error, capfd):
    found, answer = served.post(body)
    assert (found, answer["error"].split(" Received")[0]) == (status, error) and list(answer) == ["error"]
    printed = capfd.readouterr().err
    assert printed == ("a picture could not be answered: secret /home/someone\n" if body == b"worse" else "")
    assert served.post(b"cat")[0] == 200


@pytest.mark.parametrize(
    "headers, status, message",
    [
        ({"Host": "attacker.example"}, 403, "Expected localhost, an address or 127.0.0.1 as the host"),
        ({"Host": "attacker.example:8000"}, 403, "as the host"),
        ({"Host": "127.0.0.1.attacker.example"}, 403, "as the host"),
        ({"Host": "localhost.attacker.example"}, 403, "as the host"),
        ({"Host": "localhost@attacker.example"}, 403, "as the host"),
        ({"Host": ""}, 403, "as the host"),
        ({"Origin": "http://attacker.example"}, 403, "Expected a request from this page"),
        ({"Origin": "null"}, 403, "Expected a request from this page"),
        ({"Origin": "http://127.0.0.1:1"}, 403, "Expected a request from this page"),
        ({"Origin": None, "Sec-Fetch-Site": "cross-site"}, 403, "Expected a request from this page"),
        ({"Origin": None, "Sec-Fetch-Site": "same-site"}, 403, "Expected a request from this page"),
        ({"Content-Type": "text/plain"}, 415, "Expected the content type application/octet-stream"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "Expected the content type"),
        ({"Content-Type": None}, 415, "Expected the content type"),
        ({"Content-Length": "-3"}, 411, "Expected a request that states its length"),
        ({"Content-Length": "3, 4"}, 411, "Expected a request that states its length"),
        ({"Transfer-Encoding": "chunked"}, 411, "Expected a request that states its length"),
        ({"Content-Length": "0"}, 413, "Expected a picture of 1 to"),
        ({"Content-Length": str(2**40)}, 413, "Expected a picture of 1 to 33554432 bytes. Received: 1099511627776"),
    ],
)
def test_requests_of_other_sites_and_of_other_kinds_are_refused(served, headers, status, message, monkeypatch):
    monkeypatch.setattr(demo_server, "_LINGER", 0.2)
    before = len(served.calls)
    found, answer = served.post(b"cat", headers)
    assert found == status and message in answer["error"] and "\n" not in answer["error"]
    assert len(served.calls) == before


def test_the_whole_answer_arrives_when_a_large_picture_is_refused(served):
    status, answer = served.post(bytes(demo_server.MAX_BYTES + 1))
    assert status == 413 and "Received: 33554433" in answer["error"]


@pytest.mark.parametrize(
    "path",
    ["/index.html", "/../page.js", "/page/index.html", "/%2e%2e/etc/passwd", "/etc/passwd", "/page.js?x", "/answer"],
)
def test_no_other_path_has_a_file(served, path, monkeypatch):
    monkeypatch.setattr(demo_server, "_LINGER", 0.2)
    status, _, content = served.request("GET", path)
    assert (status, json.loads(content)) == (404, {"error": "Expected the path /. Received: a different path"})
    if path != "/answer":
        assert served.request("POST", path, b"cat")[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods_are_refused(served, method):
    status, headers, _ = served.request(method, "/answer")
    # Without this header, a browser sends nothing of another site's page that it asks about first.
    assert status == 501 and not any(name.lower().startswith("access-control") for name in headers)


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: 9\r\n"
        b"\r\ncat",
        b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: 3\r\n"
        b"Content-Length: 4\r\n\r\ncat",
    ],
)
def test_what_is_not_a_whole_request_ends_with_one_line(served, text, monkeypatch, capfd):
    monkeypatch.setattr(demo_server, "_LINGER", 0.2)
    before = len(served.calls)
    answer = served.raw(text)
    assert b"HTTP/1.0 200" not in answer and b"Traceback" not in answer
    assert len(json.loads(answer[answer.rindex(b"{") :])) == 1
    assert served.calls[before:] == [] and capfd.readouterr().err == ""
    assert served.post(b"cat")[0] == 200


def test_a_slow_client_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(demo_server._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(
            b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 9\r\n\r\ncat"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.0 408 ")


def test_clients_that_only_connect_leave_room_for_others(served, monkeypatch):
    monkeypatch.setattr(demo_server._Handler, "timeout", 0.2)
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(demo_server.MAX_REQUESTS + 4)]
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                assert served.post(b"cat")[0] == 200
                break
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        for each in idle:
            each.close()


def test_names_of_hosts_given_by_the_user_are_accepted():
    server = demo_server.Server("localhost", 0, lambda image: {}, {})
    server.name = "workstation"
    thread = threading.Thread(target=lambda: server.serve_forever(0.01))
    thread.start()
    try:
        statuses = []
        for host in ("Workstation:8000", "localhost", "[::1]:8000", "192.0.2.7", "other"):
            connection = http.client.HTTPConnection("localhost", server.server_address[1], timeout=20)
            connection.request("GET", "/about", headers={"Host": host})
            statuses.append(connection.getresponse().status)
            connection.close()
        assert statuses == [200, 200, 200, 200, 403]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_port_in_use_is_reported_in_one_line(served):
    with pytest.raises(
        OSError, match=f"^Expected an address and a port that are free. Received: 127.0.0.1, port {served.port} ."
    ):
        demo_server.Server("127.0.0.1", served.port, lambda image: {}, {})
    with pytest.raises(
        OSError, match="^Expected an address and a port that are free. Received: no.such.host.invalid, port 0"
    ):
        demo_server.Server("no.such.host.invalid", 0, lambda image: {}, {})


@pytest.mark.parametrize(
    "host, expected",
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
    ],
)
def test_loopback_addresses_are_recognized(host, expected):
    assert demo_server.is_loopback(host) is expected
