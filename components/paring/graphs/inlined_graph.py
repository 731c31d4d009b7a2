"""A SavedModel's serving signature as one graph: what it calls in it, its variables beside it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.grappler import tf_optimizer

from paring.errors import UnsupportedError
from paring.graphs.freezing import release_compiled_functions
from paring.graphs.graph_editing import GraphEditor, node_name
from paring.models.arguments import argument_specs, by_position, signature_specs
from paring.models.library_types import GraphDef, NodeDef

# Frames of TensorFlow 1's loops and conditions are held together by control edges.
_FRAMES = frozenset({"Enter", "Exit", "LoopCond", "Merge", "NextIteration", "Switch"})

CONTROL_FLOW = frozenset({"Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"})
"""Loops and conditions whose bodies are functions."""


@dataclass(frozen=True)
class InlinedGraph:
    """Graph of a signature with its functions inlined.

    Attributes:
        graph_def: The GraphDef of what its outputs need, without control edges.
        inputs: The placeholder of each input, by its name in the signature.
        outputs: The tensor of each output; each has a node of its own, an Identity.
        specs: tf.TensorSpec of each input.
        captured: What the graph reads besides, by placeholder: handles of variables, and
            tensors.
        variables: The tf.Variables.
        source_operators: Number of operators of the signature before anything is changed.
    """

    graph_def: GraphDef
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    specs: Mapping[str, Any]
    captured: Mapping[str, Any]
    variables: Sequence[Any]
    source_operators: int


def inlined_graph(function: Any) -> InlinedGraph:
    """Return the graph of a signature's function, without what is there for its side effects.

    Args:
        function: The signature, as `paring.graphs.graph.load_function` gives it.

    Raises:
        UnsupportedError: It reads a lookup table, or variables that it also writes.
    """
    specs = signature_specs(function)
    names = sorted(function.structured_outputs)
    traced = traced_flat(function, specs)
    outputs = [tensor.name for tensor in traced.outputs]
    whole = inline_functions(traced, outputs)
    inlined = _inference_only(whole, outputs)
    return InlinedGraph(
        inlined,
        {name: node_name(item.name) for name, item in zip(specs, traced.inputs, strict=False)},
        dict(zip(names, outputs, strict=True)),
        specs,
        _captured(traced, whole, inlined),
        traced.graph.variables,
        count_operators(whole),
    )


def traced_flat(function: Any, specs: Mapping[str, Any]) -> Any:
    """Return a concrete function of the signature whose outputs, sorted, are nodes of it.

    Args:
        function: The signature, as `paring.graphs.graph.load_function` gives it.
        specs: A tf.TensorSpec by the name of each input.
    """
    call = by_position(function, specs)

    def flat(*tensors: Any) -> list[Any]:
        results = call(*tensors)
        # An output that is an input as it is gets a node of its own.
        return [tf.identity(results[name]) for name in sorted(function.structured_outputs)]

    return tf.function(flat, autograph=False).get_concrete_function(*argument_specs(specs))


def import_nodes(
    graph_def: GraphDef, given: Mapping[str, Any], outputs: Sequence[str], *, name: str
) -> list[Any]:
    """Put a GraphDef into the graph that is being traced; its output tensors.

    Args:
        graph_def: The GraphDef.
        given: Tensors in the place of nodes; these are left out.
        outputs: The names of its output tensors, none of them of a node in `given`.
        name: What the names of its nodes begin with.
    """
    body = type(graph_def)(versions=graph_def.versions, library=graph_def.library)
    body.node.extend(node for node in graph_def.node if node.name not in given)
    _rename_functions(body)
    read = {node_name(tensor) for node in body.node for tensor in node.input}
    input_map = {key: tensor for key, tensor in given.items() if key in read}
    for function in body.library.function:
        # Importing puts them into the graph alone, and loops are looked up where it is run.
        if not context.context().has_function(function.signature.name):
            context.context().add_function_def(function)
    results = tf.graph_util.import_graph_def(
        body, input_map=input_map, return_elements=list(outputs), name=name
    )
    return list(results)


def _rename_functions(graph_def: GraphDef) -> None:
    """Give the functions names of their own, by what they hold.

    TensorFlow keeps one definition of a name for the whole process.
    """
    digest = hashlib.sha256(graph_def.library.SerializeToString(deterministic=True)).hexdigest()
    names = {
        item.signature.name: f"{item.signature.name}_{digest[:8]}"
        for item in graph_def.library.function
    }
    for function in graph_def.library.function:
        function.signature.name = names[function.signature.name]
    for node in all_nodes(graph_def):
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name in names:
                    called.name = names[called.name]


def count_operators(graph_def: GraphDef) -> int:
    """Return the number of operators, with those within loops, without constants."""
    return sum(node.op not in ("Const", "Placeholder") for node in all_nodes(graph_def))


def all_nodes(graph_def: GraphDef) -> Iterable[NodeDef]:
    """Yield the nodes of the graph, and of the functions that it calls."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def run_grappler(graph_def: GraphDef, kept: Iterable[str], optimizers: Iterable[str]) -> GraphDef:
    """Run some of Grappler's optimizers; the tensors or nodes `kept` stay."""
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    meta_graph.collection_def["train_op"].node_list.value.extend(kept)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1
    options.optimizers.extend(optimizers)
    options.function_optimization = rewriter_config_pb2.RewriterConfig.AGGRESSIVE
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.TWO
    options.meta_optimizer_timeout_ms = 600_000
    return tf_optimizer.OptimizeGraph(config, meta_graph)


