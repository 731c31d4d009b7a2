"""Conversion of models to OpenVINO, and the comparison of their outputs."""

import re
from collections.abc import Sequence
from typing import Any

from paring.artifacts import OpenVINOModel, content_bytes
from paring.converters.comparison import allowed_difference, refuse_broken, run_all, same_outputs
from paring.converters.openvino.sources import Source
from paring.errors import UnsupportedError, first_line
from paring.runtimes import Features
from paring.runtimes.openvino import OpenVinoRuntime, import_openvino

_SOURCES = {"onnx": "ONNX file", "savedmodel": "SavedModel", "tflite": "TFLite file"}


def store(
    source: Source,
    converted: OpenVINOModel,
    batches: Sequence[Features],
    *,
    max_difference: float,
    trusted: bool = False,
) -> None:
    """Write OpenVINO's form of the source into `converted`.

    Args:
        source: The model.
        converted: Gets the files and the facts that are measured in them.
        batches: What both are run on.
        max_difference: Largest `paring.converters.comparison.difference` of the outputs.
        trusted: Whether the source may hold operators of other libraries.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        UnsupportedError: It can't read the model, or computes something else.
    """
    openvino = import_openvino()
    expected = run_all(source.open(), batches)
    graph = source.read()
    _number_names(graph)
    converted.serving_dir.mkdir()
    try:
        openvino.save_model(graph, str(converted.file), compress_to_fp16=False)
        made = run_all(OpenVinoRuntime(converted.file, trusted=trusted), batches)
    except RuntimeError as error:
        raise UnsupportedError(
            "OpenVINO can't convert this model, or not run it",
            received=first_line(error),
            remedy="use another runtime for this model",
        ) from error
    numbers = same_outputs(expected, made)
    refuse_broken(
        numbers,
        made,
        batches,
        run_source=lambda nudged: run_all(source.open(), nudged),
        form=source.form,
        what=f"OpenVINO's {source.precision} file",
    )
    converted.difference = allowed_difference(
        numbers,
        made,
        max_difference=max_difference,
        what=f"OpenVINO's file differs from the {_SOURCES[source.front_end]}",
    )
    converted.size_bytes = content_bytes(converted.serving_dir)
    converted.precision = source.precision
    converted.front_end = source.front_end


def _number_names(graph: Any) -> None:
    """Number the names that OpenVINO gave by their place in the graph.

    It counts throughout a process, so that the same file would give others each time.
    """
    for index, operator in enumerate(graph.get_ordered_ops()):
        # A reader may name an operator for the kind that it made first.
        kind = re.fullmatch(r"([A-Z]\w*)_\d+", operator.get_friendly_name())
        if kind:
            operator.set_friendly_name(f"{kind[1]}_{index}")
