"""Cut of a signature's graph into text work, a dense numeric core, and what follows it.

Text, parsing, vocabulary tables, hashing, and sparse and ragged tensors are work for TensorFlow
alone. Between them and the signature's outputs lies the part that any runtime can compute: it
takes dense tensors of numbers with a row for each example. The cut is made there.

Operators and the types of their tensors show what is text work; whether a tensor
has a row for each example is measured, by computing it for batches of two sizes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from paring.errors import UnsupportedError
from paring.graphs.minimum_cut import TensorNetwork
from paring.graphs.names import place
from paring.graphs.parsed_features import parsed_keys
from paring.models.function_library import FunctionLibrary
from paring.models.library_types import GraphDef

Batch = Mapping[str, np.ndarray[Any, Any]]
"""An array for each input of the signature, by its name."""

# How the names of operators begin that a runtime besides TensorFlow does not have: they parse,
# look up, or make tensors whose size depends on the values.
_OUTSIDE = (
    *("DecodeCSV", "DecodeJSON", "DecodeProto", "DenseBincount", "Bincount", "Fingerprint"),
    *(
        "LookupTable",
        "MutableHashTable",
        "HashTable",
        "ParseExample",
        "ParseSingle",
        "ParseSequence",
    ),
    *("Ragged", "Sparse", "String", "Unique", "UnsortedSegmentJoin", "Unicode", "Where"),
)
# They begin so too, and are arithmetic.
_NUMERIC = frozenset({"SparseSoftmaxCrossEntropyWithLogits", "SparseMatMul", "WhereV2"})
# Inside of a loop or a condition these say nothing about what it computes.
_MESSAGES = frozenset({"Assert", "Const", "NoOp", "Placeholder", "PrintV2", "StringFormat"})


@dataclass(frozen=True)
class Crossing:
    """A tensor that goes from one part into another.

    Attributes:
        name: Its name between the parts.
        tensor: Its name in the graph.
        dtype: The tf.DType.
        shape: Its dimensions, None where one varies; None where not even their number is known.
    """

    name: str
    tensor: str
    dtype: Any
    shape: tuple[int | None, ...] | None

    @property
    def spec(self) -> Any:
        """The tf.TensorSpec."""
        return tf.TensorSpec(self.shape, self.dtype)


@dataclass(frozen=True)
class Frontier:
    """The parts of a signature's graph, by the tensors that cross between them.

    Attributes:
        core_inputs: What the core takes.
        core_outputs: What it gives.
        aside: Tensors of the first part that the core does not take: outputs of the signature
            as they are, and what the last part needs.
        post_inputs: What the last part takes, each among `core_outputs` or `aside`; empty where
            there is none.
        outputs: The tensor of each output of the signature, by its name.
        post_outputs: Names of the outputs that the last part computes.
        outside_weights: Elements of the weights that the first part reads.
    """

    core_inputs: tuple[Crossing, ...]
    core_outputs: tuple[Crossing, ...]
    aside: tuple[Crossing, ...]
    post_inputs: tuple[Crossing, ...]
    outputs: Mapping[str, str]
    post_outputs: tuple[str, ...]
    outside_weights: int = 0


@dataclass
class _Parts:
    """Operations of each part; what is in neither belongs to the core."""

    before: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)


def find_frontier(
    graph_def: GraphDef,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    variables: Mapping[str, Any],
    shapes: Callable[[Sequence[str]], Sequence[Mapping[str, tuple[int, ...]]]],
    batches: Sequence[int],
) -> Frontier:
    """Find where text work ends and the dense numeric core begins.

    Args:
        graph_def: The signature's graph with its functions inlined.
        inputs: The placeholder of each input, by its name.
        outputs: The tensor of each output, an Identity.
        variables: The tf.Variable of each placeholder of a handle.
        shapes: Takes names of tensors, and gives their shapes in each of several batches.
        batches: The number of examples in each of these.

    Raises:
        UnsupportedError: Nothing dense with weights is left for a core.
    """
    view = _View(graph_def, list(inputs.values()), list(outputs.values()), variables)
    measured = _Rows(view, shapes, batches)
    parts = _levels(view, measured)
    absorbed = _absorb(view, parts)
    _move_until_rows(view, parts, measured)
    _narrow(view, parts, absorbed, measured)
    core = [op for op in view.operations if op.name not in parts.before | parts.after]
    sources = {name: _behind(view.graph.get_tensor_by_name(item)) for name, item in outputs.items()}
    heavy = [op for op in core if view.is_heavy(op)]
    if not heavy:
        raise UnsupportedError(
            "this model has no dense numeric core",
            received="no operator with weights after its text, sparse and ragged tensors",
            remedy="serve it as it is; there is nothing for the recipes to work on",
        )
    names = _Names({*inputs, *outputs})
    return _assembled(view, parts, sources, names, rows=measured, inputs=inputs)


class _View:
    """The operations that a signature's outputs need, in order, and what each depends on.

    Attributes:
        graph: The tf.Graph.
        operations: Those that some input changes, after what they need.
    """

    def __init__(
        self,
        graph_def: GraphDef,
        placeholders: Sequence[str],
        outputs: Sequence[str],
        variables: Mapping[str, Any],
    ) -> None:
        self.graph = tf.Graph()
        with self.graph.as_default():
            tf.graph_util.import_graph_def(graph_def, name="")
        self.placeholders = set(placeholders)
        self.variables = variables
        self._library = FunctionLibrary(graph_def)
        self._outside: dict[str, bool] = {}
        self._kinds: dict[str, bool] = {}
        ordered = _in_order(self.graph.get_tensor_by_name(name).op for name in outputs)
        self.changing: set[str] = set()
        for op in ordered:
            if op.name in self.placeholders or any(
                item.op.name in self.changing for item in op.inputs
            ):
                self.changing.add(op.name)
        ends = {self.graph.get_tensor_by_name(name).op.name for name in outputs}
        self.operations = [
            op
            for op in ordered
            if op.name in self.changing and op.name not in self.placeholders and op.name not in ends
        ]

    def inputs(self, op: Any) -> list[Any]:
        """Return the tensors that it reads and that an input changes."""
        return [item for item in op.inputs if item.op.name in self.changing]

    def is_outside(self, op: Any) -> bool:
        """Return whether an operation is text work."""
        if op.name not in self._outside:
            self._outside[op.name] = self._find_outside(op)
        return self._outside[op.name]

    def is_heavy(self, op: Any) -> bool:
        """Return whether an operation applies weights: a matrix or more of floats.

        One that compares with floats and gives integers does not: Transform's bucketize looks up
        buckets between the boundaries of a matrix, and text work may follow.
        """
        return (
            not self.is_outside(op)
            and any(item.dtype.is_floating for item in op.outputs)
            and any(
                item.op.name not in self.changing and _is_weight(item, self.variables)
                for item in op.inputs
            )
        )

    def _find_outside(self, op: Any) -> bool:
        tensors = [*op.inputs, *op.outputs]
        if any(item.dtype == tf.string for item in tensors) or _is_outside(op.type):
            return True
        called = self._library.reached(self._library.called(op.node_def))
        return any(self._is_outside_function(name) for name in called)

    def _is_outside_function(self, name: str) -> bool:
        if name not in self._kinds:
            function = self._library.functions.get(name)
            nodes = function.node_def if function is not None else ()
            self._kinds[name] = any(
                _is_outside(node.op) or _has_text(node)
                for node in nodes
                if node.op not in _MESSAGES
            )
        return self._kinds[name]


def _is_outside(op: str) -> bool:
    return op.startswith(_OUTSIDE) and op not in _NUMERIC


def _has_text(node: Any) -> bool:
    return any(
        value.type == tf.string.as_datatype_enum or tf.string.as_datatype_enum in value.list.type
        for value in node.attr.values()
    )


def _is_number(dtype: Any) -> bool:
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def _is_weight(tensor: Any, variables: Mapping[str, Any]) -> bool:
    """Return whether a tensor that no input changes holds a matrix of floats, or more of them."""
    if tensor.dtype != tf.resource and not tensor.dtype.is_floating:
        return False
    if (tensor.shape.rank or 0) > 1:
        return True
    # What is read from a handle does not know its shape here.
    return any(
        variables[op.name].dtype.is_floating and len(variables[op.name].shape) > 1
        for op in _in_order([tensor.op])
        if op.name in variables
    )


def _behind(tensor: Any) -> Any:
    """Return the tensor that identities pass on."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _in_order(ends: Iterable[Any]) -> list[Any]:
    """Return the operations that some need by their data, each after what it reads."""
    ordered: dict[str, Any] = {}
    stack = [(op, False) for op in ends]
    entered: set[str] = set()
    while stack:
        op, done = stack.pop()
        if done:
            ordered.setdefault(op.name, op)
        elif op.name not in entered:
            entered.add(op.name)
            stack.append((op, True))
            stack += [(item.op, False) for item in op.inputs if item.op.name not in entered]
    return list(ordered.values())


