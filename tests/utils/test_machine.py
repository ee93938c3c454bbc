"""The description of the machine."""

import json
import os
import platform

import tensorflow as tf

from alexnet_tf.utils import machine


def test_description_has_the_processor_cores_and_versions():
    description = machine.describe()
    assert description["processor"] == machine.processor() != ""
    assert description["cores"] == machine.available_cores() == len(os.sched_getaffinity(0))
    assert description["python"] == platform.python_version()
    assert description["tensorflow"] == tf.__version__
    assert isinstance(description["accelerators"], list)
    assert json.loads(json.dumps(description)) == description


def test_accelerators_are_empty_without_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.describe()["accelerators"] == []


def test_accelerators_are_empty_if_nvidia_smi_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    for script, expected in (("exit 9", []), ("echo 'GPU one'\necho 'GPU two'", ["GPU one", "GPU two"])):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        assert machine.describe()["accelerators"] == expected


def test_missing_package_has_no_version():
    assert machine._version("no-such-package") is None
