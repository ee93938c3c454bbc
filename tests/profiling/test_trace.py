"""Profiles of real steps of a small network, on one device and on two."""

import json
import pathlib
import re
import shutil

import forks
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.profiling import bottlenecks
from alexnet_tf.profiling import placement_report
from alexnet_tf.profiling import profiler
from alexnet_tf.profiling import trace
from alexnet_tf.runs import builders
from alexnet_tf.runs import summary_contents
from alexnet_tf.training import loop

pytestmark = pytest.mark.usefixtures("optimized_graphs")

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = 10
TOWERS = {"one": (), "two": ("/CPU:0", "/CPU:1")}
LAYERS = [f"{name}_{tower}" for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7") for tower in "ab"]


def small_config(devices):
    run_config = config.Config(recipe="original", batch_size=8, crop_size=32, image_size=32, devices=devices)
    return run_config.resolved()


def batches_of(run_config):
    generator = np.random.default_rng(0)
    size = run_config.batch_size
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
    """Devices, placement report, directory and measurements of a run of eight steps, of which 4 to 6 were profiled."""
    devices = TOWERS[request.param]
    run_config = small_config(devices)
    trainer = builders.build_trainer(
        run_config, builders.build_model(run_config, CLASSES), builders.blank_statistics(run_config)
    )
    rates = builders.initial_rates(run_config)
    report = placement_report.placement_report(trainer.step, next(batches_of(run_config)), rates)
    directory = tmp_path_factory.mktemp(request.param)
    latest = summary_contents.Latest(batches_of(run_config))
    describe = lambda: trace.describe(summary_contents.step_graph(trainer, latest.batch, run_config))
    with profiler.Profiler(str(directory), 4, 6, describe) as profile:
        loop.train(
            trainer,
            latest,
            steps=8,
            steps_per_epoch=8,
            learning_rates=lambda progress: rates.numpy().tolist(),
            step_context=profile.step,
        )
    assert trainer.traces == 1
    measured = bottlenecks.measure(trace.read(trace.newest(directory)))
    return devices, report, directory, measured


def test_measurements_of_real_steps_name_layers_and_passes(profiled):
    *_, found = profiled
    assert json.loads(json.dumps(found)) == found
    assert found["steps"] == [4, 5, 6]
    assert all(0 < time < 60_000 for time in found["step_ms"])
    for layer in [*LAYERS, "fc8"]:
        for phase in ("forward", "backward"):
            # A fused convolution has the name of its ReLU, and the normalizations' gradients have none.
            assert found["layers"][f"{layer} {phase}"] > 0, (layer, phase)
    for layer in ("norm1_a", "norm1_b", "norm2_a", "norm2_b", "samemap2_a", "samemap2_b"):
        assert found["layers"][f"{layer} forward"] > 0 and found["layers"][f"{layer} backward"] > 0
    assert found["layers"]["update update"] > 0
    assert "unnamed other" not in found["layers"] and "unnamed backward" not in found["layers"]
    assert {"preprocess other", "loss other", "errors other"} <= set(found["layers"])
    # At most three threads: two of the executor, and the loop's.
    assert sum(found["layers"].values()) < 3.01 * np.mean(found["step_ms"])
    assert 0 <= found["idle"] <= 1 and 0 < found["input"]["ms"] < np.mean(found["step_ms"])
    assert len(found["findings"]) == 5
    shares = [finding["share"] for finding in found["findings"]]
    assert shares == sorted(shares, reverse=True) and 0 < shares[0] <= 1
    towers = found["towers"]
    assert 0 <= towers["both_ms"] <= min(towers["a_ms"], towers["b_ms"])
    assert 0 <= towers["overlap"] <= 1


def test_transferred_bytes_match_the_placement_report(profiled):
    devices, expected, _, measured = profiled
    crossing = measured["crossing"]
    assert crossing["bytes"] == placement_report.transferred_bytes(expected)
    assert crossing["input_bytes"] == placement_report.transferred_bytes(expected, is_input=True) - 4 * 6 * bool(
        devices
    )  # rates
    assert crossing["tensors"] == len(expected.transfers)
    for way, size in crossing["by_direction"].items():
        source, _, destination = way.partition(" to ")
        ours = [each for each in expected.transfers if (each.source, each.destination) == (source, destination)]
        assert size == sum(each.bytes for each in ours)
    assert bool(crossing["ms"]) == bool(devices) == bool(expected.transfers)


def test_text_lists_five_things_to_fix(profiled):
    devices, _, _, measured = profiled
    text = bottlenecks.to_text(measured)
    assert max(map(len, text.splitlines()[1:])) <= 120
    assert "3 steps, 4 to 6: " in text
    assert re.search(r"^conv2_a +\d+\.\d\d +\d+\.\d\d +\d+\.\d%$", text, re.MULTILINE)
    assert re.search(r"^ +(not|moderately|highly) input-bound ", text, re.MULTILINE)
    assert re.search(r"^Towers: a is busy [\d.]+ ms per step, b [\d.]+ ms", text, re.MULTILINE)
    assert (" MB (CPU:0 to CPU:1 " in text) == bool(devices)
    assert ("Transfers: none, all on one device" in text) == (not devices)
    assert [line[:2] for line in text.splitlines() if re.match(r"\d\. ", line)] == ["1.", "2.", "3.", "4.", "5."]


def test_trace_without_description_falls_back_to_names(profiled, tmp_path):
    devices, _, directory, _ = profiled
    path = tmp_path / "alone.xplane.pb"
    shutil.copy(trace.newest(directory), path)
    found = bottlenecks.measure(trace.read(trace.newest(path)))
    assert found["layers"]["conv2_a backward"] > 0
    assert found["crossing"]["bytes"] is None
    if devices:
        assert "bytes unknown, as there is no step.json next to the trace" in bottlenecks.to_text(found)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_trace_is_reported_in_one_line(profiled, share, tmp_path):
    _, _, directory, _ = profiled
    content = pathlib.Path(trace.newest(directory)).read_bytes()
    path = tmp_path / "cut.xplane.pb"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match=r"^Expected a (complete profile|profile of training steps)\. Received: [^\n]+$"
    ):
        trace.read(path)


