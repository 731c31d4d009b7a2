"""Rewriting of a frozen graph from half precision to float32.

Converters are made for float32: TFLite has kernels for no other float, and what ONNX tools
make of a graph of mixed types is no valid graph.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from paring.graphs.graph_editing import GraphEditor, is_first_output, node_name
from paring.graphs.inlined_graph import all_nodes
from paring.models.library_types import GraphDef, NodeDef
from paring.models.saved_model import SavedModel

_HALF = {tf.float16.as_datatype_enum: tf.float16, tf.bfloat16.as_datatype_enum: tf.bfloat16}
_FLOAT = tf.float32.as_datatype_enum


def precision_of(model: SavedModel) -> str:
    """Return the types of half precision in a SavedModel, by commas; "" if there are none.

    Raises:
        ModelError: It can't be read.
    """
    return half_precision(model.meta_graph.graph_def)


def half_precision(graph_def: GraphDef) -> str:
    """Return the types of half precision that anything in a GraphDef has, by commas."""
    result = {
        _HALF[dtype].name
        for node in all_nodes(graph_def)
        for value in node.attr.values()
        for dtype in (value.type, *value.list.type)
        if dtype in _HALF
    }
    return ", ".join(sorted(result))


def to_full_precision(
    graph_def: GraphDef, inputs: Iterable[str], outputs: Iterable[str]
) -> tuple[Any, list[str]]:
    """Return the GraphDef with float32 in the place of float16 and bfloat16.

    Functions, as loops call them, are rewritten too. Inputs and outputs keep their types,
    by casts, but for outputs in bfloat16, which become float32: tf2onnx makes float16 of them,
    which ends at 65,504, and LiteRT gives no such array to a NumPy without ml_dtypes.

    Args:
        graph_def: A frozen graph, whose variables are constants.
        inputs: Its placeholders.
        outputs: The tensors that it gives, each the first output of its node.

    Returns:
        The GraphDef, and the tensors that it gives in the place of `outputs`.
    """
    editor = GraphEditor(graph_def)
    readers = editor.readers()
    halved = {name: _HALF.get(_output_dtype(editor.nodes[name])) for name in inputs}
    given = {
        tensor: _HALF.get(_output_dtype(editor.nodes[node_name(tensor)])) for tensor in outputs
    }
    for node in editor.nodes.values():
        if not halved.get(node.name):
            _widen(node)
    for name, dtype in halved.items():
        if dtype:
            cast = editor.add("Cast", f"{name}/float32", [name], SrcT=dtype, DstT=tf.float32)
            for reader in readers[name]:
                _read_instead(reader, name, cast.name)
    left = []
    for tensor, dtype in given.items():
        name = node_name(tensor)
        if dtype and not halved.get(name) and dtype != tf.bfloat16:
            cast = editor.add("Cast", f"{name}/half", [name], SrcT=tf.float32, DstT=dtype)
            tensor = f"{cast.name}:0"
        left.append(tensor)
    made = editor.finish([*left, *halved])
    for function in made.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            argument.type = _FLOAT if argument.type in _HALF else argument.type
        for node in function.node_def:
            _widen(node)
    return made, left


def _output_dtype(node: NodeDef) -> int:
    """Return the type of a node's first output, as far as its attributes say that; else 0."""
    for key in ("DstT", "dtype", "T"):
        if key in node.attr:
            return int(node.attr[key].type)
    listed = node.attr["Tout"].list.type if "Tout" in node.attr else ()
    return int(listed[0]) if listed else 0


def _read_instead(reader: Any, before: str, after: str) -> None:
    for place, tensor in enumerate(reader.input):
        if node_name(tensor) == before and is_first_output(tensor):
            reader.input[place] = after


def _widen(node: NodeDef) -> None:
    for value in node.attr.values():
        if value.WhichOneof("value") == "type" and value.type in _HALF:
            value.type = _FLOAT
        elif value.WhichOneof("value") == "list":
            value.list.type[:] = [_FLOAT if item in _HALF else item for item in value.list.type]
        elif value.WhichOneof("value") == "tensor" and value.tensor.dtype in _HALF:
            array = tf.make_ndarray(value.tensor).astype(np.float32)
            value.tensor.CopyFrom(tf.make_tensor_proto(array))
    if node.op == "Cast" and node.attr["SrcT"].type == node.attr["DstT"].type == _FLOAT:
        node.op = "Identity"
        node.ClearField("attr")
        node.attr["T"].type = _FLOAT
