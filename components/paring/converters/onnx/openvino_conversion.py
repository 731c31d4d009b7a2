"""Conversion of ONNX files to OpenVINO, and the comparison of their outputs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paring.artifacts import OpenVINOModel, content_bytes
from paring.converters.comparison import (
    Form,
    allowed_difference,
    refuse_broken,
    run_all,
    same_outputs,
)
from paring.errors import UnsupportedError, first_line
from paring.runtimes import Features
from paring.runtimes.onnx import OnnxRuntime
from paring.runtimes.openvino import OpenVinoRuntime, import_openvino

_FORMS: dict[str, Form] = {"fp32": "float", "fp16": "half", "int8": "integer"}


def store(
    file: Path,
    converted: OpenVINOModel,
    batches: Sequence[Features],
    *,
    max_difference: float,
    precision: str,
    trusted: bool = False,
) -> None:
    """Write OpenVINO's form of the ONNX file into `converted`.

    Both are run as they are: for a processor without int8 instructions of its own, ONNX
    Runtime makes kernels of int8 graphs whose sums overflow.

    Args:
        file: The ONNX file.
        converted: Gets the files and the facts that are measured in them.
        batches: What both are run on.
        max_difference: Largest `paring.converters.comparison.difference` of the outputs.
        precision: Of the ONNX file; int8 is held to what only a broken file misses, see
            `paring.converters.comparison`.
        trusted: Whether the ONNX file may hold operators of other libraries.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        UnsupportedError: It can't read the file, or computes something else.
    """
    openvino = import_openvino()
    source = run_all(OnnxRuntime(file, optimized=False, trusted=trusted), batches)
    converted.serving_dir.mkdir()
    try:
        # By the reader: OpenVINO's converter would tell Intel of its use.
        graph = openvino.Core().read_model(str(file))
        _number_names(graph)
        openvino.save_model(graph, str(converted.file), compress_to_fp16=False)
        made = run_all(OpenVinoRuntime(converted.file, trusted=trusted), batches)
    except RuntimeError as error:
        raise UnsupportedError(
            "OpenVINO can't convert this model, or not run it",
            received=first_line(error),
            remedy="use another runtime for this model",
        ) from error
    numbers = same_outputs(source, made)
    refuse_broken(
        numbers,
        made,
        batches,
        run_source=lambda nudged: run_all(
            OnnxRuntime(file, optimized=False, trusted=trusted), nudged
        ),
        form=_FORMS.get(precision, "half"),
        what=f"OpenVINO's {precision or 'ONNX'} file",
    )
    converted.difference = allowed_difference(
        numbers,
        made,
        max_difference=max_difference,
        what="OpenVINO's file differs from the ONNX file",
    )
    converted.size_bytes = content_bytes(converted.serving_dir)


def _number_names(graph: Any) -> None:
    """Number the names that OpenVINO gave by their place in the graph.

    It counts throughout a process, so that the same file would give others each time.
    """
    for index, operator in enumerate(graph.get_ordered_ops()):
        kind = operator.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", operator.get_friendly_name()):
            operator.set_friendly_name(f"{kind}_{index}")
