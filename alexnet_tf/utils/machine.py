"""The machine that this process runs on. This module does not load TensorFlow."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
from typing import Any


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def describe() -> dict[str, Any]:
    """Returns the processor, cores, accelerators and versions of this machine, without its name.

    Returns:
      A dict with the keys processor, cores, accelerators (a list of names), python, tensorflow, keras and numpy
      (versions, None for a package that is not installed).
    """
    return {
        "processor": processor(),
        "cores": available_cores(),
        "accelerators": accelerators(),
        "python": platform.python_version(),
        "tensorflow": _version("tensorflow", "tensorflow-cpu"),
        "keras": _version("keras"),
        "numpy": _version("numpy"),
    }


def processor() -> str:
    """Returns the name of the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_features() -> frozenset[str]:
    """Returns the names of the processor's instruction sets as Linux lists them, such as avx512_bf16.

    Returns:
      A set of names; empty if they are unknown, as on processors that are not x86.
    """
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(key):
    """Returns what Linux says about the first core; empty if it does not."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _version(*packages):
    """Returns the version of the first of these packages that is installed, or None."""
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


def accelerators() -> list[str]:
    """Returns the names of NVIDIA's GPUs, as ``nvidia-smi`` prints them, whether or not TensorFlow can use them."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return result.stdout.split("\n")[:-1] if not result.returncode else []
