"""Weights of an inference graph: kernels of its convolutions and matrix products, and the rest."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.graphs.graph_editing import GraphEditor, attribute, is_first_output, node_name
from paring.graphs.inlined_graph import InlinedGraph
from paring.models.library_types import GraphDef, NodeDef

Layout = Literal["in_out", "out_in", "other"]

# The inputs of each operator that may be a kernel.
_KERNELS: Mapping[str, tuple[int, ...]] = {
    "BatchMatMul": (0, 1),
    "BatchMatMulV2": (0, 1),
    "BatchMatMulV3": (0, 1),
    "Conv2D": (1,),
    "Conv2DBackpropInput": (1,),
    "Conv3D": (1,),
    "Conv3DBackpropInputV2": (1,),
    "DepthwiseConv2dNative": (1,),
    "Einsum": (0, 1),
    "MatMul": (0, 1),
}
_BATCH_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
# Between the stored weight and its operator; gradients go through all of these.
_DIRECT = frozenset({"Cast", "Identity", "ReadVariableOp"})
_FOLLOWED = _DIRECT | {"ExpandDims", "Reshape", "Squeeze", "Transpose"}
# Between an operator and the addition of its bias.
_BEFORE_BIAS = frozenset({"BatchToSpaceND", "Identity", "Reshape", "Squeeze"})
_ADDITIONS = frozenset({"Add", "AddV2", "BiasAdd"})
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# A constant of fewer elements is no table of weights.
_TABLE_ELEMENTS = 64


@dataclass(frozen=True, eq=False)
class GraphWeight:
    """A weight of an inference graph.

    Attributes:
        name: Distinct among the weights of its graph.
        nodes: The nodes of the graph that give its value.
        value: Its value in the SavedModel, float32.
        variable: The loaded tf.Variable; None for a constant of the graph.
        sources: For a constant, its places in `constants_of` the SavedModel.
        operators: The kinds of operators that it is a kernel of; empty for biases and others.
        layout: Order of the axes of channels of a kernel: the last two of `in_out` are channels in
            and channels out; "other" where neither order is known.
    """

    name: str
    nodes: tuple[str, ...]
    value: NDArray[np.float32]
    variable: Any = None
    sources: frozenset[int] = frozenset()
    operators: frozenset[str] = frozenset()
    layout: Layout = "other"


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """A batch normalization, whose statistics can be computed again.

    Attributes:
        x: The tensor that is normalized.
        mean: Its stored means, [channels].
        variance: Its stored variances, [channels].
        fused: Name of the operator; "" where it is several.
        data_format: Of a fused one, as in NHWC.
    """

    x: str
    mean: GraphWeight
    variance: GraphWeight
    fused: str = ""
    data_format: str = ""


@dataclass(frozen=True)
class GraphWeights:
    """Weights of an inference graph.

    Attributes:
        kernels: Kernels of convolutions and matrix products.
        others: What else is trained: biases, scales and offsets of normalizations, and variables
            that the SavedModel marks as trainable.
        left_out: Names of the other weights with two axes or more, each with the reason.
        batch_norms: Batch normalizations by stored statistics, which are not among the others.
    """

    kernels: Sequence[GraphWeight]
    others: Sequence[GraphWeight]
    left_out: Sequence[str]
    batch_norms: Sequence[BatchNorm]


def find_weights(graph: InlinedGraph, source: GraphDef) -> GraphWeights:
    """Find the weights of a graph that can be trained and written back.

    Those are variables; where no kernel is one, as in a frozen graph, constants. Statistics of
    batch normalization are not among them.

    Args:
        graph: The graph of a signature.
        source: GraphDef of the SavedModel, whose functions hold the constants.
    """
    return _Finder(graph, source).weights()


def constants_of(graph_def: GraphDef) -> Iterator[NodeDef]:
    """Yield the float32 constants of a GraphDef and its functions, in their order."""
    for nodes in (graph_def.node, *(item.node_def for item in graph_def.library.function)):
        for node in nodes:
            if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum:
                yield node


@dataclass(frozen=True)
class _Stored:
    """Place where a weight is stored: the node of a handle, of a captured tensor or a constant."""

    node: str
    path: tuple[str, ...]


class _Finder:
    """Search for the weights of one graph."""

    def __init__(self, graph: InlinedGraph, source: GraphDef) -> None:
        self._graph = graph
        self._editor = GraphEditor(graph.graph_def)
        self._readers = self._editor.readers()
        self._variables = {id(item.handle): item for item in graph.variables}
        self._constants = [
            (node.name, _content(tf.make_ndarray(node.attr["value"].tensor)))
            for node in constants_of(source)
        ]
        self._contents: dict[str, bytes] = {}
        self._uses: dict[str, list[tuple[NodeDef, int, tuple[str, ...]]]] = {}
        for node in self._editor.nodes.values():
            for place in _KERNELS.get(node.op, ()):
                stored = self._stored(node.input[place])
                if stored is not None:
                    self._uses.setdefault(stored.node, []).append((node, place, stored.path))

    def weights(self) -> GraphWeights:
        """Return the weights under distinct names."""
        left_out: dict[str, str] = {}
        kernels = [
            weight
            for stored in self._uses
            if (weight := self._weight(stored, left_out)) is not None and weight.value.ndim > 1
        ]
        if any(item.variable is not None for item in kernels):
            for item in kernels:
                if item.variable is None:
                    left_out[item.nodes[0]] = "a constant beside variables"
            kernels = [item for item in kernels if item.variable is not None]
        kernels = _named([self._as_kernel(item) for item in _distinct(kernels)])
        taken = {node for item in kernels for node in item.nodes}
        frozen = not any(item.variable is not None for item in kernels)
        others = [
            weight
            for stored in self._other_places(frozen)
            if (weight := self._weight(stored, {})) is not None
            and taken.isdisjoint(weight.nodes)
            and (weight.variable is None) == frozen
            # Other constants are part of the program, such as the 3 of a hard swish.
            and (weight.variable is not None or _is_vector(weight.value.shape))
        ]
        others = _distinct(others)
        taken_too = taken | {node for item in others for node in item.nodes}
        left_out |= self._tables(taken | left_out.keys())
        return GraphWeights(
            kernels,
            others,
            [f"{_short(name)} ({why})" for name, why in left_out.items()],
            self._batch_norms(taken_too),
        )

    def _stored(self, tensor: str) -> _Stored | None:
        """Return where the value of a tensor is stored, if that is all it is computed from."""
        path: list[str] = []
        while is_first_output(tensor):
            node = self._editor.nodes[node_name(tensor)]
            if node.op == "Const" or node.name in self._graph.captured:
                return _Stored(node.name, tuple(path))
            if node.op not in _FOLLOWED:
                break
            path.append(node.op)
            tensor = node.input[0]
        return None

    def _weight(self, stored: str, left_out: dict[str, str]) -> GraphWeight | None:
        """Return the weight at a place, or put the reason into `left_out`."""
        captured = self._graph.captured.get(stored)
        variable = None if captured is None else self._variables.get(id(captured))
        if variable is not None:
            return self._of_variable(stored, variable, left_out)
        value = self._value(stored)
        if value.dtype != np.float32:
            if value.dtype.kind == "f":
                left_out[stored] = f"stored as {value.dtype.name}"
            return None
        return self._of_constant(stored, value, left_out)

    def _value(self, name: str) -> NDArray[Any]:
        """Return the value of a constant or a captured tensor."""
        captured = self._graph.captured.get(name)
        if captured is None:
            node = self._editor.nodes[name]
            return np.asarray(tf.make_ndarray(node.attr["value"].tensor))
        return np.asarray(captured.numpy())

    def _of_variable(
        self, stored: str, variable: Any, left_out: dict[str, str]
    ) -> GraphWeight | None:
        name = str(variable.name).partition(":")[0]
        if variable.dtype != tf.float32:
            left_out[name] = f"stored as {variable.dtype.name}"
            return None
        reads = self._reads(stored)
        if others := sorted({node.op for node in reads if node.op != "ReadVariableOp"}):
            left_out[name] = f"read by {', '.join(others)}"
            return None
        nodes = tuple(node.name for node in reads)
        return GraphWeight(name, nodes, variable.numpy(), variable)

    def _of_constant(
        self, stored: str, value: NDArray[np.float32], left_out: dict[str, str]
    ) -> GraphWeight | None:
        content = _content(value)
        sources = self._sources(stored, content)
        if not sources:
            left_out[stored] = "a constant that is computed while the graph is inlined"
            return None
        # Constants of functions that are called several times are one.
        nodes = [
            name
            for name in self._constant_nodes(value.shape)
            if not sources.isdisjoint(self._sources(name, content))
        ]
        return GraphWeight(stored, tuple(nodes), value, sources=frozenset(sources))

    def _constant_nodes(self, shape: tuple[int, ...]) -> Iterator[str]:
        for node in self._editor.nodes.values():
            if node.op == "Const" and _shape(node) == shape:
                yield node.name
            elif node.name in self._graph.captured:
                captured = self._graph.captured[node.name]
                if captured.dtype == tf.float32 and tuple(captured.shape) == shape:
                    yield node.name

    def _sources(self, name: str, content: bytes) -> set[int]:
        """Return which constants of the SavedModel a node with this content may come from."""
        captured = name in self._graph.captured
        if name not in self._contents:
            self._contents[name] = _content(self._value(name))
        if self._contents[name] != content:
            return set()
        return {
            index
            for index, (source, held) in enumerate(self._constants)
            if held == content and (captured or name == source or name.endswith(f"/{source}"))
        }

    def _reads(self, handle: str) -> list[NodeDef]:
        """Return the nodes that take a variable's handle."""
        result = []
        for node in {item.name: item for item in self._readers[handle]}.values():
            if node.op == "Identity":
                result += self._reads(node.name)
            else:
                result.append(node)
        return result

    def _as_kernel(self, weight: GraphWeight) -> GraphWeight:
        """Return the weight with what its operators say of it."""
        uses = [
            use
            for stored, uses_there in self._uses.items()
            for use in uses_there
            if stored in weight.nodes or self._of(stored, weight)
        ]
        layouts = {_layout(node, place, path) for node, place, path in uses}
        name = weight.name if weight.variable is not None else uses[0][0].name
        return replace(
            weight,
            name=name,
            operators=frozenset(node.op for node, _, _ in uses),
            layout=layouts.pop() if len(layouts) == 1 else "other",
        )

    def _of(self, stored: str, weight: GraphWeight) -> bool:
        captured = self._graph.captured.get(stored)
        return weight.variable is not None and captured is weight.variable.handle

    def _other_places(self, frozen: bool) -> Iterator[str]:
        """Yield where biases, scales and offsets are stored, and variables marked trainable."""
        statistics: set[str] = set()
        places: dict[str, None] = {}
        layers = {node.name for uses in self._uses.values() for node, _, _ in uses}
        for node in self._editor.nodes.values():
            if node.op in _BATCH_NORMS and not attribute(node, "is_training").b:
                read = [self._stored(tensor) for tensor in node.input[1:5]]
                places |= {item.node: None for item in read[:2] if item is not None}
                statistics |= {item.node for item in read[2:] if item is not None}
            elif node.name in layers:
                places |= dict.fromkeys(self._biases(node))
            elif node.op in ("Rsqrt", "Sqrt"):
                statistics |= self._under(node)
        if not frozen:
            places |= {
                name: None
                for name, captured in self._graph.captured.items()
                if id(captured) in self._variables and self._variables[id(captured)].trainable
            }
        yield from (name for name in places if name not in statistics)

    def _batch_norms(self, taken: set[str]) -> list[BatchNorm]:
        """Return the batch normalizations whose statistics nothing else reads."""
        result: list[BatchNorm] = []
        for node in self._editor.nodes.values():
            batch_norm = None
            if node.op in _BATCH_NORMS and not attribute(node, "is_training").b:
                batch_norm = self._fused(node)
            elif node.op == "Rsqrt":
                batch_norm = self._decomposed(node)
            if batch_norm is None:
                continue
            statistics = [*batch_norm.mean.nodes, *batch_norm.variance.nodes]
            if len(set(statistics)) == 2 and taken.isdisjoint(statistics):
                taken = taken | set(statistics)
                result.append(batch_norm)
        return result

    def _fused(self, node: NodeDef) -> BatchNorm | None:
        mean, variance = (self._statistic(tensor) for tensor in node.input[3:5])
        if mean is None or variance is None or self._is_frozen(node.input[1]):
            return None
        data_format = attribute(node, "data_format").s.decode() or "NHWC"
        return BatchNorm(node.input[0], mean, variance, node.name, data_format)

    def _decomposed(self, node: NodeDef) -> BatchNorm | None:
        """Return the batch normalization x * f + (offset - mean * f), f = scale * node."""
        below = self._editor.nodes[node_name(node.input[0])]
        if below.op not in _ADDITIONS:
            return None
        variances = [item for item in map(self._statistic, below.input[:2]) if item is not None]
        variances = [item for item in variances if item.value.ndim == 1]
        products = [item for item in self._readers[node.name] if item.op == "Mul"]
        factor = node
        if len(products) == 1:
            scale = _other(products[0], factor)
            if self._is_frozen(scale):
                return None
            factor = products[0]
            products = [item for item in self._readers[factor.name] if item.op == "Mul"]
        if len(variances) != 1 or len(products) != 2:
            return None
        means = {item.name: self._statistic(_other(item, factor)) for item in products}
        stored = [item for item in means.values() if item is not None]
        inputs = [_other(item, factor) for item in products if means[item.name] is None]
        if len(stored) != 1 or stored[0].value.shape != variances[0].value.shape:
            return None
        return BatchNorm(inputs[0], stored[0], variances[0])

    def _statistic(self, tensor: str) -> GraphWeight | None:
        stored = self._stored(tensor)
        return None if stored is None else self._weight(stored.node, {})

    def _is_frozen(self, tensor: str) -> bool:
        """Return whether a tensor is a variable that the SavedModel does not train."""
        stored = self._stored(tensor)
        captured = None if stored is None else self._graph.captured.get(stored.node)
        variable = self._variables.get(id(captured))
        return variable is not None and not variable.trainable

    def _biases(self, node: NodeDef) -> Iterator[str]:
        while True:
            readers = self._readers[node.name]
            if len(readers) != 1:
                return
            before, (node,) = node, readers
            if node.op in _ADDITIONS:
                for tensor in node.input[:2]:
                    stored = self._stored(tensor)
                    if node_name(tensor) != before.name and stored is not None:
                        yield stored.node
            if node.op not in _BEFORE_BIAS:
                return

    def _under(self, node: NodeDef) -> set[str]:
        """Return the variances that a square root is taken of."""
        below = self._editor.nodes[node_name(node.input[0])]
        tensors = below.input[:2] if below.op in _ADDITIONS | {"Maximum"} else [node.input[0]]
        read = (self._stored(tensor) for tensor in tensors if not tensor.startswith("^"))
        return {item.node for item in read if item is not None}

    def _tables(self, known: Iterable[str]) -> dict[str, str]:
        """Return the other weights with two axes or more, with the reason."""
        known = set(known)
        why = "no kernel of a convolution or matrix product"
        result: dict[str, str] = {}
        for name, captured in self._graph.captured.items():
            variable = self._variables.get(id(captured))
            if variable is None or not variable.dtype.is_floating or not _is_table(variable.shape):
                continue
            shown = str(variable.name).partition(":")[0]
            if shown not in known and known.isdisjoint(node.name for node in self._reads(name)):
                others = {node.op for node in self._reads(name)} - {"ReadVariableOp"}
                result[shown] = f"read by {', '.join(sorted(others))}" if others else why
        if self._variables:
            return result
        for node in self._editor.nodes.values():
            if node.op == "Const" and node.name not in known:
                is_float = tf.as_dtype(attribute(node, "dtype").type).is_floating
                shape = _shape(node)
                if is_float and _is_table(shape) and np.prod(shape) >= _TABLE_ELEMENTS:
                    result[node.name] = why
        return result


