"""A signature's graph cut into stages: what is measured for that, and how it is written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import op_def_registry

from paring.converters.partition.stage_layout import Operation, Workload
from paring.graphs.graph import ALIASES, tensor_bytes
from paring.graphs.graph_editing import GraphEditor, node_name
from paring.graphs.inlined_graph import CONTROL_FLOW, InlinedGraph, all_nodes, import_nodes
from paring.graphs.names import place
from paring.models.library_types import GraphDef, NodeDef
from paring.runtimes import Features

# They hand on what is stored of a weight.
_STORED = ALIASES | {"Const", "Placeholder", "ReadVariableOp"}
# Stateful by their definition, but they change nothing.
_ONLY_READING = frozenset({"ReadVariableOp", "VariableShape"})
_NO_SIZE = (tf.resource, tf.string, tf.variant)

STAGE = re.compile(r"paring_stage_(\d+)/")
"""What the name of a node of a stage begins with, or the name of its variable."""


@dataclass
class _Free:
    """Weights and computed nodes of a node that no input changes.

    Attributes:
        weights: The variables and constants, by the nodes that stand for them.
        computed: The nodes that compute something of these, in each call.
    """

    weights: set[str] = field(default_factory=set)
    computed: set[str] = field(default_factory=set)

    def add(self, other: "_Free") -> None:
        self.weights |= other.weights
        self.computed |= other.computed


@dataclass(frozen=True)
class StagedGraph:
    """A graph whose nodes are named for their stages; see `STAGE`.

    Attributes:
        graph_def: The GraphDef.
        outputs: The tensor of each output, by its name in the signature.
        variables: The tf.Variable of the source, by the placeholder of its handle. Each
            stage that reads one has a placeholder of its own.
    """

    graph_def: GraphDef
    outputs: Mapping[str, str]
    variables: Mapping[str, Any]


def stage_name(stage: int, name: str) -> str:
    """Return the name of node `name` in a stage; see `STAGE`."""
    return f"paring_stage_{stage}/{name}"


class StageGraph:
    """A graph that can be cut between any two of its operations.

    Operations are the nodes that some input changes, in the order in which the outputs
    need them; a loop, a condition or a call of a function is one. What no input changes,
    as weights, is in each stage that reads it.

    Attributes:
        inlined: The graph itself.
        operations: The names of the operations.
        places: The same, as a person reads them.
        work: What their memory is computed from.
    """

    def __init__(self, graph: InlinedGraph, features: Features) -> None:
        """Prepare a graph, and run it once to take the size of every tensor.

        What a loop, a condition or a function holds inside is not among them, nor are
        text and lists of tensors.

        Args:
            graph: The graph.
            features: A batch of inputs.
        """
        self.inlined = graph
        self._inputs = {placeholder: name for name, placeholder in graph.inputs.items()}
        handles = {id(variable.handle): variable for variable in graph.variables}
        self._variables = {
            name: handles[id(tensor)]
            for name, tensor in graph.captured.items()
            if tensor.dtype == tf.resource
        }
        editor = _prepared(graph)
        self._free = self._find_free(editor)
        self._outputs = {
            name: self._source(editor.nodes[node_name(tensor)])
            for name, tensor in graph.outputs.items()
        }
        self._prepared = editor.finish(self._outputs.values())
        editor = GraphEditor(self._prepared)
        self._nodes = editor.nodes
        self.operations = [
            node.name
            for node in editor.in_order(self._outputs.values())
            if node.name not in self._free and node.name not in self._inputs
        ]
        self.places = [place(self._nodes[name]) for name in self.operations]
        self._types: dict[str, tuple[Any, int | None]] = {}
        sizes = self._run(features)
        sizes |= {f"{item}:0": features[name].nbytes for item, name in self._inputs.items()}
        self.work = self._workload(sizes)

    def cut(self, cuts: Sequence[int]) -> StagedGraph:
        """Return the graph in stages; for `cuts` see `stage_layout.best_cuts`."""
        stages = {
            name: stage
            for stage, (start, end) in enumerate(pairwise(cuts))
            for name in self.operations[start:end]
        }
        made = type(self._prepared)(
            versions=self._prepared.versions, library=self._prepared.library
        )
        names: set[str] = set()
        variables: dict[str, Any] = {}

        def copied(name: str, stage: int) -> str:
            """Return a node of this stage, with what it reads that no input changes."""
            new = stage_name(stage, name)
            if new not in names:
                names.add(new)
                node = made.node.add()
                node.CopyFrom(self._nodes[name])
                node.name = new
                node.input[:] = [moved(tensor, stage) for tensor in self._nodes[name].input]
                if name in self._variables:
                    variables[new] = self._variables[name]
            return new

        def moved(tensor: str, stage: int) -> str:
            """Return the tensor that replaces `tensor` in this stage."""
            source, _, index = _full_name(tensor).partition(":")
            if source in self._free:
                return f"{copied(source, stage)}:{index}"
            if stages.get(source) == stage:
                return f"{stage_name(stage, source)}:{index}"
            # It comes from elsewhere once, whatever reads it here. No name of TensorFlow's
            # begins with an underscore.
            new = stage_name(stage, f"_received/{source}_{index}")
            if new not in names:
                names.add(new)
                sent = source
                if source in stages:
                    sent = stage_name(stages[source], source)
                node = made.node.add(name=new, input=[f"{sent}:{index}"])
                _hand_on(node, *self._types[f"{source}:{index}"])
            return new

        for name, stage in stages.items():
            copied(name, stage)
        outputs = {
            name: stage_name(stages[node_name(tensor)], _full_name(tensor))
            for name, tensor in self._outputs.items()
        }
        return StagedGraph(made, outputs, variables)

    def _source(self, output: Any) -> str:
        """Return the tensor that an output's identity passes on; its own, if none computes it."""
        source = node_name(output.input[0])
        made = source not in self._inputs and source not in self._free
        return str(output.input[0] if made else output.name)

    def _find_free(self, editor: GraphEditor) -> dict[str, _Free]:
        """Return the nodes that no input changes, outputs excepted."""
        outputs = set(map(node_name, self.inlined.outputs.values()))
        result: dict[str, _Free] = {}
        for node in editor.in_order():
            if node.name in self._inputs or node.name in outputs:
                continue
            if node.op in ("Const", "Placeholder"):
                result[node.name] = _Free({node.name})
                continue
            sources = [node_name(tensor) for tensor in node.input]
            if sources and all(source in result for source in sources) and not _has_state(node.op):
                made = _Free()
                for source in sources:
                    made.add(result[source])
                if node.op not in _STORED:
                    made.computed.add(node.name)
                result[node.name] = made
        return result

    def _run(self, features: Features) -> dict[str, int]:
        """Return bytes of each tensor that is computed, by its full name; their types are noted."""
        computed = {name for item in self._free.values() for name in item.computed}
        names = [*self.operations, *sorted(computed)]
        sizes: dict[str, int] = {}
        measured: list[str] = []

        def run(*tensors: Any) -> Any:
            given = dict(zip(self.inlined.inputs.values(), tensors, strict=True))
            given |= captured_handles(self._variables)
            result = []
            nodes = import_nodes(self._prepared, given, names, name="measured")
            for name, node in zip(names, nodes, strict=True):
                for output in node.outputs:
                    full = f"{name}:{output.value_index}"
                    self._types[full] = (output.dtype, output.shape.rank)
                    sizes[full] = 0
                    if output.dtype not in _NO_SIZE:
                        measured.append(full)
                        result.append(tf.size(output, tf.int64) * output.dtype.size)
            return tf.stack(result)

        specs = []
        for name, placeholder in self.inlined.inputs.items():
            dtype = self.inlined.specs[name].dtype
            self._types[f"{placeholder}:0"] = (dtype, features[name].ndim)
            specs.append(tf.TensorSpec(features[name].shape, dtype))
        function = tf.function(run, autograph=False).get_concrete_function(*specs)
        given = [
            tf.constant(features[name], spec.dtype)
            for name, spec in zip(self.inlined.inputs, specs, strict=True)
        ]
        with _callable(function.graph):
            result = function(*given).numpy()
        return sizes | dict(zip(measured, map(int, result), strict=True))

    def _workload(self, sizes: Mapping[str, int]) -> Workload:
        made: dict[str, list[str]] = {}
        for tensor in sizes:
            made.setdefault(node_name(tensor), []).append(tensor)
        # What is stored where another tensor is, by its full name.
        buffers: dict[str, str] = {}
        operations = []
        for name in self.operations:
            read: dict[str, None] = {}
            weights: set[str] = set()
            for tensor in map(_full_name, self._nodes[name].input):
                free = self._free.get(node_name(tensor))
                if free is None:
                    read[buffers.get(tensor, tensor)] = None
                else:
                    weights |= free.weights
                    computed = sorted(free.computed)
                    read |= dict.fromkeys(item for node in computed for item in made[node])
            makes = made.get(name, [])
            if self._hands_on(name):
                first = _full_name(self._nodes[name].input[0])
                buffers[makes[0]] = buffers.get(first, first)
                makes = []
            operations.append(Operation(list(read), makes, sorted(weights)))
        results = map(_full_name, self._outputs.values())
        return Workload(
            operations,
            tensor_bytes={tensor: size for tensor, size in sizes.items() if tensor not in buffers},
            weight_bytes=self._weight_bytes(),
            results=[buffers.get(tensor, tensor) for tensor in results],
        )

    def _hands_on(self, name: str) -> bool:
        """Return whether the operation's output shares the memory of its first input."""
        node = self._nodes[name]
        return (
            node.op in ALIASES and bool(node.input) and node_name(node.input[0]) not in self._free
        )

    def _weight_bytes(self) -> dict[str, int]:
        result = {
            name: tensor_bytes(item.shape, item.dtype) for name, item in self._variables.items()
        }
        for node in self._prepared.node:
            if node.op == "Const":
                value = node.attr["value"].tensor
                shape = tf.TensorShape(value.tensor_shape)
                result[node.name] = tensor_bytes(shape, tf.as_dtype(value.dtype))
        return result


