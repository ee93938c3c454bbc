"""The account of a step: what each device does, and what crosses between the devices.

Where an operation runs cannot be read off the program (see `placement`), nor off its trace: TensorFlow places,
rewrites and fuses operations when a function runs for the first time. What it then executes is one graph per
device, with a send for every tensor that leaves it, and those graphs are what is read here.

A convolution that TensorFlow fused with its bias and ReLU bears the ReLU's name, so a product of the forward pass
belongs to the layer whose weights it reads. Executed graphs state no shapes: they are taken by name from the trace,
as rewriting keeps what a name stands for (on a GPU perhaps with its axes in another order, which no count here
depends on).
"""

import collections
import math
import pathlib
import re
import tempfile
from typing import NamedTuple

import tensorflow as tf

PHASES = ("forward", "backward", "update", "other")

# Bookkeeping, not work: never counted.
_NOT_COUNTED = {"_Arg", "_Retval", "Const", "NoOp", "_Send", "_Recv", "_HostSend", "_HostRecv"}
# Their results do not depend on gradients, only on shapes: rewriting shares them between the passes.
_SHAPES_ONLY = {"Const", "Shape", "ShapeN"}
_KEEP_SHAPE_OR_PERMUTE = {"Identity", "Cast", "Transpose", "_MklNativeTranspose"}
_PRODUCT = re.compile(
    r"_?(?:Mkl)?(?:Native)?(?:PadWith)?(?:Fused)?"
    r"(Conv2D|Conv2DBackpropInput|Conv2DBackpropFilter(?:WithBias)?|MatMul)"
)
_LIKE_A_PRODUCT = re.compile(r"Conv\dD|Conv2d|Conv$|MatMul|Einsum|Gemm|XlaDot|XlaConv|Attention|CudnnRNN")
_GRADIENT = re.compile(r"(^|/)gradient(s|_tape)(_\d+)?/")
_PREFIXES = re.compile(r"^((gradient(s|_tape)(_\d+)?|ConstantFolding|\w+Optimizer)/)+")


class Operation(NamedTuple):
    """An operation that was executed."""

    name: str
    type: str
    device: str  # such as "CPU:0"
    phase: str  # one of `PHASES`
    layer: str  # such as "conv1_a"; of an operation outside every layer, its scope or ""
    flops: int  # of convolutions and matrix products, 2 x multiply-adds; 0 for every other operation


class Update(NamedTuple):
    """A gradient that arrived at the update."""

    layer: str
    device: str  # where the update runs
    parameters: int


class Crossing(NamedTuple):
    """A tensor sent from one device to another."""

    name: str
    source: str
    destination: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    is_input: bool  # an argument of the step, or what the scope "prepare" made of one


class Account(NamedTuple):
    """What one execution of a step did."""

    devices: tuple[str, ...]
    operations: tuple[Operation, ...]
    updates: tuple[Update, ...]
    crossings: tuple[Crossing, ...]


def account(function, *arguments):
    """Runs a step once and gives the account of it.

    Phases go by name scopes: an operation under "update" is of the update, one under the tape's own scope or
    downstream of it is backward, one under "prepare", "loss" or no scope at all is "other", the rest is forward.

    Args:
      function: a ``tf.function`` such as `trainer.Trainer.step`, not called before with such arguments (only
        its first run can be observed) and not compiled as a whole. It has its effects: a step of training is taken.
      *arguments: its arguments.

    Returns:
      An `Account`.

    Raises:
      ValueError: if nothing could be observed, or for an operation whose FLOPs or tensor whose size is unknown.
    """
    pieces = _executed_graphs(function, arguments)
    graph = _Graph(pieces, function.get_concrete_function(*arguments).graph)
    phases = _phases(graph)
    operations = [
        Operation(
            name=node.name,
            type=node.op,
            device=device,
            phase=phases[device, node.name],
            layer=_layer_of_operation(graph, device, node, phases[device, node.name]),
            flops=_flops(graph, device, node),
        )
        for (device, _), node in graph.nodes.items()
        if node.op not in _NOT_COUNTED
    ]
    return Account(
        devices=tuple(sorted(pieces)),
        operations=tuple(operations),
        updates=tuple(_updates(graph, phases)),
        crossings=tuple(_crossings(graph, phases)),
    )


def flops(account, *, device=None, phase=None, layer=None, aside=()):
    """FLOPs of convolutions and matrix products: of all or of one device, phase or layer; `aside` leaves layers out."""
    return sum(
        operation.flops
        for operation in account.operations
        if device in (None, operation.device)
        and phase in (None, operation.phase)
        and layer in (None, operation.layer)
        and operation.layer not in aside
    )


