"""Profiles: of real steps of a small network on one device and two, and the arithmetic on made-up ones."""

import json
import pathlib
import re
import shutil

import forks
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import config as configuration
from alexnet_tf.profiling import placement_report
from alexnet_tf.profiling import trace
from alexnet_tf.runs import builders
from alexnet_tf.runs import tensorboard
from alexnet_tf.training import actions
from alexnet_tf.training import loop

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = 10
TOWERS = {"one": (), "two": ("/CPU:0", "/CPU:1")}
LAYERS = [f"{name}_{tower}" for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7") for tower in "ab"]


def small_config(devices):
    config = configuration.Config(recipe="original", batch_size=8, crop_size=32, image_size=32, devices=devices)
    return config.resolved()


def batches_of(config):
    generator = np.random.default_rng(0)
    size = config.batch_size
    while True:
        yield {
            "crops": tf.constant(generator.integers(0, 256, [size, 32, 32, 3], dtype=np.uint8)),
            "offsets": tf.zeros([size, 2], tf.int32),
            "flips": tf.zeros([size, 2], tf.bool),
            "labels": tf.constant(generator.integers(0, CLASSES, [size])),
            "noise": tf.zeros([size, 3], tf.float32),
        }


@pytest.fixture(scope="module", params=TOWERS)
def profiled(request, tmp_path_factory):
    """The devices of a run of eight steps, of which those from 4 to 6 were profiled, its account and its directory."""
    devices = TOWERS[request.param]
    config = small_config(devices)
    trainer = builders.build_trainer(config, builders.build_model(config, CLASSES), builders.blank_statistics(config))
    rates = builders.initial_rates(config)
    found = placement_report.account(trainer.step, next(batches_of(config)), rates)
    directory = tmp_path_factory.mktemp(request.param)
    latest = tensorboard.Latest(batches_of(config))
    describe = lambda: trace.describe(tensorboard.step_graph(trainer, latest.batch, config))
    with actions.Profiler(str(directory), 4, 6, describe) as profiler:
        loop.train(
            trainer,
            latest,
            steps=8,
            steps_per_epoch=8,
            learning_rates=lambda progress: rates.numpy().tolist(),
            step_context=profiler.step,
        )
    assert trainer.traces == 1
    return devices, found, directory


def test_trace_of_real_steps_tells_layers_and_passes(profiled):
    _, _, directory = profiled
    found = trace.measure(trace.read(trace.newest(directory)))
    assert json.loads(json.dumps(found)) == found
    assert found["steps"] == [4, 5, 6]
    assert all(0 < time < 60_000 for time in found["step_ms"])
    for layer in [*LAYERS, "fc8"]:
        for phase in ("forward", "backward"):
            # Though a fused convolution bears its ReLU's name, and the normalisations' gradients none.
            assert found["layers"][f"{layer} {phase}"] > 0, (layer, phase)
    for layer in ("norm1_a", "norm1_b", "norm2_a", "norm2_b", "samemap2_a", "samemap2_b"):
        assert found["layers"][f"{layer} forward"] > 0 and found["layers"][f"{layer} backward"] > 0
    assert found["layers"]["update update"] > 0
    assert "unnamed other" not in found["layers"] and "unnamed backward" not in found["layers"]
    assert {"prepare other", "loss other", "errors other"} <= set(found["layers"])
    # No more than the three threads that may work: two of the executor, and the loop's.
    assert sum(found["layers"].values()) < 3.01 * np.mean(found["step_ms"])
    assert 0 <= found["idle"] <= 1 and 0 < found["input"]["ms"] < np.mean(found["step_ms"])
    assert len(found["findings"]) == 5
    shares = [finding["share"] for finding in found["findings"]]
    assert shares == sorted(shares, reverse=True) and 0 < shares[0] <= 1
    towers = found["towers"]
    assert 0 <= towers["both_ms"] <= min(towers["a_ms"], towers["b_ms"])
    assert 0 <= towers["overlap"] <= 1


def test_bytes_that_cross_are_those_of_the_account(profiled):
    devices, expected, directory = profiled
    crossing = trace.measure(trace.read(trace.newest(directory)))["crossing"]
    assert crossing["bytes"] == placement_report.crossing_bytes(expected)
    assert crossing["input_bytes"] == placement_report.crossing_bytes(expected, is_input=True) - 4 * 6 * bool(
        devices
    )  # rates
    assert crossing["tensors"] == len(expected.crossings)
    for way, size in crossing["by_direction"].items():
        source, _, destination = way.partition(" to ")
        ours = [each for each in expected.crossings if (each.source, each.destination) == (source, destination)]
        assert size == sum(each.bytes for each in ours)
    assert bool(crossing["ms"]) == bool(devices) == bool(expected.crossings)


def test_report_is_text_with_five_things_to_fix(profiled):
    devices, _, directory = profiled
    text = trace.text(trace.measure(trace.read(trace.newest(directory))))
    assert max(map(len, text.splitlines()[1:])) <= 120
    assert "3 steps, 4 to 6: " in text
    assert re.search(r"^conv2_a +\d+\.\d\d +\d+\.\d\d +\d+\.\d %$", text, re.MULTILINE)
    assert re.search(r"^ +(not|moderately|highly) input-bound ", text, re.MULTILINE)
    assert re.search(r"^Towers: a works [\d.]+ ms a step, b [\d.]+ ms", text, re.MULTILINE)
    assert ("MB a step (CPU:0 to CPU:1 " in text) == bool(devices)
    assert ("one device, nothing crosses" in text) == (not devices)
    assert [line[:2] for line in text.splitlines() if re.match(r"\d\. ", line)] == ["1.", "2.", "3.", "4.", "5."]


def test_trace_without_description_tells_what_names_do(profiled, tmp_path):
    devices, _, directory = profiled
    path = tmp_path / "alone.xplane.pb"
    shutil.copy(trace.newest(directory), path)
    found = trace.measure(trace.read(trace.newest(path)))
    assert found["layers"]["conv2_a backward"] > 0
    assert found["crossing"]["bytes"] is None
    if devices:
        assert "bytes unknown: step.json is not beside the trace" in trace.text(found)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_trace_cut_short_is_told_in_one_line(profiled, share, tmp_path):
    _, _, directory = profiled
    whole = pathlib.Path(trace.newest(directory)).read_bytes()
    path = tmp_path / "cut.xplane.pb"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"^Expected a (whole profile|profile of training steps)\. Received: [^\n]+$"):
        trace.read(path)


