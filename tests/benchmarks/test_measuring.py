"""Sides take turns, and ratios and targets are computed as documented. No timing is asserted."""

import child_sides
import pytest

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