def _levels(view: _View, rows: "_Rows") -> _Parts:
    """Put text work before the core, and what of it needs the core's weights after it."""
    parts = _Parts()
    weighed: set[str] = set()
    # What the core can hold: an embedding of sparse ids, for one, may not.
    dense: set[str] = set()
    outside: list[Any] = []
    for op in view.operations:
        sources = {item.op.name for item in view.inputs(op)}
        if not view.is_outside(op) and all(
            item.op.name in dense or rows.shape(item) is not None for item in view.inputs(op)
        ):
            dense.add(op.name)
        if sources & parts.after or (view.is_outside(op) and sources & weighed):
            parts.after.add(op.name)
        elif view.is_outside(op):
            outside.append(op)
        if sources & weighed or (op.name in dense and view.is_heavy(op)):
            weighed.add(op.name)
    for op in outside:
        _move(view, parts, op)
    return parts


def _move(view: _View, parts: _Parts, op: Any) -> None:
    """Put an operation before the core, with all that it needs."""
    pending = [op]
    while pending:
        item = pending.pop()
        if item.name not in parts.before and item.name not in view.placeholders:
            parts.before.add(item.name)
            pending += [tensor.op for tensor in view.inputs(item)]


def _absorb(view: _View, parts: _Parts) -> set[str]:
    """Put what turns looked-up integers into other integers before the core too.

    Fewer tensors cross then: one of ids, not those of a table, of a hash, and which to take.

    Returns:
        The names of these operations.
    """
    absorbed: set[str] = set()
    for op in view.operations:
        sources = view.inputs(op)
        if (
            op.name not in parts.before | parts.after
            and not view.is_heavy(op)
            and all(item.op.name in parts.before for item in sources)
            and all(item.dtype.is_integer or item.dtype.is_bool for item in op.outputs)
            and not all(item.dtype.is_floating for item in sources)
        ):
            parts.before.add(op.name)
            absorbed.add(op.name)
    return absorbed


