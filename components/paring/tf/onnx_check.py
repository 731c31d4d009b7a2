"""Write an ONNX graph into its artifact, if it computes what its source does."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from paring.artifacts import ONNXModel
from paring.differences import difference, largest_relative
from paring.errors import UnsupportedError
from paring.runtimes import Features, Runtime
from paring.runtimes.onnx import OnnxRuntime
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.tf.onnx_export import check
from paring.tf.onnx_precision import layers_in_float

# Of the largest output, for the same computation in another order.
_LARGEST_ERROR = 1e-3

Precision = Literal["fp32", "fp16", "int8"]


def store(
    graph: onnx.ModelProto,
    exported: ONNXModel,
    folder: Path,
    batches: Sequence[Features],
    precision: Precision,
    max_difference: float,
) -> None:
    """Write `graph` into `exported`, with the facts that are measured in it.

    The outputs are those of the graph as it is: what ONNX Runtime makes of it for a
    processor may round otherwise.

    Args:
        graph: The ONNX graph.
        exported: Gets the file and its facts.
        folder: The SavedModel that it was made of.
        batches: What both are run on.
        precision: Of the graph.
        max_difference: Largest `paring.differences.difference` of the outputs.

    Raises:
        UnsupportedError: It is no valid ONNX, can't be run, or gives other outputs.
    """
    check(graph)
    exported.serving_dir.mkdir()
    onnx.save(graph, exported.file)
    made = run_all(OnnxRuntime(exported.file, optimized=False), batches)
    source = run_all(SavedModelRuntime(folder), batches)
    numbers = compared_outputs(source, made)
    exported.difference = difference(numbers, made)
    error = largest_relative(numbers, made)
    if exported.difference > max_difference or (precision == "fp32" and error > _LARGEST_ERROR):
        raise UnsupportedError(
            f"the {precision} ONNX file does not compute what its source does",
            received=f"a difference of {exported.difference:.3g}, and {error:.3g} of the"
            " largest output",
            remedy="take another precision or runtime, or a larger max_difference, and let the"
            " accuracy gate judge",
        )
    exported.precision = precision
    content = exported.file.read_bytes()
    exported.size_bytes = len(content)
    exported.gzip_bytes = len(gzip.compress(content, compresslevel=9, mtime=0))
    if precision == "int8":
        exported.in_float = ",".join(layers_in_float(graph))


def run_all(runtime: Runtime, batches: Sequence[Features]) -> dict[str, NDArray[Any]]:
    """What the runtime gives for all batches, by name, along the first axis."""
    try:
        given = [runtime.run(features) for features in batches]
    finally:
        runtime.close()
    return {name: np.concatenate([one[name] for one in given]) for name in given[0]}


def compared_outputs(
    source: dict[str, NDArray[Any]], made: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The outputs of the source that are numbers.

    Raises:
        UnsupportedError: `made` has not the same outputs of the same shapes.
    """
    shapes = {name: array.shape for name, array in source.items()}
    found = {name: array.shape for name, array in made.items()}
    if shapes != found:
        raise UnsupportedError(
            "the file gives other outputs than its source",
            received=f"{found} for {shapes}",
            remedy="take another runtime for this model",
        )
    return {name: array for name, array in source.items() if array.dtype.kind in "biuf"}