def operations(account, *, device=None, phase=None):
    """How many operations ran, all or on one device or in one phase. A compiled function counts as one."""
    return sum(
        device in (None, operation.device) and phase in (None, operation.phase) for operation in account.operations
    )


def parameters(account, *, device=None, layer=None, aside=()):
    """How many parameters were updated, all or those on one device or of one layer; `aside` leaves layers out."""
    return sum(
        update.parameters
        for update in account.updates
        if device in (None, update.device) and layer in (None, update.layer) and update.layer not in aside
    )


def crossing_bytes(account, *, is_input=None):
    """Bytes that crossed in all directions together: all, the step's input only, or all beside it."""
    return sum(crossing.bytes for crossing in account.crossings if is_input in (None, crossing.is_input))


def as_dict(account):
    """The account in dictionaries and lists of plain values, ready for JSON; operations are summed up."""
    layers = sorted({operation.layer for operation in account.operations if operation.flops})
    per_device = {
        device: {
            "operations": {phase: operations(account, device=device, phase=phase) for phase in PHASES},
            "flops": {phase: flops(account, device=device, phase=phase) for phase in PHASES},
            "parameters_updated": parameters(account, device=device),
        }
        for device in account.devices
    }
    per_layer = {
        layer: {
            "devices": sorted({each.device for each in account.operations if each.flops and each.layer == layer}),
            "flops": {phase: flops(account, phase=phase, layer=layer) for phase in ("forward", "backward")},
            "parameters_updated": parameters(account, layer=layer),
        }
        for layer in layers
    }
    return {
        "devices": per_device,
        "layers": per_layer,
        "crossings": [{**each._asdict(), "shape": list(each.shape)} for each in account.crossings],
        "bytes": {
            "input": crossing_bytes(account, is_input=True),
            "beside_the_input": crossing_bytes(account, is_input=False),
            "all": crossing_bytes(account),
        },
    }


def table(account, *, aside=("fc8",)):
    """The account as text of at most 110 columns.

    Args:
      account: an `Account`.
      aside: layers that live on one device by design; a second line gives the shares without them.
    """
    lines = ["Work" + " " * 30 + "".join(f"{device:>20}" for device in account.devices)]
    for phase in PHASES:
        counts = [operations(account, device=device, phase=phase) for device in account.devices]
        lines.append(_row(f"operations, {phase}", counts, "d"))
    for phase in ("forward", "backward"):
        for out in [(), aside] if flops(account, phase=phase) != flops(account, phase=phase, aside=aside) else [()]:
            work = [flops(account, device=each, phase=phase, aside=out) / 1e9 for each in account.devices]
            lines.append(_row(f"GFLOP, {phase}{_without(out)}", work, ".3f"))
    for out in [(), aside] if parameters(account) != parameters(account, aside=aside) else [()]:
        updated = [parameters(account, device=each, aside=out) for each in account.devices]
        lines.append(_row(f"parameters updated{_without(out)}", updated, ",d"))
    lines += ["", f"{'Crossing':<46}{'from':>8}{'to':>8}{'shape':>22}{'type':>10}{'MB':>14}"]
    for each in account.crossings:
        name = each.name + (" (input)" if each.is_input else "")
        shape = "x".join(map(str, each.shape)) or "scalar"
        lines.append(
            f"{name[:45]:<46}{each.source:>8}{each.destination:>8}{shape:>22}{each.dtype:>10}{each.bytes / 1e6:>14.6f}"
        )
    for title, is_input in (("input", True), ("beside the input", False), ("all", None)):
        lines.append(f"{'total, ' + title:<94}{crossing_bytes(account, is_input=is_input) / 1e6:>14.6f}")
    return "\n".join(lines)


def _without(layers):
    return f", {', '.join(layers)} aside" if layers else ""


def _row(title, values, style):
    """A line of the table: for each device a value and its share."""
    total = sum(values)
    cells = (f"{value:>12{style}}{100 * value / total if total else 0:>6.1f} %" for value in values)
    return f"{title:<34}" + "".join(cells)


