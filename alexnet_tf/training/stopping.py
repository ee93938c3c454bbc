"""Requests to stop from outside, such as the signal SIGTERM: deferred during a training step, otherwise immediate."""

import contextlib
from collections.abc import Iterator

# The exit status that a shell reports for a process ended by SIGTERM.
STATUS = 143


class Stopped(SystemExit):
    """Raised to stop on request; ends the process with `STATUS` unless it is caught.

    Args:
      text: a line about the state of the work.
    """

    def __init__(self, text: str):
        super().__init__(STATUS)
        self.text = text

    def __str__(self) -> str:
        return self.text


class Stop:
    """A request to stop.

    During training, a request is deferred to the end of the step, so that a checkpoint can be saved. At all other times
    there is nothing to save, and it takes effect immediately.
    """

    def __init__(self):
        self._is_requested = False
        self._is_deferred = False

    def is_requested(self) -> bool:
        """Returns whether a stop was requested."""
        return self._is_requested

    def request(self, *unused) -> None:
        """Requests a stop; also a signal handler.

        Raises:
          Stopped: unless requests are deferred.
        """
        self._is_requested = True
        self._stop_unless_deferred()

    def _stop_unless_deferred(self):
        if self._is_requested and not self._is_deferred:
            raise Stopped("stopped; the same command resumes from the newest checkpoint")

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
