"""A SavedModel's signature as one frozen graph, and back again.

TensorFlow's own machinery does the work: Grappler inlines functions, folds constants
and drops what no output needs; `convert_to_constants` freezes the variables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf
from google.protobuf.message import Error
from tensorflow.python.framework import convert_to_constants

from paring.errors import UnsupportedError, first_line
from paring.graphs.batch_norm_folding import fold_batch_norms
from paring.graphs.graph_editing import GraphEditor, is_first_output, node_name
from paring.graphs.inlined_graph import (
    CONTROL_FLOW,
    all_nodes,
    count_operators,
    import_nodes,
    inlined_graph,
    run_grappler,
)
from paring.graphs.other_signatures import check_passed, other_signatures
from paring.models.arguments import (
    argument_specs,
    by_position,
    save_signatures,
    signature_specs,
)
from paring.models.library_types import GraphDef
from paring.models.same_signatures import keep_methods, same_signatures
from paring.models.saved_model import SavedModel
from paring.system.memory import frequent_collection, release_memory

Variables = Literal["frozen", "kept"]

# By what TensorFlow says that it can't do something.
_REFUSALS = (tf.errors.OpError, ValueError, TypeError, KeyError, NotImplementedError)
# A constant of fewer elements is no weight; it stays a constant in any case.
_WEIGHT_ELEMENTS = 64
# `remap` is left out: it makes operators that only TensorFlow on this device knows, and
# TensorFlow fuses them itself when it runs the graph.
_SIMPLIFYING = ("debug_stripper", "function", "constfold", "arithmetic", "dependency", "pruning")


@dataclass(frozen=True)
class ServingGraph:
    """Graph of a signature with its functions inlined, without variables.

    Attributes:
        graph_def: The GraphDef.
        inputs: The placeholder of each input, by its name in the signature.
        outputs: The tensor of each output.
        specs: tf.TensorSpec of each input.
        source_operators: Number of operators of the signature before anything is changed.
    """

    graph_def: GraphDef
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    specs: Mapping[str, Any]
    source_operators: int

    @property
    def operators(self) -> int:
        """Number of operators of the graph, with those within loops, without constants."""
        return count_operators(self.graph_def)


def inference_graph(function: Any) -> ServingGraph:
    """Return the graph of a signature's function: frozen, folded and simplified.

    Args:
        function: The signature, as `paring.graphs.graph.load_function` gives it.

    Raises:
        UnsupportedError: It can't be frozen; the message names what is in the way.
    """
    try:
        # Each of these leaves graphs in cycles behind, with all weights in them.
        with frequent_collection():
            graph = _frozen(function)
            release_memory()
            graph = _simplify(graph)
            graph = replace(
                graph, graph_def=fold_batch_norms(graph.graph_def, graph.outputs.values())
            )
            release_memory()
            done = _simplify(graph)
    except (*_REFUSALS, Error) as error:
        # Protocol buffers hold no more than 2 GB, for one.
        raise UnsupportedError(
            "this model can't be frozen",
            received=first_line(error),
            remedy="serve it as it is",
        ) from error
    for node in all_nodes(done.graph_def):
        # TensorFlow runs them so by default; `inline_functions` turned that off to keep them whole.
        if node.op in CONTROL_FLOW:
            node.attr["_lower_using_switch_merge"].b = True
    return done


def export(
    graph: ServingGraph,
    folder: Path,
    source: SavedModel,
    *,
    compiled: bool = False,
    variables: Variables = "frozen",
    fixed_batch: int = 0,
) -> None:
    """Write the graph as a SavedModel, as the signature that it was made of.

    Args:
        graph: The graph.
        folder: Gets the SavedModel.
        source: The SavedModel that the graph was made of. Its other signatures are written
            too, as they are; see `paring.graphs.other_signatures`.
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
        results = import_nodes(graph.graph_def, given, list(graph.outputs.values()), name="graph")
        return dict(zip(graph.outputs, results, strict=True))

    traced = tf.function(serve, autograph=False, jit_compile=True if compiled else None)
    concrete = traced.get_concrete_function(*argument_specs(graph.specs))
    save_signature(
        module, concrete, source, specs=graph.specs, folder=folder, fixed_batch=fixed_batch
    )


def export_again(function: Any, folder: Path, source: SavedModel, *, fixed_batch: int) -> None:
    """Write a loaded signature, as it is, as a SavedModel with a fixed batch beside it.

    Args:
        function: The signature, as `paring.graphs.graph.load_function` gives it.
        folder: Gets the SavedModel.
        source: See `export`.
        fixed_batch: See `export`.
    """
    module = tf.Module()
    # Functions hold their variables weakly.
    module.loaded = function._paring_owner
    specs = signature_specs(function)
    traced = tf.function(by_position(function, specs), autograph=False)
    concrete = traced.get_concrete_function(*argument_specs(specs))
    save_signature(module, concrete, source, specs=specs, folder=folder, fixed_batch=fixed_batch)


