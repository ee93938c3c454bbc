"""How concurrent requests are merged into batches and split again."""

import concurrent.futures
import threading
import time

import numpy as np
import pytest

from alexnet_tf.serving import batching


class Held:
    """A function for a batcher that doubles numbers, records its batches, and blocks until `may_continue` is set."""

    def __init__(self):
        self.batches, self.started, self.may_continue = [], threading.Event(), threading.Event()

    def __call__(self, kind, inputs):
        self.batches.append((kind, inputs["x"].tolist()))
        self.started.set()
        assert self.may_continue.wait(30)
        if kind == "broken":
            raise ValueError("broken")
        return {"y": 2 * inputs["x"][: None if kind != "short" else 1]}


def results_of(requests, max_batch_size):
    """Runs requests that all wait, in order, while another one runs; returns their futures and the batches."""
    function = Held()
    batcher = batching.Batcher(function, max_batch_size, 0)
    with concurrent.futures.ThreadPoolExecutor(len(requests) + 1) as pool:
        first = pool.submit(batcher.run, "first", {"x": np.array([0])})
        assert function.started.wait(30)
        waiting = []
        for kind, numbers in requests:
            waiting.append(pool.submit(batcher.run, kind, {"x": np.array(numbers)}))
            wait_until_queued(batcher, requests[: len(waiting)])
        function.may_continue.set()
        concurrent.futures.wait([first, *waiting], 30)
    batcher.stop()
    return waiting, function.batches[1:]


def wait_until_queued(batcher, requests):
    """Waits until these requests are queued, so that their order is known."""
    expected = sum(len(numbers) for _, numbers in requests)
    with batcher._changed:
        assert batcher._changed.wait_for(
            lambda: sum(task.size() for queue in batcher._queues.values() for task in queue) == expected, 30
        )


def test_requests_of_a_kind_are_merged_and_split():
    requests = [("a", [1]), ("b", [2, 3]), ("a", [4, 5]), ("b", [6])]
    results, batches = results_of(requests, 4)
    assert [each.result()["y"].tolist() for each in results] == [[2], [4, 6], [8, 10], [12]]
    assert batches == [("a", [1, 4, 5]), ("b", [2, 3, 6])]


def test_batches_respect_the_maximum_size():
    results, batches = results_of([("a", [1, 2]), ("a", [3, 4]), ("a", [5])], 3)
    assert [each.result()["y"].tolist() for each in results] == [[2, 4], [6, 8], [10]]
    assert batches == [("a", [1, 2]), ("a", [3, 4, 5])]


def test_a_large_request_is_run_in_pieces():
    results, batches = results_of([("a", [1, 2, 3, 4, 5]), ("a", [6])], 2)
    assert [each.result()["y"].tolist() for each in results] == [[2, 4, 6, 8, 10], [12]]
    assert batches == [("a", [1, 2]), ("a", [3, 4]), ("a", [5, 6])]


@pytest.mark.parametrize(
    "kind, message", [("broken", "broken"), ("short", r"'y' to have 3 rows\. Received: shape \[1\]")]
)
def test_an_error_reaches_only_the_requests_of_its_batch(kind, message):
    results, _ = results_of([(kind, [1]), (kind, [2, 3]), ("good", [4])], 4)
    for each in results[:2]:
        with pytest.raises(ValueError, match=message):
            each.result()
    assert results[2].result()["y"].tolist() == [8]


def test_a_request_waits_for_others_until_its_timeout():
    function = Held()
    function.may_continue.set()
    # The timeout never passes; the batch is full.
    batcher = batching.Batcher(function, 2, 1e6)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda number: batcher.run("a", {"x": np.array([number])})["y"].tolist(), [1, 2]))
    assert results == [[2], [4]] and len(function.batches) == 1
    batcher.stop()
    # The batch never fills; the timeout passes.
    batcher = batching.Batcher(function, 100, 0.001)
    assert batcher.run("a", {"x": np.array([3])})["y"].tolist() == [6]
    batcher.stop()


def test_a_stopped_batcher_runs_waiting_requests_and_rejects_new_ones():
    function = Held()
    batcher = batching.Batcher(function, 100, 1e6)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batcher.run, "a", {"x": np.array([1])})
        wait_until_queued(batcher, [("a", [1])])
        function.may_continue.set()
        batcher.stop()
        assert waiting.result(30)["y"].tolist() == [2]
    with pytest.raises(batching.StoppedError, match="The server is stopping"):
        batcher.run("a", {"x": np.array([1])})


def test_requests_whose_deadline_has_passed_are_dropped():
    function = Held()
    batcher = batching.Batcher(function, 4, 0)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.run, "first", {"x": np.array([0])})
        assert function.started.wait(30)
        deadlines = {"late": time.monotonic(), "in time": time.monotonic() + 1000}
        late = [pool.submit(batcher.run, kind, {"x": np.array([1, 2])}, deadlines["late"]) for kind in ("a", "b")]
        wait_until_queued(batcher, [("a", [1, 2]), ("b", [1, 2])])
        good = pool.submit(batcher.run, "a", {"x": np.array([3])}, deadlines["in time"])
        wait_until_queued(batcher, [("a", [1, 2]), ("b", [1, 2]), ("a", [3])])
        function.may_continue.set()
        assert first.result(30)["y"].tolist() == [0] and good.result(30)["y"].tolist() == [6]
        for each in late:
            with pytest.raises(batching.ExpiredError, match="deadline of the request has passed"):
                each.result(30)
    batcher.stop()
    assert function.batches[1:] == [("a", [3])]
