"""Regressors of inputs with unlike scales stay regressors in int8.

Rounded to the integers of the largest column, the others would be zero before the
normalization sees them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import ONNXModel, Servable
from paring.errors import UnsupportedError
from paring.execution import Call, execute
from paring.runtimes import open_runtime
from paring.runtimes.onnx import OnnxRuntime
from paring.step import Step
from paring.steps.convert_mixed import convert_mixed
from paring.steps.convert_openvino import convert_openvino
from paring.steps.convert_tflite import convert_tflite
from paring.steps.export_onnx import export_onnx
from paring.steps.import_model import import_model
from paring.steps.quantize import quantize

generator = np.random.default_rng(0)
UNIT = generator.normal(size=(2000, 3))
TABLE = (UNIT * [1e-3, 1, 1e4] + [0, 0, 3e3]).astype(np.float32)
PRICES = (UNIT @ [50, 30, 40] + generator.normal(0, 5, 2000) + 100).astype(np.float32)
TRAIN, EVAL = slice(0, 1600), slice(1600, 2000)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("examples") / "examples.npz"
    np.savez(
        file,
        x_train=TABLE[TRAIN],
        y_train=PRICES[TRAIN],
        x_eval=TABLE[EVAL],
        y_eval=PRICES[EVAL],
    )
    return file


def first_layer(kind: str) -> Any:
    import tf_keras

    if kind == "rescaling":
        return tf_keras.layers.Rescaling([1e3, 1.0, 1e-4], offset=[0, 0, -0.3])
    if kind == "batch_normalization":
        return tf_keras.layers.BatchNormalization(momentum=0.8)
    layer = tf_keras.layers.Normalization()
    layer.adapt(TABLE[TRAIN])
    return layer


@pytest.fixture(scope="module", params=["normalization", "batch_normalization", "rescaling"])
def regressor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    table = tf_keras.Input((3,), name="table")
    hidden = first_layer(request.param)(table)
    for _ in range(2):
        hidden = tf_keras.layers.Dense(32, activation="relu")(hidden)
    network = tf_keras.Model(table, tf_keras.layers.Dense(1, name="price")(hidden))
    network.compile(tf_keras.optimizers.Adam(0.01), "mse")
    network.fit(TABLE[TRAIN], PRICES[TRAIN], epochs=20, batch_size=64, verbose=0)
    file = tmp_path_factory.mktemp(request.param) / "model.keras"
    network.save(file)
    out = file.with_name("imported")
    execute(import_model, Call({"original": file}, {"model": out}, {}))
    return out


def made(step: Step, model: Path, examples: Path, out: Path, **settings: object) -> Servable:
    output = next(iter(step.outputs))
    call = Call({"model": model, "examples": examples}, {output: out}, settings)
    artifact = execute(step, call)[output]
    assert isinstance(artifact, Servable)
    return artifact


def error(model: Servable) -> float:
    """The root mean square error on the eval split."""
    result = open_runtime(model).run({"table": TABLE[EVAL]})["price"][:, 0]
    return float(np.sqrt(np.mean(np.square(result - PRICES[EVAL]))))


def test_integers_leave_every_column_its_say(
    regressor: Path, examples: Path, tmp_path: Path
) -> None:
    source = error(made(convert_tflite, regressor, examples, tmp_path / "float"))
    assert source < 15
    whole = made(convert_tflite, regressor, examples, tmp_path / "int8", quantization="int8")
    assert error(whole) < 1.3 * source
    mixed = made(convert_mixed, regressor, examples, tmp_path / "mixed", max_difference=0.05)
    assert error(mixed) < 1.3 * source
    trained = made(quantize, regressor, examples, tmp_path / "trained", epochs=2)
    assert error(trained) < 2 * source
    integers = made(convert_tflite, trained.path, examples, tmp_path / "qat", quantization="int8")
    assert error(integers) < 2 * source


@pytest.mark.parametrize("int8_runtime", ["onnxruntime", "tensorrt"])
def test_onnx_graphs_in_int8_and_openvinos_leave_every_column_its_say(
    regressor: Path, examples: Path, tmp_path: Path, int8_runtime: str
) -> None:
    source = error(Servable(regressor))
    settings = {"precision": "int8", "int8_runtime": int8_runtime, "max_difference": 1.0}
    graph = made(export_onnx, regressor, examples, tmp_path / "onnx", **settings)
    assert isinstance(graph, ONNXModel)
    # On processors without int8 instructions the sums of joined nodes overflow.
    result = OnnxRuntime(graph.file, optimized=False).run({"table": TABLE[EVAL]})["price"][:, 0]
    assert np.sqrt(np.mean(np.square(result - PRICES[EVAL]))) < 1.3 * source
    openvino = made(convert_openvino, graph.path, examples, tmp_path / "openvino")
    # So they may in OpenVINO's kernels. A column that is lost costs 30 at the least.
    assert error(openvino) < 25


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization": "int16x8"},
        {"quantization": "int16x8", "integer_io": True},
        {"quantization": "int8", "integer_io": True},
    ],
)
def test_forms_that_would_round_columns_away_are_refused(
    regressor: Path, examples: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedError, match=r"columns of input 'table'[\s\S]*normalize"):
        made(convert_tflite, regressor, examples, tmp_path / "out", **settings)


def test_columns_that_16_bits_can_hold_are_converted(tmp_path: Path) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    table = tf_keras.Input((3,), name="table")
    rescaled = tf_keras.layers.Rescaling([1.0, 1.0, 0.01])(table)
    price = tf_keras.layers.Dense(1, name="price")(rescaled)
    network = tf_keras.Model(table, price)
    save_signature(network, tmp_path / "model")
    values = (UNIT * [1, 1, 100]).astype(np.float32)
    wanted = network(values).numpy()[:, 0]
    both = {f"{name}_{part}": item for part in ("train", "eval")
            for name, item in (("x", values), ("y", wanted))}  # fmt: skip
    np.savez(tmp_path / "examples.npz", **both)
    wide = made(convert_tflite, tmp_path / "model", tmp_path / "examples.npz", tmp_path / "wide",
                quantization="int16x8")  # fmt: skip
    result = open_runtime(wide).run({"table": values})["price"][:, 0]
    assert np.sqrt(np.mean(np.square(result - wanted))) < 0.2 * wanted.std()
