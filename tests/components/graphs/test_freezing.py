from collections import Counter
from typing import Any

import tensorflow as tf

from paring.graphs.freezing import freeze
from paring.graphs.kernels import nodes_without_kernel


class Counting(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(3.0)
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec((), tf.float32)])
    def scale(self, x: Any) -> Any:
        return self.weight * x

    @tf.function(input_signature=[tf.TensorSpec((), tf.float32)])
    def count(self, x: Any) -> Any:
        self.calls.assign_add(1.0)
        return self.scale(x) + self.calls


def kinds(graph: Any) -> Counter[str]:
    return Counter(op.type for op in graph.get_operations())


def test_variables_that_are_read_become_constants() -> None:
    module = Counting()
    result = kinds(freeze(module.scale.get_concrete_function()))
    assert result["ReadVariableOp"] == 0
    assert result["Const"] == 1


def test_a_variable_that_is_changed_stays_one() -> None:
    module = Counting()
    result = kinds(freeze(module.count.get_concrete_function()))
    # The calls are inlined, and the weight is a constant all the same.
    assert result["StatefulPartitionedCall"] == result["PartitionedCall"] == 0
    assert result["AssignAddVariableOp"] == result["ReadVariableOp"] == 1
    assert result["Const"] == 2


def test_a_function_that_xla_would_compile_is_inlined_like_any_other() -> None:
    inner = tf.function(lambda x: tf.tanh(x), jit_compile=True)
    outer = tf.function(lambda x: inner(x) + 1.0)
    result = kinds(freeze(outer.get_concrete_function(tf.TensorSpec([None], tf.float32))))
    assert result["Tanh"] == 1
    assert result["PartitionedCall"] == 0


def test_what_only_xla_computes_stays_in_its_function() -> None:
    inner = tf.function(lambda x: tf.math.lgamma(x), jit_compile=True)
    spec = tf.TensorSpec([4], tf.bfloat16)
    graph_def = inner.get_concrete_function(spec).graph.as_graph_def()
    assert [node.op for node in nodes_without_kernel(graph_def, "CPU")] == ["Lgamma"]
    outer = tf.function(lambda x: inner(x) + 1)
    result = kinds(freeze(outer.get_concrete_function(spec)))
    assert result["PartitionedCall"] == 1