def _narrow(view: _View, parts: _Parts, absorbed: set[str], rows: "_Rows") -> None:
    """Give the core back what lets fewer tensors cross.

    A mask and the ids that an embedding clips may both come from the ids of a table: one tensor
    instead of two. It is a minimum cut (Ford and Fulkerson, 1956) through the tensors between
    text work and the core; of several, the one nearest to the core.
    """
    fixed = parts.before - absorbed
    pending = [op for op in view.operations if op.name in fixed]
    while pending:
        for tensor in view.inputs(pending.pop()):
            if tensor.op.name in parts.before and tensor.op.name not in fixed:
                fixed.add(tensor.op.name)
                pending.append(tensor.op)
    network = TensorNetwork()
    for op in view.operations:
        if op.name in fixed or op.name in parts.after:
            continue
        for tensor in view.inputs(op):
            if tensor.op.name not in parts.before:
                continue
            network.add_tensor(tensor.name, can_cross=rows.shape(tensor) is not None)
            if tensor.op.name in fixed:
                network.add_source(tensor.name)
            if op.name not in parts.before:
                network.add_end(tensor.name)
            else:
                for output in op.outputs:
                    network.add_tensor(output.name, can_cross=rows.shape(output) is not None)
                    network.add_edge(tensor.name, output.name)
    parts.before = fixed
    for name in network.minimum_cut():
        _move(view, parts, view.graph.get_tensor_by_name(name).op)


