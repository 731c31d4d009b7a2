"""OpenVINO's files of a small trained network."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import OpenVINOModel, Servable
from paring.convert_openvino import convert_openvino
from paring.errors import ModelError, UnsupportedError
from paring.execution import Call, execute
from paring.export_onnx import export_onnx
from paring.runtimes import open_runtime


def exported(model: Path, out: Path, examples: Path, **parameters: object) -> Path:
    call = Call({"model": model, "examples": examples}, {"exported": out}, parameters)
    return execute(export_onnx, call)["exported"].path


def converted(model: Path, out: Path, examples: Path | None = None) -> OpenVINOModel:
    inputs = {"model": model} | ({"examples": examples} if examples else {})
    made = execute(convert_openvino, Call(inputs, {"converted": out}, {}))["converted"]
    assert isinstance(made, OpenVINOModel)
    return made


@pytest.mark.parametrize(
    "parameters", [{"precision": "fp32"}, {"precision": "int8", "int8_for": "onnxruntime"}]
)
def test_the_files_predict_as_the_source_does(
    digits: Any,
    digits_model: Path,
    digits_npz: Path,
    tmp_path: Path,
    parameters: dict[str, str],
) -> None:
    made = converted(
        exported(digits_model, tmp_path / "onnx", digits_npz, **parameters),
        tmp_path / "out",
        digits_npz,
    )
    assert made.precision == parameters["precision"]
    names = {one.name for one in made.serving_dir.iterdir()}
    assert names == {"model.xml", "model.bin"}
    assert made.size_bytes == sum(one.stat().st_size for one in made.serving_dir.iterdir())
    features = {"image": digits[2]}
    (found,) = open_runtime(made).run(features).values()
    (expected,) = open_runtime(Servable(digits_model)).run(features).values()
    assert np.mean(found.argmax(1) == expected.argmax(1)) > 0.95


def test_the_same_file_gives_the_same_bytes(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    model = exported(digits_model, tmp_path / "onnx", digits_npz)
    one, other = (converted(model, tmp_path / name).serving_dir for name in ("one", "other"))
    for name in ("model.xml", "model.bin"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_random_numbers_serve_where_there_are_no_examples(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made = converted(exported(digits_model, tmp_path / "onnx", digits_npz), tmp_path / "out")
    assert made.difference == 0


def test_a_file_that_is_no_onnx_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "model" / "Format-Serving").mkdir(parents=True)
    (tmp_path / "model" / "Format-Serving" / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=r"model\.onnx can't be read as an ONNX file"):
        converted(tmp_path / "model", tmp_path / "out")


def test_operators_that_openvino_lacks_are_an_unsupported_model(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    lacking = helper.make_node("Inverse", ["z"], ["w"], domain="com.microsoft")
    squares = helper.make_tensor_value_info("z", TensorProto.FLOAT, [3, 3])
    inverse = helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3])
    graph = helper.make_graph([node, lacking], "g", [values, squares], [made, inverse])
    folder = tmp_path / "model" / "Format-Serving"
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")
    with pytest.raises(UnsupportedError, match="OpenVINO can't convert"):
        converted(tmp_path / "model", tmp_path / "out")


def test_without_openvino_its_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('not here')\n")
    code = (
        "from paring.runtimes.openvino import import_openvino\n"
        "from paring.errors import MissingDependencyError\n"
        "try: import_openvino()\n"
        "except MissingDependencyError as error: print(error.remedy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "pip install 'paring[openvino]'\n"
