"""Workers meet before TensorFlow starts, and find out other programs and other configurations."""

import concurrent.futures
import contextlib
import json
import socket
import threading
import time

import pytest

from alexnet_tf.benchmarks import workers
from alexnet_tf.training import peers

CONFIGURATION = {"batch_size": "64", "seed": "0"}


def wait(addresses, index, configuration=None, log=None, **options):
    peers.wait_for_workers(
        addresses,
        index,
        CONFIGURATION if configuration is None else configuration,
        log or (lambda line: None),
        **options,
    )


def wait_together(addresses, configurations):
    """Returns the error of each worker, in a thread each."""
    with concurrent.futures.ThreadPoolExecutor(len(addresses)) as pool:
        futures = [pool.submit(wait, addresses, *each) for each in enumerate(configurations)]
        return [future.exception(60) for future in futures]


@contextlib.contextmanager
def stranger(answer):
    """Listens at a port; `answer(connection)` is called in a thread for everyone who connects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def accept():
            listener.settimeout(0.05)
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        # Bytes that nobody reads would reset the connection before the answer arrives.
                        connection.recv(65536)
                        answer(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


def greeting(**changes):
    values = {"alexnet_tf": 1, "index": 1, "count": 2, "configuration": CONFIGURATION, **changes}
    return json.dumps(values).encode() + b"\n"


def test_workers_with_the_same_configuration_meet():
    addresses = workers.free_addresses(4)
    assert wait_together(addresses, [CONFIGURATION] * 4) == [None] * 4
    # All ports are free again.
    assert wait_together(addresses, [CONFIGURATION] * 4) == [None] * 4


def test_workers_that_come_later_are_waited_for():
    addresses, lines = workers.free_addresses(2), []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(wait, addresses, 0, log=lines.append)
        while not lines:
            time.sleep(0.01)
        wait(addresses, 1)
        first.result(60)
    assert lines == [f"waiting for 1 of 2 workers: 1 at {addresses[1]} (Connection refused)"]


def test_different_configurations_name_the_fields_in_each_worker():
    addresses = workers.free_addresses(2)
    errors = wait_together(addresses, [CONFIGURATION, {**CONFIGURATION, "batch_size": "32", "dropout": "0.5"}])
    ours, theirs = "batch_size=64, dropout=None", "batch_size=32, dropout=0.5"
    expected = "Expected the same configuration in all workers. Received: {} here, {} in worker {} at {}"
    found = {index: str(error) for index, error in enumerate(errors) if error}
    messages = {
        0: expected.format(ours, theirs, 1, addresses[1]),
        1: expected.format(theirs, ours, 0, addresses[0]),
    }
    assert found == messages


STRANGERS = {
    "an answer of another program": lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a closed connection": lambda connection: None,
    "no answer": lambda connection: time.sleep(0.3),
}


@pytest.mark.parametrize("reason, answer", STRANGERS.items(), ids=["other", "closes", "silent"])
def test_a_stranger_at_the_port_of_a_worker_is_named_and_waited_for_in_vain(reason, answer, monkeypatch):
    monkeypatch.setattr(peers, "_ANSWER_TIMEOUT", 0.1)
    lines = []
    with stranger(answer) as address:
        with pytest.raises(TimeoutError) as caught:
            wait([*workers.free_addresses(1), address], 0, log=lines.append, stranger_timeout=0.5)
    assert lines == [f"waiting for 1 of 2 workers: 1 at {address} ({reason})"]
    expected = (
        f"Expected worker 1 at {address}. Received: {reason} for 0.5 s; check --workers, and which program listens"
    )
    assert str(caught.value) == f"{expected} there"


@pytest.mark.parametrize(
    "answer",
    [
        b"\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b"x" * 300_000,
        greeting(alexnet_tf=2),
        greeting(index="1"),
        greeting(index=2),
        greeting(configuration=["batch_size"]),
        greeting(configuration={"batch_size": 64}),
    ],
    ids=range(9),
)
def test_whatever_is_not_a_greeting_is_an_answer_of_another_program(answer):
    def send(connection):
        with contextlib.suppress(OSError):
            connection.sendall(answer)

    with stranger(send) as address:
        with pytest.raises(
            TimeoutError, match=f"Expected worker 1 at {address}. Received: an answer of another program"
        ):
            wait([*workers.free_addresses(1), address], 0, stranger_timeout=0.3)


@pytest.mark.parametrize(
    "changes, received",
    [
        ({"count": 3, "index": 2}, "worker 0 of 2 here, worker 2 of 3 in the one at"),
        ({"index": 0}, "worker 0 of 2 here, worker 0 of 2 in the one at"),
    ],
    ids=["other_count", "same_index"],
)
def test_a_worker_of_another_training_is_refused(changes, received):
    with stranger(lambda connection: connection.sendall(greeting(**changes))) as address:
        with pytest.raises(ValueError, match=f"a different --worker_index in each worker. Received: {received}"):
            wait([*workers.free_addresses(1), address], 0)


def test_strangers_who_connect_are_ignored():
    addresses = workers.free_addresses(2)
    host, port = addresses[0].rsplit(":", 1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = threading.Event()
        first = pool.submit(wait, addresses, 0, log=lambda line: begun.set())
        assert begun.wait(60)
        with contextlib.ExitStack() as connections:
            for text in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\xfe\x00", b""):
                connection = connections.enter_context(socket.create_connection((host, int(port))))
                connection.sendall(text)
            wait(addresses, 1)
            assert first.result(60) is None
