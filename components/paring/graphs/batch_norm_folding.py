"""Folding of batch normalization, and other factors and shifts, into the layers before.

At inference a batch normalization is one multiplication and one addition for each
channel, so a convolution or dense layer in front of it can take the factor into its
kernel and the shift into its bias: Jacob et al., "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", 2018 (arXiv:1712.05877),
section 3.2.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.graphs.graph_editing import (
    GraphEditor,
    as_vector,
    attribute,
    is_first_output,
    is_float32,
    node_name,
)
from paring.models.library_types import GraphDef, NodeDef

_BATCH_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_ADDITIONS = frozenset({"Add", "AddV2", "BiasAdd"})
# Which input is the kernel, and what rank the result has.
_LINEAR = {
    "Conv2D": (1, 4),
    "Conv3D": (1, 5),
    "Conv2DBackpropInput": (1, 4),
    "DepthwiseConv2dNative": (1, 4),
    "MatMul": (1, 2),
}


@dataclass(frozen=True)
class _Affine:
    """`y = x * factor + shift`, with a value for each channel; None for none."""

    node: NodeDef
    x: str
    factor: NDArray[Any] | None
    shift: NDArray[Any] | None


@dataclass(frozen=True)
class _Layer:
    """A convolution or dense layer, and what stands between it and its reader.

    Attributes:
        node: The operator.
        bias: The node that adds its bias; None if it has none.
        result: The tensor that the reader reads.
        channels: Of its result.
        rank: Of `result`.
    """

    node: NodeDef
    bias: Any
    result: str
    channels: int
    rank: int


def fold_batch_norms(graph_def: GraphDef, outputs: Iterable[str]) -> GraphDef:
    """Fold what follows convolutions and dense layers, in float32, into their weights.

    Left alone is what cannot be folded: where the layer's result has other readers,
    the kernel is no constant, or something stands between.

    Args:
        graph_def: A frozen graph; constants must be read directly, not by identities.
        outputs: The tensors that it gives; they keep their names and values.
    """
    editor = GraphEditor(graph_def)
    outputs = list(outputs)
    fetched = {node_name(tensor) for tensor in outputs}
    # A batch normalization of which other results than the first are given.
    untouched = {node_name(tensor) for tensor in outputs if not is_first_output(tensor)}
    for node in editor.in_order():
        if node.name in untouched:
            continue
        readers = editor.readers()
        layer = _layer_before(editor, node, readers, fetched)
        affine = None if layer is None else _affine(editor, node, layer, readers)
        if layer is None or affine is None:
            continue
        if affine.factor is None and layer.bias is None:
            # A bias is what it already is.
            continue
        _fold(editor, layer, affine)
    return editor.finish(outputs)


def _affine(
    editor: GraphEditor, node: NodeDef, layer: _Layer, readers: Mapping[str, list[Any]]
) -> _Affine | None:
    """Return the affine function of `node`, if it is the same for all positions."""
    if node.op in _BATCH_NORMS:
        return _batch_norm(editor, node, layer, readers)
    if node.op not in _ADDITIONS | {"Mul", "Sub"} or not is_float32(node):
        return None
    place = 1 if layer.result == node.input[0] else 0
    if node.op in ("Sub", "BiasAdd") and place == 0:
        return None
    constant = editor.value(node.input[place])
    vector = None if constant is None else as_vector(constant, layer.channels, layer.rank)
    if vector is None or _channels_first(layer.node):
        return None
    if node.op == "Mul":
        return _Affine(node, layer.result, vector, None)
    return _Affine(node, layer.result, None, -vector if node.op == "Sub" else vector)


def _batch_norm(
    editor: GraphEditor, node: NodeDef, layer: _Layer, readers: Mapping[str, list[Any]]
) -> _Affine | None:
    values = [editor.value(tensor) for tensor in node.input[1:5]]
    used = [tensor for reader in readers[node.name] for tensor in reader.input]
    others = [t for t in used if node_name(t) == node.name and not is_first_output(t)]
    same_layout = _channels_first(node) == _channels_first(layer.node)
    if attribute(node, "is_training").b or others or not same_layout or layer.rank != 4:
        return None
    if any(item is None or item.size != layer.channels for item in values):
        return None
    scale, offset, mean, variance = (np.asarray(item, np.float64) for item in values)
    factor = scale / np.sqrt(variance + attribute(node, "epsilon").f)
    return _Affine(node, layer.result, factor, offset - mean * factor)


def _layer_before(
    editor: GraphEditor, node: NodeDef, readers: Mapping[str, list[Any]], fetched: set[str]
) -> _Layer | None:
    """Return the layer whose result, with or without its bias, `node` alone reads."""
    for result in node.input[:2]:
        if not is_first_output(result):
            continue
        squeezed, bias, tensor = 0, None, result
        while True:
            item = editor.nodes[node_name(tensor)]
            if len(readers[item.name]) != 1 or item.name in fetched or not is_first_output(tensor):
                break
            if item.op in _LINEAR:
                return _layer(editor, item, bias, result=result, squeezed=squeezed)
            if item.op == "Squeeze" and not squeezed and _keeps_last_axis(item):
                squeezed = len(attribute(item, "squeeze_dims").list.i)
            elif item.op in _ADDITIONS and bias is None:
                places = [i for i in (0, 1) if editor.value(item.input[i]) is not None]
                if places != [1]:
                    break
                bias = item
            else:
                break
            tensor = item.input[0]
    return None


def _layer(
    editor: GraphEditor, node: NodeDef, bias: Any, *, result: str, squeezed: int
) -> _Layer | None:
    place, rank = _LINEAR[node.op]
    kernel = editor.value(node.input[place])
    if kernel is None or not is_float32(node):
        return None
    match node.op:
        case "DepthwiseConv2dNative":
            channels = kernel.shape[-2] * kernel.shape[-1]
        case "Conv2DBackpropInput":
            channels = kernel.shape[-2]
        case "MatMul":
            channels = kernel.shape[0 if attribute(node, "transpose_b").b else 1]
        case _:
            channels = kernel.shape[-1]
    if bias is not None:
        added = editor.value(bias.input[1])
        if added is None or not is_float32(bias):
            return None
        if as_vector(added, channels, rank - squeezed) is None:
            return None
        if bias.op != "BiasAdd" and _channels_first(node):
            return None
    return _Layer(node, bias, result, channels, rank - squeezed)


def _fold(editor: GraphEditor, layer: _Layer, affine: _Affine) -> None:
    """Put the factor into the layer's kernel; the node becomes its bias."""
    shift: NDArray[Any] = np.zeros(layer.channels)
    if layer.bias is not None:
        old = editor.value(layer.bias.input[1])
        shift = np.broadcast_to(np.asarray(old, np.float64).reshape(-1), (layer.channels,)).copy()
    if affine.factor is not None:
        place = _LINEAR[layer.node.op][0]
        kernel = np.asarray(editor.value(layer.node.input[place]), np.float64)
        scaled = kernel * _along_channels(layer.node, kernel, affine.factor)
        name = editor.add_constant(f"{layer.node.name}/folded_kernel", scaled.astype(np.float32))
        layer.node.input[place] = name
        shift = shift * affine.factor
    if affine.shift is not None:
        shift = shift + affine.shift
    before = layer.result
    if layer.bias is not None:
        # What read the bias's result reads what went into it.
        before = _without_bias(editor, layer)
    name = editor.add_constant(f"{affine.node.name}/folded_bias", shift.astype(np.float32))
    layout = "NCHW" if _channels_first(layer.node) else "NHWC"
    _replace(affine.node, "BiasAdd", inputs=[before, name], data_format=layout)


