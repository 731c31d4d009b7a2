"""Shapes of the state of loops, which TFLite has to know in advance.

Keras's recurrent layers are loops over tensor lists unless TFLite has an operator for them,
as it has for an LSTM without a mask. The lists' elements have the batch as a dimension, and
the graph leaves it open even where the batch of the inputs is known.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from paring.graphs.freezing import freeze
from paring.graphs.graph import load_function
from paring.graphs.graph_editing import node_name
from paring.graphs.inlined_graph import import_nodes, traced_flat
from paring.models.arguments import argument_specs, save_signatures, signature_specs
from paring.models.library_types import GraphDef
from paring.models.saved_model import SavedModel

# The place of the elements' shape among the operator's inputs.
_SHAPE_PLACES = {
    "EmptyTensorList": 0,
    "TensorListReserve": 0,
    "TensorListFromTensor": 1,
    "TensorListStack": 1,
    "TensorListGetItem": 2,
}


def fix_state_shapes(model: SavedModel, out: Path) -> None:
    """Save a SavedModel for one example again, with 1 for the open sizes of its loops' states.

    That is their size where they are of the batch. The caller compares what is converted
    from it with the source, since an open size may also be another's.

    Args:
        model: A SavedModel whose signature takes a batch of 1.
        out: Folder of the new SavedModel, with its variables as constants.

    Raises:
        ModelError: TensorFlow can't load it.
    """
    function = load_function(model)
    specs = signature_specs(function)
    frozen = freeze(traced_flat(function, specs))
    graph_def = frozen.as_graph_def()
    for shape in _element_shapes(graph_def):
        sizes = tf.make_ndarray(shape.attr["value"].tensor)
        fixed = tf.make_tensor_proto(abs(sizes), dtype=sizes.dtype, shape=sizes.shape)
        shape.attr["value"].tensor.CopyFrom(fixed)
    placeholders = [node_name(tensor.name) for tensor in frozen.inputs[: len(specs)]]
    names = sorted(function.structured_outputs)

    def serve(*tensors: Any) -> dict[str, Any]:
        given = dict(zip(placeholders, tensors, strict=True))
        results = import_nodes(
            graph_def, given, [output.name for output in frozen.outputs], name="serve"
        )
        return dict(zip(names, results, strict=True))

    traced = tf.function(serve, autograph=False)
    signature = traced.get_concrete_function(*argument_specs(specs))
    save_signatures(tf.Module(), {model.key: signature}, out, {model.key: specs})


def _element_shapes(graph_def: GraphDef) -> Iterator[Any]:
    """Yield the constants (NodeDef) that are shapes of the elements of tensor lists."""
    functions = (function.node_def for function in graph_def.library.function)
    for nodes in (graph_def.node, *functions):
        known = {node.name: node for node in nodes}
        for node in nodes:
            if node.op in _SHAPE_PLACES:
                shape = known.get(node_name(node.input[_SHAPE_PLACES[node.op]]))
                if shape is not None and shape.op == "Const":
                    yield shape