def test_damaged_description_is_reported_in_one_line(profiled, tmp_path):
    _, _, directory, _ = profiled
    path = tmp_path / "host.xplane.pb"
    shutil.copy(trace.newest(directory), path)
    (tmp_path / trace.DESCRIPTION).write_text('{"conv1')
    with pytest.raises(ValueError, match=r"^Expected a description of the training step in \S+step\.json\. Received: "):
        trace.read(path)


def test_missing_profile_is_reported_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^No profile in \S+; .*--profile_steps=10,20 writes one$"):
        trace.newest(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^Expected a profile\. Received: "):
        trace.read(tmp_path / "none.xplane.pb")


def test_newest_profile_of_a_run_is_used(tmp_path):
    for name in ("2026_01_02_03_04_05", "2026_01_10_00_00_00", "2025_12_31_23_59_59"):
        directory = tmp_path / "tensorboard" / "plugins" / "profile" / name
        directory.mkdir(parents=True)
        (directory / "host.xplane.pb").write_bytes(b"")
    assert trace.newest(tmp_path) == str(next(tmp_path.rglob("2026_01_10_00_00_00/host.xplane.pb")))


@pytest.mark.parametrize("profiled", ["two"], indirect=True)
def without_commands(text):
    """Returns a text in one line, in which programs of a checkout have the names of an installed package."""
    return re.sub(r"python \S+/tools/(\w+)\.py", r"alexnet-tf \1", " ".join(text.split()))


def test_program_prints_the_report_or_one_line_about_a_missing_profile(profiled, tmp_path):
    _, _, directory, found = profiled
    figures = tmp_path / "report.json"
    done = forks.run("profile_report", f"--workdir={directory}", f"--json={figures}")
    assert (done.returncode, done.stderr) == (0, "")
    assert without_commands(done.stdout) == without_commands(bottlenecks.to_text(found) + "\n")
    assert without_commands(figures.read_text()) == without_commands(json.dumps(found, indent=2) + "\n")
    done = forks.run("profile_report", f"--workdir={tmp_path}")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"profile_report\.py: No profile in [^\n]+ writes one\n", done.stderr)


def test_missing_xprof_is_reported_with_the_install_command(monkeypatch, tmp_path):
    monkeypatch.setattr(trace.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"^Reading a profile needs xprof: .*pip install -e '\.\[profile\]'"):
        trace.read(tmp_path / "any")
