"""Editing of a GraphDef node by node."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.framework import attr_value_pb2

from paring.models.library_types import GraphDef, NodeDef


def node_name(tensor: str) -> str:
    """Return the node that makes `tensor`: "conv" for "conv", "conv:1" and "^conv"."""
    return tensor.removeprefix("^").partition(":")[0]


def is_first_output(tensor: str) -> bool:
    """Return whether `tensor` is the first output of its node, and no control edge."""
    return not tensor.startswith("^") and tensor.partition(":")[2] in ("", "0")


class GraphEditor:
    """The nodes of a GraphDef, to be changed in place; functions stay as they are.

    Attributes:
        nodes: The NodeDefs by name.
    """

    def __init__(self, graph_def: GraphDef) -> None:
        """Edit a copy of `graph_def` (tf.compat.v1.GraphDef)."""
        self._copy = type(graph_def)()
        self._copy.CopyFrom(graph_def)
        self.nodes: dict[str, Any] = {node.name: node for node in self._copy.node}

    def readers(self) -> dict[str, list[Any]]:
        """Return the nodes that read each node, once for each input or control edge."""
        result: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes.values():
            for tensor in node.input:
                result[node_name(tensor)].append(node)
        return result

    def value(self, tensor: str) -> NDArray[Any] | None:
        """Return the array of the constant that `tensor` is; None if it is none."""
        node = self.nodes[node_name(tensor)]
        if node.op != "Const" or tensor.startswith("^"):
            return None
        array: NDArray[Any] = tf.make_ndarray(node.attr["value"].tensor)
        return array

    def add(self, op: str, name: str, inputs: Iterable[str], **attributes: Any) -> NodeDef:
        """Return a new node; its name is `name`, or that with a number if it is taken.

        Args:
            op: The operator.
            name: What it shall be called.
            inputs: Its input tensors.
            attributes: DTypes (T=tf.float32) and text (data_format="NHWC").
        """
        free, number = name, 1
        while free in self.nodes:
            free, number = f"{name}_{number}", number + 1
        node = self._copy.node.add(name=free, op=op, input=inputs)
        for key, value in attributes.items():
            if isinstance(value, tf.DType):
                node.attr[key].type = value.as_datatype_enum
            else:
                node.attr[key].s = value.encode()
        self.nodes[free] = node
        return node

    def add_constant(self, name: str, array: NDArray[Any]) -> str:
        """Return a new constant; returns the name that it got."""
        node = self.add("Const", name, [], dtype=tf.as_dtype(array.dtype))
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
        return str(node.name)

    def in_order(self, ends: Iterable[str] = ()) -> list[Any]:
        """Return the nodes, each after what it reads, where there is no loop of edges.

        Args:
            ends: Tensors; what each of them needs comes first, right before it is read.
        """
        ordered: dict[str, Any] = {}
        for start in [*map(node_name, ends), *self.nodes]:
            stack = [start]
            opened: set[str] = set()
            while stack:
                name = stack[-1]
                waiting = [
                    item
                    for item in map(node_name, self.nodes[name].input)
                    if item not in ordered and item not in opened
                ]
                opened.add(name)
                if waiting:
                    stack.extend(waiting)
                    continue
                ordered.setdefault(name, self.nodes[name])
                stack.pop()
        return list(ordered.values())

    def finish(self, outputs: Iterable[str]) -> GraphDef:
        """Return the GraphDef of what the tensors `outputs` are computed from."""
        needed: set[str] = set()
        waiting = [node_name(tensor) for tensor in outputs]
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting += map(node_name, self.nodes[name].input)
        made = type(self._copy)(versions=self._copy.versions, library=self._copy.library)
        made.node.extend(node for name, node in self.nodes.items() if name in needed)
        return made


def attribute(node: NodeDef, name: str) -> Any:
    """Return an attribute (AttrValue) of the node; an empty one where it has none.

    Subscripting `node.attr` would add the empty one to the node, which breaks it.
    """
    return node.attr[name] if name in node.attr else attr_value_pb2.AttrValue()


def is_float32(node: NodeDef) -> bool:
    """Return whether the node's type attribute is float32."""
    return bool(attribute(node, "T").type == tf.float32.as_datatype_enum)


def as_vector(array: NDArray[Any], size: int, rank: int) -> NDArray[Any] | None:
    """Return `array` as one value a channel, if it broadcasts along the last axis alone.

    Args:
        array: A constant that is added to or multiplied with a tensor.
        size: The tensor's channels.
        rank: The tensor's number of dimensions.

    Returns:
        An array [size], or None.
    """
    if array.ndim > rank or any(item != 1 for item in array.shape[:-1]):
        return None
    if array.size not in (1, size):
        return None
    return np.broadcast_to(array.reshape(-1), (size,)).copy()
