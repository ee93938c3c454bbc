"""The account of a step: what each device does, and what crosses between the devices.

Where an operation runs cannot be read off the program (see `placement`), nor off its trace: TensorFlow
places, rewrites and fuses operations when a function first runs. What it then executes is one graph per
device, with a send for every tensor that leaves it, and those graphs are read here.

A convolution that was fused with its bias and ReLU bears the ReLU's name, so a product of the forward pass
belongs to the layer whose weights it reads. Executed graphs state no shapes: they are taken by name from the
trace, as rewriting keeps what a name stands for (on a GPU perhaps with its axes in another order, on which no
count depends).
"""

import collections
import math
import pathlib
import re
import tempfile
from typing import NamedTuple

import tensorflow as tf

PHASES = ("forward", "backward", "update", "other")

_KINDS = {"input": True, "beside the input": False, "all": None}

_SENDS = ("_Send", "_HostSend")
_RECEIVES = ("_Recv", "_HostRecv")
# Bookkeeping rather than work.
_NOT_COUNTED = {"_Arg", "_Retval", "Const", "NoOp", *_SENDS, *_RECEIVES}
# Rewriting shares these between the passes, under the name of either.
_SHAPES_ONLY = {"Const", "Shape", "ShapeN"}
_SAME_ELEMENTS = {"Identity", "Cast", "Transpose"}
_PRODUCT = re.compile(
    r"_?(?:Mkl)?(?:Native)?(?:PadWith)?(?:Fused)?"
    r"(Conv2D|Conv2DBackpropInput|Conv2DBackpropFilter(?:WithBias)?|MatMul)"
)
_NOT_A_MODEL = ("prepare", "loss", "errors", "update")
_LIKE_A_PRODUCT = re.compile(r"Conv\dD|Conv2d|Conv$|MatMul|Einsum|Gemm|XlaDot|XlaConv|CudnnRNN|NextIteration")
_GRADIENT = re.compile(r"(^|/)gradient(s|_tape)(_\d+)?/")
_PREFIXES = re.compile(r"^((gradient(s|_tape)(_\d+)?|ConstantFolding|\w+Optimizer)/)+")


class Operation(NamedTuple):
    """An operation that was executed. A compiled function is one."""

    name: str
    type: str
    device: str  # such as "CPU:0"
    phase: str  # one of `PHASES`
    layer: str  # such as "conv1_a"; outside every layer its scope, or ""
    flops: int  # of a convolution or matrix product, 2 x multiply-adds; 0 for any other operation


class Update(NamedTuple):
    """A gradient that arrived at the update."""

    device: str  # where the update runs
    layer: str
    parameters: int


class Crossing(NamedTuple):
    """A tensor sent from one device to another."""

    name: str
    source: str
    destination: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    is_input: bool  # made of the step's arguments without its variables, or under the scope "prepare"


class Account(NamedTuple):
    """What one execution of a step did."""

    devices: tuple[str, ...]
    operations: tuple[Operation, ...]
    updates: tuple[Update, ...]
    crossings: tuple[Crossing, ...]


def account(function, *arguments):
    """Runs a step once and gives the account of it.

    Phases go by name scopes: what stands under "update" is of the update, what stands under a tape's own
    scope or reads what does is backward, "prepare", "loss", "errors" and no scope are "other", the rest is forward. The
    update has no products: its share is the number of parameters whose gradients it reads on each device.

    Args:
      function: a ``tf.function`` such as `trainer.Trainer.step`, neither called before (only a first run can
        be observed) nor compiled as a whole. The run has its effects: one step is taken.
      *arguments: its arguments.

    Raises:
      ValueError: if nothing could be observed, for a product whose FLOPs cannot be told (in a compiled
        function or a loop, or of another kind than Conv2D and MatMul), or for a tensor of unknown size.
    """
    pieces, trace = _executed_graphs(function, arguments)
    graph = _Graph(pieces, trace)
    # First of all, or what reads the tensors of a loop would be refused for their unknown shapes.
    for node in graph.nodes.values():
        if not _PRODUCT.fullmatch(node.op):
            _check_no_product(graph, node, node.name)
    phases = _phases(graph)
    operations = []
    for (device, name), node in graph.nodes.items():
        if node.op not in _NOT_COUNTED:
            phase = phases[device, name]
            layer = _layer_of_operation(graph, device, node, phase)
            operations.append(Operation(name, node.op, device, phase, layer, _flops(graph, device, node)))
    crossings = sorted(_crossings(graph, phases), key=lambda each: (not each.is_input, -each.bytes, each.name))
    return Account(tuple(sorted(pieces)), tuple(operations), tuple(_updates(graph, phases)), tuple(crossings))


