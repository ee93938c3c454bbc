"""A wish to stop that comes from outside, such as the signal SIGTERM: heard between two steps, or at once."""

import contextlib

# What a shell reports of a process that SIGTERM ended.
STATUS = 143


class Stopped(SystemExit):
    """What was asked to stop has stopped; it ends the process with `STATUS` unless it is caught.

    Args:
      text: where things stand, a line.
    """

    def __init__(self, text):
        super().__init__(STATUS)
        self.text = text

    def __str__(self):
        return self.text


class Stop:
    """Whether someone asked to stop.

    While training goes on step by step, the wish waits for the step's end, so that what was learnt can be saved. At all
    other times, when there is nothing that would have to be saved, it is fulfilled at once.
    """

    def __init__(self):
        self._is_asked = False
        self._waits = False

    def is_asked(self):
        """Whether someone asked."""
        return self._is_asked

    def ask(self, *unused):
        """Asks to stop; also a signal's handler.

        Raises:
          Stopped: if nothing has to be saved first.
        """
        self._is_asked = True
        self._stop_unless_waiting()

    def _stop_unless_waiting(self):
        if self._is_asked and not self._waits:
            raise Stopped("stopped; the same command goes on from the newest checkpoint")

    @contextlib.contextmanager
    def waiting(self, waits=True):
        """While the block runs, a wish waits or, for False, does not: one that waited is then fulfilled at once."""
        before, self._waits = self._waits, waits
        try:
            self._stop_unless_waiting()
            yield
        finally:
            self._waits = before