def captured_handles(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the handle of each variable in the function that is being traced."""
    graph = tf.compat.v1.get_default_graph()
    for variable in variables.values():
        graph.watch_variable(variable)
    return {name: graph.capture(variable.handle) for name, variable in variables.items()}


@contextmanager
def _callable(graph: Any) -> Iterator[None]:
    """Register a graph's functions with TensorFlow, so that imported nodes can call them."""
    known = context.context()
    names = []
    for function in graph.as_graph_def().library.function:
        if not known.has_function(function.signature.name):
            known.add_function_def(function)
            names.append(function.signature.name)
    try:
        yield
    finally:
        for name in names:
            known.remove_function(name)


def _prepared(graph: InlinedGraph) -> GraphEditor:
    """Return the graph without places and identities, what it captures besides variables in it."""
    plain = type(graph.graph_def)()
    plain.CopyFrom(graph.graph_def)
    for node in all_nodes(plain):
        node.device = ""
        # Beside which others it was placed, and what shapes it had.
        for name in ("_class", "_output_shapes"):
            node.attr.pop(name, None)
        if node.op in CONTROL_FLOW:
            # TensorFlow runs them so by default, as `inlined_graph` did.
            node.attr["_lower_using_switch_merge"].b = True
    editor = GraphEditor(plain)
    for name, tensor in graph.captured.items():
        if tensor.dtype != tf.resource:
            node = editor.nodes[name]
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = tensor.dtype.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(tensor.numpy()))
    for node in editor.nodes.values():
        node.input[:] = [_behind_identities(tensor, editor) for tensor in node.input]
    return editor


def _behind_identities(tensor: str, editor: GraphEditor) -> str:
    """Return the tensor that identities pass on as `tensor`."""
    node = editor.nodes[node_name(tensor)]
    while node.op in ("Identity", "IdentityN"):
        tensor = node.input[int(tensor.partition(":")[2] or 0)]
        node = editor.nodes[node_name(tensor)]
    return tensor


def _hand_on(node: NodeDef, dtype: Any, rank: int | None) -> None:
    """Make the node one that hands its input on, and which TensorFlow leaves where it is.

    Without it a loop would run where its inputs are, and operators would be fused with
    those before the cut, on their device. An Identity would be taken out first.
    """
    node.attr["T"].type = dtype.as_datatype_enum
    if rank is None:
        node.op = "Identity"
        return
    node.op = "EnsureShape"
    node.attr["shape"].shape.CopyFrom(tf.TensorShape([None] * rank).as_proto())


def _has_state(op: str) -> bool:
    if op in _ONLY_READING:
        return False
    definition = op_def_registry.get(op)
    # Functions are called by their names, too.
    return definition is None or bool(definition.is_stateful)


def _full_name(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"
