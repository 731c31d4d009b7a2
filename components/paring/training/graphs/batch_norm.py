"""Batch normalization of an inference graph with the statistics of each batch.

Pruned kernels give activations of other means and variances than those that a normalization
has stored, and a network learns poorly with these: so in training they are those of the batch,
and are computed again afterwards, as in `paring.training.batch_norm`.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from paring.graphs.graph_editing import GraphEditor, node_name
from paring.models.library_types import GraphDef
from paring.training.graphs.weights import BatchNorm

Axes = tuple[int, ...]


def batch_axes(batch_norm: BatchNorm, rank: int) -> Axes:
    """Return the axes of the normalized tensor that statistics are taken over."""
    channel = 1 if batch_norm.data_format.startswith("NC") else rank - 1
    return tuple(axis for axis in range(rank) if axis != channel)


def with_batch_statistics(graph_def: GraphDef, batch_norms: Mapping[BatchNorm, Axes]) -> GraphDef:
    """Return a graph whose batch normalizations take the statistics of the batch.

    Args:
        graph_def: The graph.
        batch_norms: Some of its batch normalizations, with the axes from `batch_axes`.
    """
    editor = GraphEditor(graph_def)
    kept = list(editor.nodes)
    for item, axes in batch_norms.items():
        if item.fused:
            node = editor.nodes[item.fused]
            node.attr["is_training"].b = True
            # In training the operator takes none.
            for place, name in ((3, "mean"), (4, "variance")):
                empty = np.zeros(0, np.float32)
                node.input[place] = editor.add_constant(f"{item.fused}/no_{name}", empty)
            continue
        mean, variance = _add_moments(editor, item.x, axes)
        new = dict.fromkeys(item.mean.nodes, mean) | dict.fromkeys(item.variance.nodes, variance)
        for name in kept:
            node = editor.nodes[name]
            for place, tensor in enumerate(node.input):
                node.input[place] = new.get(node_name(tensor), tensor)
    return editor.finish(f"{name}:0" for name in editor.nodes)


def _add_moments(editor: GraphEditor, tensor: str, axes: Axes) -> tuple[str, str]:
    """Add the mean and the variance of a tensor to the graph; return their nodes."""
    base = node_name(tensor)
    places = editor.add_constant(f"{base}/axes", np.asarray(axes, np.int32))

    def add(op: str, name: str, *inputs: str) -> str:
        types = {"T": tf.float32} | ({"Tidx": tf.int32} if op == "Mean" else {})
        return str(editor.add(op, f"{base}/{name}", inputs, **types).name)

    mean = add("Mean", "mean", tensor, places)
    mean_square = add("Mean", "mean_square", add("Square", "square", tensor), places)
    return mean, add("Sub", "variance", mean_square, add("Square", "square_mean", mean))
