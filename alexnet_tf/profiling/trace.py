"""Reads the trace of a profile of training steps: which operation of which layer ran when, in which thread.

A trace states when each operation ran in which thread, under its name in the executed graph. What names do not show is
taken from the traced graph of the step, which `describe` summarizes in a file next to the trace: the layer of a
convolution that was fused and has the name of its ReLU, the layer of a gradient without a scope, and the bytes of
tensors transferred between devices, which traces of CPUs lack.
"""

import functools
import importlib
import importlib.util
import json
import math
import pathlib
import re
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from alexnet_tf.profiling import intervals
from alexnet_tf.profiling import operation_names
from alexnet_tf.utils import messages
from alexnet_tf.utils import schema

# The file next to a trace with the result of `describe`.
DESCRIPTION = "step.json"
_DESCRIPTION = schema.Map(
    schema.Object(
        {"layer": schema.Text()},
        {
            **dict.fromkeys(("phase", "device", "fused"), schema.Text()),
            "bytes": schema.Number(low=0, integer=True),
        },
    )
)
# Names of the training loop's annotations.
STEP, INPUT = "train", "input"
TRACES = "plugins/profile/*/*.xplane.pb"

_OPERATION = re.compile(r"([\w./-]+):(\w+)")
_TOWER = re.compile(r"_([ab])$")
_ASYNCHRONOUS = "ExecutorState::ProcessAsync::Start"
_EXECUTOR = "ExecutorState::"
_TRANSFERS = ("_Send", "_Recv", "_HostSend", "_HostRecv")
# Operations that grappler fuses with the convolution or matrix product before them.
_FUSED = ("BiasAdd", "Add", "AddV2", "Identity", "IdentityN", "Relu", "Tanh")
_SENDING = re.compile(r"device:(\w+:\d+);\w+;.*device:(\w+:\d+);")
# Threads of a GPU that show its work under the names of the operations that launched it.
_GPU_THREADS = re.compile(r"(TensorFlow|Framework) Ops$")


class Piece(NamedTuple):
    """A stretch of time in which a thread ran one operation, excluding other operations that this one called."""

    start: float  # microseconds since the start of the trace
    end: float
    kind: str  # the operation's type
    phase: str  # one of `operation_names.PHASES`, or "transfer"
    layer: str  # such as "conv1_a"; outside layers the scope, or ""
    tower: str  # "a", "b", or "" for neither


class Timeline(NamedTuple):
    """A trace of training steps."""

    path: str
    steps: dict[int, intervals.Interval]  # by number
    inputs: list[intervals.Interval]  # waiting for a batch
    pieces: list[Piece]
    transfers: dict[tuple[str, str], set[str]]  # by (source, destination), such as ("CPU:0", "CPU:1"): tensor names
    sizes: dict[str, int]  # bytes by tensor name; empty if there was no description next to the trace


def describe(graph: tf.Graph) -> dict[str, dict[str, Any]]:
    """Describes the operations of a traced training step.

    Args:
      graph: of a concrete `trainer.Trainer.step`.

    Returns:
      A dict for JSON with an entry for each operation's name: its "phase" and "layer"; the "bytes" of its first output
      if the shape is known; the "device" that it was placed on, such as "CPU:1"; and as "fused" the layer of the
      convolution or matrix product that it may be fused with.
    """
    described = {}
    for operation in graph.get_operations():
        phase, layer = _phase_and_layer(operation, described)
        entry = {"phase": phase, "layer": layer, "bytes": _size(operation), "fused": _fused(operation)}
        entry["device"] = operation.device.rpartition("device:")[2]
        described[operation.name] = {name: value for name, value in entry.items() if value or name == "layer"}
    return described


