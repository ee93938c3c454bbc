"""Counts what a device is given to do in a step: kernels, XLA's programs, and kernels of the host between them.

On a GPU, starting a kernel takes the host some microseconds, and a kernel of the host stops the step until the device
has sent its input. A CPU's executed graph shows both in advance, but for what a GPU adds: bias and ReLU are fused with
fewer convolutions there, and transposes may surround convolutions.
"""

import collections
from typing import NamedTuple

import tensorflow as tf

from alexnet_tf.profiling import executed_graph

# These start no kernel: they pass on their inputs, or the memory of a variable.
_NO_KERNEL = {
    *("_Arg", "_Retval", "Const", "NoOp", "Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot"),
    *("Reshape", "Squeeze", "ExpandDims", "EnsureShape", "VarHandleOp", "ReadVariableOp", "AssignVariableOp"),
    *executed_graph.SENDS,
    *executed_graph.RECEIVES,
}
# Kernels for GPUs whose results are in host memory, as the `HostMemory` of their registration says. That of a shape
# waits for nothing, but its readers are operations on the host, too.
_ON_HOST = {
    *("Shape", "ShapeN", "Size", "Rank", "ConcatOffset", "BroadcastArgs", "BroadcastGradientArgs"),
    *("StatelessRandomGetKeyCounter", "StatelessRandomGetAlg", "StatelessRandomGetKeyCounterAlg"),
}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


class Counts(NamedTuple):
    """What an executed graph consists of."""

    kernels: int  # started one by one, with those of the host, without XLA's programs
    host_kernels: dict[str, int]  # by operation, those that a GPU leaves to the host
    xla_calls: int
    transposes: int  # among the kernels


def count(graph: executed_graph.ExecutedGraph) -> Counts:
    """Counts the operations of an executed graph.

    If one of its devices is a GPU, those on CPUs are the host's. Otherwise it is known from TensorFlow's sources: a GPU
    leaves to the host operations whose kernel returns host memory, and arithmetic with int32 (attribute ``T``), for
    which TensorFlow registers the CPU's kernel in place of a GPU's.

    Args:
      graph: of a step.
    """
    has_gpu = any(device.startswith("GPU") for device in graph.devices)
    kernels, xla_calls, transposes = 0, 0, 0
    host_kernels = collections.Counter()
    for (device, _), node in graph.nodes.items():
        if node.op in _NO_KERNEL:
            continue
        if _is_xla_call(graph, node):
            xla_calls += 1
            continue
        kernels += 1
        transposes += "Transpose" in node.op
        if device.startswith("CPU") if has_gpu else _is_on_host(node):
            host_kernels[node.op] += 1
    return Counts(kernels, dict(host_kernels), xla_calls, transposes)


def _is_xla_call(graph, node):
    if node.op not in _CALLS:
        return False
    function = graph.functions.get(node.attr["f"].func.name)
    return node.attr["_XlaMustCompile"].b or (function is not None and function.attr["_XlaMustCompile"].b)


def _is_on_host(node):
    return node.op in _ON_HOST or ("T" in node.attr and node.attr["T"].type == tf.int32.as_datatype_enum)
