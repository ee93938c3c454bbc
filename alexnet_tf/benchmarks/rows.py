"""The table of rows, each measured in a process with the settings that it needs.

Only the modules of the rows that are measured are imported.
"""

import importlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from alexnet_tf.benchmarks import gpu
from alexnet_tf.benchmarks import measuring
from alexnet_tf.models import registry
from alexnet_tf.utils import machine
from alexnet_tf.utils import schema

# Batch sizes of the row growth.
GROWTH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
QUICK_GROWTH = (1, 16)
# Rows measured in several processes, whose results are merged.
MERGED = ("growth", "networks")


def _all_cores():
    cores = machine.available_cores()
    return f"--intra_op_threads={cores}", f"--inter_op_threads={cores}"


def _two_devices():
    import tensorflow as tf

    kind = "GPU" if len(tf.config.list_physical_devices("GPU")) >= 2 else "CPU"
    return (f"--devices=/{kind}:0,/{kind}:1",)


class Row(NamedTuple):
    """How a row is measured."""

    module: str  # in this package
    function: str  # from a `measuring.Request` to a `measuring.Result`
    flags: Callable[[], Sequence[str]] = tuple  # flags of its process
    cores: int = 0  # number of cores of its process; 0 for all
    is_default: bool = True  # whether it is measured if no row is requested


# Names of ratios within a row, which share its sides.
ALIASES = {"P1b": "P1", "P2": "P1", "P14": "gpu"}
ROWS = {
    "machine": Row("hardware", "machine"),
    "P1": Row("training_step", "textbooks"),
    "P3": Row("normalization", "share_of_step"),
    "P4": Row("normalization", "forward_and_backward"),
    "P6": Row("hardware", "utilization"),
    "P6b": Row("hardware", "bfloat16_utilization"),
    "P7": Row("training_step", "precisions"),
    "P8": Row("training_step", "two_devices", _two_devices),
    # Determinism would serialize the random operations of the peers' pipelines.
    "P9": Row("input_pipelines", "ready_batches", lambda: ("--nodeterministic",), cores=1),
    "P10": Row("input_pipelines", "training"),
    "P11": Row("training_step", "update"),
    # With TensorFlow Serving's default threads.
    "P12": Row("serving", "answers", _all_cores),
    "P13": Row("training_step", "traces"),
    # One thread for each side, whatever the defaults of the two libraries are.
    "P15": Row("serving", "engines", cores=1),
    "P16": Row("starting", "start"),
    "P17": Row("training_step", "frozen"),
    "operations": Row("training_step", "operations"),
    "workers": Row("workers", "two_workers", cores=2),
    "summaries": Row("summaries", "summaries"),
    "forward": Row("inference", "forward"),
    "load": Row("serving", "load"),
    "neighbours": Row("retrieval", "nearest_images"),
    "growth": Row("training_step", "growth"),
    # Measured to decide what the network does on one device.
    "layers": Row("layer_alternatives", "layers", is_default=False),
    # Eight minutes on a GPU.
    "gpu": Row("gpu_steps", "measure", is_default=False),
    # An hour on two cores.
    "networks": Row("networks", "networks", is_default=False),
}


def choose(names: Sequence[str]) -> list[str]:
    """Returns the requested rows in the order of the table; the default ones if none is requested.

    Raises:
      ValueError: for a name that is not in the table.
    """
    requested = {ALIASES.get(name, name) for name in names}
    if unknown := [name for name in names if name not in (*ROWS, *ALIASES)]:
        raise ValueError(f"Expected rows among {', '.join(ROWS)}. Received: {', '.join(unknown)}")
    return [name for name, row in ROWS.items() if (name in requested if names else row.is_default)]


def measure_here(name: str, request: measuring.Request) -> dict[str, Any]:
    """Measures a row in this process.

    Returns:
      A dict for JSON: `measuring.Result.to_dict` and ``cores``, or ``not_run`` with the reason.
    """
    row = ROWS[name]
    measure = getattr(importlib.import_module(f"alexnet_tf.benchmarks.{row.module}"), row.function)
    try:
        return {**measure(request).to_dict(), "cores": machine.available_cores()}
    except measuring.NotRunError as error:
        return {"not_run": str(error)}


def measure_in_processes(
    names: Sequence[str],
    command: Sequence[str],
    scratch: str | pathlib.Path,
    options: Sequence[str] = (),
    quick: bool = False,
    networks: Sequence[str] = (),
    gpu_options: gpu.Options | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measures rows in other processes: one for rows with the same settings, one for each batch size and network.

    Args:
      names: names of `ROWS`.
      command: the command that starts the benchmark in another process, with the flags of this one.
      scratch: a directory for the results of the processes.
      options: flags of all processes, which override those of the command.
      quick: whether growth is measured at two batch sizes only.
      networks: of the row networks; empty for all.
      gpu_options: of the row gpu.

    Yields:
      A row's name and its dict for JSON.

    Raises:
      SystemExit: if a process fails, with its status; it has printed the reason.
    """
    groups = {}
    for name in names:
        if name not in (*MERGED, "gpu"):
            groups.setdefault((tuple(ROWS[name].flags()), ROWS[name].cores), []).append(name)
    for (flags, cores), group in groups.items():
        found = _run(group, command, (*options, *flags), cores, scratch)
        yield from ((name, found[name]) for name in group)
    variants = {
        "growth": [(f"--batch_size={size}",) for size in (QUICK_GROWTH if quick else GROWTH)],
        "networks": [network_flags(name) for name in networks or registry.NETWORKS],
    }
    for row in MERGED:
        if row in names:
            found = [_run([row], command, (*options, *flags), 0, scratch)[row] for flags in variants[row]]
            yield row, measuring.merge(found)
    if "gpu" in names:
        yield "gpu", gpu.measure_in_processes([*command, *options], scratch, gpu_options or gpu.Options())


def network_flags(name: str) -> tuple[str, ...]:
    """Returns the flags of the process that measures a network: those for CIFAR-10 take images of 32 x 32.

    Raises:
      ValueError: if there is no such network.
    """
    side = registry.SIDES[registry.find(name).num_classes]
    sizes = (f"--image_size={side}", f"--crop_size={side}") if side == 32 else ()
    return (f"--network={name}", *sizes)


def _run(names, command, flags, cores, scratch):
    """Measures rows in another process with some of the cores; returns their dicts by name."""
    if cores and not hasattr(os, "sched_setaffinity"):
        return {name: {"not_run": "this system cannot pin a process to cores"} for name in names}
    path = pathlib.Path(scratch) / "rows.json"
    # The last value of a repeated flag counts.
    flags = [f"--rows={','.join(names)}", f"--json={path}", "--markdown=", "--plot=", "--here", *flags]
    allowed = os.sched_getaffinity(0) if cores else None
    if cores:
        os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        done = subprocess.run([*command, *flags], stdout=subprocess.DEVNULL)
    finally:
        if cores:
            os.sched_setaffinity(0, allowed)
    if done.returncode:
        sys.exit(done.returncode)
    return schema.read_json(path, schema.Object({"rows": schema.Map(schema.Map())}), "measured rows")["rows"]