class _Graph:
    """The graphs of all devices, read as one.

    An `edge` is written as in a graph's list of inputs: "name", or "name:1" for the second output.
    """

    def __init__(self, pieces, trace):
        self.nodes = {(device, node.name): node for device, piece in pieces.items() for node in piece.node}
        self.functions = {each.signature.name: each for piece in pieces.values() for each in piece.library.function}
        self._trace = {operation.name: operation for operation in trace.get_operations()}
        self._sends = {
            _meeting_point(node): (device, node.input[0])
            for (device, _), node in self.nodes.items()
            if node.op in ("_Send", "_HostSend")
        }

    def inputs(self, device, node):
        """The (device, node, output number) that each input of a node, control apart, was made by, on any device."""
        return [self.producer(device, edge) for edge in node.input if not edge.startswith("^")]

    def producer(self, device, edge):
        name, _, number = edge.partition(":")
        node = self.nodes[device, name]
        if node.op in ("_Recv", "_HostRecv"):
            return self.producer(*self._sends[_meeting_point(node)])
        return device, node, int(number or 0)

    def shape(self, device, node, number=0):
        """The shape of an output of a node, a tuple of ints."""
        if node.op == "Const":
            shape = tf.TensorShape(node.attr["value"].tensor.tensor_shape)
        elif node.op.endswith("Conv2DBackpropFilterWithBias") and number == 1:
            shape = tf.TensorShape(self.shape(device, node)[-1:])
        elif node.name in self._trace and number < len(self._trace[node.name].outputs):
            shape = self._trace[node.name].outputs[number].shape
        elif node.op == "_Arg":
            shape = tf.TensorShape(node.attr["_output_shapes"].list.shape[0])
        elif node.op in _KEEP_SHAPE_OR_PERMUTE:
            return self.shape(*self.inputs(device, node)[0])
        else:
            raise ValueError(f"Expected every measured tensor in the trace. Received: {node.op} {node.name}:{number}")
        if not shape.is_fully_defined():
            raise ValueError(f"Expected static shapes. Received: {shape} for {node.op} {node.name}:{number}")
        return tuple(shape)


def _meeting_point(node):
    """What a send and its receive have in common."""
    return tuple(node.attr[key].s for key in ("send_device", "recv_device", "tensor_name"))


def _executed_graphs(function, arguments):
    """Runs `function` once; returns the graph that each device, such as "CPU:0", executed."""
    with tempfile.TemporaryDirectory() as directory:
        with tf.summary.create_file_writer(directory).as_default(step=0):
            tf.summary.trace_on(graph=True, profiler=False)
            try:
                function(*arguments)
                tf.summary.trace_export("step")
            finally:
                tf.summary.trace_off()
        # The format of the event file has no home in the TF 2 API: these two message types are its only public names.
        metadata = tf.compat.v1.RunMetadata()
        for record in tf.data.TFRecordDataset([str(path) for path in pathlib.Path(directory).iterdir()]):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                metadata.MergeFromString(value.tensor.string_val[0])
    graphs = [piece for each in metadata.function_graphs for piece in each.partition_graphs if piece.node]
    if len(metadata.function_graphs) != 1 or not graphs:
        raise ValueError(
            "Expected a tf.function that was not called before and is not compiled as a whole. "
            f"Received: {function}, which ran {len(metadata.function_graphs)} new graphs"
        )
    devices = [tf.DeviceSpec.from_string(piece.node[0].device) for piece in graphs]
    return {f"{each.device_type}:{each.device_index}": piece for each, piece in zip(devices, graphs)}


def _scopes(name):
    """The parts of a name, without what tape and rewriting put before it and the numbers that make scopes unique.

    Keras opens the scope of every layer twice in a call, so that all of them bear such a number.
    """
    *scopes, last = _PREFIXES.sub("", name).split("/")
    return [*(re.sub(r"_\d+$", "", scope) for scope in scopes), last]


def _layer(name):
    """The layer in "model/layer/operation"; the scope in "scope/operation"; else ""."""
    scopes = _scopes(name)
    return (
        scopes[1] if len(scopes) > 2 and scopes[0] not in ("prepare", "loss", "update") else "/".join(scopes[:-1][:1])
    )


def _layer_of_operation(graph, device, node, phase):
    if phase == "forward" and _PRODUCT.fullmatch(node.op):
        _, weights, _ = graph.inputs(device, node)[1]
        return _layer(weights.name) or _layer(node.name)
    return _layer(node.name)


def _phases(graph):
    """The phase of every node."""
    readers = collections.defaultdict(list)
    for (device, _), node in graph.nodes.items():
        if node.op not in ("_Send", "_HostSend", "_Recv", "_HostRecv"):
            for maker_device, maker, _ in graph.inputs(device, node):
                readers[maker_device, maker.name].append((device, node.name))
    phases = {key: _phase_by_name(node) for key, node in graph.nodes.items()}
    pending = [key for key, phase in phases.items() if phase == "backward" and graph.nodes[key].op not in _SHAPES_ONLY]
    while pending:
        for reader in readers[pending.pop()]:
            # The name of a product is sure; anything else may be shared between the passes, or have no scope.
            if phases[reader] in ("forward", "other") and not _PRODUCT.fullmatch(graph.nodes[reader].op):
                phases[reader] = "backward"
                pending.append(reader)
    return phases


