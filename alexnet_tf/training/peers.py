"""Waits for the other workers of a training run, and checks that they belong to it.

Each worker listens at its address and connects to those of the others. Two workers exchange greetings, a line of JSON
each, and the one that connected confirms that it has read the other's:

    connecting                  listening
    greeting               ->
                           <-   greeting
    confirmation           ->
                                closes the connection

Then both know each other, and need not meet again: as soon as a worker has met all others, TensorFlow's server takes
its port. A greeting has the worker's index, the number of workers and the configuration, so another program, another
training, and workers that were started with different flags are found out before TensorFlow waits for them forever.
"""

import contextlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from alexnet_tf.utils import schema

# Seconds between log messages about missing workers, and between polls.
_LOG_INTERVAL = 30.0
_POLL_INTERVAL = 0.2
# Seconds that a peer may take to connect or to answer, and that something other than a worker may be at its address. It
# may be this training's previous process, which takes a while to end.
_ANSWER_TIMEOUT = 5.0
_STRANGER_TIMEOUT = 120.0

# The first field of a greeting, with the version of this protocol.
_PROTOCOL = {"alexnet_tf": 1}
_GREETING = schema.Object(
    {
        "index": schema.Number(low=0, integer=True),
        "count": schema.Number(low=1, integer=True),
        "configuration": schema.Map(schema.Text()),
    }
)
_CONFIRMATION = b"met\n"
_MAX_GREETING_BYTES = 2**18
_MAX_LISTED = 5


class _Greeting(NamedTuple):
    """What a worker says about itself."""

    index: int
    count: int  # of all workers
    configuration: dict[str, str]

    def line(self):
        return json.dumps({**_PROTOCOL, **self._asdict()}).encode() + b"\n"


class _StrangerError(Exception):
    """Something other than a worker answers; the message says what it did."""


def wait_for_workers(
    addresses: Sequence[str],
    index: int,
    configuration: Mapping[str, str],
    log: Callable[[str], Any] = print,
    *,
    log_interval: float = _LOG_INTERVAL,
    stranger_timeout: float = _STRANGER_TIMEOUT,
) -> None:
    """Waits until this worker has met all others.

    TensorFlow waits too, but does not report for whom, believes whatever answers, and ignores signals meanwhile.

    Args:
      addresses: HOST:PORT of each worker.
      index: of this worker.
      configuration: texts by name, which must be the same in all workers.
      log: called with a line about the missing workers, immediately and then every `log_interval` seconds.
      log_interval: in seconds.
      stranger_timeout: seconds that something other than a worker may answer at the address of one.

    Raises:
      OSError: if this worker cannot listen on its port, or something other than a worker answers at another's.
      ValueError: if another worker has a different configuration.
    """
    meeting = _Meeting(addresses, _Greeting(index, len(addresses), dict(configuration)))
    with meeting.listening():
        logged, strangers = -math.inf, {}
        while missing := meeting.poll(strangers):
            _check_strangers(strangers, addresses, stranger_timeout)
            if time.monotonic() >= logged + log_interval:
                logged = time.monotonic()
                who = ", ".join(f"{peer} at {addresses[peer]} ({reason})" for peer, reason in missing.items())
                log(f"waiting for {len(missing)} of {len(addresses)} workers: {who}")
            time.sleep(_POLL_INTERVAL)


def _check_strangers(strangers, addresses, timeout):
    for peer, (since, reason) in strangers.items():
        if time.monotonic() > since + timeout:
            raise TimeoutError(
                f"Expected worker {peer} at {addresses[peer]}. Received: {reason} for {timeout:g} s; check --workers, "
                "and which program listens there"
            )


