"""ONNX to OpenVINO's files, and a check that they compute the same."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paring.artifacts import OpenVINOModel, content_bytes
from paring.differences import difference
from paring.errors import UnsupportedError
from paring.runtimes import Features
from paring.runtimes.onnx import OnnxRuntime
from paring.runtimes.openvino import OpenVinoRuntime, import_openvino
from paring.tf.onnx_check import compared_outputs, run_all


def store(
    file: Path, converted: OpenVINOModel, batches: Sequence[Features], max_difference: float
) -> None:
    """Write OpenVINO's form of the ONNX file into `converted`.

    Args:
        file: The ONNX file.
        converted: Gets the files and the facts that are measured in them.
        batches: What both are run on.
        max_difference: Largest `paring.differences.difference` of the outputs.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        UnsupportedError: It can't read the file, or computes something else.
    """
    openvino = import_openvino()
    source = run_all(OnnxRuntime(file), batches)
    converted.serving_dir.mkdir()
    try:
        # By the reader: OpenVINO's converter would tell Intel of its use.
        graph = openvino.Core().read_model(str(file))
        _number_names(graph)
        openvino.save_model(graph, str(converted.file), compress_to_fp16=False)
        made = run_all(OpenVinoRuntime(converted.file), batches)
    except RuntimeError as error:
        raise UnsupportedError(
            "OpenVINO can't convert this model, or not run it",
            received=str(error)[-300:],
            remedy="take another runtime for this model",
        ) from error
    numbers = compared_outputs(source, made)
    converted.difference = difference(numbers, made)
    if converted.difference > max_difference:
        raise UnsupportedError(
            "OpenVINO does not compute what the ONNX file says",
            received=f"a difference of {converted.difference:.3g}",
            remedy="take another precision or runtime, or a larger max_difference, and let the"
            " accuracy gate judge",
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