def total(account, quantity, *, aside=(), **only):
    """Sums up "operations", "flops" or "parameters" (updated).

    Layers `aside` are left out; `only` a ``device``, ``layer`` or ``phase`` (of parameters: none) is counted.
    """
    return sum(
        1 if quantity == "operations" else getattr(each, quantity)
        for each in (account.updates if quantity == "parameters" else account.operations)
        if each.layer not in aside and all(getattr(each, key) == value for key, value in only.items())
    )


def crossing_bytes(account, *, is_input=None):
    """Bytes that crossed, all directions together: in all, of the step's input, or of the rest (False)."""
    return sum(each.bytes for each in account.crossings if is_input in (None, each.is_input))


def as_dict(account):
    """The account as dictionaries and lists of plain values, ready for JSON, with sums for the operations."""

    def sums(**only):
        phases = {
            quantity: {phase: total(account, quantity, phase=phase, **only) for phase in PHASES}
            for quantity in ("operations", "flops")
        }
        return {**phases, "parameters": total(account, "parameters", **only)}

    layers = sorted({each.layer for each in account.operations if each.flops})
    return {
        "devices": {device: sums(device=device) for device in account.devices},
        "layers": {layer: sums(layer=layer) for layer in layers},
        "crossings": [{**each._asdict(), "shape": list(each.shape)} for each in account.crossings],
        "crossing_bytes": {name: crossing_bytes(account, is_input=kind) for name, kind in _KINDS.items()},
    }


def table(account, *, aside=("fc8",)):
    """The account as text of at most 110 columns (up to three devices).

    Layers `aside` live on one device by design: further lines give the shares without them.
    """

    def row(title, quantity, style, scale=1, **only):
        values = [total(account, quantity, device=device, **only) / scale for device in account.devices]
        cells = (f"{value:>12{style}}{100 * value / (sum(values) or 1):>6.1f} %" for value in values)
        return f"{title:<34}" + "".join(cells)

    cases = [((), "")]
    if any(each.layer in aside for each in account.updates):
        cases.append((aside, f", {', '.join(aside)} aside"))
    lines = [f"{'Work':<34}" + "".join(f"{device:>20}" for device in account.devices)]
    lines += [row(f"operations, {phase}", "operations", ".0f", phase=phase) for phase in PHASES]
    for phase in ("forward", "backward"):
        for layers, remark in cases:
            lines.append(row(f"GFLOP, {phase}{remark}", "flops", ".3f", 1e9, phase=phase, aside=layers))
    for layers, remark in cases:
        lines.append(row(f"parameters updated{remark}", "parameters", ",.0f", aside=layers))
    lines += ["", f"{'Crossing':<46}{'from':>8}{'to':>8}{'shape':>22}{'type':>10}{'MB':>14}"]
    for each in account.crossings:
        name = f"{each.name}{' (input)' * each.is_input}"[:45]
        way = f"{each.source:>8}{each.destination:>8}"
        shape = "x".join(map(str, each.shape)) or "scalar"
        lines.append(f"{name:<46}{way}{shape:>22}{each.dtype:>10}{each.bytes / 1e6:>14.6f}")
    for name, kind in _KINDS.items():
        lines.append(f"{'total, ' + name:<94}{crossing_bytes(account, is_input=kind) / 1e6:>14.6f}")
    return "\n".join(lines)


def _executed_graphs(function, arguments):
    """Runs `function` once; returns the graph that each device, such as "CPU:0", executed, and the trace."""
    traces = function.experimental_get_tracing_count()
    metadata = tf.compat.v1.RunMetadata()
    with tempfile.TemporaryDirectory() as directory:
        with tf.summary.create_file_writer(directory).as_default(step=0):
            tf.summary.trace_on(graph=True, profiler=False)
            try:
                function(*arguments)
                tf.summary.trace_export("step")
            finally:
                tf.summary.trace_off()
        # The two message types of an event file have no public name but these.
        for record in tf.data.TFRecordDataset([str(path) for path in pathlib.Path(directory).iterdir()]):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                metadata.MergeFromString(value.tensor.string_val[0])
    trace = function.get_concrete_function(*arguments)
    if function.experimental_get_tracing_count() == traces or trace.function_def.attr["_XlaMustCompile"].b:
        raise ValueError(f"Expected a tf.function not called before and not compiled as a whole. Received: {function}")
    # Before it stand graphs of single operations that ran outside functions, some since an earlier account.
    pieces = metadata.function_graphs[-1].partition_graphs
    return {_short(piece.node[0].device): piece for piece in pieces if piece.node}, trace.graph