def _phase_and_layer(operation, described):
    """Returns phase and layer; an operation without a scope that reads gradients is backward, in their layer.

    An operation comes after those that it reads, so that these are already `described`.
    """
    phase = operation_names.phase_of_name(operation.name, operation.type)
    layer = operation_names.layer_of_name(operation.name)
    makers = [tensor.op for tensor in operation.inputs]
    gradients = [described[maker.name]["layer"] for maker in makers if described[maker.name]["phase"] == "backward"]
    if phase != "other" or layer or not gradients:
        return phase, layer
    # A custom gradient reads what its layer read; a sum of gradients belongs to the layer that they come from.
    readers = [
        operation_names.layer_of_name(reader.name)
        for maker in makers
        for tensor in maker.outputs
        for reader in tensor.consumers()
        if reader.type == operation.type and operation_names.phase_of_name(reader.name, reader.type) == "forward"
    ]
    return "backward", (readers or gradients)[0]


def _size(operation):
    if not operation.outputs or not operation.outputs[0].shape.is_fully_defined():
        return 0
    return operation.outputs[0].shape.num_elements() * operation.outputs[0].dtype.size


def _fused(operation):
    """Returns the layer of the product before a bias and an activation, or ""."""
    while operation.type in _FUSED and operation.inputs:
        operation = operation.inputs[0].op
        if operation_names.is_product(operation.type):
            return operation_names.layer_of_name(operation.name)
    return ""


def newest(path: str) -> str:
    """Returns the path of the newest trace of a run.

    Args:
      path: of a trace, or of a directory that has TensorBoard's files in it or in its subdirectory "tensorboard".

    Raises:
      FileNotFoundError: if there is none.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return str(path)
    # Directories of traces are named by date and time.
    found = sorted([*path.glob(TRACES), *path.glob(f"tensorboard/{TRACES}")], key=lambda each: each.parent.name)
    if not found:
        raise FileNotFoundError(f"No profile in {path}; {messages.program('train')} --profile_steps=10,20 writes one")
    return str(found[-1])


def read(path: str) -> Timeline:
    """Reads a trace with xprof's converter.

    Args:
      path: of a file ``*.xplane.pb``.

    Raises:
      FileNotFoundError: if the file does not exist.
      ModuleNotFoundError: without xprof.
      ValueError: if the trace is truncated, or has no annotations of training steps.
    """
    if importlib.util.find_spec("xprof") is None:
        raise ModuleNotFoundError("Reading a profile needs xprof: pip install -e '.[profile]'")
    # Optional, and its library has 60 MB.
    converter = importlib.import_module("xprof.convert.raw_to_tool_data")
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"Expected a profile. Received: {path}, which does not exist")
    text, _ = converter.xspace_to_tool_data([str(path)], "trace_viewer", {})
    if text is None:
        raise ValueError(f"Expected a complete profile. Received: {path}, which is truncated or damaged")
    timeline = timeline_of(json.loads(text)["traceEvents"], _read_description(pathlib.Path(path).parent), str(path))
    if not timeline.steps:
        raise ValueError(f"Expected a profile of training steps. Received: {path}, which has none")
    return timeline


def _read_description(directory):
    path = directory / DESCRIPTION
    if not path.exists():
        return {}
    return schema.read_json(path, _DESCRIPTION, "a description of the training step", "delete it, or profile again")


def timeline_of(events: list[dict[str, Any]], description: dict[str, dict[str, Any]], path: str = "") -> Timeline:
    """Returns the timeline of the events within the annotated steps.

    Args:
      events: Chrome trace events, with times in microseconds.
      description: from `describe`, or empty.
      path: of the trace.
    """
    spans = [event for event in events if event.get("ph") == "X"]
    steps = {
        int(event["args"]["step_num"]): _interval(event)
        for event in spans
        if event["name"].startswith(f"{STEP} ") and "step_num" in event.get("args", {})
    }
    window = intervals.merge(steps.values())
    inputs = [_interval(event) for event in spans if event["name"] == INPUT]
    threads = {}
    working = _working_threads(events)
    for event in spans:
        if working is None or (event["pid"], event["tid"]) in working:
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    layers = {entry["layer"] for entry in description.values()} - {""}
    classify = functools.partial(_classify, description, layers, _first_device(description))
    pieces = [piece for thread in threads.values() for piece in _pieces(thread, classify)]
    return Timeline(
        path=path,
        steps=dict(sorted(steps.items())),
        inputs=intervals.intersect(inputs, window),
        pieces=[piece for piece in pieces if intervals.intersect([piece[:2]], window)],
        transfers=_transfers(spans, window),
        sizes={name: entry.get("bytes", 0) for name, entry in description.items()},
    )


def _transfers(spans, window):
    transfers = {}
    for event in spans:
        sent = _sent(event)
        if sent and intervals.intersect([_interval(event)], window):
            transfers.setdefault(sent[0], set()).add(sent[1])
    return transfers


def _interval(event):
    return event["ts"], event["ts"] + event.get("dur", 0.0)


def _working_threads(events):
    """Returns the (pid, tid) of the threads that show a GPU's operations; None for a trace without a GPU."""
    names = {
        (event["name"], event["pid"], event.get("tid")): event["args"]["name"]
        for event in events
        if event.get("ph") == "M" and event["name"] in ("process_name", "thread_name")
    }
    gpus = {pid for (what, pid, _), name in names.items() if what == "process_name" and "/device:GPU" in name}
    if not gpus:
        return None
    return {
        (pid, tid)
        for (what, pid, tid), name in names.items()
        if what == "thread_name" and pid in gpus and _GPU_THREADS.search(name)
    }


