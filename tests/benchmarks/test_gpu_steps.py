"""The steps that the row gpu measures, on a CPU with a tiny network."""

import dataclasses
import importlib.util
import json

import pytest
import small_benchmarks
import source_code
import tensorflow as tf

from alexnet_tf.benchmarks import gpu
from alexnet_tf.benchmarks import gpu_steps
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import rows


@pytest.fixture
def small(monkeypatch):
    """A request for a perceptron, on a machine whose CPU passes for a GPU."""
    request = small_benchmarks.shrink(monkeypatch)
    monkeypatch.setattr(gpu, "missing", lambda: "")
    monkeypatch.setattr(gpu_steps, "MATRIX_SIDE", 16)
    monkeypatch.setattr(gpu_steps, "PREFETCHED", 1)
    monkeypatch.setattr(measuring, "MIN_QUEUED", 2)
    monkeypatch.setattr(measuring, "MAX_WARM_UP", 2)
    return request._replace(
        config=dataclasses.replace(request.config, network="cifar10_mlp", image_size=8, crop_size=8),
        batches=(2, 4),
    )


def test_setting_is_measured_at_each_batch_size(small):
    kept = []
    found = rows.measure_here("gpu", small._replace(keep=kept.append))
    sides = ["float32, islands, deterministic, batch 2", "float32, islands, deterministic, batch 4"]
    assert list(found["rates"]) == sides
    assert all(len(rates) == 1 and rates[0] > 0 for rates in found["rates"].values())
    assert [(each["name"], each["unit"]) for each in found["values"]] == [
        ("float32, islands, deterministic: tf.matmul, 16x16", "GFLOP/s"),
        *(
            (f"{side}: {what}", unit)
            for side in sides
            for what, unit in [("share of tf.matmul", "%"), ("first step, compiled", "s")]
        ),
    ]
    product, share = (each["value"] for each in found["values"][:2])
    # 47 units read 8 x 8 x 3 values, and 1,000 read the units; the gradient of the images is not computed.
    gflop = 1e-9 * (4 * 8 * 8 * 3 * 47 + 6 * 47 * 1000)
    assert share == pytest.approx(100 * found["rates"][sides[0]][0] * gflop / product)
    assert found["notes"][0].startswith("device: ") and found["notes"][1] == "float32 products with TensorFloat-32"
    # What is measured is kept after each batch size.
    assert [list(result.rates) for result in kept] == [sides[:1], sides]


def test_step_is_compiled_as_requested(small):
    compiled = dataclasses.replace(small.config, compile="step", deterministic=False)
    found = rows.measure_here("gpu", small._replace(config=compiled, batches=(2,)))
    assert found["rates"]["float32, step, batch 2"][0] > 0


def test_batch_that_does_not_fit_is_a_note(small, monkeypatch):
    calls = gpu_steps.calls

    def failing(step_trainer, run_config, batch):
        def fail():
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

        return fail if run_config.batch_size == 2 else calls(step_trainer, run_config, batch)

    monkeypatch.setattr(gpu_steps, "calls", failing)
    found = rows.measure_here("gpu", small)
    assert list(found["rates"]) == ["float32, islands, deterministic, batch 4"]
    assert found["notes"][-1] == "float32, islands, deterministic, batch 2: out of memory"


def test_several_steps_of_a_call_are_counted(small):
    run_config = dataclasses.replace(small.config, steps_per_call=3, precision="bfloat16", batch_size=2).resolved()
    step_trainer = gpu_steps.sides.build_trainer(run_config)
    call = gpu_steps.calls(step_trainer, run_config, gpu_steps.sides.synthetic_batch(run_config, 1000))
    assert call().loss.shape == [3]


def test_real_data_are_compared_with_synthetic(small):
    data_dir = source_code.ROOT / "tests" / "data" / "version_0_1" / "prepared"
    real = dataclasses.replace(small.config, image_size=256)
    found = rows.measure_here("gpu", small._replace(config=real, data_dirs=(str(data_dir),), batches=(2,)))
    sides = [f"{what}, float32, islands, deterministic, batch 2" for what in ("from JPEG records", "synthetic")]
    assert list(found["rates"]) == sides
    (ratio,) = found["ratios"]
    assert (ratio["numerator"], ratio["denominator"], ratio["target"]) == (*sides, 0.9)
    assert found["notes"] == [f"{sides[0]}: 8 images"]


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="has a GPU")
def test_without_a_gpu_nothing_is_measured(small, monkeypatch):
    monkeypatch.undo()
    assert rows.measure_here("gpu", small)["not_run"].startswith("there is no GPU that TensorFlow can use")


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_torch_is_measured_in_each_precision(monkeypatch, capsys):
    import torch

    from alexnet_tf.benchmarks import torch_alexnet

    def tiny():
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 1000))

    monkeypatch.setattr(measuring, "MIN_QUEUED", 2)
    options = {"rounds": 1, "seconds": 0.0, "image_size": 8, "model": tiny}
    found = list(torch_alexnet.measure([4, 2], gpu.PRECISIONS, compiled=False, **options))
    assert [each["side"] for each in found] == [
        gpu.torch_side(name, size) for size in (4, 2) for name in gpu.PRECISIONS
    ]
    assert all(each["rates"][0] > 0 for each in found)

    def failing(*arguments, **options):
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(torch, "compile", failing)
    failed, plain = torch_alexnet.measure([2], ["float32"], **options)
    assert failed == {"side": "torch, float32, batch 2", "problem": "RuntimeError: no compiler"}
    assert plain["side"] == "torch, float32, batch 2, not compiled" and plain["rates"][0] > 0
    monkeypatch.setattr(torch_alexnet, "measure", lambda batches, precisions: iter([plain]))
    torch_alexnet.main(json.dumps({"batches": [2], "precisions": ["float32"]}))
    assert json.loads(capsys.readouterr().out) == plain
