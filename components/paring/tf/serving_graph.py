"""A SavedModel's serving signature as one frozen graph, and back again.

TensorFlow's own machinery does the work: Grappler inlines functions, folds constants
and drops what no output needs; `convert_to_constants` freezes the variables.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf
from google.protobuf.message import Error
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.grappler import tf_optimizer

from paring.errors import UnsupportedError
from paring.tf.batch_norm_folding import fold_batch_norms
from paring.tf.graph_editing import GraphEditor, is_first_output, node_name
from paring.tf.signature import SERVING_KEY, read_signature

Variables = Literal["frozen", "kept"]

# By what TensorFlow says that it can't do something.
_REFUSALS = (tf.errors.OpError, ValueError, TypeError, KeyError, NotImplementedError)
# A constant of fewer elements is no weight; it stays a constant in any case.
_WEIGHT_ELEMENTS = 64
# Frames of TensorFlow 1's loops and conditions are held together by control edges.
_FRAMES = frozenset({"Enter", "Exit", "LoopCond", "Merge", "NextIteration", "Switch"})
_CONTROL_FLOW = frozenset({"Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"})
# `remap` is left out: it makes operators that only TensorFlow on this device knows, and
# TensorFlow fuses them itself when it runs the graph.
_SIMPLIFYING = ("debug_stripper", "function", "constfold", "arithmetic", "dependency", "pruning")


@dataclass(frozen=True)
class ServingGraph:
    """What a signature computes, without variables.

    Attributes:
        graph_def: The GraphDef.
        inputs: The placeholder of each input, by its name in the signature.
        outputs: The tensor of each output.
        specs: tf.TensorSpec of each input.
        source_operators: How many operators the signature runs before anything is done.
    """

    graph_def: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    specs: Mapping[str, Any]
    source_operators: int

    @property
    def operators(self) -> int:
        """How many operators it runs, with those within loops, without constants."""
        return _count_operators(self.graph_def)


def inference_graph(function: Any) -> ServingGraph:
    """The graph of a signature's function: frozen, folded and simplified.

    Args:
        function: The signature, as `paring.tf.graph.load_function` gives it.

    Raises:
        UnsupportedError: It can't be frozen; the message names what is in the way.
    """
    try:
        simplified = _simplify(_frozen(function))
        folded = fold_batch_norms(simplified.graph_def, simplified.outputs.values())
        done = _simplify(replace(simplified, graph_def=folded))
    except (*_REFUSALS, Error) as error:
        # Protocol buffers hold no more than 2 GB, for one.
        raise UnsupportedError(
            "this model can't be frozen",
            received=f"{type(error).__name__}: {error}".splitlines()[0][:300],
            remedy="serve it as it is",
        ) from error
    for node in _all_nodes(done.graph_def):
        # TensorFlow runs them so unless told otherwise, as `_inlined` did to keep them whole.
        if node.op in _CONTROL_FLOW:
            node.attr["_lower_using_switch_merge"].b = True
    return done


def export(
    graph: ServingGraph,
    folder: Path,
    *,
    compiled: bool = False,
    variables: Variables = "frozen",
    fixed_batch: int = 0,
) -> None:
    """Write the graph as a SavedModel with the signature `serving_default`.

    Args:
        graph: The graph.
        folder: Gets the SavedModel.
        compiled: Whether TensorFlow compiles the signature with XLA, for each shape of
            its inputs when it first gets it.
        variables: Whether weights are constants of the graph, or variables beside it,
            which other tools can read and set.
        fixed_batch: If not 0, a second signature takes this batch size alone; see
            `fixed_key`.
    """
    module = tf.Module()
    weights = _weights(graph) if variables == "kept" else {}
    module.weights = {
        # A checkpoint takes no slashes in a name.
        name.replace("/", "."): tf.Variable(value, trainable=False, name=name)
        for name, value in weights.items()
    }

    def serve(*tensors: Any) -> dict[str, Any]:
        given = dict(zip(graph.inputs.values(), tensors, strict=True))
        given |= {name: module.weights[name.replace("/", ".")].read_value() for name in weights}
        results = _imported(graph.graph_def, given, list(graph.outputs.values()), "graph")
        return dict(zip(graph.outputs, results, strict=True))

    module.serve = tf.function(serve, autograph=False, jit_compile=True if compiled else None)
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in graph.specs.items()]
    _save(module, module.serve.get_concrete_function(*specs), graph.specs, folder, fixed_batch)


def export_again(function: Any, folder: Path, *, fixed_batch: int) -> None:
    """Write a loaded signature, as it is, as a SavedModel with a fixed batch beside it.

    Everything else of the model it came from is left out.

    Args:
        function: The signature, as `paring.tf.graph.load_function` gives it.
        folder: Gets the SavedModel.
        fixed_batch: See `export`.
    """
    module = tf.Module()
    # Functions hold their variables weakly.
    module.loaded = function._paring_owner
    specs = function.structured_input_signature[1]
    names = list(specs)
    module.serve = tf.function(
        lambda *tensors: function(**dict(zip(names, tensors, strict=True))), autograph=False
    )
    ordered = [tf.TensorSpec(one.shape, one.dtype, name=name) for name, one in specs.items()]
    _save(module, module.serve.get_concrete_function(*ordered), specs, folder, fixed_batch)


def fixed_key(batch: int) -> str:
    """The name of the signature that takes `batch` examples and no other number."""
    return f"serving_batch_{batch}"


def _save(module: Any, concrete: Any, specs: Mapping[str, Any], folder: Path, batch: int) -> None:
    signatures = {SERVING_KEY: concrete}
    if batch:
        fixed = [
            tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype, name=name)
            for name, spec in specs.items()
        ]

        def serve_batch(*tensors: Any) -> dict[str, Any]:
            results: dict[str, Any] = concrete(*tensors)
            for tensor in results.values():
                if tensor.shape.rank and tensor.shape[0] is None:
                    tensor.set_shape([batch, *tensor.shape[1:]])
            return results

        module.serve_batch = tf.function(serve_batch, autograph=False)
        signatures[fixed_key(batch)] = module.serve_batch.get_concrete_function(*fixed)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    saved = read_signature(folder)
    if saved.inputs.keys() != specs.keys():
        raise UnsupportedError(
            "the names of this model's inputs can't be kept in a new SavedModel",
            received=f"{', '.join(specs)} became {', '.join(saved.inputs)}",
            remedy="export the model with names of letters, digits and underscores",
        )


def _frozen(function: Any) -> ServingGraph:
    specs = dict(function.structured_input_signature[1])
    names = sorted(function.structured_outputs)

    def flat(*tensors: Any) -> list[Any]:
        results = function(**dict(zip(specs, tensors, strict=True)))
        # An output that is an input as it is gets a node of its own.
        return [tf.identity(results[name]) for name in names]

    ordered = [tf.TensorSpec(one.shape, one.dtype, name=name) for name, one in specs.items()]
    traced = tf.function(flat, autograph=False).get_concrete_function(*ordered)
    outputs = [tensor.name for tensor in traced.outputs]
    inputs = [node_name(tensor.name) for tensor in traced.inputs[: len(specs)]]
    whole = _inlined(traced, outputs)
    inlined = _inference_only(whole, outputs)
    captured = _captured(traced, whole, inlined)

    def pure(*tensors: Any) -> list[Any]:
        given = dict(zip(inputs, tensors, strict=True))
        graph = tf.compat.v1.get_default_graph()
        for variable in traced.graph.variables:
            graph.watch_variable(variable)
        given |= {name: graph.capture(tensor) for name, tensor in captured.items()}
        return _imported(inlined, given, outputs, "")

    clean = tf.function(pure, autograph=False).get_concrete_function(*ordered)
    data = convert_to_constants._FunctionConverterDataInEager(
        func=clean, lower_control_flow=False, aggressive_inlining=True
    )
    # The public function also takes functions out of TensorFlow's context that others
    # still hold.
    graph_def, _ = convert_to_constants._replace_variables_by_constants(data)
    return ServingGraph(
        graph_def,
        {name: node_name(one.name) for name, one in zip(specs, clean.inputs, strict=False)},
        dict(zip(names, (tensor.name for tensor in clean.outputs), strict=True)),
        specs,
        _count_operators(whole),
    )


def _imported(
    graph_def: Any, given: Mapping[str, Any], outputs: Sequence[str], name: str
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
    results = tf.graph_util.import_graph_def(
        body, input_map=input_map, return_elements=list(outputs), name=name
    )
    return list(results)


def _rename_functions(graph_def: Any) -> None:
    """Give the functions names of their own, by what they hold.

    TensorFlow keeps one definition of a name for the whole process.
    """
    digest = hashlib.sha256(graph_def.library.SerializeToString(deterministic=True)).hexdigest()
    names = {
        one.signature.name: f"{one.signature.name}_{digest[:8]}"
        for one in graph_def.library.function
    }
    for function in graph_def.library.function:
        function.signature.name = names[function.signature.name]
    for node in _all_nodes(graph_def):
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name in names:
                    called.name = names[called.name]


def _captured(traced: Any, whole: Any, inlined: Any) -> dict[str, Any]:
    """What the inference graph reads besides its inputs, by placeholder.

    They are handles of variables, and tensors that a function closes over.

    Args:
        traced: The function.
        whole: Its GraphDef.
        inlined: The part of it that its outputs need.

    Raises:
        UnsupportedError: It reads another resource, or variables that it also writes.
    """
    kept = {node.name for node in inlined.node}
    variables = {id(one.handle) for one in traced.graph.variables}
    found: dict[str, Any] = {}
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
        found[name] = tensor
    # What loops and conditions write is not followed; that the outputs need them is enough.
    written = {node.op for function in inlined.library.function for node in function.node_def}
    nodes = {node.name: node for node in whole.node}
    written |= {node.op for node in whole.node if _handle(node, nodes) in found}
    if writes := sorted(filter(_writes, written)):
        raise UnsupportedError(
            "this model's outputs depend on variables that each call changes",
            received=f"operators {', '.join(writes)}",
            remedy="hand the state in and out, as inputs and outputs of the signature",
        )
    return found


def _handle(node: Any, nodes: Mapping[str, Any]) -> str:
    """The placeholder of what the node's first input is, if it is one as it is."""
    while node.input and not node.input[0].startswith("^"):
        node = nodes[node_name(node.input[0])]
        if node.op != "Identity":
            break
    return str(node.name)


