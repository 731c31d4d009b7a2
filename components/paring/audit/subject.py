"""The audited graph, with the facts that the rules need."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from paring.audit.finding import Severity, counted, graded
from paring.graphs import graph
from paring.graphs.names import place
from paring.models.library_types import MetaGraphDef, NodeDef
from paring.models.signature import Signature

CONVOLUTIONS = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput"})
PRODUCTS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"})
LOOPS = frozenset({"While", "StatelessWhile"})
HEAVY = CONVOLUTIONS | PRODUCTS | LOOPS
"""What a model's time goes into."""

PASSED_ON = frozenset({"Identity", "IdentityN", "StopGradient", "Reshape", "Squeeze", "ExpandDims"})
"""These hand on their first input's values."""


@dataclass(frozen=True)
class Subject:
    """A model's inference graph, and the SavedModel that it came from.

    Attributes:
        meta_graph: The SavedModel's MetaGraphDef, as it was stored.
        signature: What the graph takes and gives.
        graph: The frozen graph of it (tf.Graph), called functions inlined.
    """

    meta_graph: MetaGraphDef
    signature: Signature
    graph: Any

    @cached_property
    def needed(self) -> list[Any]:
        """Operations on which the outputs depend, in topological order."""
        ordered = graph.in_topological_order(self.graph)
        names = {tensor.op.name for tensor in self.graph.outputs}
        for op in reversed(ordered):
            if op.name in names:
                names |= {tensor.op.name for tensor in op.inputs}
                names |= {item.name for item in op.control_inputs}
        return [op for op in ordered if op.name in names]

    @cached_property
    def live(self) -> list[Any]:
        """Operations of `needed` that depend on more than constants."""
        constant = graph.constant_operations(self.needed)
        return [op for op in self.needed if op.name not in constant]

    @cached_property
    def users(self) -> Mapping[str, list[Any]]:
        """The operations of `needed` that read an operation's outputs, by its name."""
        result: dict[str, list[Any]] = defaultdict(list)
        for op in self.needed:
            for name in dict.fromkeys(tensor.op.name for tensor in op.inputs):
                result[name].append(op)
        return result

    @cached_property
    def flops(self) -> Mapping[str, int]:
        """Floating-point operations of each live operation of known shapes, by name."""
        return {op.name: graph.flops(op) if graph.has_known_shapes(op) else 0 for op in self.live}

    @cached_property
    def total_flops(self) -> int:
        """Number of floating-point operations of the whole graph; at least 1, to divide by."""
        return max(1, sum(self.flops.values()))

    def share(self, flops: int) -> float:
        """Return the share of `flops` in the operations of the whole graph."""
        return flops / self.total_flops

    def unknown(self, ops: Iterable[Any]) -> int:
        """Return the number of these products and convolutions whose cost is unknown."""
        return sum(op.type in HEAVY and not self.flops[op.name] for op in ops)

    def cost(self, ops: Sequence[Any]) -> str:
        """Return the cost of these operations, as a part of a sentence."""
        flops = sum(self.flops[op.name] for op in ops)
        result = [f"{flops:,} operations an example, {self.share(flops):.0%} of the model's"]
        unknown = self.unknown(ops)
        if unknown:
            heavy = counted(unknown, "operator")
            result.append(f"{heavy} of unknown cost, whose shapes the graph leaves open")
        return ", and ".join(result if flops else result[-1:])

    def severity(self, ops: Sequence[Any]) -> Severity:
        """Return the severity by the operations' share; at least medium if some are unknown."""
        result = graded(self.share(sum(self.flops[op.name] for op in ops)))
        return "medium" if result == "low" and self.unknown(ops) else result

    @cached_property
    def bodies(self) -> Mapping[str, Sequence[Any]]:
        """The nodes (NodeDef) of each function that loops and conditions call."""
        library = self.graph.as_graph_def().library
        return {item.signature.name: list(item.node_def) for item in library.function}

    def nodes(self) -> Iterator[tuple[str, Any]]:
        """Place and NodeDef of all that runs, bodies of loops and conditions included."""
        queue = [(place(op), op.node_def) for op in self.live]
        seen: set[str] = set()
        while queue:
            where, node = queue.pop(0)
            yield where, node
            for name in _called(node):
                if name in self.bodies and name not in seen:
                    seen.add(name)
                    queue += [(f"{where}/{body.name}", body) for body in self.bodies[name]]

    def behind(self, start: Any, goals: frozenset[str], through: frozenset[str]) -> list[Any]:
        """Return the operations of types `goals` after `start`, over those of `through` alone."""
        result: dict[str, Any] = {}
        queue, seen = [start], {start.name}
        while queue:
            for user in self.users.get(queue.pop().name, ()):
                if user.type in goals:
                    result[user.name] = user
                elif user.type in through and user.name not in seen:
                    seen.add(user.name)
                    queue.append(user)
        return list(result.values())


def origin(tensor: Any) -> Any:
    """Return the operation whose values the tensor has, behind those that hand them on."""
    op = tensor.op
    while op.type in PASSED_ON and op.inputs:
        op = op.inputs[0].op
    return op


def value(tensor: Any) -> Any:
    """Return the array of a constant tensor; None of any other."""
    from tensorflow.python.framework import tensor_util

    op = origin(tensor)
    return tensor_util.MakeNdarray(op.get_attr("value")) if op.type == "Const" else None


def _called(node: NodeDef) -> Iterator[str]:
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        elif attribute.HasField("list"):
            yield from (item.name for item in attribute.list.func)
