"""The placement report: what each device does in a training step, and what is transferred between the devices.

It is read from the executed graph (see `executed_graph`). There a convolution that was fused with its bias and ReLU has
the name of the ReLU, so a product of the forward pass is assigned to the layer whose weights it reads.
"""

import collections
import math
import re
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from alexnet_tf.profiling import executed_graph
from alexnet_tf.profiling import operation_names

_INPUT_KINDS = {"input": True, "other than input": False, "all": None}
# The keys of `as_dict` are those of version 0.1.
_INPUT_KEYS = {"input": True, "beside the input": False, "all": None}

# Bookkeeping rather than work.
_NOT_COUNTED = {"_Arg", "_Retval", "Const", "NoOp", *executed_graph.SENDS, *executed_graph.RECEIVES}
# Rewriting shares these between the passes, under a name of either.
_SHAPES_ONLY = {"Const", "Shape", "ShapeN"}
# Weights, and what takes no memory.
_NO_ACTIVATIONS = {"ReadVariableOp", "VarHandleOp", "_Arg", *_SHAPES_ONLY}
_LIKE_A_PRODUCT = re.compile(r"Conv\dD|Conv2d|Conv$|MatMul|Einsum|Gemm|XlaDot|XlaConv|CudnnRNN|NextIteration")


class Operation(NamedTuple):
    """An executed operation. A compiled function counts as one."""

    name: str
    type: str
    device: str  # such as "CPU:0"
    phase: str  # one of `operation_names.PHASES`
    layer: str  # such as "conv1_a"; outside layers the scope, or ""
    flops: int  # of a convolution or matrix product, 2 x multiply-adds; 0 for any other operation


class Update(NamedTuple):
    """A gradient that the update reads."""

    device: str  # where the update runs
    layer: str
    parameters: int


class Transfer(NamedTuple):
    """A tensor sent from one device to another."""

    name: str
    source: str
    destination: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    is_input: bool  # computed from the step's arguments without variables, or in the preprocessing


class Kept(NamedTuple):
    """A tensor of the forward pass that a device keeps until its backward pass has read it, such as an activation."""

    name: str
    device: str  # where the backward pass reads it
    layer: str
    bytes: int


class PlacementReport(NamedTuple):
    """What one execution of a step did."""

    devices: tuple[str, ...]
    operations: tuple[Operation, ...]
    updates: tuple[Update, ...]
    transfers: tuple[Transfer, ...]
    kept: tuple[Kept, ...] = ()


def placement_report(function: Any, *arguments: Any) -> PlacementReport:
    """Runs a step once and reports what each device did.

    Phases follow name scopes. "update" is the update; a gradient tape's own scope, and whatever reads its results, is
    backward; "preprocess", "loss", "errors" and no scope are "other"; the rest is forward. The update has no products:
    its work is the number of parameters whose gradients it reads on each device.

    Args:
      function: a ``tf.function`` such as `trainer.Trainer.step`, neither called before (only a first run can be
        observed) nor compiled as one program with XLA. The run has its effects: one step is taken.
      *arguments: its arguments.

    Raises:
      ValueError: if nothing could be observed; for a product whose FLOPs are unknown (in a compiled function or a
        loop, or of another kind than Conv2D and MatMul); or for a tensor of unknown size.
    """
    graph = executed_graph.run(function, *arguments)
    # This comes first, as a loop's tensors have unknown shapes, about which the error would be less clear.
    for node in graph.nodes.values():
        if not operation_names.is_product(node.op):
            _check_no_product(graph, node, node.name)
    phases = _phases(graph)
    operations = []
    for (device, name), node in graph.nodes.items():
        if node.op not in _NOT_COUNTED:
            phase = phases[device, name]
            layer = _layer_of_operation(graph, device, node, phase)
            operations.append(Operation(name, node.op, device, phase, layer, _flops(graph, device, node)))
    transfers = sorted(_transfers(graph, phases), key=lambda each: (not each.is_input, -each.bytes, each.name))
    return PlacementReport(
        graph.devices, tuple(operations), tuple(_updates(graph, phases)), tuple(transfers), tuple(_kept(graph, phases))
    )


def total(report: PlacementReport, quantity: str, *, exclude: Iterable[str] = (), **only: str) -> int:
    """Sums up a quantity of a report.

    Args:
      report: the report.
      quantity: "operations", "flops" or "parameters" (updated).
      exclude: names of layers that are not counted.
      **only: the ``device``, ``layer`` or, except for parameters, ``phase`` to count; all by default.
    """
    return sum(
        1 if quantity == "operations" else getattr(each, quantity)
        for each in (report.updates if quantity == "parameters" else report.operations)
        if each.layer not in exclude and all(getattr(each, key) == value for key, value in only.items())
    )


