"""Operator that computes a signature's output, read without loading the model."""

from collections.abc import Mapping
from typing import Any, Literal

from paring.graphs.graph_editing import node_name
from paring.models.library_types import GraphDef, MetaGraphDef, NodeDef

Activation = Literal["sigmoid", "softmax", "linear"]

_PASSED_THROUGH = frozenset(
    {
        "Cast",
        "EnsureShape",
        "ExpandDims",
        "FakeQuantWithMinMaxArgs",
        "FakeQuantWithMinMaxVars",
        "Identity",
        "IdentityN",
        "Reshape",
        "Snapshot",
        "Squeeze",
        "StopGradient",
    }
)
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_LAYERS = frozenset(
    {"BatchMatMulV2", "BatchMatMulV3", "Conv1D", "Conv2D", "Conv3D", "Einsum", "MatMul"}
)
_SUMS = frozenset({"Add", "AddV2", "BiasAdd"})
_WEIGHTS = frozenset({"Const", "ReadVariableOp"})


def last_activation(meta_graph: MetaGraphDef, output: str, key: str) -> Activation | None:
    """Return the activation that an output comes from, if the graph shows it.

    Args:
        meta_graph: The MetaGraphDef of a SavedModel.
        output: The output's name in the signature.
        key: The signature's name.

    Returns:
        "sigmoid"; "softmax"; "linear" where it is what a dense or convolutional layer computes; or
        None for anything else, such as arithmetic behind an activation.
    """
    walk = _Walk(meta_graph.graph_def)
    node, scope = walk.producer(meta_graph.signature_def[key].outputs[output].name, None)
    if node is None:
        return None
    if node.op == "Sigmoid":
        return "sigmoid"
    if node.op == "Softmax":
        return "softmax"
    return "linear" if walk.is_layer(node, scope) else None


class _Scope:
    """The body of a function, and the call that it is the body of."""

    def __init__(self, definition: Any, call: Any, outer: "_Scope | None") -> None:
        self.nodes: Mapping[str, Any] = {node.name: node for node in definition.node_def}
        self.returned: Mapping[str, str] = definition.ret
        self.results = [item.name for item in definition.signature.output_arg]
        self.arguments = [item.name for item in definition.signature.input_arg]
        self.call, self.outer = call, outer


class _Walk:
    """Follows a tensor back to the node that computes it, into and out of functions."""

    def __init__(self, graph_def: GraphDef) -> None:
        self._nodes = {node.name: node for node in graph_def.node}
        self._functions = {item.signature.name: item for item in graph_def.library.function}

    def producer(self, tensor: str, scope: _Scope | None) -> tuple[Any, _Scope | None]:
        """Return the node behind reshapes, casts and calls, and its scope; or None."""
        # A broken graph may lead back to where it began.
        seen: set[tuple[str, _Scope | None]] = set()
        while (tensor, scope) not in seen:
            seen.add((tensor, scope))
            name = node_name(tensor)
            node = (self._nodes if scope is None else scope.nodes).get(name)
            if node is None:
                if scope is None or name not in scope.arguments:
                    return None, scope
                tensor = scope.call.input[scope.arguments.index(name)]
                scope = scope.outer
            elif node.op in _CALLS and node.attr["f"].func.name in self._functions:
                scope = _Scope(self._functions[node.attr["f"].func.name], node, scope)
                tensor = scope.returned[scope.results[_index(tensor)]]
            elif node.op in _PASSED_THROUGH:
                tensor = node.input[_index(tensor) if node.op == "IdentityN" else 0]
            else:
                return node, scope
        return None, scope

    def is_layer(self, node: NodeDef, scope: _Scope | None) -> bool:
        """Return whether the node is a matrix product or a convolution, or adds a bias to one."""
        if node.op in _LAYERS:
            return True
        if node.op not in _SUMS:
            return False
        first, second = (self.producer(tensor, scope)[0] for tensor in node.input[:2])
        return any(
            item is not None and other is not None and item.op in _LAYERS and other.op in _WEIGHTS
            for item, other in ((first, second), (second, first))
        )


def _index(tensor: str) -> int:
    """Return a tensor's index among its node's outputs: "node", "node:1" or "node:output:1"."""
    last = tensor.rpartition(":")[2]
    return int(last) if ":" in tensor else 0