def _short(device):
    """The end of a full device name, such as "CPU:0"."""
    return device.rpartition("device:")[2]


def _meeting_point(node):
    """What a send and its receive have in common."""
    return tuple(node.attr[key].s for key in ("send_device", "recv_device", "tensor_name"))


class _Graph:
    """The graphs of all devices, read as one; nodes are found by device and name."""

    def __init__(self, pieces, trace):
        self.nodes = {(device, node.name): node for device, piece in pieces.items() for node in piece.node}
        bodies = (body for piece in pieces.values() for body in piece.library.function)
        self.functions = {body.signature.name: body for body in bodies}
        self._trace = {operation.name: operation for operation in trace.get_operations()}
        self._sends = {_meeting_point(node): key for key, node in self.nodes.items() if node.op in _SENDS}

    def makers(self, device, node):
        """The (device, node, output number) that made each input of a node, on whichever device."""
        made_by = []
        for edge in (each for each in node.input if not each.startswith("^")):  # "^": order, not data
            name, _, number = edge.partition(":")
            maker = self.nodes[device, name]
            if maker.op in _RECEIVES:
                send = self._sends[_meeting_point(maker)]
                made_by += self.makers(send[0], self.nodes[send])
            else:
                made_by.append((device, maker, int(number or 0)))
        return made_by

    def shape(self, device, node, number=0):
        """The shape of an output of a node, a tuple of ints."""
        traced = self._trace.get(node.name)
        if node.op == "Const":
            shape = tf.TensorShape(node.attr["value"].tensor.tensor_shape)
        elif traced is not None and number < len(traced.outputs):
            shape = traced.outputs[number].shape
        elif node.op.endswith("Conv2DBackpropFilterWithBias"):
            shape = tf.TensorShape(self.shape(device, node)[-1:])
        elif node.op in _SAME_ELEMENTS:
            return self.shape(*self.makers(device, node)[0])
        else:
            shape = tf.TensorShape(None)
        if not shape.is_fully_defined():
            raise ValueError(f"Expected a known shape. Received: {shape} of {node.op} {node.name}:{number}")
        return tuple(shape)


def _scopes(name):
    """The parts of a name, without what tape and rewriting put first and the numbers that make scopes unique.

    Keras opens the scope of a layer twice in a call, so that every layer's bears such a number.
    """
    *scopes, last = _PREFIXES.sub("", name).split("/")
    return [*(re.sub(r"_\d+$", "", scope) for scope in scopes), last]


def layer_of_name(name):
    """The layer in "model/layer/operation", the scope in "scope/operation", otherwise ""."""
    *scopes, _ = _scopes(name)
    return scopes[1] if len(scopes) > 1 and scopes[0] not in _NOT_A_MODEL else "".join(scopes[:1])


def _layer_of_operation(graph, device, node, phase):
    name = node.name
    if phase == "forward" and _PRODUCT.fullmatch(node.op):
        name = graph.makers(device, node)[1][1].name
    return layer_of_name(name) or layer_of_name(node.name)


def _phases(graph):
    """The phase of every node, by its name or as a reader of what the backward pass made."""
    readers = collections.defaultdict(list)
    for (device, name), node in graph.nodes.items():
        if node.op not in _SENDS + _RECEIVES:
            for maker_device, maker, _ in graph.makers(device, node):
                readers[maker_device, maker.name].append((device, name))
    phases = {key: phase_of_name(node.name, node.op) for key, node in graph.nodes.items()}
    pending = [key for key in phases if phases[key] == "backward" and graph.nodes[key].op not in _SHAPES_ONLY]
    while pending:
        for reader in readers[pending.pop()]:
            if phases[reader] in ("forward", "other") and not _PRODUCT.fullmatch(graph.nodes[reader].op):
                phases[reader] = "backward"
                pending.append(reader)
    return phases