def test_damaged_description_is_told_in_one_line(profiled, tmp_path):
    _, _, directory = profiled
    path = tmp_path / "host.xplane.pb"
    shutil.copy(trace.newest(directory), path)
    (tmp_path / trace.DESCRIPTION).write_text('{"conv1')
    with pytest.raises(ValueError, match=r"^Expected JSON in \S+step\.json\. Received: "):
        trace.read(path)


def test_run_without_a_profile_is_told_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected a profile, .*--profile_steps.* in \S+\. Received: none$"):
        trace.newest(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^Expected a profile\. Received: "):
        trace.read(tmp_path / "none.xplane.pb")


def test_newest_profile_of_a_run_counts(tmp_path):
    for name in ("2026_01_02_03_04_05", "2026_01_10_00_00_00", "2025_12_31_23_59_59"):
        directory = tmp_path / "tensorboard" / "plugins" / "profile" / name
        directory.mkdir(parents=True)
        (directory / "host.xplane.pb").write_bytes(b"")
    assert trace.newest(tmp_path) == str(next(tmp_path.rglob("2026_01_10_00_00_00/host.xplane.pb")))


def test_program_prints_the_report_and_says_in_one_line_what_is_missing(profiled, tmp_path):
    _, _, directory = profiled
    figures = tmp_path / "report.json"
    done = forks.run("profile_report", f"--workdir={directory}", f"--json={figures}")
    assert (done.returncode, done.stderr) == (0, "")
    found = trace.measure(trace.read(trace.newest(directory)))
    assert done.stdout == trace.text(found) + "\n"
    assert json.loads(figures.read_text()) == found
    done = forks.run("profile_report", f"--workdir={tmp_path}")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"profile_report\.py: Expected a profile, [^\n]+ Received: none\n", done.stderr)


def test_without_xprof_it_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(trace.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"^Expected xprof .*pip install -e '\.\[profile\]'"):
        trace.read(tmp_path / "any")


def span(name, start, end, thread=1, **arguments):
    return {"ph": "X", "name": name, "pid": 1, "tid": thread, "ts": start, "dur": end - start, "args": arguments}


def operation(name, kind, start, end, thread):
    return span(kind, start, end, thread, long_name=f"{name}:{kind}")


def made_up():
    """Two steps of 100 µs; in the first, waiting for 20, then towers of 60 and 40 of which 30 at the same time."""
    return [
        span("train 7", 0.0, 100.0, 0, step_num="7"),
        span("train 8", 100.0, 200.0, 0, step_num="8"),
        span("input", 0.0, 20.0, 0),
        operation("alexnet/conv1_a/convolution", "Conv2D", 20.0, 60.0, 1),
        operation("gradient_tape/alexnet/conv1_a/convolution", "Conv2DBackpropFilter", 70.0, 90.0, 1),
        # An executor's pause within an operation is not its time, and another operation within is that one's.
        operation("gradient_tape/alexnet/conv2_b/convolution", "Conv2DBackpropInput", 40.0, 85.0, 2),
        span("ExecutorState::Process", 50.0, 55.0, 2),
        operation("alexnet/fanout_b/identity/_3", "_Send", 60.0, 65.0, 2),
        # Before the first step, and after the last.
        operation("alexnet/conv1_a/convolution", "Conv2D", -50.0, 0.0, 1),
        operation("alexnet/conv1_a/convolution", "Conv2D", 190.0, 400.0, 1),
    ]


def test_arithmetic_of_a_made_up_trace():
    found = trace.measure(trace.timeline_of(made_up(), {}))
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
        "tower b stands still while the other works": 0.2,
        "conv2 backward": 0.175,
        "conv1 backward": 0.1,
    }


@pytest.mark.parametrize("wait, verdict", [(4, "not"), (6, "moderately"), (30, "highly")])
def test_input_bound_or_not(wait, verdict):
    events = [
        span("train 1", 0.0, 100.0, 0, step_num="1"),
        span("input", 0.0, wait, 0),
        operation("alexnet/conv1/convolution", "Conv2D", wait, 100.0, 1),
    ]
    found = trace.measure(trace.timeline_of(events, {}))
    assert found["input"]["verdict"] == f"{verdict} input-bound"
    assert found["towers"]["overlap"] is None and "Towers: one" in trace.text(found)


def test_waiting_while_operations_run_is_not_the_inputs_fault():
    events = [
        span("train 1", 0.0, 100.0, 0, step_num="1"),
        span("input", 0.0, 90.0, 0),
        operation("alexnet/conv1/convolution", "Conv2D", 0.0, 100.0, 1),
    ]
    assert trace.measure(trace.timeline_of(events, {}))["input"]["share"] == 0


def test_operations_of_gpus_are_those_of_the_gpus_threads():
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
    assert trace.measure(trace.timeline_of(events, {}))["layers"] == {"conv1_a forward": pytest.approx(0.05)}