def fixed_key(batch: int) -> str:
    """Return the name of the signature that takes `batch` examples and no other number."""
    return f"serving_batch_{batch}"


def save_signature(
    module: Any,
    concrete: Any,
    source: SavedModel,
    *,
    specs: Mapping[str, Any],
    folder: Path,
    fixed_batch: int = 0,
    others: bool = True,
) -> None:
    """Write a module as a SavedModel, with a signature of its source.

    Args:
        module: Holds the function's variables, and nothing else; see `save_signatures`.
        concrete: The signature's function.
        source: The SavedModel. The signature gets the name that it was opened for, and those of
            its other signatures that compute the same.
        specs: tf.TensorSpec of each input, by its name.
        folder: Gets the SavedModel.
        fixed_batch: See `export`.
        others: Whether the source's other signatures are written too, as they are.

    Raises:
        UnsupportedError: A SavedModel can't have these names.
    """
    same = same_signatures(source)
    signatures = dict.fromkeys(same, concrete)
    names = dict.fromkeys(same, specs)
    if others:
        passed = other_signatures(source, module)
        signatures |= {key: item.function for key, item in passed.items()}
        names |= {key: item.specs for key, item in passed.items()}
    if fixed_batch and fixed_key(fixed_batch) in signatures:
        raise UnsupportedError(
            "the model has a signature of the name that the one for a fixed batch gets",
            received=fixed_key(fixed_batch),
            remedy="leave fixed_batch out",
        )
    if fixed_batch:
        fixed = {
            name: tf.TensorSpec([fixed_batch, *spec.shape[1:]], spec.dtype)
            for name, spec in specs.items()
        }

        def serve_batch(*tensors: Any) -> dict[str, Any]:
            results: dict[str, Any] = concrete(*tensors)
            for tensor in results.values():
                if tensor.shape.rank and tensor.shape[0] is None:
                    tensor.set_shape([fixed_batch, *tensor.shape[1:]])
            return results

        traced = tf.function(serve_batch, autograph=False)
        signatures[fixed_key(fixed_batch)] = traced.get_concrete_function(*argument_specs(fixed))
        names[fixed_key(fixed_batch)] = specs
    # What the tracing has left, and then what the saving has left.
    release_memory()
    save_signatures(module, signatures, folder, names)
    keep_methods(source, folder)
    if others:
        check_passed(source, folder)
    release_memory()
    saved = SavedModel(folder, source.key).signature()
    if saved.inputs.keys() != specs.keys():
        raise UnsupportedError(
            "a new SavedModel can't keep the names of this model's inputs",
            received=f"{', '.join(specs)} became {', '.join(saved.inputs)}",
            remedy="export the model with names of letters, digits and underscores",
        )


def _frozen(function: Any) -> ServingGraph:
    inlined = inlined_graph(function)

    def pure(*tensors: Any) -> list[Any]:
        given = dict(zip(inlined.inputs.values(), tensors, strict=True))
        graph = tf.compat.v1.get_default_graph()
        for variable in inlined.variables:
            graph.watch_variable(variable)
        given |= {name: graph.capture(tensor) for name, tensor in inlined.captured.items()}
        return import_nodes(inlined.graph_def, given, list(inlined.outputs.values()), name="")

    ordered = argument_specs(inlined.specs)
    clean = tf.function(pure, autograph=False).get_concrete_function(*ordered)
    data = convert_to_constants._FunctionConverterDataInEager(
        func=clean, lower_control_flow=False, aggressive_inlining=True
    )
    # The public function also takes functions out of TensorFlow's context that others
    # still hold.
    graph_def, _ = convert_to_constants._replace_variables_by_constants(data)
    placeholders = (node_name(item.name) for item in clean.inputs)
    return ServingGraph(
        graph_def,
        dict(zip(inlined.specs, placeholders, strict=False)),
        dict(zip(inlined.outputs, (tensor.name for tensor in clean.outputs), strict=True)),
        inlined.specs,
        inlined.source_operators,
    )


def _simplify(graph: ServingGraph) -> ServingGraph:
    """Return the graph after Grappler: constants folded, identities and dead branches gone."""
    outputs = list(graph.outputs.values())
    simple = run_grappler(graph.graph_def, [*graph.inputs.values(), *outputs], _SIMPLIFYING)
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


def _weights(graph: ServingGraph) -> dict[str, Any]:
    """Return the values of the constants that hold weights, by name."""
    # An output that does not depend on the inputs has been folded to a constant.
    given = {node_name(tensor) for tensor in graph.outputs.values()}
    result: dict[str, Any] = {}
    for node in graph.graph_def.node:
        if node.op != "Const" or node.name in given:
            continue
        value = tf.make_ndarray(node.attr["value"].tensor)
        if tf.as_dtype(node.attr["dtype"].type).is_floating and value.size >= _WEIGHT_ELEMENTS:
            result[node.name] = value
    return result