def transferred_bytes(report: PlacementReport, *, is_input: bool | None = None) -> int:
    """Returns the bytes transferred in all directions: of the step's input (True), of the rest (False), or of all."""
    return sum(each.bytes for each in report.transfers if is_input in (None, each.is_input))


def memory(report: PlacementReport, device: str) -> dict[str, int]:
    """Returns the bytes that a device needs for a training step: "weights", "velocities" and "activations".

    Weights and velocities are those of the parameters that it updates, in float32. Activations are what it keeps of the
    forward pass for the backward pass. Gradients, which exist one after the other, and workspaces are not counted.
    """
    parameters = 4 * total(report, "parameters", device=device)
    activations = sum(each.bytes for each in report.kept if each.device == device)
    return {"weights": parameters, "velocities": parameters, "activations": activations}


def as_dict(report: PlacementReport) -> dict[str, Any]:
    """Returns the report as plain values for JSON, with sums in place of the operations."""

    def sums(**only):
        phases = {
            quantity: {phase: total(report, quantity, phase=phase, **only) for phase in operation_names.PHASES}
            for quantity in ("operations", "flops")
        }
        return {**phases, "parameters": total(report, "parameters", **only)}

    layers = sorted({each.layer for each in report.operations if each.flops})
    return {
        "devices": {device: {**sums(device=device), "memory": memory(report, device)} for device in report.devices},
        "layers": {layer: sums(layer=layer) for layer in layers},
        "crossings": [{**each._asdict(), "shape": list(each.shape)} for each in report.transfers],
        "crossing_bytes": {name: transferred_bytes(report, is_input=kind) for name, kind in _INPUT_KEYS.items()},
    }


def table(report: PlacementReport, *, exclude: tuple[str, ...] = ("fc8",)) -> str:
    """Formats the report as text of at most 110 columns (up to three devices).

    Args:
      report: the report.
      exclude: names of layers that are on one device by design; additional lines give the shares without them.
    """
    cases = [((), "")]
    if any(each.layer in exclude for each in report.updates):
        cases.append((exclude, f", without {', '.join(exclude)}"))
    return "\n".join([*_work_lines(report, cases), "", *_transfer_lines(report)])


def _work_lines(report, cases):
    def row(title, quantity, style, scale=1, **only):
        values = [total(report, quantity, device=device, **only) / scale for device in report.devices]
        cells = (f"{value:>12{style}}{100 * value / (sum(values) or 1):>6.1f}%" for value in values)
        return f"{title:<34}" + "".join(cells)

    yield f"{'Work':<34}" + "".join(f"{device:>20}" for device in report.devices)
    for phase in operation_names.PHASES:
        yield row(f"operations, {phase}", "operations", ".0f", phase=phase)
    for phase in ("forward", "backward"):
        for layers, remark in cases:
            yield row(f"GFLOP, {phase}{remark}", "flops", ".3f", 1e9, phase=phase, exclude=layers)
    for layers, remark in cases:
        yield row(f"parameters updated{remark}", "parameters", ",.0f", exclude=layers)
    needed = [memory(report, device) for device in report.devices]
    for kind in ("weights", "velocities", "activations"):
        values = [each[kind] / 1e6 for each in needed]
        cells = (f"{value:>12.1f}{100 * value / (sum(values) or 1):>6.1f}%" for value in values)
        yield f"{f'MB, {kind}':<34}" + "".join(cells)


def _transfer_lines(report):
    yield f"{'Transfer':<46}{'from':>8}{'to':>8}{'shape':>22}{'dtype':>10}{'MB':>14}"
    for each in report.transfers:
        name = f"{each.name}{' (input)' * each.is_input}"[:45]
        direction = f"{each.source:>8}{each.destination:>8}"
        shape = "x".join(map(str, each.shape)) or "scalar"
        yield f"{name:<46}{direction}{shape:>22}{each.dtype:>10}{each.bytes / 1e6:>14.6f}"
    for name, kind in _INPUT_KINDS.items():
        yield f"{'total, ' + name:<94}{transferred_bytes(report, is_input=kind) / 1e6:>14.6f}"


def _layer_of_operation(graph, device, node, phase):
    name = node.name
    if phase == "forward" and operation_names.is_product(node.op):
        name = graph.makers(device, node)[1][1].name
    return operation_names.layer_of_name(name) or operation_names.layer_of_name(node.name)


def _phases(graph):
    """Returns the phase of every node, by its name or because it reads a result of the backward pass."""
    readers = collections.defaultdict(list)
    for (device, name), node in graph.nodes.items():
        if node.op not in executed_graph.SENDS + executed_graph.RECEIVES:
            for maker_device, maker, _ in graph.makers(device, node):
                readers[maker_device, maker.name].append((device, name))
    phases = {key: operation_names.phase_of_name(node.name, node.op) for key, node in graph.nodes.items()}
    pending = [key for key in phases if phases[key] == "backward" and graph.nodes[key].op not in _SHAPES_ONLY]
    while pending:
        for reader in readers[pending.pop()]:
            is_product = operation_names.is_product(graph.nodes[reader].op)
            if phases[reader] in ("forward", "other") and not is_product:
                phases[reader] = "backward"
                pending.append(reader)
    return phases


