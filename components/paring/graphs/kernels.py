"""Kernels of this TensorFlow: the devices and compilers that support an operator."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from paring.models.library_types import GraphDef, NodeDef

XLA = "XLA_CPU_JIT"
"""What XLA can compile. The operators of TPUs are in their own library; these stand in."""

GPU = "GPU"

_STRUCTURAL = frozenset(
    [
        *("Identity", "IdentityN", "NoOp", "Placeholder", "_Arg", "_Retval", "Const"),
        *("Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"),
        *("PartitionedCall", "StatefulPartitionedCall"),
    ]
)
"""Operators that pass values on or call functions."""


def has_kernel(node: NodeDef, *devices: str) -> bool:
    """Return whether a NodeDef has a kernel of its types for one of the devices."""
    return any(
        device in devices and all(_takes(node, name, types) for name, types in limits.items())
        for device, limits in _kernels(node.op)
    )


def nodes_without_kernel(graph: GraphDef, *devices: str) -> list[NodeDef]:
    """Return the nodes of a graph and its functions that no kernel of the devices computes."""
    functions = (node for function in graph.library.function for node in function.node_def)
    return [
        node
        for node in (*graph.node, *functions)
        if node.op not in _STRUCTURAL and not has_kernel(node, *devices)
    ]


def _takes(node: NodeDef, name: str, types: frozenset[int]) -> bool:
    attribute = node.attr.get(name)
    if attribute is None:
        return True
    given: Iterable[int] = attribute.list.type or (attribute.type,)
    return all(item in types for item in given)


@cache
def _kernels(operator: str) -> tuple[tuple[str, Mapping[str, frozenset[int]]], ...]:
    """Return the device of each kernel, and the types that its attributes may have."""
    from tensorflow.python.framework import kernels

    _register_xla()
    return tuple(
        (
            item.device_type,
            {limit.name: frozenset(limit.allowed_values.list.type) for limit in item.constraint},
        )
        for item in kernels.get_registered_kernels_for_op(operator).kernel
    )


@cache
def _register_xla() -> None:
    """Have TensorFlow list XLA's kernels, which it does once something was compiled."""
    import tensorflow as tf

    compiled: Callable[..., Any] = tf.function(tf.identity, jit_compile=True)
    compiled(tf.constant(0.0))
