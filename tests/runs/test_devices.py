"""What a run says about its devices."""

import dataclasses
import types

import pytest
import tensorflow as tf
import untrained_runs

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.runs import devices
from alexnet_tf.training import distribution
from alexnet_tf.utils import machine

CONFIG = dataclasses.replace(untrained_runs.CONFIG, devices=())


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "accelerators", list)
    monkeypatch.setattr(machine, "processor", lambda: "Processor")
    monkeypatch.setattr(machine, "available_cores", lambda: 2)
    monkeypatch.setattr(machine, "processor_features", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])


def with_gpus(monkeypatch, count, **capabilities):
    gpus = [types.SimpleNamespace(name=f"/physical_device:GPU:{number}") for number in range(count)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    details = lambda gpu: {"device_name": f"Model {gpu.name[-1]}"} | capabilities
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)


def test_a_cpu_is_named():
    assert devices.describe(CONFIG) == ["device: CPU (Processor, 2 cores)"]


def test_towers_are_named_with_their_devices():
    towers = dataclasses.replace(CONFIG, devices=("/CPU:0", "/CPU:0"))
    cpu = "/CPU:0 (Processor, 2 cores)"
    assert devices.describe(towers) == [f"devices: {cpu} for tower a, {cpu} for tower b"]


def test_a_gpu_is_named_and_replaces_the_warning(monkeypatch):
    with_gpus(monkeypatch, 1)
    monkeypatch.setattr(machine, "accelerators", lambda: ["Model 0"])
    assert devices.describe(CONFIG) == ["device: /GPU:0 (Model 0)"]


def test_replicas_are_counted(monkeypatch):
    mirrored = dataclasses.replace(CONFIG, distribute="mirrored")
    assert devices.describe(mirrored, 2) == ["devices: 2 replicas on CPU (Processor, 2 cores)"]
    with_gpus(monkeypatch, 2)
    assert devices.describe(mirrored, 2) == ["devices: 2 replicas on Model 0, Model 1"]


@pytest.mark.parametrize(
    "with_cuda, remedy", [(False, "pip uninstall tensorflow-cpu"), (True, "install the libraries of CUDA")]
)
def test_a_gpu_that_is_not_used_is_a_warning(monkeypatch, with_cuda, remedy):
    monkeypatch.setattr(machine, "accelerators", lambda: ["NVIDIA H100", "NVIDIA H100"])
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: with_cuda)
    _, warning = devices.describe(CONFIG)
    assert warning.startswith("warning: this machine has 2 NVIDIA H100, which TensorFlow does not use; ")
    assert remedy in warning and "\n" not in warning


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_the_user_hides_is_none(monkeypatch, hidden):
    monkeypatch.setattr(machine, "accelerators", lambda: ["NVIDIA H100"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert len(devices.describe(CONFIG)) == 1


class Workers(distribution.Distribution):
    """Two workers; the other one has instructions for bfloat16."""

    worker = (0, 2)

    def sum(self, values):
        return [value + 1 for value in values]


def chosen(processes=None, **changes):
    given = dataclasses.replace(CONFIG, **{"precision": "auto", **changes})
    found, line = devices.choose_precision(given, processes or distribution.Distribution())
    return found.precision, line


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_precision_is_bfloat16_where_the_processor_has_it(monkeypatch, feature):
    monkeypatch.setattr(machine, "processor_features", lambda: frozenset({"avx2", feature}))
    expected = "bfloat16", "precision=auto: bfloat16, as this machine has instructions for it"
    assert chosen() == chosen(Workers()) == expected
    assert len(devices.describe(dataclasses.replace(CONFIG, precision="bfloat16"))) == 1


@pytest.mark.parametrize("features", [(), ("avx2", "avx512f")])
def test_precision_is_float32_elsewhere(monkeypatch, features):
    monkeypatch.setattr(machine, "processor_features", lambda: frozenset(features))
    reason = "precision=auto: float32, as no instructions for bfloat16 were found on"
    assert chosen() == ("float32", f"{reason} this machine")
    assert chosen(Workers()) == ("float32", f"{reason} 1 of 2 workers")


@pytest.mark.parametrize("capability, precision", [((8, 0), "bfloat16"), ((9, 0), "bfloat16"), ((7, 5), "float32")])
def test_precision_is_that_of_the_gpu(monkeypatch, capability, precision):
    monkeypatch.setattr(machine, "processor_features", lambda: frozenset({"amx_bf16"}))
    with_gpus(monkeypatch, 1, compute_capability=capability)
    assert chosen()[0] == precision
    lines = devices.describe(dataclasses.replace(CONFIG, precision="bfloat16"))
    assert len(lines) == (1 if precision == "bfloat16" else 2)


def test_given_precision_is_kept_and_a_slow_one_is_a_warning():
    assert chosen(precision="bfloat16") == ("bfloat16", "")
    _, warning = devices.describe(dataclasses.replace(CONFIG, precision="bfloat16"))
    assert warning.startswith("warning: training in bfloat16 is slower than in float32 on this machine")
    assert len(devices.describe(CONFIG)) == 1


def test_the_precision_of_a_run_that_has_started_stays(tmp_path):
    """The same command resumes it on a machine with other instructions."""
    for precision in ("float32", "bfloat16"):
        recorded = flagfiles.read_flagfile(_written(tmp_path, dataclasses.replace(CONFIG, precision=precision)))
        found = config.Config(precision="auto").with_record(recorded)
        assert devices.choose_precision(found, distribution.Distribution()) == (found, "")
        assert found.precision == precision


def _written(directory, run_config):
    path = directory / "config.flags"
    path.write_text(flagfiles.to_text(run_config))
    return path
