"""A program is timed until its first step, and stopped then."""

import sys
import time

import pytest
import small_benchmarks

from alexnet_tf.benchmarks import rows
from alexnet_tf.benchmarks import starting

WRITES = "import sys, time; time.sleep(0.2); print(1, file=open(sys.argv[1], 'w'), flush=True); time.sleep(60)"


def test_program_is_timed_until_it_writes_and_is_killed_then(tmp_path):
    begun = time.perf_counter()
    seconds, processor = starting.until_written([sys.executable, "-c", WRITES, tmp_path / "file"], tmp_path / "file")
    assert 0.2 <= seconds <= time.perf_counter() - begun < 30
    assert 0 < processor


@pytest.mark.parametrize(
    "program, message",
    [
        ("import sys; sys.exit('no data')", "^The program did not start: no data$"),
        ("import time; time.sleep(60)", "^Expected a start in 0.5 s. Received: none$"),
    ],
)
def test_program_that_does_not_start_is_reported(tmp_path, program, message):
    with pytest.raises(ChildProcessError, match=message):
        starting.until_written(
            [sys.executable, "-c", program], tmp_path / "file", timeout=0.5 if "time" in program else 60
        )


@pytest.mark.slow
def test_start_is_measured(data_dirs, monkeypatch):
    request = small_benchmarks.shrink(monkeypatch)
    config = request.config.__class__(batch_size=2)
    found = rows.measure_here("P16", request._replace(config=config, data_dirs=data_dirs))
    assert [value["unit"] for value in found["values"]] == ["s"] * 4
    assert all(value["value"] > 0 for value in found["values"][:3])


def test_start_needs_a_data_set(monkeypatch):
    assert "needs --data_dir" in rows.measure_here("P16", small_benchmarks.shrink(monkeypatch))["not_run"]
