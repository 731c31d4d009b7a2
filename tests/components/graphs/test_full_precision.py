"""SavedModels that compute in half precision convert as the same computation in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Servable
from paring.execution import Call, execute
from paring.graphs.full_precision import precision_of
from paring.graphs.saving_again import save_again
from paring.models.saved_model import SavedModel
from paring.runtimes import open_runtime
from paring.steps.convert_mixed import convert_mixed
from paring.steps.convert_tflite import convert_tflite
from paring.steps.export_onnx import export_onnx

ROWS = np.random.default_rng(0).normal(size=(64, 8))


def half_model(folder: Path, dtype: str, *, inside: bool) -> Path:
    """A product and a loop in half precision; its input too, unless only what is inside."""
    import tensorflow as tf

    module = tf.Module()
    values = np.random.default_rng(1).normal(size=(8, 3))
    module.kernel = tf.Variable(values, dtype="float32" if inside else dtype)
    half = tf.as_dtype(dtype)

    def serve(x: Any) -> dict[str, Any]:
        hidden = tf.nn.relu(tf.cast(x, half) @ tf.cast(module.kernel, half))
        (_, total) = tf.while_loop(
            lambda step, _: step < 3,
            lambda step, total: (
                step + 1,
                total * tf.constant(0.5, half) + tf.constant(0.25, half),
            ),
            (0, hidden),
        )
        return {"y": tf.cast(total, tf.float32) if inside else total, "same": tf.identity(x)}

    spec = tf.TensorSpec([None, 8], tf.float32 if inside else half, "x")
    module.serve = tf.function(serve, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def inside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inside") / request.param
    return half_model(folder, request.param, inside=True)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("examples") / "examples.npz"
    np.savez(file, x=ROWS.astype(np.float32))
    return file


def reference() -> np.ndarray:
    hidden: np.ndarray = np.maximum(ROWS @ np.random.default_rng(1).normal(size=(8, 3)), 0)
    return hidden / 8 + 0.4375


def made(step: Any, model: Path, examples: Path | None, out: Path, **settings: object) -> Servable:
    inputs = {"model": model} | ({"examples": examples} if examples else {})
    output = next(iter(step.outputs))
    artifact = execute(step, Call(inputs, {output: out}, settings))[output]
    assert isinstance(artifact, Servable)
    return artifact


@pytest.mark.parametrize("quantization", ["none", "fp16", "dynamic", "int8"])
def test_tflite_takes_it(inside: Path, examples: Path, tmp_path: Path, quantization: str) -> None:
    model = made(convert_tflite, inside, examples, tmp_path / "out", quantization=quantization)
    (result,) = [
        values
        for name, values in open_runtime(model).run({"x": ROWS.astype(np.float32)}).items()
        if name == "y"
    ]
    largest = np.abs(reference()).max()
    # Float32 in full, though the source rounds to 8 bits of mantissa.
    tolerance = {"none": 1e-5, "fp16": 1e-3}.get(quantization, 0.05)
    np.testing.assert_allclose(result, reference(), atol=tolerance * largest)


def test_convert_mixed_takes_it(inside: Path, examples: Path, tmp_path: Path) -> None:
    model = made(convert_mixed, inside, examples, tmp_path / "out")
    result = open_runtime(model).run({"x": ROWS.astype(np.float32)})["y"]
    np.testing.assert_allclose(result, reference(), atol=0.05 * np.abs(reference()).max())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_onnx_takes_it(inside: Path, examples: Path, tmp_path: Path, precision: str) -> None:
    model = made(
        export_onnx, inside, examples, tmp_path / "out", precision=precision, max_difference=0.05
    )
    result = open_runtime(model).run({"x": ROWS.astype(np.float32)})["y"]
    tolerance = {"fp32": 1e-5, "fp16": 5e-3}.get(precision, 0.05)
    np.testing.assert_allclose(result, reference(), atol=tolerance * np.abs(reference()).max())


def test_inputs_and_outputs_in_half_precision_keep_their_types(tmp_path: Path) -> None:
    source = half_model(tmp_path / "source", "float16", inside=False)
    assert precision_of(SavedModel(source)) == "float16"
    assert save_again(SavedModel(source), tmp_path / "again") == 24
    assert SavedModel(tmp_path / "again").signature() == SavedModel(source).signature()
    rows = ROWS.astype(np.float16)
    np.savez(tmp_path / "examples.npz", x=rows)
    tflite = made(convert_tflite, source, tmp_path / "examples.npz", tmp_path / "tflite")
    onnx = made(export_onnx, source, tmp_path / "examples.npz", tmp_path / "onnx", precision="fp16")
    for model in (tflite, onnx):
        result = open_runtime(model).run({"x": rows})
        assert {values.dtype.name for values in result.values()} == {"float16"}
        np.testing.assert_array_equal(result["same"], rows)
        np.testing.assert_allclose(result["y"], reference(), atol=0.05)