def _first_device(description):
    """Returns the device of the first tower; "" for a step on one device."""
    devices = sorted({entry["device"] for entry in description.values() if "device" in entry})
    return devices[0] if len(devices) > 1 else ""


def _classify(description, layers, first_device, event):
    """Returns kind, phase, layer and tower of an event's operation; None if it is not an operation of the step."""
    arguments = event.get("args", {})
    if event["name"] == _ASYNCHRONOUS and "kernel_type" in arguments:
        name, kind = arguments["name"], arguments["kernel_type"]
    else:
        found = _OPERATION.fullmatch(arguments.get("long_name", event["name"]))
        if found is None or "::" in found[0]:
            return None
        name, kind = found.groups()
    if kind in _TRANSFERS:
        return kind, "transfer", "", ""
    entry = description.get(name, {})
    if description and not entry and operation_names.layer_of_name(name) not in layers:
        # An operation of the input pipeline, which has its own threads.
        return None
    phase = entry.get("phase") or operation_names.phase_of_name(name, kind)
    layer = entry["layer"] if entry else operation_names.layer_of_name(name)
    if operation_names.is_product(kind) and phase == "forward":
        layer = entry.get("fused") or layer
    return kind, phase, layer, _tower(layer, entry.get("device", ""), first_device)


def _tower(layer, device, first_device):
    letter = _TOWER.search(layer)
    if letter:
        return letter[1]
    return ("a" if device == first_device else "b") if first_device and device else ""


def _pieces(events, classify):
    """Yields a `Piece` for each stretch of one thread in which an operation ran without a nested one."""
    # The executor's own work does not belong to an operation, even if it happens within one's interval.
    spans = [
        (*_interval(event), classify(event))
        for event in events
        if event["name"].startswith(_EXECUTOR) or classify(event)
    ]
    open_spans = []
    now = -math.inf

    def advance(until):
        nonlocal now
        if open_spans and open_spans[-1][1] and until > now:
            yield Piece(now, until, *open_spans[-1][1])
        now = until

    for start, end, operation in sorted(spans, key=lambda span: (span[0], -span[1])):
        while open_spans and open_spans[-1][0] <= start:
            yield from advance(open_spans[-1][0])
            open_spans.pop()
        yield from advance(start)
        open_spans.append((min(end, open_spans[-1][0]) if open_spans else end, operation))
    while open_spans:
        yield from advance(open_spans[-1][0])
        open_spans.pop()


def _sent(event):
    """Returns ((source, destination), tensor name) of an event that sends a tensor; None for another event."""
    arguments = event.get("args", {})
    devices = _SENDING.search(arguments.get("key", ""))
    if devices is None or not arguments.get("long_name", "").endswith("Send"):
        return None
    return devices.groups(), arguments.get("from", "")
