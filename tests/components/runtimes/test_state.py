"""Recurrent networks give each sequence what their source gives it, whatever came before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import EvaluationMetrics, Servable, TFLiteModel
from paring.converters.tflite.mixed_precision import outputs
from paring.errors import ModelError, UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.models.tflite_files import holds_state
from paring.runtimes import open_runtime
from paring.steps.convert_tflite import convert_tflite
from paring.steps.evaluate import evaluate
from paring.steps.import_model import import_model

COUNT = 40


@pytest.fixture(scope="module")
def sequences() -> np.ndarray:
    """Sequences [COUNT, 6, 3] whose state, handed on, would be that of another one."""
    drawn = np.random.default_rng(0).normal(size=(COUNT, 6, 3))
    return (drawn * np.where(np.arange(COUNT) % 2, 3, 0.3)[:, None, None]).astype(np.float32)


@pytest.fixture(scope="module", params=["lstm", "bidirectional"])
def network(request: Any) -> Any:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layer = tf_keras.layers.LSTM(4)
    if request.param == "bidirectional":
        layer = tf_keras.layers.Bidirectional(layer)
    head = tf_keras.layers.Dense(2, activation="softmax", name="scores")
    network = tf_keras.Sequential([tf_keras.Input((6, 3), name="x"), layer, head])
    # Kernels of a trained network's size, so that the state matters.
    network.set_weights([3 * weight for weight in network.get_weights()])
    return network


@pytest.fixture(scope="module")
def imported(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recurrent")
    network.save(folder / "model.keras")
    call = Call({"original": folder / "model.keras"}, {"model": folder / "model"}, {})
    execute(import_model, call)
    return folder / "model"


@pytest.fixture(scope="module")
def converted(imported: Path) -> TFLiteModel:
    call = Call({"model": imported}, {"converted": imported.parent / "tflite"}, {})
    made = execute(convert_tflite, call)["converted"]
    assert isinstance(made, TFLiteModel)
    return made


def test_tflite_files_start_each_call_without_state(
    converted: TFLiteModel, network: Any, sequences: np.ndarray
) -> None:
    assert holds_state(converted.file)
    assert (converted.holds_state, converted.batch_size) == (1, 1)
    expected = network.predict(sequences, verbose=0)
    runtime = open_runtime(converted)
    for rows in (range(COUNT), reversed(range(COUNT))):
        for row in rows:
            (given,) = runtime.run({"x": sequences[row : row + 1]}).values()
            np.testing.assert_allclose(given[0], expected[row], atol=1e-5)


def test_mixed_precision_compares_sequences_without_state(
    converted: TFLiteModel, network: Any, sequences: np.ndarray
) -> None:
    calls = [{"x": sequences[row : row + 1]} for row in range(COUNT)]
    (given,) = outputs(converted.file.read_bytes(), lambda: iter(calls)).values()
    np.testing.assert_allclose(given, network.predict(sequences, verbose=0), atol=1e-5)


def test_evaluate_finds_an_exact_file_exact(
    imported: Path, converted: TFLiteModel, network: Any, sequences: np.ndarray, tmp_path: Path
) -> None:
    labels = network.predict(sequences, verbose=0).argmax(axis=1)
    assert 0 < labels.sum() < COUNT
    split = {"x_train": sequences, "y_train": labels, "x_eval": sequences, "y_eval": labels}
    np.savez(tmp_path / "examples.npz", **split)
    inputs = {
        "source": imported,
        "candidate": converted.path,
        "examples": tmp_path / "examples.npz",
    }
    made = execute(evaluate, Call(inputs, {"evaluation": tmp_path / "out"}, {}))["evaluation"]
    assert isinstance(made, EvaluationMetrics)
    assert (made.accuracy, made.agreement) == (1.0, 1.0)


def test_models_that_are_meant_to_keep_state_are_refused(tmp_path: Path) -> None:
    import tensorflow as tf
    import tf_keras

    network = tf_keras.Sequential(
        [tf_keras.Input((6, 3), batch_size=1), tf_keras.layers.LSTM(4, stateful=True)]
    )
    network.save(tmp_path / "model.keras")
    call = Call({"original": tmp_path / "model.keras"}, {"model": tmp_path / "model"}, {})
    with pytest.raises(UnsupportedError, match="keeps state from call to call"):
        execute(import_model, call)
    network.save(tmp_path / "saved", save_format="tf")
    for step, inputs, output in (
        (import_model, {"original": tmp_path / "saved"}, "model"),
        (convert_tflite, {"model": tmp_path / "saved"}, "converted"),
    ):
        with pytest.raises(UnsupportedError, match="stateful=False"):
            execute(step, Call(inputs, {output: tmp_path / "out"}, {}))
    with pytest.raises(UnsupportedError, match="keeps state from call to call"):
        open_runtime(Servable(tmp_path / "saved"))
    # Another tool's file, with the state in variables that nothing resets.
    file = tmp_path / "model.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert())
    with pytest.raises(UnsupportedError, match="ASSIGN_VARIABLE"):
        open_runtime(Servable(file))


def test_openvino_starts_each_call_without_state(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops
    from openvino.op.util import Variable, VariableInfo

    about = VariableInfo()
    about.data_shape, about.data_type = openvino.PartialShape([1, 2]), openvino.Type.f32
    about.variable_id = "memory"
    memory = Variable(about)
    x = ops.parameter([1, 2], np.float32, name="x")
    x.output(0).set_names({"x"})
    read = ops.read_value(ops.constant(np.zeros((1, 2), np.float32)), memory)
    total = ops.add(x, read)
    total.output(0).set_names({"y"})
    model = openvino.Model([ops.result(total)], [ops.assign(total, memory)], [x], "sums")
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    runtime = open_runtime(Servable(tmp_path))
    batch = np.array([[1.0, 2.0]], np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(runtime.run({"x": batch})["y"], batch)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"model\.tflite"):
        holds_state(tmp_path / "model.tflite")


def test_calibration_hands_no_state_on(imported: Path, sequences: np.ndarray) -> None:
    from paring.artifacts import Model
    from paring.converters.tflite.conversion import activation_quantization, convert

    def ranges(rows: Any) -> dict[str, tuple[float, int]]:
        calls = [{"x": sequences[row : row + 1]} for row in rows]
        saved = SavedModel.open(Model(imported))
        return activation_quantization(convert(saved, "int8", lambda: iter(calls)).content)

    assert ranges(range(COUNT)) == ranges(reversed(range(COUNT)))