def _writes(op: str) -> bool:
    return op.startswith(("Assign", "ResourceScatter", "ResourceApply", "ResourceSparseApply"))


def _count_operators(graph_def: Any) -> int:
    return sum(node.op not in ("Const", "Placeholder") for node in _all_nodes(graph_def))


def _all_nodes(graph_def: Any) -> Iterable[Any]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _inlined(traced: Any, outputs: Sequence[str]) -> Any:
    """The function's GraphDef with what it calls in it, loops and conditions kept."""
    graph_def = convert_to_constants.disable_lower_using_switch_merge(traced.graph.as_graph_def())
    for function in graph_def.library.function:
        # Another form of the function for GPUs, which would keep it from being inlined.
        function.attr.pop("api_implements", None)
    fed = [tensor.name for tensor in traced.inputs]
    return _grappler(graph_def, [*fed, *outputs], ("function",))


def _inference_only(graph_def: Any, outputs: Sequence[str]) -> Any:
    """The graph without what is there for its side effects: assertions, prints, updates."""
    editor = GraphEditor(graph_def)
    if not any(node.op in _FRAMES for node in editor.nodes.values()):
        for node in editor.nodes.values():
            data = [tensor for tensor in node.input if not tensor.startswith("^")]
            del node.input[:]
            node.input.extend(data)
    return editor.finish(outputs)