def _flops(graph, device, node):
    """Returns the FLOPs of a convolution or matrix product, 2 x multiply-adds; 0 for any other operation."""
    kind = operation_names.product_kind(node.op)
    if kind is None:
        return 0
    makers = graph.makers(device, node)
    if kind == "MatMul":
        rows, columns = graph.shape(*makers[0])
        return 2 * math.prod(graph.shape(device, node)) * (rows if node.attr["transpose_a"].b else columns)
    # In all three convolutions each position of the forward convolution's output meets each weight of its kernel.
    kernel = graph.shape(device, node) if "Filter" in kind else graph.shape(*makers[1])
    output = graph.shape(*makers[2]) if "Backprop" in kind else graph.shape(device, node)
    return 2 * math.prod(output) * math.prod(kernel[:-1])


def _check_no_product(graph, node, name):
    """Raises ValueError if a node, or a function that it calls, has products that cannot be counted."""
    if _LIKE_A_PRODUCT.search(node.op):
        raise ValueError(f"Expected only Conv2D and MatMul, not compiled. Received: {node.op} in {name}")
    for value in node.attr.values():
        for called in (value.func.name, *(each.name for each in value.list.func)):
            for inner in graph.functions[called].node_def if called else ():
                _check_no_product(graph, inner, name)


def _updates(graph, phases) -> Iterator[Update]:
    """Yields an `Update` for each gradient that the update reads, once for each device that reads it."""
    gradients = {}
    for (device, name), node in graph.nodes.items():
        if phases[device, name] == "update" and node.op not in _NOT_COUNTED:
            for maker in graph.makers(device, node):
                if phases[maker[0], maker[1].name] == "backward":
                    gradients[device, maker[0], maker[1].name, maker[2]] = maker
    for (device, _, name, _), maker in gradients.items():
        yield Update(device, operation_names.layer_of_name(name), math.prod(graph.shape(*maker)))


def _kept(graph, phases) -> Iterator[Kept]:
    """Yields a `Kept` for each tensor of the forward pass that the backward pass reads, once for each device."""
    found = set()
    for (device, name), node in graph.nodes.items():
        if phases[device, name] != "backward" or node.op in _NOT_COUNTED | _SHAPES_ONLY:
            continue
        for maker in graph.makers(device, node):
            maker_device, made_by, number = graph.source(*maker)
            key = device, maker_device, made_by.name, number
            is_forward = phases[maker_device, made_by.name] in ("forward", "other")
            if is_forward and made_by.op not in _NO_ACTIVATIONS and key not in found:
                found.add(key)
                layer = operation_names.layer_of_name(made_by.name)
                if size := graph.size(maker_device, made_by, number):
                    yield Kept(made_by.name, device, layer, size)


def _transfers(graph, phases) -> Iterator[Transfer]:
    """Yields a `Transfer` for each tensor sent, except empty ones, which are signals."""
    for (device, _), node in graph.nodes.items():
        if node.op not in executed_graph.SENDS:
            continue
        maker_device, maker, number = graph.makers(device, node)[0]
        dtype = tf.as_dtype(node.attr["T"].type)
        if dtype in (tf.resource, tf.variant, tf.string):
            raise ValueError(f"Expected transfers of numbers only. Received: {dtype.name} from {maker.name}")
        shape = graph.shape(maker_device, maker, number)
        if 0 in shape:
            continue
        *scopes, last = operation_names.scopes_of_name(maker.name)
        label = f"{operation_names.layer_of_name(maker.name)}/{last}" if scopes else last
        yield Transfer(
            name=f"gradient of {label}" if phases[maker_device, maker.name] == "backward" else label,
            source=device,
            destination=executed_graph.short_name(node.attr["recv_device"].s.decode()),
            shape=shape,
            dtype=dtype.name,
            bytes=math.prod(shape) * dtype.size,
            is_input=_is_input(graph, maker_device, maker),
        )


def _is_input(graph, device, node):
    """Returns whether a node depends on arguments of the step, perhaps through preprocessing, and on no variable."""
    has_argument, seen, pending = False, set(), [(device, node)]
    while pending:
        device, node = pending.pop()
        is_preprocessed = operation_names.is_input_scope(operation_names.scopes_of_name(node.name)[0])
        if node.op == "_Arg" and node.attr["T"].type == tf.resource.as_datatype_enum:
            return False
        has_argument |= is_preprocessed or node.op == "_Arg"
        if not is_preprocessed and (device, node.name) not in seen:
            seen.add((device, node.name))
            pending += [maker[:2] for maker in graph.makers(device, node)]
    return has_argument
