"""Checks of an ONNX file before TensorRT parses it."""

from pathlib import Path
from typing import Any

from paring.artifacts import ONNXModel
from paring.errors import ModelError, UnsupportedError

_NAME = "model.onnx"


def onnx_file(model: ONNXModel) -> Path:
    """Return the file: an artifact's, a bare one, or model.onnx in a folder.

    Raises:
        ModelError: There is none.
    """
    places = (model.path, model.file, model.path / _NAME)
    for place in places:
        if place.is_file():
            return place
    raise ModelError(
        f"{model.path} holds no ONNX model",
        remedy=f"give the output of export_onnx, a .onnx file, or a folder with {_NAME}",
    )


def check_onnx(file: Path) -> list[Path]:
    """Read the graph, without its weights.

    Returns:
        The file, and the files beside it that hold its weights, if any do.

    Raises:
        ModelError: It can't be read, or files with its weights are missing.
        UnsupportedError: An input is float64, which TensorRT has no kernels for and its
            parser turns into float32, so that callers would be refused.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import uses_external_data

    try:
        proto: Any = onnx.load(str(file), load_external_data=False)
    except DecodeError as error:
        raise _unreadable(file, error) from error
    if not proto.graph.node:
        raise _unreadable(file, "its graph has no nodes")
    for one in proto.graph.input:
        if one.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
            raise UnsupportedError(
                f"{file}: input {one.name!r} is float64, which TensorRT does not compute in",
                remedy="export a model that takes float32",
            )
    beside = {
        entry.value
        for tensor in proto.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    parts = [file.parent / name for name in sorted(beside)]
    for part in parts:
        # A name may lead elsewhere; what is no part of the model is not read.
        if not part.resolve().is_relative_to(file.parent.resolve()) or not part.is_file():
            raise ModelError(
                f"{file}: weights that it refers to are not beside it",
                received=part,
                remedy="keep the .onnx file and its data files in one folder",
            )
    return [file, *parts]


def _unreadable(file: Path, why: object) -> ModelError:
    return ModelError(
        f"{file} can't be read as an ONNX model",
        received=str(why)[:300],
        remedy="export the model again; the file is incomplete or damaged",
    )
