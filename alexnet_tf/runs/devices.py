"""Says which devices a run computes on and what they lack, and chooses the precision by them."""

import collections
import dataclasses
import os

import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.runs import builders
from alexnet_tf.training import distribution
from alexnet_tf.utils import machine

# Instruction sets of x86 processors, and the first compute capability of NVIDIA's GPUs (Ampere), with bfloat16.
_CPU_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
_GPU_BFLOAT16 = (8, 0)


def has_bfloat16() -> bool | None:
    """Returns whether the GPUs of this process, or else its processor, have instructions for bfloat16.

    Returns:
      A bool; None if that is unknown, as on processors that are not x86.
    """
    if gpus := tf.config.list_physical_devices("GPU"):
        found = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
        return None if None in found else min(found) >= _GPU_BFLOAT16
    features = machine.processor_features()
    return bool(features & _CPU_BFLOAT16) if features else None


def choose_precision(run_config: config.Config, processes: distribution.Distribution) -> tuple[config.Config, str]:
    """Replaces "auto" in ``precision``: bfloat16 if the devices of all processes compute in it, otherwise float32.

    Args:
      run_config: the configuration.
      processes: the processes of the run, all of which must call this.

    Returns:
      The configuration, and a line that says what was chosen and why; empty if the precision is not "auto".
    """
    if run_config.precision != config.AUTO:
        return run_config, ""
    count = processes.worker[1]
    able = int(processes.sum([np.array(has_bfloat16() is True, np.int64)])[0])
    if able == count:
        chosen, reason = "bfloat16", "this machine has instructions for it"
    else:
        where = "this machine" if count == 1 else f"{count - able} of {count} workers"
        chosen, reason = "float32", f"no instructions for bfloat16 were found on {where}"
    line = f"precision=auto: {chosen}, as {reason}"
    return dataclasses.replace(run_config, precision=chosen), line


def describe(run_config: config.Config, num_replicas: int = 1) -> list[str]:
    """Returns a line about the devices of a run, and warnings of an unused GPU and of a precision that they lack.

    Args:
      run_config: the resolved configuration.
      num_replicas: of ``--distribute``; 1 for none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    lines = [_used(run_config, gpus, num_replicas)]
    if not gpus and (unused := _unused_gpus()):
        names = ", ".join(f"{count} {name}" for name, count in collections.Counter(unused).items())
        lines.append(f"warning: this machine has {names}, which TensorFlow does not use; {_remedy()}")
    if run_config.precision == "bfloat16" and has_bfloat16() is False:
        lines.append(
            "warning: training in bfloat16 is slower than in float32 on this machine, which has no instructions for it "
            "(AVX512_BF16, AMX, or a GPU from Ampere on); start a run with --precision=float32 or auto"
        )
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