def _simplify(graph: ServingGraph) -> ServingGraph:
    """The graph after Grappler: constants folded, identities and dead branches gone."""
    outputs = list(graph.outputs.values())
    simple = _grappler(graph.graph_def, [*graph.inputs.values(), *outputs], _SIMPLIFYING)
    editor = GraphEditor(simple)
    _read_constants_directly(editor)
    return replace(graph, graph_def=editor.finish(outputs))


def _read_constants_directly(editor: GraphEditor) -> None:
    """Take the identities between constants and their readers out."""
    for node in editor.in_order():
        for place, tensor in enumerate(node.input):
            source = editor.nodes[node_name(tensor)]
            if source.op == "Identity" and is_first_output(tensor) and len(source.input) == 1:
                before = editor.nodes[node_name(source.input[0])]
                if before.op == "Const":
                    node.input[place] = before.name


def _grappler(graph_def: Any, kept: Iterable[str], optimizers: Iterable[str]) -> Any:
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


def _weights(graph: ServingGraph) -> dict[str, Any]:
    """The values of the constants that hold weights, by name."""
    # An output that does not depend on the inputs has been folded to a constant.
    given = {node_name(tensor) for tensor in graph.outputs.values()}
    found: dict[str, Any] = {}
    for node in graph.graph_def.node:
        if node.op != "Const" or node.name in given:
            continue
        value = tf.make_ndarray(node.attr["value"].tensor)
        if tf.as_dtype(node.attr["dtype"].type).is_floating and value.size >= _WEIGHT_ELEMENTS:
            found[node.name] = value
    return found
