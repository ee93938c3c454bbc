"""What limits a step, computed from synthetic traces."""

import pytest

from alexnet_tf.profiling import bottlenecks
from alexnet_tf.profiling import trace


def span(name, start, end, thread=1, **arguments):
    return {"ph": "X", "name": name, "pid": 1, "tid": thread, "ts": start, "dur": end - start, "args": arguments}


def operation(name, kind, start, end, thread):
    return span(kind, start, end, thread, long_name=f"{name}:{kind}")


def synthetic_events():
    """Two steps of 100 µs. The first waits for 20, then tower a is busy for 60 and b for 40, both at once for 30."""
    return [
        span("train 7", 0.0, 100.0, 0, step_num="7"),
        span("train 8", 100.0, 200.0, 0, step_num="8"),
        span("input", 0.0, 20.0, 0),
        operation("alexnet/conv1_a/convolution", "Conv2D", 20.0, 60.0, 1),
        operation("gradient_tape/alexnet/conv1_a/convolution", "Conv2DBackpropFilter", 70.0, 90.0, 1),
        # The executor's own work inside an operation does not count, and a nested operation counts for itself.
        operation("gradient_tape/alexnet/conv2_b/convolution", "Conv2DBackpropInput", 40.0, 85.0, 2),
        span("ExecutorState::Process", 50.0, 55.0, 2),
        operation("alexnet/fanout_b/identity/_3", "_Send", 60.0, 65.0, 2),
        # Before the first step, and after the last.
        operation("alexnet/conv1_a/convolution", "Conv2D", -50.0, 0.0, 1),
        operation("alexnet/conv1_a/convolution", "Conv2D", 190.0, 400.0, 1),
    ]


def test_measurements_of_a_synthetic_trace():
    found = bottlenecks.measure(trace.timeline_of(synthetic_events(), {}))
    assert found["steps"] == [7, 8]
    assert found["step_ms"] == [0.1, 0.1]
    assert found["layers"] == pytest.approx(
        {
            "conv1_a forward": 0.025,
            "conv2_b backward": 0.0175,
            "conv1_a backward": 0.01,
            "unnamed transfer": 0.0025,
        }
    )
    assert found["input"] == {
        "ms": pytest.approx(0.01),
        "share": pytest.approx(0.1),
        "verdict": "moderately input-bound",
    }
    assert found["towers"]["a_ms"] == pytest.approx(0.035)
    assert found["towers"]["b_ms"] == pytest.approx(0.0175)
    # 40 to 50, 55 to 60 and 70 to 85.
    assert found["towers"]["both_ms"] == pytest.approx(0.015)
    assert found["towers"]["overlap"] == pytest.approx(30 / 35)
    # From 90 to 190.
    assert found["idle"] == pytest.approx(0.5)
    assert found["findings"][0]["what"] == "no operation runs"
    assert {finding["what"]: pytest.approx(finding["share"]) for finding in found["findings"]} == {
        "no operation runs": 0.5,
        "conv1 forward": 0.25,
        "tower b is idle while the other runs": 0.2,
        "conv2 backward": 0.175,
        "conv1 backward": 0.1,
    }


@pytest.mark.parametrize("wait, verdict", [(4, "not"), (6, "moderately"), (30, "highly")])
def test_verdict_on_the_input(wait, verdict):
    events = [
        span("train 1", 0.0, 100.0, 0, step_num="1"),
        span("input", 0.0, wait, 0),
        operation("alexnet/conv1/convolution", "Conv2D", wait, 100.0, 1),
    ]
    found = bottlenecks.measure(trace.timeline_of(events, {}))
    assert found["input"]["verdict"] == f"{verdict} input-bound"
    assert found["towers"]["overlap"] is None and "Towers: one" in bottlenecks.to_text(found)


def test_waiting_while_operations_run_does_not_count_as_input_wait():
    events = [
        span("train 1", 0.0, 100.0, 0, step_num="1"),
        span("input", 0.0, 90.0, 0),
        operation("alexnet/conv1/convolution", "Conv2D", 0.0, 100.0, 1),
    ]
    assert bottlenecks.measure(trace.timeline_of(events, {}))["input"]["share"] == 0


def test_operations_on_gpus_are_read_from_the_gpus_threads():
    def named(what, pid, name, **more):
        return {"ph": "M", "name": what, "pid": pid, "args": {"name": name}, **more}

    events = [
        named("process_name", 1, "/host:CPU"),
        named("process_name", 2, "/device:GPU:0"),
        named("thread_name", 2, "Stream #13", tid=13),
        named("thread_name", 2, "Framework Ops", tid=99),
        span("train 1", 0.0, 100.0, 0, step_num="1"),
        operation("alexnet/conv1_a/convolution", "Conv2D", 0.0, 5.0, 1),
        {**operation("alexnet/conv1_a/convolution", "Conv2D", 10.0, 60.0, 99), "pid": 2},
        {**span("some_kernel", 10.0, 60.0, 13), "pid": 2},
    ]
    assert bottlenecks.measure(trace.timeline_of(events, {}))["layers"] == {"conv1_a forward": pytest.approx(0.05)}
