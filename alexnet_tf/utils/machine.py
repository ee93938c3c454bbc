"""The machine that this process runs on. Nothing here loads TensorFlow."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess


def available_cores():
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def facts():
    """What is here: processor, cores, accelerators, versions; no names of the machine. A dict."""
    found = {
        "processor": processor(),
        "cores": available_cores(),
        "accelerators": _accelerators(),
        "python": platform.python_version(),
    }
    for name, packages in {
        "tensorflow": ["tensorflow", "tensorflow-cpu"],
        "keras": ["keras"],
        "numpy": ["numpy"],
    }.items():
        versions = []
        for package in packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions.append(importlib.metadata.version(package))
        found[name] = versions[0] if versions else None
    return found


def processor():
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerators():
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return said.stdout.split("\n")[:-1] if not said.returncode else []
