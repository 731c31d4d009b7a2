"""Storing of an ONNX graph in its artifact, if its outputs match its source's."""

import gzip
from collections.abc import Sequence
from typing import Literal

import onnx

from paring.artifacts import ONNXModel
from paring.converters.comparison import (
    allowed_difference,
    largest_difference,
    refuse_broken,
    run_all,
    same_outputs,
)
from paring.converters.onnx.onnx_export import check
from paring.converters.onnx.onnx_precision import layers_in_float
from paring.errors import UnsupportedError
from paring.graphs.full_precision import precision_of
from paring.models.same_signatures import dropped_signatures
from paring.models.saved_model import SavedModel
from paring.runtimes import Features
from paring.runtimes.onnx import OnnxRuntime
from paring.runtimes.savedmodel import SavedModelRuntime

# Of the largest output, for the same computation in another order.
_LARGEST_ERROR = 1e-3
# The same of a source in half precision, whose own rounding it is.
_LARGEST_HALF_ERROR = 0.1

Precision = Literal["fp32", "fp16", "int8"]


def store(
    graph: onnx.ModelProto,
    exported: ONNXModel,
    model: SavedModel,
    batches: Sequence[Features],
    *,
    precision: Precision,
    max_difference: float,
) -> None:
    """Write `graph` into `exported`, with the facts that are measured in it.

    The outputs are those of the graph as it is: what ONNX Runtime makes of it for a
    processor may round otherwise.

    Args:
        graph: The ONNX graph.
        exported: Gets the file and its facts.
        model: The SavedModel that it was made of.
        batches: What both are run on.
        precision: Of the graph.
        max_difference: Largest `paring.converters.comparison.difference` of the outputs.

    Raises:
        UnsupportedError: It is no valid ONNX, can't be run, or gives other outputs.
    """
    check(graph)
    exported.drop_signatures(dropped_signatures(model))
    exported.serving_dir.mkdir()
    onnx.save(graph, exported.file)
    made = run_all(OnnxRuntime(exported.file, optimized=False), batches)
    source = run_all(SavedModelRuntime(model), batches)
    numbers = same_outputs(source, made)
    same_types = {name: made[name].astype(array.dtype) for name, array in numbers.items()}
    error = largest_difference([numbers], [same_types])
    largest = _LARGEST_HALF_ERROR if precision_of(model) else _LARGEST_ERROR
    if precision == "fp32" and error > largest:
        raise UnsupportedError(
            "the fp32 ONNX file does not compute what its source does",
            received=f"outputs that are {error:.3g} of the largest output off",
            remedy="use another runtime for this model",
        )
    if precision != "fp32":
        refuse_broken(
            numbers,
            made,
            batches,
            run_source=lambda nudged: run_all(SavedModelRuntime(model), nudged),
            form="half" if precision == "fp16" else "integer",
            what=f"the {precision} ONNX file",
        )
    exported.difference = allowed_difference(
        numbers,
        made,
        max_difference=max_difference,
        what=f"the {precision} ONNX file differs from its source",
    )
    exported.precision = precision
    content = exported.file.read_bytes()
    exported.size_bytes = len(content)
    exported.gzip_bytes = len(gzip.compress(content, compresslevel=9, mtime=0))
    if precision == "int8":
        exported.float_layers = tuple(layers_in_float(graph))
