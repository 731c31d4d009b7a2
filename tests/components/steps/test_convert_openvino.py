"""OpenVINO's files of a small trained network."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import ONNXModel, OpenVINOModel, Servable
from paring.errors import ArtifactTypeError, ModelError, UnsupportedError
from paring.execution import Call, execute
from paring.runtimes import open_runtime
from paring.steps.convert_openvino import convert_openvino
from paring.steps.convert_tflite import convert_tflite
from paring.steps.export_onnx import export_onnx


def exported(model: Path, out: Path, examples: Path, **parameters: object) -> Path:
    call = Call({"model": model, "examples": examples}, {"exported": out}, parameters)
    return execute(export_onnx, call)["exported"].path


def converted(model: Path, out: Path, examples: Path | None = None) -> OpenVINOModel:
    inputs = {"model": model} | ({"examples": examples} if examples else {})
    made = execute(convert_openvino, Call(inputs, {"converted": out}, {}))["converted"]
    assert isinstance(made, OpenVINOModel)
    return made


@pytest.mark.parametrize(
    "parameters", [{"precision": "fp32"}, {"precision": "int8", "int8_runtime": "onnxruntime"}]
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
    names = {path.name for path in made.serving_dir.iterdir()}
    assert names == {"model.xml", "model.bin"}
    assert made.size_bytes == sum(path.stat().st_size for path in made.serving_dir.iterdir())
    features = {"image": digits[2]}
    (result,) = open_runtime(made).run(features).values()
    (expected,) = open_runtime(Servable(digits_model)).run(features).values()
    assert np.mean(result.argmax(1) == expected.argmax(1)) > 0.95


def test_a_savedmodel_is_read_without_onnx(digits: Any, digits_model: Path, tmp_path: Path) -> None:
    made = converted(digits_model, tmp_path / "out")
    assert (made.front_end, made.precision) == ("savedmodel", "fp32")
    assert made.difference == 0
    features = {"image": digits[2][:50]}
    result = open_runtime(made).run(features)
    expected = open_runtime(Servable(digits_model)).run(features)
    assert result.keys() == expected.keys() == {"digit"}
    np.testing.assert_allclose(result["digit"], expected["digit"], atol=1e-5)


def test_a_tflite_file_keeps_its_int8(
    digits: Any, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    call = Call(
        {"model": digits_model, "examples": digits_npz},
        {"converted": tmp_path / "tflite"},
        {"quantization": "int8"},
    )
    file = execute(convert_tflite, call)["converted"].path
    made = converted(file, tmp_path / "out", digits_npz)
    assert (made.front_end, made.precision) == ("tflite", "int8")
    assert 'element_type="i8"' in made.file.read_text()
    features = {"image": digits[2]}
    (result,) = open_runtime(made).run(features).values()
    (expected,) = open_runtime(Servable(file)).run(features).values()
    assert np.mean(result.argmax(1) == expected.argmax(1)) > 0.99


def test_a_model_of_another_runtime_is_refused(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made = converted(exported(digits_model, tmp_path / "onnx", digits_npz), tmp_path / "first")
    with pytest.raises(ArtifactTypeError, match="can't be converted to OpenVINO") as refused:
        converted(made.path, tmp_path / "second")
    assert refused.value.received == "a model for openvino"


def test_int8_that_gives_other_classes_is_left_to_the_accuracy_gate(tmp_path: Path) -> None:
    """A network like VGG whose seven classes lie close together, as those of faces do."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    given = tf_keras.Input((16, 16, 1), name="face")
    values = given
    for channels in (8, 16):
        values = layers.Conv2D(channels, 3, padding="same", activation="relu")(values)
        values = layers.MaxPooling2D()(values)
    values = layers.Dense(32, activation="relu")(layers.Flatten()(values))
    network = tf_keras.Model(given, layers.Dense(7, activation="softmax", name="kind")(values))
    faces = np.random.default_rng(0).random((300, 16, 16, 1), np.float32)
    scores = np.log(network.predict(faces, verbose=0))
    network.layers[-1].bias.assign(-scores.mean(axis=0))
    network.save(tmp_path / "network.keras")
    np.savez(tmp_path / "faces.npz", x=faces, y=np.arange(300) % 7)
    examples = tmp_path / "faces.npz"
    settings = {"precision": "int8", "int8_runtime": "onnxruntime"}
    model = exported(tmp_path / "network.keras", tmp_path / "onnx", examples, **settings)
    made = converted(model, tmp_path / "out", examples)
    assert ONNXModel.load(model).difference > 0.05  # type: ignore[operator]
    (result,) = open_runtime(made).run({"face": faces}).values()
    expected = network.predict(faces, verbose=0)
    assert 0.4 < np.mean(result.argmax(1) == expected.argmax(1)) < 0.95
    call = Call(
        {"model": tmp_path / "network.keras", "examples": examples},
        {"exported": tmp_path / "refused"},
        {**settings, "max_difference": 0.01},
    )
    with pytest.raises(UnsupportedError, match="of 240 examples get another class"):
        execute(export_onnx, call)


def test_what_openvino_lacks_is_told_in_a_sentence_that_names_it(tmp_path: Path) -> None:
    folder = _with_foreign_operators(tmp_path)
    with pytest.raises(UnsupportedError) as refused:
        converted(folder, tmp_path / "out")
    assert refused.value.received == "operators com.microsoft.Inverse"


def test_the_same_file_gives_the_same_bytes(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    model = exported(digits_model, tmp_path / "onnx", digits_npz)
    item, other = (converted(model, tmp_path / name).serving_dir for name in ("one", "other"))
    for name in ("model.xml", "model.bin"):
        assert (item / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("step", [None, convert_tflite])
def test_other_forms_give_the_same_bytes_too(step: Any, digits_model: Path, tmp_path: Path) -> None:
    model = digits_model
    if step is not None:
        made = execute(step, Call({"model": model}, {"converted": tmp_path / "made"}, {}))
        model = made["converted"].path
    item, other = (converted(model, tmp_path / name).serving_dir for name in ("one", "other"))
    for name in ("model.xml", "model.bin"):
        assert (item / name).read_bytes() == (other / name).read_bytes()


def test_random_numbers_serve_where_there_are_no_examples(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made = converted(exported(digits_model, tmp_path / "onnx", digits_npz), tmp_path / "out")
    assert made.difference == 0


def test_a_file_that_is_no_onnx_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "model" / "Format-Serving").mkdir(parents=True)
    (tmp_path / "model" / "Format-Serving" / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=r"model\.onnx can't be read as an ONNX model"):
        converted(tmp_path / "model", tmp_path / "out")


def _with_foreign_operators(tmp_path: Path) -> Path:
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
    return tmp_path / "model"


def test_operators_that_openvino_lacks_are_an_unsupported_model(tmp_path: Path) -> None:
    folder = _with_foreign_operators(tmp_path)
    with pytest.raises(UnsupportedError, match="OpenVINO can't convert"):
        converted(folder, tmp_path / "out")


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