def _phase_by_name(node):
    scopes = _scopes(node.name)
    if scopes[0] == "update" and len(scopes) > 1:
        return "update"
    if _GRADIENT.search(node.name):
        return "backward"
    if scopes[0] in ("prepare", "loss") or (len(scopes) == 1 and not _PRODUCT.fullmatch(node.op)):
        return "other"
    return "forward"


def _flops(graph, device, node):
    """FLOPs of a convolution or matrix product, 2 x multiply-adds; 0 for an operation that is none."""
    product = _PRODUCT.fullmatch(node.op)
    if product is None:
        _check_no_product(graph, node)
        return 0
    made_by = graph.inputs(device, node)
    if product[1] == "MatMul":
        rows, columns = graph.shape(*made_by[0])
        return 2 * math.prod(graph.shape(device, node)) * (rows if node.attr["transpose_a"].b else columns)
    # Every position of the convolution's output takes part once with each weight of its kernel, in all three.
    kernel = graph.shape(device, node) if "Filter" in product[1] else graph.shape(*made_by[1])
    output = graph.shape(*made_by[2]) if "Backprop" in product[1] else graph.shape(device, node)
    return 2 * math.prod(output) * math.prod(kernel[:-1])


def _check_no_product(graph, node):
    """Raises ValueError if an operation, or a function that it calls, multiplies in a way that is not counted."""
    if _LIKE_A_PRODUCT.search(node.op) or node.op == "NextIteration":
        raise ValueError(
            f"Expected Conv2D and MatMul outside loops and nothing like them. Received: {node.op} {node.name}"
        )
    called = [each for value in node.attr.values() for each in (value.func, *value.list.func) if each.name]
    bodies = [graph.functions[each.name] for each in called if each.name in graph.functions]
    seen = set()
    while bodies:
        body = bodies.pop()
        seen.add(body.signature.name)
        for inner in body.node_def:
            if _LIKE_A_PRODUCT.search(inner.op):
                raise ValueError(f"Expected no products in compiled functions. Received: {inner.op} in {node.name}")
            names = [each.name for value in inner.attr.values() for each in (value.func, *value.list.func)]
            bodies += [graph.functions[each] for each in names if each in graph.functions and each not in seen]


def _updates(graph, phases):
    """An `Update` for each gradient that an operation of the update reads."""
    gradients = {}
    for (device, name), node in graph.nodes.items():
        if phases[device, name] == "update" and node.op not in _NOT_COUNTED:
            for maker_device, maker, number in graph.inputs(device, node):
                if phases[maker_device, maker.name] == "backward":
                    gradients[device, maker_device, maker.name, number] = maker
    for (device, maker_device, name, number), maker in gradients.items():
        yield Update(_layer(name), device, math.prod(graph.shape(maker_device, maker, number)))


def _crossings(graph, phases):
    """A `Crossing` for each tensor sent, the input first and the largest first; empty ones only signal, and are left out."""
    crossings = []
    for (device, _), node in graph.nodes.items():
        if node.op not in ("_Send", "_HostSend"):
            continue
        maker_device, maker, number = graph.producer(device, node.input[0])
        dtype = tf.as_dtype(node.attr["T"].type)
        if dtype in (tf.resource, tf.variant, tf.string):
            raise ValueError(f"Expected numbers to cross. Received: {dtype} from {maker.op} {maker.name}")
        shape = graph.shape(maker_device, maker, number)
        destination = tf.DeviceSpec.from_string(node.attr["recv_device"].s.decode())
        scopes = _scopes(maker.name)
        label = "/".join(dict.fromkeys([_layer(maker.name), scopes[-1]])).lstrip("/")
        crossing = Crossing(
            name=f"gradient of {label}" if phases[maker_device, maker.name] == "backward" else label,
            source=device,
            destination=f"{destination.device_type}:{destination.device_index}",
            shape=shape,
            dtype=dtype.name,
            bytes=math.prod(shape) * dtype.size,
            is_input=maker.op == "_Arg" or scopes[0] == "prepare",
        )
        if crossing.bytes:
            crossings.append(crossing)
    return sorted(crossings, key=lambda each: (not each.is_input, -each.bytes, each.name))