class _Meeting:
    """The greetings of this worker and the others.

    Args:
      addresses: HOST:PORT of each worker.
      own: this worker's greeting.
    """

    def __init__(self, addresses, own):
        self._addresses, self._own = addresses, own
        self._met = {own.index}
        # The first error about another worker's greeting, from any thread.
        self._error = None

    @contextlib.contextmanager
    def listening(self):
        """Answers those who connect, in other threads, during the block."""
        ended = threading.Event()
        with _listen(int(self._addresses[self._own.index].rpartition(":")[2])) as listener:
            thread = threading.Thread(target=self._accept, args=(listener, ended), daemon=True)
            thread.start()
            try:
                yield
            finally:
                # The port is free only when no thread waits at it.
                ended.set()
                thread.join()

    def poll(self, strangers):
        """Tries to meet those that are missing.

        Args:
          strangers: dict from a worker's index to since when something else answers there, and what it does; updated.

        Returns:
          A dict from the index of each worker that is still missing to the reason.
        """
        missing = {}
        for peer in range(len(self._addresses)):
            if peer in self._met:
                continue
            try:
                self._meet(peer)
            except _StrangerError as error:
                missing[peer] = str(error)
                strangers[peer] = (strangers.get(peer, (time.monotonic(),))[0], str(error))
            except OSError as error:
                missing[peer] = error.strerror or str(error)
                strangers.pop(peer, None)
        if self._error:
            raise self._error
        # They may have met this worker meanwhile.
        for peer in self._met & {*missing}:
            del missing[peer]
            strangers.pop(peer, None)
        return missing

    def _meet(self, peer):
        """Connects to a worker.

        Raises:
          OSError: if nothing answers.
          _StrangerError: if something else answers.
          ValueError: if it has another configuration.
        """
        host, _, port = self._addresses[peer].rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_TIMEOUT) as connection:
            try:
                connection.sendall(self._own.line())
                self._check(_parse(_read_line(connection)), peer)
                connection.sendall(_CONFIRMATION)
                # Until the other one, which has read it, closes the connection.
                _read_line(connection)
            except TimeoutError:
                raise _StrangerError("no answer") from None
            except OSError:
                raise _StrangerError("a closed connection") from None
        self._met.add(peer)

    def _accept(self, listener, ended):
        while not ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        """Answers one who connected. A stranger gets no answer."""
        connection.settimeout(_ANSWER_TIMEOUT)
        with connection, contextlib.suppress(OSError, _StrangerError):
            greeting = _parse(_read_line(connection))
            connection.sendall(self._own.line())
            try:
                self._check(greeting)
            except ValueError as error:
                self._error = self._error or error
                return
            if _read_line(connection) == _CONFIRMATION:
                self._met.add(greeting.index)

    def _check(self, greeting, expected_index=None):
        """Raises ValueError unless a greeting is that of another worker of this training."""
        own, is_expected = self._own, greeting.index == expected_index or expected_index is None
        if greeting.count != own.count or greeting.index == own.index or not is_expected:
            place = "that connected" if expected_index is None else f"at {self._addresses[expected_index]}"
            raise ValueError(
                "Expected the same --workers and a different --worker_index in each worker. Received: worker "
                f"{own.index} of {own.count} here, worker {greeting.index} of {greeting.count} in the one {place}"
            )
        ours, theirs = self._own.configuration, greeting.configuration
        if differing := [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]:
            here, there = (_listed(values, differing) for values in (ours, theirs))
            raise ValueError(
                f"Expected the same configuration in all workers. Received: {here} here, {there} in worker "
                f"{greeting.index} at {self._addresses[greeting.index]}"
            )


def _listed(values, names):
    more = f" and {len(names) - _MAX_LISTED} others" if len(names) > _MAX_LISTED else ""
    return ", ".join(f"{name}={values.get(name)}" for name in names[:_MAX_LISTED]) + more


def _read_line(connection):
    """Returns the bytes up to the end of a line, or all until the connection is closed or they are too many."""
    received = b""
    deadline = time.monotonic() + _ANSWER_TIMEOUT
    while not received.endswith(b"\n") and len(received) < _MAX_GREETING_BYTES:
        if time.monotonic() > deadline:
            raise TimeoutError
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
    return received


def _parse(line):
    """Returns the greeting in a line; raises _StrangerError if it is anything else."""
    if not line:
        raise _StrangerError("a closed connection")
    try:
        values = schema.parse(line, _GREETING, "a greeting", "the answer of a worker")
    except ValueError:
        values = {}
    greeting = _Greeting(*(values.get(name) for name in _Greeting._fields))
    if not (values.items() >= _PROTOCOL.items() and greeting.index < greeting.count):
        raise _StrangerError("an answer of another program")
    return greeting


def _listen(port):
    both = socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024
        )
    except OSError as error:
        raise OSError(
            f"Expected port {port} to be free for this worker. Received: {os.strerror(error.errno)}"
        ) from None
    listener.settimeout(_POLL_INTERVAL)
    return listener
