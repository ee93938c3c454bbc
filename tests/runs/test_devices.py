"""What a run says about its devices."""

import dataclasses
import types

import pytest
import tensorflow as tf
import untrained_runs

from alexnet_tf.runs import devices
from alexnet_tf.utils import machine

CONFIG = dataclasses.replace(untrained_runs.CONFIG, devices=())


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "accelerators", list)
    monkeypatch.setattr(machine, "processor", lambda: "Processor")
    monkeypatch.setattr(machine, "available_cores", lambda: 2)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])


def with_gpus(monkeypatch, count):
    gpus = [types.SimpleNamespace(name=f"/physical_device:GPU:{number}") for number in range(count)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    details = lambda gpu: {"device_name": f"Model {gpu.name[-1]}"}
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
