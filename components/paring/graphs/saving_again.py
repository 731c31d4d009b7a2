"""A SavedModel that is saved again, with its variables where converters find them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from paring.graphs.freezing import freeze
from paring.graphs.full_precision import half_precision, to_full_precision
from paring.graphs.graph_editing import node_name
from paring.graphs.inlined_graph import import_nodes, traced_flat
from paring.models.arguments import (
    argument_specs,
    by_position,
    save_signatures,
    signature_specs,
)
from paring.models.library_types import GraphDef
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature
from paring.models.signature_loading import load_signatures
from paring.models.state import WRITES, without_writes


def save_again(model: SavedModel, out: Path) -> int:
    """Save a SavedModel's signature again, with its variables as the root's own.

    Converters look for variables among the objects that a SavedModel was saved with, to make
    constants of them, and lose them where these are linked in a way that they don't expect,
    as Keras 3's are. What computes in half precision does so in float32, with its weights as
    constants, since TFLite has no kernels for it; inputs and outputs keep their types. What
    the signature calls stays as it is, since converters know recurrent
    layers by the functions that these call. What it writes to variables is left out, so that
    they can become constants; tables stay.

    Args:
        model: A SavedModel whose signature keeps no state; see `paring.models.state`.
        out: Where the other one goes. Nothing is written where there are no variables.

    Returns:
        How many weights there are: values in variables with two dimensions or more.

    Raises:
        ModelError: TensorFlow can't load it.
    """
    loaded = load_signatures(model)
    function = loaded.signatures[model.key]
    variables = list(function.variables)
    halved = half_precision(function.graph.as_graph_def())
    if not (variables or halved):
        return 0
    specs = signature_specs(function)
    module = tf.Module()
    module.weights = variables
    handles = {id(variable.handle) for variable in variables}
    if any(
        item.dtype == tf.resource and id(item) not in handles for item in function.captured_inputs
    ):
        # Tables, which are filled when the model is loaded.
        module.loaded = loaded
    serve = (_in_full_precision if halved else _serving)(function, specs)
    traced = tf.function(serve, autograph=False)
    signature = traced.get_concrete_function(*argument_specs(specs))
    save_signatures(module, {model.key: signature}, out, {model.key: specs})
    if _without_bfloat16(SavedModel(out, model.key).signature()) != _without_bfloat16(
        model.signature()
    ):
        raise ValueError("the signature changed while it was saved again")
    return sum(int(np.prod(variable.shape)) for variable in variables if len(variable.shape) > 1)


def _without_bfloat16(signature: Signature) -> Signature:
    """Return the signature with the outputs that `to_full_precision` makes of bfloat16."""
    outputs = {
        name: replace(spec, dtype="float32") if spec.dtype == "bfloat16" else spec
        for name, spec in signature.outputs.items()
    }
    return replace(signature, outputs=outputs)


def _serving(function: Any, specs: Mapping[str, Any]) -> Any:
    """Return what the signature computes, without what it writes to variables."""
    if not _writes(function.graph.as_graph_def()):
        return by_position(function, specs)
    traced = traced_flat(function, specs)
    graph_def = without_writes(traced.graph.as_graph_def())

    def serve_without_writes(*tensors: Any) -> dict[str, Any]:
        given = {
            node_name(item.name): tensor
            for item, tensor in zip(traced.inputs, tensors, strict=False)
        }
        graph = tf.compat.v1.get_default_graph()
        given |= {
            node_name(inner.name): graph.capture(outer) for outer, inner in traced.graph.captures
        }
        outputs = [output.name for output in traced.outputs]
        return _named(function, import_nodes(graph_def, given, outputs, name="serve"))

    return serve_without_writes


def _in_full_precision(function: Any, specs: Mapping[str, Any]) -> Any:
    """Return what the signature computes, frozen and in float32."""
    frozen = freeze(traced_flat(function, specs))
    placeholders = [node_name(item.name) for item in frozen.inputs[: len(specs)]]
    graph_def, outputs = to_full_precision(
        frozen.as_graph_def(), placeholders, [output.name for output in frozen.outputs]
    )

    def serve(*tensors: Any) -> dict[str, Any]:
        given = dict(zip(placeholders, tensors, strict=True))
        return _named(function, import_nodes(graph_def, given, outputs, name="serve"))

    return serve


def _named(function: Any, tensors: Sequence[Any]) -> dict[str, Any]:
    """Return the outputs of `traced_flat`, computed again, by name, in known shapes."""
    named = dict(zip(sorted(function.structured_outputs), tensors, strict=True))
    for name, tensor in named.items():
        tensor.set_shape(function.structured_outputs[name].shape)
    return named


def _writes(graph_def: GraphDef) -> bool:
    functions = (node for item in graph_def.library.function for node in item.node_def)
    return any(
        node.op.startswith(WRITES) for nodes in (graph_def.node, functions) for node in nodes
    )
