import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Model, content_bytes, content_digest
from paring.errors import ModelError, ParameterError, UntrustedModelError
from paring.execution import Call, execute
from paring.models.loading import load_keras
from paring.steps.import_model import import_model


@pytest.fixture(scope="module")
def network() -> Any:
    import tf_keras

    return tf_keras.Sequential(
        [
            tf_keras.Input((6, 6, 1), name="image"),
            tf_keras.layers.Conv2D(8, 3),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(3, name="scores"),
        ]
    )


@pytest.fixture(scope="module")
def keras_folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "saved_model"
    network.save(folder)
    return folder


@pytest.fixture(scope="module")
def bare_folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "bare"
    network.export(folder)
    return folder


def imported(original: Path, out: Path, **parameters: object) -> Model:
    call = Call({"original": original}, {"model": out}, parameters)
    model = execute(import_model, call)["model"]
    assert isinstance(model, Model)
    return model


def same_predictions(network: Any, model: Model) -> bool:
    import tensorflow as tf

    values = np.random.default_rng(0).random((4, 6, 6, 1), np.float32)
    serve = tf.saved_model.load(str(model.serving_dir)).signatures["serving_default"]
    (served,) = serve(tf.constant(values)).values()
    return np.allclose(served, network(values), rtol=1e-5, atol=1e-6)


def test_a_saved_model_is_copied_byte_by_byte_with_its_keras_form(
    network: Any, keras_folder: Path, tmp_path: Path
) -> None:
    model = imported(keras_folder, tmp_path / "out")
    assert content_digest(model.serving_dir) == content_digest(keras_folder)
    assert model.facts() == {
        "size_bytes": content_bytes(keras_folder),
        "signature": "serving_default",
        "dropped_signatures": (),
        "keras": "tf_keras",
        "trained_on": "",
        "sample_weights": "",
        "preprocess_inputs": (),
    }
    values = np.ones((2, 6, 6, 1), np.float32)
    np.testing.assert_allclose(load_keras(model)(values), network(values), rtol=1e-6)


def test_a_bare_saved_model_is_copied_without_a_keras_form(
    bare_folder: Path, tmp_path: Path
) -> None:
    model = imported(bare_folder, tmp_path / "out")
    assert content_digest(model.serving_dir) == content_digest(bare_folder)
    assert model.keras == "none"
    assert not model.keras_file.exists()


def test_the_output_of_a_tfx_trainer_is_taken_from_its_serving_folder(
    bare_folder: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "trained"
    shutil.copytree(bare_folder, trained / "Format-Serving")
    (trained / "Format-TFMA").mkdir()
    model = imported(trained, tmp_path / "out")
    assert content_digest(model.serving_dir) == content_digest(bare_folder)
    assert sorted(path.name for path in model.path.iterdir()) == ["Format-Serving", "paring.json"]


@pytest.mark.filterwarnings("ignore:.*HDF5")
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_keras_file_is_exported(network: Any, tmp_path: Path, name: str) -> None:
    network.save(tmp_path / name)
    model = imported(tmp_path / name, tmp_path / "out")
    assert model.keras == "tf_keras"
    assert same_predictions(network, model)
    again = imported(model.path, tmp_path / "again")
    assert content_digest(again.path) == model.digest


def test_a_file_of_keras_3_is_served_and_trained_as_the_same_function(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    image = keras.Input((8, 8, 1), name="image")
    values = keras.layers.Conv2D(4, 3, activation="hard_swish")(image)
    scores = keras.layers.Dense(3, name="scores")(keras.layers.Flatten()(values))
    source = keras.Model(image, scores)
    source.save(tmp_path / "model.keras")
    model = imported(tmp_path / "model.keras", tmp_path / "out")
    assert model.keras == "tf_keras"
    assert model.rebuilt_difference is not None
    assert model.rebuilt_difference < 1e-6
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    serve = tf.saved_model.load(str(model.serving_dir)).signatures["serving_default"]
    result = serve(image=tf.constant(images))["scores"].numpy()
    np.testing.assert_allclose(result, source.predict_on_batch(images), rtol=1e-5, atol=1e-6)


def test_a_model_with_classes_of_its_own_is_served_but_not_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import tf_keras

    class Doubling(tf_keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * 2

    tf_keras.Sequential([tf_keras.Input((2,)), Doubling()]).save(tmp_path / "own")
    model = imported(tmp_path / "own", tmp_path / "out")
    assert model.keras == "none"
    assert not model.keras_file.parent.exists()
    assert "only its graph can be" in caplog.text
    assert model.not_trainable is not None
    assert "Doubling" in model.not_trainable
    assert str(tmp_path) not in model.not_trainable


def test_a_lambda_layer_needs_trust(tmp_path: Path) -> None:
    import tf_keras

    original = tmp_path / "original"
    layers = [tf_keras.Input((2,)), tf_keras.layers.Lambda(lambda x: x * 2)]
    tf_keras.Sequential(layers).save(original)
    with pytest.raises(UntrustedModelError, match="--trust-model"):
        imported(original, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model = imported(original, tmp_path / "out", trust_model=True)
    assert model.keras == "tf_keras"
    assert model.lineage["parameters"] == {"trust_model": True, "signature": ""}
    # It says nothing to the next step, which has the option itself.
    stored = Model.load(model.path)
    with pytest.raises(UntrustedModelError, match="--trust-model"):
        load_keras(stored)
    stored.trusted = True
    assert load_keras(stored)(np.ones((1, 2), np.float32)).numpy().tolist() == [[2, 2]]


def cut(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])


BROKEN = {
    "graph": (lambda f: cut(f / "saved_model.pb", 900), r"saved_model\.pb is broken"),
    "weights": (
        lambda f: cut(f / "variables" / "variables.data-00000-of-00001", 500),
        "weights .* cut off",
    ),
    "index": (lambda f: cut(f / "variables" / "variables.index", 20), "weights .* cut off"),
    "no weights": (lambda f: shutil.rmtree(f / "variables"), r"no variables/variables\.index"),
    "no data": (
        lambda f: (f / "variables" / "variables.data-00000-of-00001").unlink(),
        "weights .* cut off",
    ),
    "metadata": (lambda f: cut(f / "keras_metadata.pb", 300), r"keras_metadata\.pb can't be read"),
    "no graph": (lambda f: (f / "saved_model.pb").unlink(), "holds no SavedModel"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_saved_model_is_refused_by_the_file_that_is_broken(
    keras_folder: Path, tmp_path: Path, what: str
) -> None:
    damage, message = BROKEN[what]
    folder = tmp_path / "broken"
    shutil.copytree(keras_folder, folder)
    damage(folder)
    with pytest.raises(ModelError, match=message):
        imported(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="path does not exist"):
        imported(tmp_path / "missing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="a folder with nothing in it"):
        imported(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="is no model file"):
        imported(tmp_path / "notes.txt", tmp_path / "out")
