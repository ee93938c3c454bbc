"""The graphs that TensorFlow executed for a function, one for each device, read as one graph.

Where an operation runs is visible neither in the program (see `models.placement`) nor in its traced graph: TensorFlow
places, rewrites and fuses operations when a function first runs. It then executes one graph per device, with a send for
every tensor that leaves the device.

Executed graphs have no shapes. They are taken by name from the traced graph, as rewriting preserves what a name stands
for (on a GPU perhaps with its axes in another order, on which no count depends).
"""

import math
import pathlib
import tempfile
from typing import Any

import tensorflow as tf

SENDS = ("_Send", "_HostSend")
RECEIVES = ("_Recv", "_HostRecv")
# Operations whose outputs share the memory of their inputs.
_ALIASES = {"EnsureShape", "Identity", "IdentityN", "Reshape", "Snapshot", "StopGradient", "PreventGradient"}
_SAME_ELEMENTS = {"Identity", "Cast", "Transpose"}


class ExecutedGraph:
    """The graphs of all devices; nodes are found by device and name.

    Args:
      partitions: dict from a device such as "CPU:0" to its ``GraphDef``.
      traced: the graph before TensorFlow rewrote it.

    Attributes:
      devices: names such as "CPU:0".
      nodes: dict from (device, name) to a ``NodeDef``.
      functions: dict from a name to a ``FunctionDef`` that nodes may call.
    """

    def __init__(self, partitions: dict[str, Any], traced: tf.Graph):
        self.devices = tuple(sorted(partitions))
        self.nodes = {(device, node.name): node for device, graph in partitions.items() for node in graph.node}
        bodies = (body for graph in partitions.values() for body in graph.library.function)
        self.functions = {body.signature.name: body for body in bodies}
        self._traced = {operation.name: operation for operation in traced.get_operations()}
        self._sends = {_rendezvous(node): key for key, node in self.nodes.items() if node.op in SENDS}

    def makers(self, device: str, node: Any) -> list[tuple[str, Any, int]]:
        """Returns the (device, node, output number) that made each input of a node, on whichever device."""
        made_by = []
        for edge in (each for each in node.input if not each.startswith("^")):  # "^": a control dependency
            name, _, number = edge.partition(":")
            maker = self.nodes[device, name]
            if maker.op in RECEIVES:
                send = self._sends[_rendezvous(maker)]
                made_by += self.makers(send[0], self.nodes[send])
            else:
                made_by.append((device, maker, int(number or 0)))
        return made_by

    def shape(self, device: str, node: Any, number: int = 0) -> tuple[int, ...]:
        """Returns the shape of an output of a node.

        Raises:
          ValueError: if the shape is unknown.
        """
        traced = self._traced.get(node.name)
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

    def size(self, device: str, node: Any, number: int = 0) -> int:
        """Returns the bytes of an output of a node; 0 for one that rewriting added, such as a pooling's workspace."""
        traced = self._traced.get(node.name)
        if traced is None or number >= len(traced.outputs):
            return 0
        return math.prod(self.shape(device, node, number)) * traced.outputs[number].dtype.size

    def source(self, device: str, node: Any, number: int) -> tuple[str, Any, int]:
        """Returns the (device, node, output number) that made a tensor's values: those that share its memory."""
        while node.op in _ALIASES:
            device, node, number = self.makers(device, node)[number if node.op == "IdentityN" else 0]
        return device, node, number


def _rendezvous(node):
    """Returns what a send and its receive have in common."""
    return tuple(node.attr[key].s for key in ("send_device", "recv_device", "tensor_name"))


def short_name(device: str) -> str:
    """Returns the end of a full device name, such as "CPU:0"."""
    return device.rpartition("device:")[2]


def run(function: Any, *arguments: Any) -> ExecutedGraph:
    """Runs a ``tf.function`` once and returns the graph that TensorFlow executed.

    Args:
      function: neither called before (only a first run can be observed) nor compiled as one program with XLA. The run
        has its effects.
      *arguments: its arguments.

    Raises:
      ValueError: if nothing could be observed.
    """
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
        # These two message types have public names only in compat.v1.
        for record in tf.data.TFRecordDataset([str(path) for path in pathlib.Path(directory).iterdir()]):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                metadata.MergeFromString(value.tensor.string_val[0])
    traced = function.get_concrete_function(*arguments)
    if function.experimental_get_tracing_count() == traces or traced.function_def.attr["_XlaMustCompile"].b:
        raise ValueError(
            f"Expected a tf.function not called before and not compiled as one program with XLA. Received: {function}"
        )
    # The graphs before the last are of operations that ran outside functions, some since an earlier call.
    graphs = metadata.function_graphs[-1].partition_graphs
    partitions = {short_name(graph.node[0].device): graph for graph in graphs if graph.node}
    return ExecutedGraph(partitions, traced.graph)
