"""State that a SavedModel's signature keeps from one call to the next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from paring.errors import UnsupportedError
from paring.models.library_types import GraphDef, MetaGraphDef, NodeDef, SignatureDef
from paring.models.saved_model import SavedModel

WRITES: Final = ("Assign", "ResourceApply", "ResourceScatter", "ResourceSparseApply")
"""How the names of operators begin that write to a variable."""

_VARIABLES: Final = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_LOOPS: Final = frozenset({"While", "StatelessWhile"})
# Bodies are walked until nothing new is read; a value crosses one iteration each time.
_MOST_ITERATIONS: Final = 16


def refuse_state(model: SavedModel, key: str = "") -> None:
    """Refuse a SavedModel whose outputs depend on the calls before.

    Examples are compared and timed in any order and from several processes, so that the
    figures of such a model would be those of another one.

    Args:
        model: The SavedModel.
        key: The signature; "" for the one that the model was opened for.

    Raises:
        ModelError: It can't be read.
        UnsupportedError: The signature keeps state.
    """
    kept = state_variables(model.meta_graph, key or model.key)
    if kept:
        raise UnsupportedError(
            f"{model.folder} keeps state from call to call, and examples are evaluated one by one",
            received=f"variables that each call reads and changes: {', '.join(kept[:5])}",
            remedy="build it with stateful=False, or make the state an input and an output of"
            " the signature",
        )


def state_variables(meta_graph: MetaGraphDef, key: str) -> list[str]:
    """Return the variables that carry something from one call of a signature to the next.

    These are the variables that the signature writes and that its outputs depend on.
    Counters and statistics that no output depends on are not among them, nor are the
    states of random generators.

    Args:
        meta_graph: A MetaGraphDef.
        key: The signature; without it there are no such variables.

    Returns:
        Their names, sorted.
    """
    if key not in meta_graph.signature_def:
        return []
    signature = meta_graph.signature_def[key]
    reached = _reached(meta_graph.graph_def.node, signature)
    outputs = _tensors(signature.outputs)
    library = {item.signature.name: item for item in meta_graph.graph_def.library.function}
    if not any(_writes(node.op) for node in _all_nodes(reached, library)):
        return []
    walk = _Walk(library)
    values = walk.nodes(reached, {})
    read = {name for tensor in outputs for name in _get(values, tensor).reads}
    return sorted(read & walk.written)


def called_nodes(meta_graph: MetaGraphDef, key: str) -> Iterable[NodeDef]:
    """Return the nodes that a signature runs, each function's once.

    Args:
        meta_graph: A MetaGraphDef.
        key: A signature that it has.
    """
    library = {item.signature.name: item for item in meta_graph.graph_def.library.function}
    signature = meta_graph.signature_def[key]
    return _all_nodes(_reached(meta_graph.graph_def.node, signature), library)


def without_writes(graph_def: GraphDef) -> GraphDef:
    """Return a copy of a GraphDef without the operators that write to variables.

    Of a signature without `state_variables`, they change nothing that its outputs need.
    """
    copy = type(graph_def)()
    copy.CopyFrom(graph_def)
    for nodes in (copy.node, *(item.node_def for item in copy.library.function)):
        gone = {node.name for node in nodes if _writes(node.op)}
        kept = [node for node in nodes if node.name not in gone]
        for node in kept:
            inputs = [item for item in node.input if item.lstrip("^") not in gone]
            del node.input[:]
            node.input.extend(inputs)
        if gone:
            # Through a copy, since these are parts of what is cleared.
            saved = [type(node).FromString(node.SerializeToString()) for node in kept]
            del nodes[:]
            nodes.extend(saved)
    for function in copy.library.function:
        left = {node.name for node in function.node_def}
        for name in [key for key, node in function.control_ret.items() if node not in left]:
            del function.control_ret[name]
        controls = [
            item for item in function.signature.control_output if item in function.control_ret
        ]
        del function.signature.control_output[:]
        function.signature.control_output.extend(controls)
    return copy


@dataclass(frozen=True)
class _Value:
    """Possible values of a tensor: variables' handles, and the variables it is computed from."""

    handles: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()

    def joined(self, other: "_Value") -> "_Value":
        return _Value(self.handles | other.handles, self.reads | other.reads)


_NOTHING: Final = _Value()
_Values = dict[str, list[_Value]]


