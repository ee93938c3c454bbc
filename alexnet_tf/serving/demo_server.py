"""Serves one web page, on which a picture can be chosen and its answer is shown.

Requests may come from anywhere that a browser can be made to send them from, so each is checked before its body is
read: the name of the host (a page of another site may have its name resolve to this machine), the origin, the content
type and the size. The files of the page are read once, by names that are fixed here; nothing in a request names a file.
"""

import http
import http.server
import importlib.resources
import ipaddress
import json
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from alexnet_tf.utils import escaping
from alexnet_tf.utils import messages

MAX_BYTES = 32 * 2**20
# Requests that are read and answered at a time.
MAX_REQUESTS = 16
# Seconds without a byte, and for a whole request.
_TIMEOUT, _TOTAL_TIMEOUT = 10.0, 60.0
# Seconds in which the rest of a refused request is read, so that the browser reads the answer.
_LINGER = 2.0
_BLOCK_BYTES = 2**16

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_ANSWER, _ABOUT = "/answer", "/about"
_JSON = "application/json; charset=utf-8"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class RefusedError(Exception):
    """A request that is not answered.

    Args:
      status: of the response.
      message: one line.
    """

    def __init__(self, status: http.HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach a host."""
    return host == "localhost" or _address(host) is not None and _address(host).is_loopback


def _address(name):
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


class Server(http.server.ThreadingHTTPServer):
    """The server of the page.

    Args:
      host: name or address to listen on.
      port: its port; 0 for any free one.
      answer: called with the bytes of a picture, one call at a time; returns values for JSON. A ValueError is the
        reason why a picture is not answered.
      about: values for JSON, of which ``description`` is shown.

    Attributes:
      address: str, of the page.

    Raises:
      OSError: if the host or the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, answer: Callable[[bytes], dict[str, Any]], about: dict[str, Any]):
        self.name = host.lower()
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        self._answer, self._turn = answer, threading.Lock()
        folder = importlib.resources.files("alexnet_tf.serving") / "page"
        self.contents = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
        self.contents[_ABOUT] = (json.dumps({**about, "max_bytes": MAX_BYTES}).encode(), _JSON)
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except OSError as error:
            reason = error.strerror or messages.first_line(error)
            raise OSError(
                f"Expected an address and a port that are free. Received: {host}, port {port} ({reason}); use another "
                "--host or --port, or --port=0 for any free one"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self.server_address[1]}/"

    def server_bind(self):
        # That of the base class asks a name server for the name of the host.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.name, self.server_address[1]

    def answer(self, image: bytes) -> dict[str, Any]:
        """Calls the function `answer`, one picture at a time."""
        with self._turn:
            return self._answer(image)

    def process_request(self, request, client_address):
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            # Without a thread, so without reading the request.
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        # A client that goes away is no error of the server.
        if not isinstance(error, OSError):
            print(escaping.one_line(f"a request failed: {messages.first_line(error)}"), file=sys.stderr)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _TIMEOUT

    def do_GET(self):
        self._respond_to(self._content)

    def do_POST(self):
        self._respond_to(self._answered)

    def _respond_to(self, function):
        try:
            self._check_host()
            status, body, kind = function()
        except RefusedError as error:
            status, body, kind = error.status, json.dumps({"error": str(error)}).encode(), _JSON
        self._send(status, body, kind)
        if status >= 400:
            self._linger()

    def _content(self):
        found = self.server.contents.get(self.path)
        if found is None:
            raise RefusedError(http.HTTPStatus.NOT_FOUND, "Expected the path /. Received: a different path")
        return http.HTTPStatus.OK, *found

    def _answered(self):
        if self.path != _ANSWER:
            raise RefusedError(http.HTTPStatus.NOT_FOUND, f"Expected the path {_ANSWER}. Received: a different path")
        self._check_origin()
        image = self._read()
        try:
            answer = self.server.answer(image)
        except ValueError as error:
            reason = escaping.one_line(messages.first_line(error))
            raise RefusedError(http.HTTPStatus.UNPROCESSABLE_ENTITY, reason) from None
        except Exception as error:
            print(escaping.one_line(f"a picture could not be answered: {messages.first_line(error)}"), file=sys.stderr)
            message = "The server failed on this picture; see its terminal for the reason"
            raise RefusedError(http.HTTPStatus.INTERNAL_SERVER_ERROR, message) from None
        try:
            return http.HTTPStatus.OK, json.dumps(answer, allow_nan=False).encode(), _JSON
        except ValueError:
            message = "Expected finite numbers from the network. Received: NaN or infinity; its training diverged"
            raise RefusedError(http.HTTPStatus.INTERNAL_SERVER_ERROR, message) from None

    def _check_host(self):
        """Refuses names other than localhost and the server's: another name may be made to resolve to an address."""
        match = _HOST.fullmatch(self._single("Host"))
        name = match[1].lower() if match else ""
        if not match or (name not in ("localhost", self.server.name) and _address(name) is None):
            message = f"Expected localhost, an address or {self.server.name} as the host. Received: a different host"
            raise RefusedError(http.HTTPStatus.FORBIDDEN, message)

    def _check_origin(self):
        """Refuses requests of pages of other sites. A program that is not a browser states no origin."""
        origins = self.headers.get_all("Origin", [])
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        if origins not in ([], [f"http://{self._single('Host')}"]) or site not in ("same-origin", "none"):
            raise RefusedError(
                http.HTTPStatus.FORBIDDEN, "Expected a request from this page. Received: a request from another site"
            )
        if self.headers.get_content_type() != "application/octet-stream" or "Content-Type" not in self.headers:
            # A browser asks before it sends this type for another site.
            message = "Expected the content type application/octet-stream. Received: a different type"
            raise RefusedError(http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)

    def _single(self, name):
        found = self.headers.get_all(name, [])
        if len(found) != 1:
            message = f"Expected one header {name}. Received: {len(found)}"
            raise RefusedError(http.HTTPStatus.BAD_REQUEST, message)
        return found[0].strip()

    def _read(self):
        """Returns the body of a request."""
        length = self.headers.get_all("Content-Length", [])
        if len(length) != 1 or not re.fullmatch("[0-9]{1,18}", length[0]) or "Transfer-Encoding" in self.headers:
            message = "Expected a request that states its length. Received: one that does not"
            raise RefusedError(http.HTTPStatus.LENGTH_REQUIRED, message)
        remaining = int(length[0])
        if not 1 <= remaining <= MAX_BYTES:
            message = f"Expected a picture of 1 to {MAX_BYTES} bytes. Received: {remaining}"
            raise RefusedError(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        blocks, deadline = [], time.monotonic() + _TOTAL_TIMEOUT
        while remaining:
            try:
                block = self.rfile.read1(min(remaining, _BLOCK_BYTES))
            except TimeoutError:
                block = b""
            if not block or time.monotonic() > deadline:
                message = f"Expected a picture within {_TOTAL_TIMEOUT:.0f} seconds. Received: a part of it"
                raise RefusedError(http.HTTPStatus.REQUEST_TIMEOUT, message)
            blocks.append(block)
            remaining -= len(block)
        return b"".join(blocks)

    def _send(self, status, body, kind):
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _linger(self):
        """Reads what a client still sends. If the connection were closed before, it might not read the answer."""
        deadline = time.monotonic() + _LINGER
        try:
            self.connection.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(_BLOCK_BYTES):
                    return
        except OSError:
            pass

    def send_error(self, code, message=None, explain=None):
        """Answers a request that is not HTTP, or of another method, in one line as well."""
        text = "Expected a GET or POST request. Received: a different method"
        self._send(http.HTTPStatus(code), json.dumps({"error": text}).encode(), _JSON)

    def version_string(self):
        return "alexnet_tf"

    def log_message(self, *arguments):
        """Prints nothing: the terminal shows only what failed."""
