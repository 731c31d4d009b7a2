"""Checks of an ONNX file before TensorRT parses it."""

from pathlib import Path
from typing import Any

from paring.errors import ModelError, UnsupportedError, first_line


def refuse_float64(file: Path) -> None:
    """Raise if an input of the graph is float64.

    TensorRT has no kernels for it, and its parser turns such an input into float32, so that
    callers would be refused.

    Args:
        file: An ONNX file that `paring.models.onnx_files.check_onnx` has let through.

    Raises:
        ModelError: It can't be read.
        UnsupportedError: An input is float64.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto: Any = onnx.load(str(file), load_external_data=False)
    except DecodeError as error:
        raise ModelError(
            f"{file} can't be read as an ONNX model",
            received=first_line(error),
            remedy="export the model again; the file is incomplete or damaged",
        ) from error
    for one in proto.graph.input:
        if one.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
            raise UnsupportedError(
                f"{file}: input {one.name!r} is float64, which TensorRT does not compute in",
                remedy="export a model that takes float32",
            )