@dataclass
class _Walk:
    """Follows variables through a graph and the functions that it calls.

    Attributes:
        library: The functions by name.
        written: The variables that were written so far.
    """

    library: Mapping[str, Any]
    written: set[str] = field(default_factory=set)

    def nodes(self, nodes: Sequence[Any], arguments: _Values) -> _Values:
        """Return the values of each node's outputs; of other than calls, one for all."""
        values = dict(arguments)
        ordered, has_cycles = _in_order(nodes)
        for _ in range(2 if has_cycles else 1):
            for node in ordered:
                given = [_get(values, item) for item in node.input if not item.startswith("^")]
                values[node.name] = self._node(node, given)
        return values

    def _node(self, node: NodeDef, given: Sequence[_Value]) -> list[_Value]:
        if node.op in _VARIABLES:
            shared = node.attr.get("shared_name")
            name = (shared.s.decode() if shared is not None else "") or node.name
            return [_Value(handles=frozenset({name}))]
        called = self._called(node)
        if called:
            return self._call(node, called, given)
        handles = frozenset().union(*(value.handles for value in given))
        if _writes(node.op):
            self.written |= given[0].handles if given else frozenset()
            return [_Value(handles)]
        if node.op == "Identity":
            return list(given)
        # What random numbers are drawn from is no memory of earlier examples.
        if "Random" in node.op or node.op.startswith("Rng"):
            return [_NOTHING]
        return [_Value(reads=handles.union(*(value.reads for value in given)))]

    def _called(self, node: NodeDef) -> list[str]:
        """Return the names of the functions that the node calls."""
        names = [node.op] if node.op in self.library else []
        for _, attribute in sorted(node.attr.items()):
            names += [item.name for item in (attribute.func, *attribute.list.func) if item.name]
        return [name for name in names if name in self.library]

    def _call(self, node: NodeDef, called: Sequence[str], given: Sequence[_Value]) -> list[_Value]:
        if node.op in _LOOPS:
            return self._loop(node, given)
        # All but calls choose by their first input among several functions.
        chosen = given[:1] if len(called) > 1 else []
        results: list[_Value] = []
        for name in called:
            count = len(self.library[name].signature.input_arg)
            result = self._function(name, given[len(given) - count :] if count else [])
            results = _joined(results, result)
        reads = frozenset().union(*(item.reads for item in chosen))
        return [_Value(item.handles, item.reads | reads) for item in results]

    def _loop(self, node: NodeDef, given: Sequence[_Value]) -> list[_Value]:
        values = list(given)
        for _ in range(_MOST_ITERATIONS):
            (going,) = self._function(node.attr["cond"].func.name, values) or [_NOTHING]
            result = self._function(node.attr["body"].func.name, values)
            grown = [
                _Value(item.handles, item.reads | going.reads) for item in _joined(values, result)
            ]
            if grown == values:
                break
            values = grown
        return values

    def _function(self, name: str, given: Sequence[_Value]) -> list[_Value]:
        function = self.library[name]
        names = [item.name for item in function.signature.input_arg]
        arguments = {item: [value] for item, value in zip(names, given, strict=False)}
        values = self.nodes(function.node_def, arguments)
        return [_get(values, function.ret[item.name]) for item in function.signature.output_arg]


def _joined(value: Sequence[_Value], other: Sequence[_Value]) -> list[_Value]:
    size = max(len(value), len(other))
    padded = [[*values, *[_NOTHING] * (size - len(values))] for values in (value, other)]
    return [first.joined(second) for first, second in zip(*padded, strict=True)]


def _get(values: _Values, tensor: str) -> _Value:
    """Return the value of `node`, `node:1` or, within functions, `node:output:1`."""
    name, *rest = tensor.split(":")
    outputs = values.get(name, [])
    index = int(rest[-1]) if rest and rest[-1].isdecimal() else 0
    if index < len(outputs):
        return outputs[index]
    return outputs[0] if len(outputs) == 1 else _NOTHING


def _writes(op: str) -> bool:
    return op.startswith(WRITES)


def _reached(nodes: Iterable[Any], signature: SignatureDef) -> list[Any]:
    """Return the nodes that the outputs need: a SavedModel's graph also restores it.

    Inputs can be within the graph, as those of TensorFlow 1 behind the parsing of examples are.
    """
    known = {node.name: node for node in nodes}
    fed = {tensor.split(":")[0] for tensor in _tensors(signature.inputs)}
    result: dict[str, Any] = {}
    waiting = [tensor.split(":")[0] for tensor in _tensors(signature.outputs)]
    while waiting:
        name = waiting.pop()
        if name in known and name not in result:
            result[name] = known[name]
            if name not in fed:
                waiting += [item.lstrip("^").split(":")[0] for item in known[name].input]
    return list(result.values())


def _tensors(infos: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors of a signature's inputs or outputs."""
    return [info.name for info in infos.values() if info.name]


def _all_nodes(nodes: Iterable[Any], library: Mapping[str, Any]) -> Iterable[NodeDef]:
    """Yield the nodes, and those of all functions that they call."""
    seen: set[str] = set()
    waiting = list(nodes)
    walk = _Walk(library)
    while waiting:
        node = waiting.pop()
        yield node
        for name in walk._called(node):
            if name not in seen:
                seen.add(name)
                waiting += library[name].node_def


def _in_order(nodes: Sequence[Any]) -> tuple[list[Any], bool]:
    """Return the nodes so that each comes after its inputs, and whether there are cycles."""
    known = {node.name: node for node in nodes}
    inputs = {
        node.name: {
            name for item in node.input if (name := item.lstrip("^").split(":")[0]) in known
        }
        for node in nodes
    }
    readers: dict[str, list[str]] = {}
    for name, read in inputs.items():
        for item in read:
            readers.setdefault(item, []).append(name)
    missing = {name: len(read) for name, read in inputs.items()}
    ready = [name for name, count in missing.items() if not count]
    ordered: dict[str, Any] = {}
    while ready:
        name = ready.pop()
        ordered[name] = known[name]
        for reader in readers.get(name, []):
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    # Frames of TensorFlow 1's loops lead back to where they began.
    left = [node for node in nodes if node.name not in ordered]
    return [*ordered.values(), *left], bool(left)
