"""Says which devices a run computes on, and whether there is a GPU that TensorFlow cannot use."""

import collections
import os

import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.runs import builders
from alexnet_tf.utils import machine


def describe(run_config: config.Config, num_replicas: int = 1) -> list[str]:
    """Returns a line about the devices of a run, and a warning if a GPU of this machine is not used.

    Args:
      run_config: the resolved configuration.
      num_replicas: of ``--distribute``; 1 for none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    lines = [_used(run_config, gpus, num_replicas)]
    if not gpus and (unused := _unused_gpus()):
        names = ", ".join(f"{count} {name}" for name, count in collections.Counter(unused).items())
        lines.append(f"warning: this machine has {names}, which TensorFlow does not use; {_remedy()}")
    return lines


def _used(run_config, gpus, num_replicas):
    cpu = f"{machine.processor()}, {machine.available_cores()} cores"
    names = dict(zip((f"/GPU:{number}" for number in range(len(gpus))), map(_name, gpus)))
    if run_config.distribute != "none":
        kind = ", ".join(names.values()) or f"CPU ({cpu})"
        return f"devices: {num_replicas} replicas on {kind}"
    if towers := builders.tower_devices(run_config):
        described = [f"{device} ({names.get(device, cpu)})" for device in towers]
        return f"devices: {described[0]} for tower a, {described[1]} for tower b"
    return f"device: {f'/GPU:0 ({_name(gpus[0])})' if gpus else f'CPU ({cpu})'}"


def _name(gpu):
    return tf.config.experimental.get_device_details(gpu).get("device_name", "a GPU")


def _unused_gpus():
    """Returns the names of the GPUs of this machine, unless the user has hidden them."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [] if hidden in ("", "-1") else machine.accelerators()


def _remedy():
    if not tf.test.is_built_with_cuda():
        return (
            "this TensorFlow is built for CPUs: pip uninstall tensorflow-cpu, then pip install -e '.[cuda]', or hide "
            "the GPU with CUDA_VISIBLE_DEVICES=-1"
        )
    return (
        "install the libraries of CUDA with pip install -e '.[cuda]' and update the driver, or hide the GPU with "
        "CUDA_VISIBLE_DEVICES=-1"
    )
