"""Requests to stop from outside, such as the signal SIGTERM: deferred during a training step, otherwise immediate."""

import contextlib
import os
import signal
from collections.abc import Iterator

# The exit status that a shell reports for a process ended by SIGTERM.
STATUS = 143

_RESUMES = "stopped; the same command resumes from the newest checkpoint"
_AFTER_THIS_STEP = b"\nstopping after this step; Ctrl-C again stops at once\n"


class Stopped(SystemExit):
    """Raised to stop on request; ends the process with a status unless it is caught.

    Args:
      text: a line about the state of the work.
      status: the exit status.
    """

    def __init__(self, text: str, status: int = STATUS):
        super().__init__(status)
        self.text = text

    def __str__(self) -> str:
        return self.text


class Stop:
    """A request to stop.

    During training, a request is deferred to the end of the step, so that a checkpoint can be saved. At all other times
    there is nothing to save, and it takes effect immediately.

    Args:
      text: a line about the state of the work when a request takes effect immediately.

    Attributes:
      status: the exit status of a process that stops on this request: that of the first signal received.
    """

    def __init__(self, text: str = _RESUMES):
        self.status = STATUS
        self._text = text
        self._is_requested = False
        self._is_deferred = False
        self._is_stopping = False
        self._interrupts = 0

    def is_requested(self) -> bool:
        """Returns whether a stop was requested."""
        return self._is_requested

    def request(self, number: int | None = None, frame: object = None) -> None:
        """Requests a stop; also a signal handler, for any signal.

        Once a signal has taken effect, further ones are ignored, so that they do not interrupt what cleans up.

        Args:
          number: of the signal; None for a request of the program itself.
          frame: ignored.

        Raises:
          Stopped: unless requests are deferred.
          KeyboardInterrupt: for the second SIGINT, even if requests are deferred.
        """
        del frame
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if number is not None and not self._is_requested:
            self.status = 128 + number
        self._is_requested = True
        if number == signal.SIGINT and self._is_deferred:
            # Not `print`, whose buffer the signal may have interrupted.
            with contextlib.suppress(OSError):
                os.write(2, _AFTER_THIS_STEP)
        if number is None or not self._is_stopping:
            self._stop_unless_deferred()

    def stopped(self, text: str) -> Stopped:
        """Returns the exception that ends the process for this request, with a line about the state of the work."""
        return Stopped(text, self.status)

    def _stop_unless_deferred(self):
        if self._is_requested and not self._is_deferred:
            self._is_stopping = True
            raise self.stopped(self._text)

    @contextlib.contextmanager
    def deferred(self, is_deferred: bool = True) -> Iterator[None]:
        """Defers requests during the block; False makes them immediate, including one that was deferred before.

        Raises:
          Stopped: for False, if a stop is requested.
        """
        before, self._is_deferred = self._is_deferred, is_deferred
        try:
            self._stop_unless_deferred()
            yield
        finally:
            self._is_deferred = before
