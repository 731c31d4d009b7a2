"""Freezing: conversion of a function's variables to constants."""

from collections.abc import Iterable
from typing import Any

_CHANGES = ("Assign", "ResourceApply", "ResourceScatter", "Rng", "Stateful")
"""How the names of operators begin that change a variable."""


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
