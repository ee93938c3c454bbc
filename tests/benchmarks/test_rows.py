"""Each row measures all of its sides, and the program reports what it could not run. No timing is asserted."""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys

import forks
import grappler
import pytest
import small_benchmarks
import tensorflow as tf

import alexnet_tf
from alexnet_tf.benchmarks import input_pipelines
from alexnet_tf.benchmarks import layer_alternatives
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import normalization
from alexnet_tf.benchmarks import report
from alexnet_tf.benchmarks import rows
from alexnet_tf.benchmarks import sides
from alexnet_tf.benchmarks import summaries
from alexnet_tf.benchmarks import workers
from alexnet_tf.models import registry
from alexnet_tf.runs import devices


@pytest.fixture
def small(monkeypatch):
    return small_benchmarks.shrink(monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def release_trainer():
    yield
    sides.shared_trainer.cache_clear()


torch_if_installed = [sides.TORCH] if importlib.util.find_spec("torch") else []
torch_layouts = [sides.TORCH, sides.TORCH_CHANNELS_LAST][: 2 * len(torch_if_installed)]
LRN_SIDES = ["ours 2x55x55x96", "ours 2x27x27x256", "TensorFlow 2x55x55x96", "TensorFlow 2x27x27x256"]
# Sides, targets of the ratios, and the number of other values.
EXPECTED = {
    "P1": (
        [sides.OURS, sides.KERAS, sides.EXPERT, *torch_layouts],
        [5.0, 1.25, 4.0, None][: 2 + len(torch_layouts)],
        0,
    ),
    "P3": (["without LRN", sides.OURS], [1.08], 0),
    "P4": (LRN_SIDES, [4.5, 4.5], 0),
    "P6": ([sides.OURS, "tf.matmul"], [0.85], 0),
    "P6b": ([sides.OURS, "tf.matmul"], [0.6], 0),
    "P7": (["bfloat16", "float32"], [1.7], 0),
    "P11": ([sides.OURS, sides.KERAS], [1.8], 0),
    "P17": (["conv1 to conv5 frozen", "all layers trained"], [2.0], 0),
    "forward": (
        [f"{side}, {size}" for side in (sides.OURS, sides.KERAS, *torch_if_installed) for size in (1, 2)],
        [None] * (2 + 2 * len(torch_if_installed)),
        0,
    ),
    "growth": (["batch 2"], [], 2),
    "machine": ([], [], 2),
}


# These rows differ from the others in what is measured only, or build networks of others, which takes long.
SLOW = {"P1", "P6", "P6b", "P7", "P11", "forward", "growth"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in EXPECTED]
)
def test_row_is_measured_on_all_its_sides(name, small, monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16", lambda: True)
    names, targets, values = EXPECTED[name]
    found = rows.measure_here(name, small)
    assert sorted(found["rates"]) == sorted(names)
    assert all(len(rates) == 1 and rates[0] > 0 for rates in found["rates"].values())
    assert [ratio["target"] for ratio in found["ratios"]] == targets
    assert len(found["values"]) == values
    assert all(value["value"] > 0 for value in found["values"])
    assert report.lines(name, found)


def test_network_without_normalization_is_ours_otherwise():
    ours = alexnet_tf.AlexNet(seed=0)
    without = normalization.without_normalization(ours)
    assert [value.path for value in without.variables] == [value.path for value in ours.variables]
    assert not [layer for layer in without.layers if isinstance(layer, alexnet_tf.LocalResponseNormalization)]
    assert [layer.name for layer in without.layers] == [layer.name for layer in ours.layers]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", layer_alternatives.PRODUCTS)
def test_ways_to_compute_a_layer_agree(name, precision):
    product = layer_alternatives.PRODUCTS[name]
    arguments = layer_alternatives.arguments(product, 2, precision)
    found = {
        way: tf.nest.flatten(layer_alternatives.forward_and_backward(product, function, precision)(*arguments))
        for way, function in layer_alternatives.ways(product).items()
    }
    expected = found.pop(layer_alternatives.SEPARATE)
    assert len(found) == (3 if name == "conv1" else 1)
    for tensors in found.values():
        for one, other in zip(tensors, expected, strict=True):
            distance = tf.norm(tf.cast(one, "float32") - tf.cast(other, "float32"))
            assert distance <= {"float32": 2e-6, "bfloat16": 2e-2}[precision] * tf.norm(tf.cast(other, "float32"))


def test_layers_are_measured_in_all_ways(small, monkeypatch):
    monkeypatch.setattr(layer_alternatives, "PRODUCTS", {"conv1": layer_alternatives.PRODUCTS["conv1"]})
    found = rows.measure_here("layers", small)
    ours, *others = found["rates"]
    assert (ours, len(others)) == ("conv1, one operation per tower", 3)
    assert [ratio["numerator"] for ratio in found["ratios"]] == others
    assert report.lines("layers", found)


def test_bfloat16_requires_a_processor_that_supports_it(small, monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16", lambda: False)
    for name in ("P6b", "P7"):
        assert "bfloat16" in rows.measure_here(name, small)["not_run"]


def test_step_is_traced_once(small):
    (value,) = rows.measure_here("P13", small)["values"]
    assert value["value"] == 1 and value["is_met"]


@pytest.mark.slow
def test_step_has_no_kernels_on_the_host(small, optimized_graphs):
    found = rows.measure_here("operations", small._replace(config=dataclasses.replace(small.config, recipe="original")))
    kernels, xla_calls, on_host, transposes = (value["value"] for value in found["values"])
    assert found["values"][0]["is_met"] and 100 < kernels
    # Preprocessing, two normalizations of two towers in both directions, the keys of four dropouts, the update.
    assert (xla_calls, on_host, transposes) == (18, 0, 0), found["notes"]


def test_cost_of_summaries_is_a_share_of_the_time_of_the_steps(small):
    found = rows.measure_here("summaries", small)
    step, scalars, details, _, share = (value["value"] for value in found["values"])
    report_steps = small.config.report_steps
    assert share == pytest.approx(100 * (scalars / report_steps + details / summaries.STEPS_PER_EPOCH) / step)
    assert step > 0 and 0 < scalars < details
    assert found["values"][-1]["bound"] == measuring.AT_MOST


def test_two_devices_share_the_work(small):
    two = dataclasses.replace(small.config, devices=("/CPU:0", "/CPU:1"))
    with grappler.enabled():
        found = rows.measure_here("P8", small._replace(config=two))
    assert list(found["rates"]) == ["one device", "two devices"]
    assert len(found["values"]) == 4 and all(value["is_met"] for value in found["values"])
    assert found["ratios"][0]["bound"] == measuring.AT_MOST


def test_two_devices_are_not_measured_on_one(small):
    assert "needs two devices" in rows.measure_here("P8", small)["not_run"]


def test_two_workers_require_one_core_each(small, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert "needs 2 cores" in rows.measure_here("workers", small)["not_run"]


def test_rows_are_chosen_by_name_in_the_order_of_the_table():
    assert rows.choose(["P9", "P2", "P1b"]) == ["P1", "P9"]
    assert rows.choose(["P14"]) == ["gpu"]
    assert rows.choose([]) == [name for name in rows.ROWS if name not in ("layers", "gpu", "networks")]


def test_networks_are_measured_only_on_request():
    assert rows.choose(["networks"]) == ["networks"]
    assert "networks" not in rows.choose([])


def test_a_network_is_measured_against_keras_and_a_product_of_as_much_arithmetic(small):
    perceptron = dataclasses.replace(small.config, network="cifar10_mlp", image_size=8, crop_size=8)
    found = rows.measure_here("networks", small._replace(config=perceptron))
    names = ["step, ours", "forward, ours", "step, Keras", "forward, Keras", "step, tf.matmul"]
    assert list(found["rates"]) == [f"cifar10_mlp {name}" for name in names]
    assert all(len(rates) == 1 and rates[0] > 0 for rates in found["rates"].values())
    assert [ratio["target"] for ratio in found["ratios"]] == [1.0, None, None]
    gflop, memory = found["values"]
    # 47 units read 8 x 8 x 3 values, 10 read the units.
    assert gflop["value"] == pytest.approx(2e-9 * (8 * 8 * 3 * 47 + 47 * 10)) and memory["value"] > 10
    (note,) = [note for note in found["notes"] if note.startswith("torch: ")]
    assert note == ("torch: no cifar10_mlp" if torch_if_installed else "torch: not installed")


@pytest.mark.slow
@pytest.mark.skipif(not torch_if_installed, reason="needs torch: pip install -e '.[torch]'")
def test_a_network_is_measured_against_torch(small):
    residual = dataclasses.replace(small.config, network="cifar10_resnet_20", image_size=8, crop_size=8)
    found = rows.measure_here("networks", small._replace(config=residual))
    assert found["rates"]["cifar10_resnet_20 step, torch"][0] > 0
    assert found["rates"]["cifar10_resnet_20 forward, torch"][0] > 0
    assert len(found["ratios"]) == 5


def test_each_network_is_measured_in_its_own_process(tmp_path, monkeypatch):
    calls = []

    def run(names, command, flags, cores, scratch):
        calls.append((names, flags))
        row = {"medians": {flags[-1]: 1.0}, "rates": {flags[-1]: [1.0]}, "ratios": [], "values": [], "notes": ["a"]}
        return {"networks": row}

    monkeypatch.setattr(rows, "_run", run)
    options = ("--data_dir=",)
    ((name, found),) = rows.measure_in_processes(
        ["networks"], [], tmp_path, options, networks=["vgg_a", "cifar10_resnet_20"]
    )
    small_images = ("--image_size=32", "--crop_size=32")
    assert calls == [
        (["networks"], (*options, "--network=vgg_a")),
        (["networks"], (*options, "--network=cifar10_resnet_20", *small_images)),
    ]
    assert name == "networks" and list(found["medians"]) == ["--network=vgg_a", "--crop_size=32"]
    calls.clear()
    list(rows.measure_in_processes(["networks"], [], tmp_path))
    assert [flags[0] for _, flags in calls] == [f"--network={network}" for network in registry.NETWORKS]


def test_every_row_names_a_function():
    for name, row in rows.ROWS.items():
        module = importlib.import_module(f"alexnet_tf.benchmarks.{row.module}")
        assert callable(getattr(module, row.function)), name
    assert rows.ROWS["workers"].cores == workers.COUNT


def test_table_of_rows_loads_without_tensorflow():
    program = "import sys, alexnet_tf.benchmarks.rows as r; r.choose([]); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_failure_of_a_process_ends_the_measurement_with_its_status(tmp_path):
    failing = [sys.executable, "-c", "import sys; sys.exit(3)"]
    with pytest.raises(SystemExit) as caught:
        list(rows.measure_in_processes(["P9"], failing, tmp_path))
    assert caught.value.code == 3


def benchmark(*arguments):
    return forks.run("benchmark", *arguments)


@pytest.mark.slow
def test_two_workers_are_measured_against_one_process(tmp_path):
    path = tmp_path / "rows.json"
    done = benchmark("--rows=workers", "--quick", "--batch_size=4", f"--json={path}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    row = json.loads(path.read_text())["rows"]["workers"]
    assert row["cores"] == rows.ROWS["workers"].cores and len(row["rates"]) == 3
    assert all(rate > 0 for rates in row["rates"].values() for rate in rates)
    assert [round(value["value"], 3) for value in row["values"] if value["unit"] == "MB"] == [243.861, 121.93]
    assert all(value["value"] > 0 for value in row["values"])


@pytest.mark.slow  # test_measuring.py measures in other processes, and the next test runs the program.
def test_program_writes_a_row_measured_on_one_core(data_dirs, tmp_path):
    path = tmp_path / "rows.json"
    done = benchmark("--rows=P9", f"--data_dir={','.join(data_dirs)}", "--quick", "--batch_size=4", f"--json={path}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "P9: cached / tf.data textbook: " in done.stdout and ", target 6" in done.stdout
    row = json.loads(path.read_text())["rows"]["P9"]
    assert row["cores"] == 1
    assert row["medians"][input_pipelines.CACHED] > 0 and len(row["rates"][input_pipelines.CACHED]) == 1


def test_program_reports_rows_that_it_could_not_run(tmp_path):
    path = tmp_path / "rows.json"
    names = "P9,P10" if tf.config.list_physical_devices("GPU") else "P9,P10,gpu"
    done = benchmark(f"--rows={names}", "--here", f"--json={path}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "P9: not run: needs --data_dir" in done.stdout and "P10: not run: needs --data_dir" in done.stdout
    assert "needs --data_dir" in json.loads(path.read_text())["rows"]["P10"]["not_run"]
    assert done.stdout.count("gpu: not run: there is no GPU") == names.count("gpu")


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--rows=P9", "--here", "--data_dir=/nowhere", "--json=figures.json"], 1, "Expected a data set made by"),
        (["--rows=P99", "--json=figures.json"], 1, "Expected rows among machine, P1, P3"),
        (["--json=/nowhere/figures.json"], 1, "Expected --json, --markdown and --plot in a directory that exists"),
        (["--rows=P10"], 2, "Expected --json"),
        (["--rows=networks", "--networks=vgg_c", "--json=figures.json"], 1, "Expected network to be one of alexnet, "),
        (["--rows=P10", "--json=figures.json", "--plot=growth.png"], 1, "Expected growth among --rows, for --plot."),
        (["--rows=gpu", "--json=figures.json", "--batches=some"], 2, "Expected --batches such as 128,256."),
        (["--rows=gpu", "--json=figures.json", "--batches=0,8"], 1, "Expected --batches of at least 1. Received: 0"),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments, status, message):
    done = benchmark(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
