"""What may happen to a program from outside: signals that stop it, and output that nobody reads any more."""

import contextlib
import errno
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import IO
from typing import Any

# Signals that request a stop: Ctrl-C, a closed terminal, and what `kill` and schedulers send.
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def handle(handler: Callable[[int, Any], None]) -> None:
    """Installs a handler of `SIGNALS`, except for SIGINT and SIGHUP where they are ignored, as under ``nohup``."""
    if threading.current_thread() is not threading.main_thread():
        # Python allows signal handlers in the main thread only.
        return
    for number in SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Installs a handler of `SIGNALS` for the block."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handle(handler)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, previous in before.items():
                # None is a handler that was not installed by Python, and still is.
                if previous is not None:
                    signal.signal(number, previous)


@contextlib.contextmanager
def unread_output_is_dropped() -> Iterator[None]:
    """Drops what is printed during the block once nobody can read it, instead of raising an error.

    That is the case after ``| head`` has read its lines, after the terminal was closed, or if the program was started
    without a standard output. Other errors, such as a full disk, are raised.
    """
    _open_missing_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Output, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            # Other errors were raised by the last line printed, or will be when Python exits.
            with contextlib.suppress(OSError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _open_missing_descriptors():
    """Opens missing standard streams, so that no other file gets their descriptors; what is written there is lost."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


class _Output:
    """A text stream that drops what nobody can read.

    Args:
      stream: text stream, or None to drop everything.
    """

    def __init__(self, stream: IO[str] | None):
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._unread_dropped():
            return self._stream.write(text)
        return len(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._unread_dropped():
            self._stream.flush()

    @contextlib.contextmanager
    def _unread_dropped(self):
        try:
            yield
        except OSError as error:
            if not _is_unread(error, self._stream):
                raise
            # What is still in the stream's buffer, and what C++ code writes, goes there as well.
            with open(os.devnull, "w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


def _is_unread(error, stream):
    """Whether an error is that of a pipe without a reader or of a closed terminal, which is no longer a terminal."""
    if error.errno == errno.EIO:
        return stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
    return error.errno == errno.EPIPE