def _captured(traced: Any, whole: Any, inlined: Any) -> dict[str, Any]:
    """Return the values that the inference graph reads besides its inputs, by placeholder.

    They are handles of variables, and tensors that a function closes over.

    Args:
        traced: The function.
        whole: Its GraphDef.
        inlined: The part of it that its outputs need.

    Raises:
        UnsupportedError: It reads another resource, or variables that it also writes.
    """
    kept = {node.name for node in inlined.node}
    variables = {id(variable.handle) for variable in traced.graph.variables}
    result: dict[str, Any] = {}
    for tensor, placeholder in traced.graph.captures:
        name = node_name(placeholder.name)
        if name not in kept:
            continue
        if tensor.dtype == tf.resource and id(tensor) not in variables:
            raise UnsupportedError(
                "this model reads what can't become a constant",
                received=f"a lookup table or another resource, {name}",
                remedy="keep lookups out of the signature, in what prepares its inputs",
            )
        result[name] = tensor
    # What loops and conditions write is not followed; that the outputs need them is enough.
    written = {node.op for function in inlined.library.function for node in function.node_def}
    nodes = {node.name: node for node in whole.node}
    written |= {node.op for node in whole.node if _handle(node, nodes) in result}
    if writes := sorted(filter(_writes, written)):
        raise UnsupportedError(
            "this model's outputs depend on variables that each call changes",
            received=f"operators {', '.join(writes)}",
            remedy="hand the state in and out, as inputs and outputs of the signature",
        )
    return result


def _handle(node: NodeDef, nodes: Mapping[str, Any]) -> str:
    """Return the placeholder of what the node's first input is, if it is one as it is."""
    while node.input and not node.input[0].startswith("^"):
        node = nodes[node_name(node.input[0])]
        if node.op != "Identity":
            break
    return str(node.name)


def _writes(op: str) -> bool:
    return op.startswith(("Assign", "ResourceScatter", "ResourceApply", "ResourceSparseApply"))


def inline_functions(traced: Any, outputs: Sequence[str]) -> GraphDef:
    """Return a function's GraphDef with what it calls in it, loops and conditions kept.

    Args:
        traced: A concrete function.
        outputs: The tensors that stay.
    """
    graph_def = convert_to_constants.disable_lower_using_switch_merge(traced.graph.as_graph_def())
    for function in graph_def.library.function:
        # Another form of the function for GPUs, which would keep it from being inlined.
        function.attr.pop("api_implements", None)
    for node in all_nodes(graph_def):
        # Gradients that a model defines, as silu does; their functions would be looked for.
        node.attr.pop("_gradient_op_type", None)
    release_compiled_functions(graph_def)
    fed = [tensor.name for tensor in traced.inputs]
    return run_grappler(graph_def, [*fed, *outputs], ("function",))


def _inference_only(graph_def: GraphDef, outputs: Sequence[str]) -> GraphDef:
    """Return the graph without what is there for its side effects: assertions, prints, updates."""
    editor = GraphEditor(graph_def)
    for node in editor.nodes.values():
        # Nodes beside which it is placed: of TensorFlow 1 also inputs, which are replaced.
        node.attr.pop("_class", None)
    if not any(node.op in _FRAMES for node in editor.nodes.values()):
        for node in editor.nodes.values():
            data = [tensor for tensor in node.input if not tensor.startswith("^")]
            del node.input[:]
            node.input.extend(data)
    return editor.finish(outputs)
