"""Rewriting of a frozen graph to compute its heavy operators in half precision.

Which operators may lose precision, which follow their inputs and which may not is
chosen as in Micikevicius et al., "Mixed Precision Training", 2018 (arXiv:1710.03740),
section 3.3: products of matrices run in half precision, reductions, exponentials and
normalizations in float32. Weights are stored in half precision too.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import op_def_registry

from paring.errors import UnsupportedError
from paring.graphs.graph_editing import (
    GraphEditor,
    attribute,
    is_first_output,
    is_float32,
    node_name,
)
from paring.models.library_types import GraphDef, NodeDef

HalfPrecision = Literal["float16", "bfloat16"]

# Where the time goes, and where accelerators have units of half precision.
_HEAVY = frozenset(
    {
        "BatchMatMul",
        "BatchMatMulV2",
        "Conv2D",
        "Conv2DBackpropInput",
        "Conv3D",
        "DepthwiseConv2dNative",
        "Einsum",
        "MatMul",
    }
)
# These move or bound values, or compute each from a few others.
_FOLLOWING = frozenset(
    {
        "Add", "AddN", "AddV2", "BiasAdd", "ConcatV2", "DepthToSpace", "Elu", "ExpandDims",
        "Identity", "LeakyRelu", "MaxPool", "Maximum", "Minimum", "MirrorPad", "Mul", "Neg", "Pack",
        "Pad", "PadV2", "Relu", "Relu6", "Reshape", "Selu", "Sigmoid", "Slice", "SpaceToDepth",
        "Split", "SplitV", "Squeeze", "StridedSlice", "Sub", "Tanh", "Tile", "Transpose", "Unpack",
    }
)  # fmt: skip


def to_half_precision(
    graph_def: GraphDef, outputs: Iterable[str], precision: HalfPrecision
) -> GraphDef:
    """Return the GraphDef with heavy operators, and what follows them, in `precision`.

    Everything else computes in float32, with casts between the two; so do the bodies of
    loops and conditions, and operators with a constant that `precision` can't hold. The
    graph's inputs and outputs keep their types.

    Args:
        graph_def: A frozen graph; constants must be read directly, not by identities.
        outputs: The tensors that it gives.
        precision: float16 or bfloat16.

    Raises:
        UnsupportedError: The graph has no heavy operator in float32.
    """
    dtype = tf.as_dtype(precision)
    outputs = list(outputs)
    editor = GraphEditor(graph_def)
    fetched = {node_name(tensor) for tensor in outputs}
    ordered = editor.in_order()
    half: set[str] = set()
    for node in ordered:
        if node.name not in fetched and _computes_in_half(editor, node, half=half, dtype=dtype):
            half.add(node.name)
    if not any(editor.nodes[name].op in _HEAVY for name in half):
        raise UnsupportedError(
            f"nothing in this model gains from {precision}",
            received=_no_heavy_reason(editor, ordered, fetched=fetched, dtype=dtype),
            remedy="leave precision at float32",
        )
    casts = _Casts(editor, dtype)
    for node in ordered:
        if node.name in half:
            for place in _float_inputs(node):
                if node_name(node.input[place]) not in half:
                    node.input[place] = casts.halved(node.input[place])
            node.attr["T"].type = dtype.as_datatype_enum
        else:
            for place, tensor in enumerate(node.input):
                if not tensor.startswith("^") and node_name(tensor) in half:
                    node.input[place] = casts.widened(tensor)
    return editor.finish(outputs)


def _no_heavy_reason(
    editor: GraphEditor, ordered: Iterable[NodeDef], *, fetched: set[str], dtype: tf.DType
) -> str:
    """Return the reason why no heavy operator can compute in half precision."""
    heavy = [node for node in ordered if node.op in _HEAVY and is_float32(node)]
    largest = [
        (float(np.abs(value).max()), node.name)
        for node in heavy
        for place in _float_inputs(node)
        if (value := editor.value(node.input[place])) is not None and not _holds(dtype, value)
    ]
    if largest:
        size, name = max(largest)
        return (
            f"values up to {size:g} in a constant of {name}, and {dtype.name} holds up to"
            f" {float(dtype.max):g}"
        )
    if any(node.name in fetched for node in heavy):
        return "no convolution or product of matrices but those that give the outputs"
    return "no convolution or product of matrices in float32"


def _computes_in_half(
    editor: GraphEditor, node: NodeDef, *, half: set[str], dtype: tf.DType
) -> bool:
    if node.op not in _HEAVY | _FOLLOWING or not is_float32(node):
        return False
    inputs = [node.input[place] for place in _float_inputs(node)]
    constants = [value for value in map(editor.value, inputs) if value is not None]
    if any(not _holds(dtype, value) for value in constants):
        return False
    if node.op in _HEAVY:
        return True
    makers = [node_name(tensor) for tensor in inputs if editor.value(tensor) is None]
    return bool(makers) and all(name in half for name in makers)


def _float_inputs(node: NodeDef) -> list[int]:
    """Return the places of the inputs that are of the node's type `T`."""
    places: list[int] = []
    place = 0
    for argument in op_def_registry.get(node.op).input_arg:
        count = int(attribute(node, argument.number_attr).i) if argument.number_attr else 1
        if argument.type_attr == "T":
            places += range(place, place + count)
        place += count
    return places


def _holds(dtype: tf.DType, value: NDArray[Any]) -> bool:
    """Return whether the array's values are within the type's range."""
    return bool(np.all(np.abs(value) <= float(dtype.max)))


class _Casts:
    """The casts of a graph, each made once."""

    def __init__(self, editor: GraphEditor, dtype: tf.DType) -> None:
        self._editor = editor
        self._dtype = dtype
        self._made: dict[tuple[str, bool], str] = {}

    def halved(self, tensor: str) -> str:
        """Return the float32 `tensor` in half precision; a constant is stored in it."""
        return self._once(tensor, self._dtype, tf.float32)

    def widened(self, tensor: str) -> str:
        """Return the half-precision `tensor` in float32."""
        return self._once(tensor, tf.float32, self._dtype)

    def _once(self, tensor: str, to: tf.DType, source: tf.DType) -> str:
        tensor = node_name(tensor) if is_first_output(tensor) else tensor
        key = tensor, to == tf.float32
        if key not in self._made:
            name = f"{tensor.replace(':', '_')}/{to.name}"
            value = self._editor.value(tensor)
            if value is None:
                cast = self._editor.add("Cast", name, [tensor], SrcT=source, DstT=to)
                self._made[key] = str(cast.name)
            else:
                stored = value.astype(to.as_numpy_dtype)
                self._made[key] = self._editor.add_constant(name, stored)
        return self._made[key]