def _other(node: NodeDef, factor: NodeDef) -> str:
    """Return the factor of a product that is not the result of `factor`."""
    first, second = node.input[:2]
    return str(second if node_name(first) == factor.name else first)


def _layout(node: NodeDef, place: int, path: Sequence[str]) -> Layout:
    """Return the order of the last two axes of a kernel, as the operator takes it."""
    if node.op in ("Conv2D", "Conv3D") and set(path) <= _DIRECT | {"ExpandDims"}:
        return "in_out"
    if node.op != "MatMul" or place != 1 or not set(path) <= _DIRECT:
        return "other"
    return "out_in" if attribute(node, "transpose_b").b else "in_out"


def _distinct(weights: Iterable[GraphWeight]) -> list[GraphWeight]:
    """Return each weight once, by the nodes that give it."""
    result: dict[tuple[str, ...], GraphWeight] = {}
    for weight in weights:
        result.setdefault(tuple(sorted(weight.nodes)), weight)
    return list(result.values())


def _named(kernels: Sequence[GraphWeight]) -> list[GraphWeight]:
    """Return the kernels with short and distinct names."""
    names = [_short(item.name) for item in kernels]
    count: Counter[str] = Counter()
    result = []
    for kernel, name in zip(kernels, names, strict=True):
        count[name] += 1
        result.append(replace(kernel, name=f"{name}_{count[name]}" if count[name] > 1 else name))
    return result


def _short(name: str) -> str:
    """Return a node's name without the calls that it was inlined through."""
    parts = [part for part in name.split("/") if not part.startswith(_CALLS)]
    return "/".join(parts) or name


def _is_table(shape: Iterable[int]) -> bool:
    """Return whether two axes have more than one element."""
    return sum(size > 1 for size in shape) > 1


def _is_vector(shape: Iterable[int]) -> bool:
    """Return whether one axis alone has more than one element."""
    return sum(size > 1 for size in shape) == 1


def _shape(node: NodeDef) -> tuple[int, ...]:
    return tuple(int(item.size) for item in node.attr["value"].tensor.tensor_shape.dim)


def _content(value: NDArray[Any]) -> bytes:
    return hashlib.sha256(f"{value.shape}".encode() + value.tobytes()).digest()
