"""Freezing: conversion of a function's variables to constants."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from paring.graphs.kernels import nodes_without_kernel
from paring.models.library_types import GraphDef

_CHANGES = ("Assign", "ResourceApply", "ResourceScatter", "Rng", "Stateful")
"""How the names of operators begin that change a variable."""


_COMPILED = "_XlaMustCompile"

_patching = RLock()


def release_compiled_functions(graph_def: GraphDef) -> None:
    """Let functions that XLA would compile be inlined like any other.

    TensorFlow keeps functions with jit_compile=True whole. One of them is in each grouped
    convolution of Keras, from the time when processors could not compute it otherwise. They
    stay where they hold operators that nothing but XLA computes.

    Args:
        graph_def: Graph with its functions; changed in place.
    """
    compiled = [
        item
        for nodes in (graph_def.node, *(item.node_def for item in graph_def.library.function))
        for item in nodes
        if _COMPILED in item.attr and item.attr[_COMPILED].b
    ]
    if not compiled or nodes_without_kernel(graph_def, "CPU"):
        return
    for item in compiled:
        item.attr.pop(_COMPILED)
    called = {item.attr["f"].func.name for item in compiled if "f" in item.attr}
    for function in graph_def.library.function:
        if function.signature.name in called:
            for name in (_COMPILED, "_noinline"):
                function.attr.pop(name, None)


@contextmanager
def inlining_compiled_functions() -> Iterator[None]:
    """Have TensorFlow inline functions that XLA would compile where it freezes a graph."""
    from tensorflow.python.framework import convert_to_constants

    export = convert_to_constants.export_meta_graph

    def export_released(*, graph_def: GraphDef, **options: Any) -> Any:
        release_compiled_functions(graph_def)
        return export(graph_def=graph_def, **options)

    with _patching:
        convert_to_constants.export_meta_graph = export_released
        try:
            yield
        finally:
            convert_to_constants.export_meta_graph = export


def freeze(concrete: Any) -> Any:
    """Return the graph of a concrete function with its variables as constants, calls inlined.

    Loops and conditions are kept. A variable that the function changes, as random
    generators and the statistics of a model in training are, stays a variable; its handle
    is a placeholder.
    """
    # The public function, of the same three, has no way to leave variables out.
    from tensorflow.python.framework.convert_to_constants import (
        _construct_concrete_function,
        _FunctionConverterDataInEager,
        _replace_variables_by_constants,
    )

    def converted(left: set[str]) -> Any:
        return _FunctionConverterDataInEager(
            func=concrete,
            lower_control_flow=False,
            aggressive_inlining=False,
            variable_names_denylist=left,
        )

    with inlining_compiled_functions():
        data = converted(set())
        changed = _changed(data.graph_def.node)
        if changed:
            data = converted(changed)
    return _construct_concrete_function(concrete, *_replace_variables_by_constants(data)).graph


def _changed(nodes: Iterable[Any]) -> set[str]:
    """Return the names of the placeholders of variables that one of the nodes changes."""
    known = {node.name: node for node in nodes}
    result = set()
    for node in known.values():
        if node.op.startswith(_CHANGES) and not node.op.endswith("PartitionedCall") and node.input:
            handle = known[node.input[0].partition(":")[0]]
            while handle.op == "Identity":
                handle = known[handle.input[0].partition(":")[0]]
            result.add(handle.name)
    return result
