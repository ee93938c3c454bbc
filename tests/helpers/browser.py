"""Headless Chromium, driven through its DevTools protocol over pipes; nothing but the standard library."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """A page in its own browser.

    Attributes:
      errors: list of str, what the page wrote to its console and the browser to its log, such as violations of a
        content security policy.
    """

    def __init__(self, send, receive):
        self._send, self._receive = send, receive
        self._number, self._session = 0, None
        self.errors = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self._call(f"{domain}.enable")

    def _call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self):
        answer = self._receive()
        if answer.get("method") == "Log.entryAdded":
            self.errors.append(answer["params"]["entry"]["text"])
        elif answer.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(answer["params"]["exceptionDetails"]))
        return answer

    def open(self, address, *, width=1200, height=1000, dark=False):
        """Opens an address in a window of a size, on a machine that prefers light or dark colors."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && document.getElementById('limit').textContent")

    def evaluate(self, expression):
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression, seconds=30):
        """Waits until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.02)

    def choose(self, path):
        """Chooses a file, as in the dialog of the file input."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key, text=""):
        """Presses a key, such as "Tab"."""
        code = {"Tab": 9, "Enter": 13}[key]
        options = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **options)
        self._call("Input.dispatchKeyEvent", type="keyUp", **options)

    def screenshot(self, path):
        """Writes a PNG file of the whole page."""
        data = self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def page():
    """Starts Chromium; gives a `Page`."""
    to_browser, from_browser = os.pipe(), os.pipe()

    def take_descriptors():
        # Chromium reads from 3 and writes to 4. Copied upwards first, in case one of them is in the way.
        source = os.dup(to_browser[0]), os.dup(from_browser[1])
        high = [os.dup2(each, 100 + place) for place, each in enumerate(source)]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    # Its processes may still write to the profile when the first of them has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
        process = subprocess.Popen(
            [PATH, *options, f"--user-data-dir={profile}"],
            preexec_fn=take_descriptors,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        received = bytearray()

        def receive():
            while b"\0" not in received:
                ready, _, _ = select.select([from_browser[0]], [], [], 60)
                block = os.read(from_browser[0], 2**20) if ready else b""
                assert block, "Chromium does not answer"
                received.extend(block)
            message, _, rest = bytes(received).partition(b"\0")
            received[:] = rest
            return json.loads(message)

        try:
            yield Page(to_browser[1], receive)
        finally:
            process.kill()
            process.wait()
            os.close(to_browser[1])
            os.close(from_browser[0])
