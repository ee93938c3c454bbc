"""Kernels, those of the host, XLA's programs and transposes are counted in the graph that ran."""

import types

import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from alexnet_tf.profiling import executed_graph
from alexnet_tf.profiling import operation_counts


def test_operations_of_a_function_are_counted(optimized_graphs):
    compiled = tf.function(lambda x: tf.exp(x) + 1, jit_compile=True)

    def step(x, seed):
        # An argument without a known size, so that its shape has to be computed.
        draws = tf.random.stateless_uniform(tf.shape(x), seed)
        wrong = tf.reduce_sum(tf.cast(x > draws, tf.int32))
        return compiled(tf.transpose(x, [1, 0])), wrong

    shape = tf.TensorSpec([None, 3]), tf.TensorSpec([2], tf.int64)
    graph = executed_graph.run(tf.function(step, input_signature=shape), tf.ones([4, 3]), tf.constant([1, 2], tf.int64))
    found = operation_counts.count(graph)
    assert found.host_kernels == {"Shape": 1, "StatelessRandomGetKeyCounter": 1, "Sum": 1}
    # These, and the draws, the comparison, its conversion and the transpose.
    assert (found.kernels, found.xla_calls, found.transposes) == (7, 1, 1)


def test_operations_on_a_cpu_are_the_hosts_where_there_is_a_gpu():
    nodes = {
        (device, op): node_def_pb2.NodeDef(op=op, name=op)
        for device, op in (("GPU:0", "MatMul"), ("CPU:0", "Abs"), ("CPU:0", "_Arg"))
    }
    graph = types.SimpleNamespace(devices=("CPU:0", "GPU:0"), nodes=nodes, functions={})
    assert operation_counts.count(graph) == operation_counts.Counts(2, {"Abs": 1}, 0, 0)
