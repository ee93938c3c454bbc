"""Sides take turns, and ratios and targets are computed as documented. No timing is asserted."""

import subprocess
import sys

import child_sides
import pytest
import source_code

from alexnet_tf.benchmarks import measuring


def test_sides_take_turns_and_the_first_round_is_not_counted():
    events = []

    def side(name, images):
        def work():
            events.append(f"{name} starts")
            try:
                while True:
                    yield images
            finally:
                events.append(f"{name} ends")

        return work

    rates = measuring.interleave({"a": side("a", 1), "b": side("b", 2)}, rounds=2, seconds=0.0, warm_up=3)
    assert events == ["a starts", "a ends", "b starts", "b ends"] * 3
    assert {name: len(values) for name, values in rates.items()} == {"a": 2, "b": 2}


def test_ratios_compare_rates_of_the_same_round():
    """A round that is slow for all sides does not change the ratio."""
    result = measuring.Result(
        "speed", "images/s", {"a": [2.0, 20.0, 6.0], "b": [1.0, 10.0, 2.0]}, [measuring.Ratio("a", "b")]
    )
    found = result.to_dict()
    assert found["medians"] == {"a": 6.0, "b": 2.0}
    assert found["ratios"] == [
        {
            "numerator": "a",
            "denominator": "b",
            "target": None,
            "bound": "at least",
            "median": 2.0,
            "min": 2.0,
            "max": 3.0,
            "is_met": None,
        }
    ]


def test_whether_a_target_is_met_depends_on_the_bound():
    assert measuring.is_met(4.0, 4.0, measuring.AT_LEAST) and not measuring.is_met(3.9, 4.0, measuring.AT_LEAST)
    assert measuring.is_met(1.1, 1.1, measuring.AT_MOST) and not measuring.is_met(1.2, 1.1, measuring.AT_MOST)
    assert measuring.is_met(1, 1.0, measuring.EXACTLY) and not measuring.is_met(2, 1.0, measuring.EXACTLY)
    assert measuring.is_met(4.0, None, measuring.AT_LEAST) is None


def test_sides_run_in_other_processes():
    with measuring.in_subprocesses((child_sides.adding,), (child_sides.counting, 5)) as sides:
        assert list(sides) == ["adding", "counting"]
        rates = measuring.interleave(sides, rounds=1, seconds=0.0, warm_up=0)
        assert rates["adding"][0] > 0
        work = sides["counting"]()
        assert [next(work), next(work)] == [5, 6]


def test_error_in_another_process_is_reported():
    with pytest.raises(ChildProcessError, match="^counting failed in its process: TypeError: "):
        with measuring.in_subprocesses((child_sides.counting, "many")) as sides:
            next(sides["counting"]())


class Device:
    """A device and its clock: a call is queued in 1 ms and computed in 10 ms, the first one in 5 s."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.free_at = 0.0
        self.calls = []
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: self.now)

    def call(self, name):
        self.now += 0.001
        self.free_at = max(self.now, self.free_at) + (0.01 if name in self.calls else 5.0)
        self.calls.append(name)

    def synchronize(self):
        self.now = max(self.now, self.free_at)


def test_queued_calls_are_not_waited_for(monkeypatch):
    device = Device(monkeypatch)
    calls = {name: lambda name=name: device.call(name) for name in "ab"}
    found = measuring.queued(calls, device.synchronize, 100.0, rounds=2, seconds=1.0, skipped=5)
    # One that compiles and three that take equally long; then turns of a second, as one such call takes 11 ms.
    turn = 5 + 91
    assert "".join(device.calls) == "aaaabbbb" + 2 * (turn * "a" + turn * "b")
    for queued in found.values():
        assert queued.first_seconds == pytest.approx(5.001)
        # Queueing is hidden, except for the first call.
        assert queued.rates == pytest.approx([91 * 100 / (91 * 0.01 + 0.001)] * 2)


def test_calls_that_never_take_equally_long_are_counted_at_last(monkeypatch):
    device = Device(monkeypatch)
    durations = iter([1.0, 9.0] * measuring.MAX_WARM_UP * 2)

    def call():
        device.now += next(durations)

    measuring.queued({"a": call}, device.synchronize, 1.0, rounds=1, seconds=0.0)
    # Sixty seconds of warming up, and the fewest calls of a turn.
    assert device.now == pytest.approx(12 * 5.0 + measuring.MIN_QUEUED * 5.0)


def test_another_python_can_measure_without_our_libraries():
    """The Python that has torch may lack all other packages."""
    program = "import sys; sys.path.append(sys.argv[1]); import alexnet_tf.benchmarks.measuring"
    assert subprocess.run([sys.executable, "-S", "-P", "-c", program, str(source_code.ROOT)]).returncode == 0
