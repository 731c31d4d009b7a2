"""The part of an ONNX graph that must not round inputs whose channels have unlike scales."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from paring.data.scales import MEASURED_CALLS, Scales

# What comes behind these has scales of its own.
_HEAVY = frozenset(
    {
        *("Conv", "ConvTranspose", "Einsum", "GRU", "Gather", "Gemm", "If", "LSTM"),
        *("Loop", "MatMul", "RNN", "Scan"),
    }
)


def nodes_in_float(
    model: onnx.ModelProto, batches: Iterator[Mapping[str, NDArray[Any]]], scratch: Path
) -> list[str]:
    """Return the names of the nodes up to the first heavy one that unlike scales pass.

    They are those between the inputs and the first convolution or product on the way, which
    read or give a tensor of unlike scales; and that one as well, if it reads one.

    Args:
        model: A float graph, whose nodes get names where they have none.
        batches: What it is run on, by the inputs' names.
        scratch: A folder for a file of the graph.
    """
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    graph = model.graph
    constants = {item.name for item in graph.initializer}
    inputs = [item.name for item in graph.input if item.name not in constants]
    front = dict.fromkeys(inputs)
    # The nodes of a graph stand in the order in which they run.
    for number, node in enumerate(graph.node):
        node.name = node.name or f"node_{number}"
        if node.op_type not in _HEAVY and front.keys() & set(node.input):
            front |= dict.fromkeys(name for name in node.output if name)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {item.name for item in graph.output}
    made = [name for name in front if name not in inputs]
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in made if name not in given
    )
    file = scratch / "watched.onnx"
    onnx.save(watched, file)
    options = SessionOptions()
    # Nodes that are joined leave nothing between them.
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    session = InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    scales = {name: Scales() for name in front}
    for features in islice(batches, MEASURED_CALLS):
        outputs = session.run(made, dict(features)) if made else []
        for name, values in (*features.items(), *zip(made, outputs, strict=True)):
            # Sequences are lists.
            if name in scales and isinstance(values, np.ndarray) and values.dtype.kind == "f":
                scales[name].add(values)
    unlike = {name for name, seen in scales.items() if seen.unlike()}
    return [item.name for item in graph.node if unlike & {*item.input, *item.output}]
