"""An export is measured by files and by pixels, and a server's answers are checked."""

import contextlib
import os

import numpy as np
import pytest
import small_benchmarks

from alexnet_tf.benchmarks import rows
from alexnet_tf.benchmarks import serving


@pytest.fixture(scope="module")
def exported():
    """One export of the small network, for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        request = small_benchmarks.shrink(patch)
        with serving.exported(request.config.resolved()) as directory:
            yield directory


@pytest.fixture
def small(monkeypatch, exported):
    monkeypatch.setattr(serving, "exported", lambda run_config: contextlib.nullcontext(exported))
    monkeypatch.setattr(serving, "BATCH", 2)
    monkeypatch.setattr(serving, "SIZES", ((30, 20), (40, 50), (60, 70)))
    return small_benchmarks.shrink(monkeypatch)


def test_export_is_measured_by_files_and_by_pixels(small):
    found = rows.measure_here("P12", small)
    assert list(found["rates"]) == ["pixels, 1", "same file, 1", "file, 1", "files, 2"]
    assert [ratio["target"] for ratio in found["ratios"]] == [2.3, 1.15, None]
    assert found["values"][0]["value"] > 0


@pytest.mark.slow
def test_export_is_measured_in_openvino(small):
    pytest.importorskip("openvino")
    found = rows.measure_here("P15", small)
    assert list(found["rates"]) == ["ours, 1", "ours, 2", "OpenVINO, 1", "OpenVINO, 2"]
    assert [ratio["target"] for ratio in found["ratios"]] == [1.1, 1.1]


@pytest.mark.slow
def test_server_under_load_gives_the_answers_of_the_export(small, monkeypatch):
    monkeypatch.setattr(serving, "CLIENTS", (1, 3))
    monkeypatch.setattr(serving, "REQUESTS", 7)
    found = rows.measure_here("load", small)
    assert list(found["rates"]) == ["1 clients", "3 clients"]
    assert [value["name"] for value in found["values"]] == [
        *(f"latency, {clients} clients, {percentile}%" for clients in (1, 3) for percentile in (50, 95, 99)),
        "memory after 2 mixed requests",
        "memory after 20",
    ]
    assert all(value["value"] > 0 for value in found["values"])


def test_wrong_answers_of_a_server_are_reported(small, monkeypatch):
    def wrong_answers(address, requests, clients):
        answers = [{"probabilities": np.zeros([len(files), 1000]), "errors": [b""] * len(files)} for files in requests]
        return [1.0] * len(requests), answers

    server = contextlib.nullcontext(("nowhere", os))
    monkeypatch.setattr(serving, "_serving", lambda directory: server)
    monkeypatch.setattr(serving, "_resident", lambda process: 1)
    monkeypatch.setattr(serving, "_ask_all", wrong_answers)
    monkeypatch.setattr(serving, "REQUESTS", 7)
    message = "^Expected the answers of the export in this process. Received: 4 different answers$"
    with pytest.raises(ValueError, match=message):
        serving.load(small)


def test_requests_are_mixed():
    requests = serving.mixed_requests(40)
    assert {len(request) for request in requests} == {1, 2, 3, 4, 5}
    assert sum(serving.BAD in request for request in requests) == 8
    assert len({file for request in requests for file in request}) == 5