def _without_bias(editor: GraphEditor, layer: _Layer) -> str:
    """Take the layer's bias out of the chain; what its reader now reads."""
    source = layer.bias.input[0]
    # Nodes that nothing reads count as readers of others as long as they are there.
    del editor.nodes[layer.bias.name]
    if layer.result.partition(":")[0] == layer.bias.name:
        return str(source)
    node = editor.nodes[node_name(layer.result)]
    while node_name(node.input[0]) != layer.bias.name:
        node = editor.nodes[node_name(node.input[0])]
    node.input[0] = source
    return layer.result


def _replace(node: NodeDef, op: str, *, inputs: list[str], data_format: str) -> None:
    node.op = op
    del node.input[:]
    node.input.extend(inputs)
    node.attr.clear()
    node.attr["T"].type = tf.float32.as_datatype_enum
    node.attr["data_format"].s = data_format.encode()


def _along_channels(node: NodeDef, kernel: NDArray[Any], factor: NDArray[Any]) -> NDArray[Any]:
    """Return `factor` in a shape that broadcasts along the kernel's output channels."""
    if node.op == "DepthwiseConv2dNative":
        return factor.reshape(kernel.shape[-2:])
    if node.op == "Conv2DBackpropInput" or (
        node.op == "MatMul" and attribute(node, "transpose_b").b
    ):
        return factor[:, None]
    return factor


def _channels_first(node: NodeDef) -> bool:
    return bool(attribute(node, "data_format").s.startswith(b"NC"))


def _keeps_last_axis(node: NodeDef) -> bool:
    """Return whether the squeezed axes are named and none of them is the last of four."""
    axes = list(attribute(node, "squeeze_dims").list.i)
    return bool(axes) and all(axis in (1, 2, -2, -3) for axis in axes)