class _Rows:
    """Shapes of tensors in several batches, and which of them have a row for each example."""

    def __init__(
        self,
        view: _View,
        shapes: Callable[[Sequence[str]], Sequence[Mapping[str, tuple[int, ...]]]],
        batches: Sequence[int],
    ) -> None:
        tensors = [
            tensor.name
            for op in view.operations
            for tensor in op.outputs
            if _is_number(tensor.dtype)
        ]
        tensors += [
            f"{name}:0"
            for name in view.placeholders
            if _is_number(view.graph.get_tensor_by_name(f"{name}:0").dtype)
        ]
        self._shapes = shapes(tensors)
        self._batches = batches

    def shape(self, tensor: Any) -> tuple[int | None, ...] | None:
        """Return the shape with an open batch; None if it has no row for each example."""
        measured = [item.get(tensor.name) for item in self._shapes]
        if any(item is None or not item for item in measured):
            return None
        sizes = [item for item in measured if item]
        if len({item[1:] for item in sizes}) > 1:
            return None
        if any(item[0] != batch for item, batch in zip(sizes, self._batches, strict=True)):
            return None
        return (None, *sizes[0][1:])


def _move_until_rows(view: _View, parts: _Parts, rows: _Rows) -> None:
    """Move the cut towards the outputs until all that crosses it has a row for each example."""
    changed = True
    while changed:
        changed = False
        for op in view.operations:
            if op.name in parts.before or op.name in parts.after:
                continue
            for tensor in view.inputs(op):
                source = tensor.op.name
                crosses = source in parts.before or source in view.placeholders
                if crosses and rows.shape(tensor) is None:
                    _move(view, parts, op)
                    changed = True
                    break


class _Names:
    """Names for tensors that cross, none of them given twice."""

    def __init__(self, taken: set[str]) -> None:
        self._outer = set(taken)
        self._taken: set[str] = set()

    def new(self, name: str, *, own: bool = False) -> str:
        """Return the name, or one with a number; `own` allows one of the signature's."""
        taken = self._taken if own else self._taken | self._outer
        free, number = name, 1
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        self._taken.add(free)
        return free


def _assembled(
    view: _View,
    parts: _Parts,
    sources: Mapping[str, Any],
    names: _Names,
    *,
    rows: _Rows,
    inputs: Mapping[str, str],
) -> Frontier:
    core = {
        op.name
        for op in view.operations
        if op.name not in parts.before and op.name not in parts.after
    }
    crossing: dict[str, Any] = {}
    for op in view.operations:
        if op.name in core:
            for tensor in view.inputs(op):
                if tensor.op.name not in core:
                    crossing.setdefault(tensor.name, tensor)
    origins = _Origins(view, inputs)
    core_inputs = tuple(
        _crossing(names.new(origins.name(item), own=True), item, rows.shape(item))
        for item in crossing.values()
    )
    given: dict[str, Crossing] = {}
    for name, tensor in sources.items():
        if tensor.op.name in core:
            # Two outputs may be one tensor.
            given[name] = _crossing(names.new(name, own=True), tensor, None)
    known = {item.tensor: item for item in reversed(list(given.values()))}
    ends = [item for item in sources.values() if item.op.name in parts.after]
    post = _post_inputs(view, ends, parts, core=core, given=set(known), rows=rows)
    extra = {
        item.name: _crossing(names.new(_plain(place(item.op))), item, None)
        for item in post
        if item.op.name in core and item.name not in known
    }
    known |= extra
    aside: dict[str, Crossing] = {}
    outer = [item for item in sources.values() if item.op.name not in core | parts.after]
    for tensor in [*outer, *(item for item in post if item.op.name not in core)]:
        if tensor.name not in aside:
            aside[tensor.name] = _crossing(names.new(origins.name(tensor)), tensor, None)
    if not given:
        raise UnsupportedError(
            "no output of this model is a tensor of its dense numeric core",
            received=", ".join(sources),
            remedy="export a signature that gives scores or values",
        )
    return Frontier(
        core_inputs,
        (*given.values(), *extra.values()),
        tuple(aside.values()),
        tuple(known[item.name] if item.name in known else aside[item.name] for item in post),
        {name: item.name for name, item in sources.items()},
        tuple(name for name, item in sources.items() if item.op.name in parts.after),
        _outside_weights(view, parts),
    )