def phase_of_name(name, kind):
    """The phase that an operation's name tells, one of `PHASES`: "other" for what bears no scope, whatever it reads.

    Args:
      name, kind: of the operation and its type, such as "alexnet/conv1_a/convolution" and "Conv2D".
    """
    scopes = _scopes(name)
    if len(scopes) > 1 and scopes[0] == "update":
        return "update"
    if _GRADIENT.search(name):
        return "backward"
    if scopes[0] in _NOT_A_MODEL or (len(scopes) == 1 and not is_product(kind)):
        return "other"
    return "forward"


def is_product(kind):
    """Whether operations of a type are convolutions or matrix products, in either pass."""
    return _PRODUCT.fullmatch(kind) is not None


def _flops(graph, device, node):
    """FLOPs of a convolution or matrix product, 2 x multiply-adds; 0 for an operation that is none."""
    product = _PRODUCT.fullmatch(node.op)
    if product is None:
        return 0
    makers = graph.makers(device, node)
    if product[1] == "MatMul":
        rows, columns = graph.shape(*makers[0])
        return 2 * math.prod(graph.shape(device, node)) * (rows if node.attr["transpose_a"].b else columns)
    # In all three convolutions each position of the forward one's output meets each weight of its kernel.
    kernel = graph.shape(device, node) if "Filter" in product[1] else graph.shape(*makers[1])
    output = graph.shape(*makers[2]) if "Backprop" in product[1] else graph.shape(device, node)
    return 2 * math.prod(output) * math.prod(kernel[:-1])


def _check_no_product(graph, node, name):
    """Raises ValueError if a node, or a function that it calls, has products that cannot be counted."""
    if _LIKE_A_PRODUCT.search(node.op):
        raise ValueError(f"Expected only Conv2D and MatMul, uncompiled. Received: {node.op} in {name}")
    for value in node.attr.values():
        for called in (value.func.name, *(each.name for each in value.list.func)):
            for inner in graph.functions[called].node_def if called else ():
                _check_no_product(graph, inner, name)


def _updates(graph, phases):
    """An `Update` for each gradient that the update reads, once on each device that reads it."""
    gradients = {}
    for (device, name), node in graph.nodes.items():
        if phases[device, name] == "update" and node.op not in _NOT_COUNTED:
            for maker in graph.makers(device, node):
                if phases[maker[0], maker[1].name] == "backward":
                    gradients[device, maker[0], maker[1].name, maker[2]] = maker
    for (device, _, name, _), maker in gradients.items():
        yield Update(device, layer_of_name(name), math.prod(graph.shape(*maker)))


def _crossings(graph, phases):
    """A `Crossing` for each tensor sent; empty ones are signals and left out."""
    for (device, _), node in graph.nodes.items():
        if node.op not in _SENDS:
            continue
        maker_device, maker, number = graph.makers(device, node)[0]
        dtype = tf.as_dtype(node.attr["T"].type)
        if dtype in (tf.resource, tf.variant, tf.string):
            raise ValueError(f"Expected numbers to cross. Received: {dtype.name} from {maker.name}")
        shape = graph.shape(maker_device, maker, number)
        if 0 in shape:
            continue
        *scopes, last = _scopes(maker.name)
        label = f"{layer_of_name(maker.name)}/{last}" if scopes else last
        yield Crossing(
            name=f"gradient of {label}" if phases[maker_device, maker.name] == "backward" else label,
            source=device,
            destination=_short(node.attr["recv_device"].s.decode()),
            shape=shape,
            dtype=dtype.name,
            bytes=math.prod(shape) * dtype.size,
            is_input=_is_input(graph, maker_device, maker),
        )


def _is_input(graph, device, node):
    """Whether a node works on arguments of the step (or what was prepared of them), and on no variable."""
    has_argument, seen, pending = False, set(), [(device, node)]
    while pending:
        device, node = pending.pop()
        prepared = _scopes(node.name)[0] == "prepare"
        if node.op == "_Arg" and node.attr["T"].type == tf.resource.as_datatype_enum:
            return False
        has_argument |= prepared or node.op == "_Arg"
        if not prepared and (device, node.name) not in seen:
            seen.add((device, node.name))
            pending += [maker[:2] for maker in graph.makers(device, node)]
    return has_argument
