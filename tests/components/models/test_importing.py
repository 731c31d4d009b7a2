"""Keras files where a step takes a model, and those of Keras 3 that can't be rebuilt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Artifact, Model, PrunedModel
from paring.catalog import STEPS
from paring.errors import UnsupportedError, UntrustedModelError
from paring.execution import Call, execute
from paring.models.loading import load_keras
from paring.runtimes import open_runtime


def run(step: str, out: Path, parameters: dict[str, Any] | None = None, **inputs: Path) -> Artifact:
    (name,) = STEPS[step].outputs
    return execute(STEPS[step], Call(inputs, {name: out}, parameters or {}))[name]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as network.keras and network.h5, and its examples."""
    import tf_keras

    folder = tmp_path_factory.mktemp("files")
    tf_keras.utils.set_random_seed(0)
    given = tf_keras.Input((12,), name="features")
    hidden = tf_keras.layers.Dense(16, activation="relu")(given)
    network = tf_keras.Model(given, tf_keras.layers.Dense(3, activation="softmax")(hidden))
    network.save(folder / "network.keras")
    network.save(folder / "network.h5", save_format="h5")
    x = np.random.default_rng(0).random((60, 12), np.float32)
    np.savez(folder / "examples.npz", x=x, y=np.arange(60) % 3)
    return folder


STEPS_WITH_A_MODEL = {
    "import_examples": ("original",),
    "draw_calibration": ("examples",),
    "profile": (),
    "check_tpu": (),
    "prune": ("examples",),
    "convert_tflite": ("examples",),
    "export_onnx": ("examples",),
}


@pytest.mark.filterwarnings("ignore:.*HDF5")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("step", STEPS_WITH_A_MODEL)
def test_steps_take_a_keras_file(step: str, suffix: str, files: Path, tmp_path: Path) -> None:
    examples = dict.fromkeys(STEPS_WITH_A_MODEL[step], files / "examples.npz")
    made = run(step, tmp_path / "made", {}, model=files / f"network{suffix}", **examples)
    assert made.failure is None
    (given,) = [item for name, item in made.lineage["inputs"].items() if name == "model"]
    assert given["path"] == str(files / f"network{suffix}")


@pytest.mark.filterwarnings("ignore:.*HDF5")
def test_a_keras_file_is_a_source_and_a_candidate(files: Path, tmp_path: Path) -> None:
    models = {"source": files / "network.keras", "candidate": files / "network.h5"}
    evaluation = run("evaluate", tmp_path / "made", examples=files / "examples.npz", **models)
    assert evaluation.facts()["agreement"] == 1.0


def test_the_same_check_of_code_comes_first(tmp_path: Path) -> None:
    import tf_keras

    given = tf_keras.Input((4,))
    network = tf_keras.Model(given, tf_keras.layers.Lambda(lambda values: 2 * values)(given))
    network.save(tmp_path / "network.keras")
    with pytest.raises(UntrustedModelError):
        run("convert_tflite", tmp_path / "refused", model=tmp_path / "network.keras")
    trusted = {"trust_model": True}
    run("convert_tflite", tmp_path / "made", trusted, model=tmp_path / "network.keras")


@pytest.fixture(params=["max", "maximum"])
def keras_3(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A model of Keras 3 with an operation that tf_keras has no layer for."""
    import keras

    keras.utils.set_random_seed(0)
    given = keras.Input((8, 4), name="series")
    if request.param == "max":
        values = keras.ops.max(given, axis=1)
    else:
        values = keras.layers.Flatten()(keras.ops.maximum(given, 0.5))
    network = keras.Model(given, keras.layers.Dense(3, activation="softmax", name="kind")(values))
    network.save(tmp_path / "network.keras")
    return network


def test_a_model_of_keras_3_that_cant_be_rebuilt_is_converted_and_trained_on_its_graph(
    keras_3: Any, tmp_path: Path
) -> None:
    model = run("import_model", tmp_path / "model", original=tmp_path / "network.keras")
    assert isinstance(model, Model)
    assert model.keras == "none"
    assert model.not_trainable is not None
    assert "of Keras 3, can't be called in tf_keras" in model.not_trainable
    assert "\n" not in model.not_trainable
    x = np.random.default_rng(0).random((40, 8, 4), np.float32)
    np.savez(tmp_path / "examples.npz", x=x, y=np.arange(40) % 3)
    examples = tmp_path / "examples.npz"
    tflite = run("convert_tflite", tmp_path / "tflite", model=model.path, examples=examples)
    wanted = np.asarray(keras_3(x))
    for item in (model, tflite):
        (result,) = open_runtime(item).run({"series": x}).values()  # type: ignore[arg-type]
        np.testing.assert_allclose(result, wanted, atol=1e-5)
    with pytest.raises(UnsupportedError) as refused:
        run("quantize", tmp_path / "quantized", model=model.path, examples=examples)
    assert model.not_trainable in str(refused.value)
    pruned = run("prune", tmp_path / "pruned", model=model.path, examples=examples)
    assert isinstance(pruned, PrunedModel)
    assert (pruned.trained_form, pruned.sparsity) == ("graph", 0.5)
    assert pruned.not_trainable == model.not_trainable


def test_a_model_of_text_goes_on_without_training_and_says_why(tmp_path: Path) -> None:
    import keras

    words = keras.Input((4,), dtype="string", name="words")
    ids = keras.layers.StringLookup(vocabulary=["a", "b"])(words)
    values = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(ids))
    network = keras.Model(words, keras.layers.Dense(3, name="kind")(values))
    network.save(tmp_path / "network.keras")
    model = run("import_model", tmp_path / "model", original=tmp_path / "network.keras")
    assert isinstance(model, Model)
    assert model.keras == "none"
    assert (model.serving_dir / "saved_model.pb").is_file()
    with pytest.raises(UnsupportedError, match=r"takes text[\s\S]*import it again") as refused:
        load_keras(model)
    # A .keras file is what was given.
    assert "give a .keras file" not in str(refused.value)