def _crossing(name: str, tensor: Any, shape: tuple[int | None, ...] | None) -> Crossing:
    if shape is None and tensor.shape.rank is not None:
        shape = tuple(tensor.shape.as_list())
    return Crossing(name, tensor.name, tensor.dtype, shape)


def _post_inputs(
    view: _View, ends: Sequence[Any], parts: _Parts, *, core: set[str], given: set[str], rows: _Rows
) -> list[Any]:
    """Return the tensors that the last part is computed from.

    Light work of the core, such as the index of the largest score, is done again there where
    that leaves the core with the signature's own outputs alone.
    """
    result: dict[str, Any] = {}
    seen: set[str] = set()
    pending = list(ends)
    while pending:
        tensor = pending.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        if tensor.name in given or tensor.op.name in parts.before | view.placeholders:
            result[tensor.name] = tensor
        elif (
            tensor.op.name in parts.after
            or rows.shape(tensor) is None
            or _is_light(view, tensor, core, given)
        ):
            pending += view.inputs(tensor.op)
        else:
            result[tensor.name] = tensor
    return list(result.values())


def _is_light(view: _View, tensor: Any, core: set[str], given: set[str]) -> bool:
    """Return whether a tensor can be computed again from the outputs without any weight."""
    pending, seen = [tensor], set[str]()
    while pending:
        item = pending.pop()
        if item.name in seen or item.name in given or item.op.name not in core:
            continue
        seen.add(item.name)
        if view.is_heavy(item.op):
            return False
        pending += view.inputs(item.op)
    return True


def _outside_weights(view: _View, parts: _Parts) -> int:
    read: set[str] = set()
    pending = [
        item.op
        for op in view.operations
        if op.name in parts.before
        for item in op.inputs
        if item.op.name not in view.changing
    ]
    seen: set[str] = set()
    while pending:
        op = pending.pop()
        if op.name not in seen:
            seen.add(op.name)
            if op.name in view.variables and view.variables[op.name].dtype.is_floating:
                read.add(op.name)
            pending += [item.op for item in op.inputs]
    return sum(int(np.prod(view.variables[name].shape)) for name in read)


class _Origins:
    """Names for tensors by what of the signature's inputs they are computed from."""

    def __init__(self, view: _View, inputs: Mapping[str, str]) -> None:
        self._view = view
        self._known: dict[str, frozenset[str]] = {
            f"{placeholder}:0": frozenset({name}) for name, placeholder in inputs.items()
        }
        for op in view.operations:
            keys = parsed_keys(op)
            sources: frozenset[str] = frozenset().union(
                *(self._known[item.name] for item in view.inputs(op))
            )
            for number, tensor in enumerate(op.outputs):
                own = {keys[number]} if number in keys else sources
                self._known[tensor.name] = frozenset(own)

    def name(self, tensor: Any) -> str:
        """Return the only feature or input that it comes from, or the name of its layer."""
        sources = self._known[tensor.name]
        if len(sources) == 1:
            return next(iter(sources))
        return _plain(place(tensor.op))


def _plain(name: str) -> str:
    return "_".join(name.split("/")[-2:])
