"""Names of inputs that TensorFlow's functions can't have, from the import to every runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from paring.artifacts import Artifact, Model, ONNXModel, OpenVINOModel, Servable, TFLiteModel
from paring.catalog import STEPS
from paring.execution import Call, execute
from paring.models.arguments import argument_names, by_name, signature_specs
from paring.models.loading import export
from paring.models.saved_model import SavedModel
from paring.runtimes import open_runtime
from paring.runtimes.savedmodel import SavedModelRuntime

NAMES = ["user/age", "a:b", "my column", "x>y", "größe", "a.b", "a_b", "1st", "-lead", "Plain"]
WIDTHS = {name: 3 + index for index, name in enumerate(NAMES)}


def rows(count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return {name: generator.random((count, WIDTHS[name]), np.float32) for name in NAMES}


@pytest.fixture(scope="module")
def network() -> Any:
    """Inputs of different widths, so that none can be taken for another."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    inputs = [tf_keras.Input((WIDTHS[name],), name=name) for name in NAMES]
    hidden = tf_keras.layers.Dense(8, activation="relu")(tf_keras.layers.Concatenate()(inputs))
    return tf_keras.Model(inputs, tf_keras.layers.Dense(3, activation="softmax")(hidden))


@pytest.fixture(scope="module")
def made(network: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The imported model, its examples, and what steps have made of them."""
    folder = tmp_path_factory.mktemp("names")
    network.save(folder / "network.keras")
    np.savez(folder / "rows.npz", label=np.arange(40) % 3, **rows(40))  # type: ignore[arg-type]
    out: dict[str, Path] = {}

    def run(step: str, name: str, parameters: dict[str, Any], **inputs: Path) -> None:
        out[name] = folder / name
        (output,) = STEPS[step].outputs
        execute(STEPS[step], Call(inputs, {output: out[name]}, parameters))

    run("import_model", "model", {}, original=folder / "network.keras")
    given = {"original": folder / "rows.npz", "model": out["model"]}
    run("import_examples", "examples", {}, **given)
    given = {"model": out["model"], "examples": out["examples"]}
    run("prune", "pruned", {"epochs": 1}, **given)
    run("convert_tflite", "tflite", {}, **given)
    run("convert_tflite", "int8", {"quantization": "int8"}, **given)
    run("export_onnx", "onnx", {}, **given)
    run("convert_openvino", "openvino", {}, model=out["onnx"], examples=out["examples"])
    return out


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model", Model),
        ("pruned", Model),
        ("tflite", TFLiteModel),
        ("int8", TFLiteModel),
        ("onnx", ONNXModel),
        ("openvino", OpenVINOModel),
    ],
)
def test_every_runtime_takes_the_names_of_the_inputs(
    name: str, kind: type[Servable], made: dict[str, Path], network: Any
) -> None:
    runtime = open_runtime(kind(made[name]))
    given = rows(8, seed=1)
    try:
        assert set(runtime.inputs) == set(NAMES)
        (result,) = runtime.run(given).values()
    finally:
        runtime.close()
    if name != "pruned":
        wanted = network.predict([given[item] for item in NAMES], verbose=0)
        np.testing.assert_allclose(result, wanted, atol=0.05 if name == "int8" else 1e-5)


@pytest.mark.parametrize("name", ["pruned", "int8", "onnx"])
def test_candidates_with_such_names_are_evaluated(
    name: str, made: dict[str, Path], tmp_path: Path
) -> None:
    inputs = {"source": made["model"], "candidate": made[name], "examples": made["examples"]}
    result: dict[str, Artifact] = execute(
        STEPS["evaluate"], Call(inputs, {"evaluation": tmp_path / "evaluation"}, {})
    )
    assert result["evaluation"].facts()["agreement"] > 0.5


def test_a_saved_model_of_such_a_name_by_keras_itself_is_called(tmp_path: Path) -> None:
    import tf_keras

    given = tf_keras.Input((4,), name="user/age")
    keras_model = tf_keras.Model(given, tf_keras.layers.Dense(3)(given))
    keras_model.save(tmp_path / "model", save_format="tf")
    values = np.random.default_rng(0).random((5, 4), np.float32)
    (result,) = SavedModelRuntime(SavedModel(tmp_path / "model")).run({"user/age": values}).values()
    np.testing.assert_allclose(result, keras_model(values).numpy(), atol=1e-6)


def test_a_saved_model_of_tensorflow_1_is_called_by_its_names(tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        first, second = (v1.placeholder(tf.float32, (None, 4), name=name) for name in "xy")
        inputs, outputs = {"a:b": first, "my column": second}, {"out:0": first - 2 * second}
        v1.saved_model.simple_save(session, str(tmp_path / "model"), inputs, outputs)
    given = {
        name: np.full((2, 4), value, np.float32) for name, value in [("a:b", 5), ("my column", 1)]
    }
    (result,) = SavedModelRuntime(SavedModel(tmp_path / "model")).run(given).values()
    assert result.tolist() == [[3.0] * 4] * 2


def test_the_signature_of_an_export_has_the_names(network: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    export(network, tmp_path / "model")
    assert set(SavedModel(tmp_path / "model").signature().inputs) == set(NAMES)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    function = loaded.signatures["serving_default"]
    assert {name: spec.shape[1] for name, spec in signature_specs(function).items()} == WIDTHS
    tensors = {name: tf.constant(array) for name, array in rows(2).items()}
    (result,) = by_name(function)(tensors).values()
    assert result.shape == (2, 3)


def test_names_that_arguments_may_have_stay_and_no_two_are_the_same() -> None:
    arguments = argument_names(NAMES)
    assert arguments["Plain"] == "Plain"
    assert arguments["a_b"] == "a_b"
    assert len(set(arguments.values())) == len(NAMES)
    assert all(name.isidentifier() and name.isascii() for name in arguments.values())
