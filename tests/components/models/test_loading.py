import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Model, QuantizedModel, content_bytes
from paring.errors import ModelError, UnsupportedError, UntrustedModelError
from paring.models.loading import load_keras, load_whole, save_model
from paring.models.saved_model import SavedModel


def small_network() -> Any:
    import tf_keras

    image = tf_keras.Input((6, 6, 1), name="image")
    extra = tf_keras.Input((3,), name="extra")
    x = tf_keras.layers.Conv2D(4, 3)(image)
    x = tf_keras.layers.BatchNormalization()(x)
    x = tf_keras.layers.GlobalAveragePooling2D()(x)
    x = tf_keras.layers.Concatenate()([x, extra])
    return tf_keras.Model([image, extra], tf_keras.layers.Dense(5, name="scores")(x))


def saved(network: Any, folder: Path, kind: type[Model] = Model) -> Model:
    folder.mkdir()
    model = kind(folder)
    save_model(network, model)
    return model


@pytest.fixture(scope="module")
def network() -> Any:
    return small_network()


@pytest.fixture(scope="module")
def inputs() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        generator.random((4, 6, 6, 1), np.float32),
        generator.random((4, 3), np.float32),
    ]


@pytest.mark.parametrize("form", ["model.keras", "model.h5", "saved_model"])
@pytest.mark.filterwarnings("ignore:.*HDF5")
def test_every_keras_form_loads_with_its_weights(
    network: Any, inputs: list[np.ndarray], tmp_path: Path, form: str
) -> None:
    network.save(tmp_path / form)
    loaded = load_keras(Model(tmp_path / form))
    np.testing.assert_allclose(loaded(inputs), network(inputs), rtol=1e-6)


def test_a_saved_model_keeps_names_values_and_facts(
    network: Any, inputs: list[np.ndarray], tmp_path: Path
) -> None:
    import tensorflow as tf

    model = saved(network, tmp_path / "model")
    signature = SavedModel(model.serving_dir).signature()
    assert list(signature.inputs) == ["extra", "image"]
    assert signature.inputs["image"].shape == (None, 6, 6, 1)
    assert list(signature.outputs) == ["scores"]
    assert model.keras == "tf_keras"
    assert model.size_bytes == content_bytes(model.serving_dir) > 0

    serve = tf.saved_model.load(str(model.serving_dir)).signatures["serving_default"]
    served = serve(image=tf.constant(inputs[0]), extra=tf.constant(inputs[1]))["scores"]
    np.testing.assert_allclose(served, network(inputs), rtol=1e-6)
    np.testing.assert_allclose(load_keras(model)(inputs), network(inputs), rtol=1e-6)


def test_inputs_given_as_a_dictionary_are_saved_under_their_layers_names(
    tmp_path: Path,
) -> None:
    import tensorflow as tf
    import tf_keras

    first, second = tf_keras.Input((2,), name="b"), tf_keras.Input((2,), name="a")
    nested = tf_keras.Model({"x": first, "y": second}, first - 2 * second)
    model = saved(nested, tmp_path / "model")
    serve = tf.saved_model.load(str(model.serving_dir)).signatures["serving_default"]
    (result,) = serve(b=tf.constant([[5.0, 5.0]]), a=tf.constant([[1.0, 2.0]])).values()
    np.testing.assert_array_equal(result, [[3.0, 1.0]])


def test_a_model_from_quantization_aware_training_loads_again(tmp_path: Path) -> None:
    import tensorflow_model_optimization as tfmot
    import tf_keras

    plain = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    aware = tfmot.quantization.keras.quantize_model(plain)
    aware.compile("sgd", "mse")
    values = np.random.default_rng(0).random((16, 4), np.float32)
    aware.fit(values, values[:, :2], verbose=0)
    model = saved(aware, tmp_path / "model", QuantizedModel)
    np.testing.assert_array_equal(load_keras(model)(values), aware(values))


def test_a_model_without_declared_inputs_cannot_be_saved(tmp_path: Path) -> None:
    import tf_keras

    class Own(tf_keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    with pytest.raises(UnsupportedError, match="no declared inputs"):
        saved(Own(), tmp_path / "model")


def test_a_bare_saved_model_has_no_keras_form(network: Any, tmp_path: Path) -> None:
    model = saved(network, tmp_path / "model")
    with pytest.raises(UnsupportedError, match="this step needs the Keras form"):
        load_keras(Model(model.serving_dir))


@pytest.mark.filterwarnings("ignore:.*HDF5")
@pytest.mark.parametrize("form", ["model.keras", "model.h5", "saved_model"])
def test_a_lambda_layer_is_not_run_unasked(tmp_path: Path, form: str) -> None:
    import tf_keras

    doubling = tf_keras.Sequential(
        [tf_keras.Input((2,)), tf_keras.layers.Lambda(lambda x: x * 2, name="doubled")]
    )
    # Nested, so that a check of the outermost layers alone would miss it.
    outer = tf_keras.Sequential([tf_keras.Input((2,)), doubling])
    outer.save(tmp_path / form)
    model = Model(tmp_path / form)
    with pytest.raises(UntrustedModelError, match=r"Lambda layer \(doubled\)[\s\S]*--trust-model"):
        load_keras(model)
    values = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(load_keras(model, trust=True)(values), [[2, 2]])
    model.trusted = True
    np.testing.assert_array_equal(load_keras(model)(values), [[2, 2]])


def test_a_class_of_a_foreign_module_is_not_called(network: Any, tmp_path: Path) -> None:
    network.save(tmp_path / "plain.keras")
    file, witness = tmp_path / "model.keras", tmp_path / "witness"
    with zipfile.ZipFile(tmp_path / "plain.keras") as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][2] = {
                    "module": "os",
                    "class_name": "function",
                    "config": "mkdir",
                    "registered_name": "mkdir",
                    "name": str(witness),
                }
                content = json.dumps(config).encode()
            new.writestr(name, content)
    with pytest.raises(UntrustedModelError, match="from module os"):
        load_keras(Model(file))
    assert not witness.exists()


@pytest.mark.filterwarnings("ignore:.*HDF5")
@pytest.mark.parametrize("form", ["model.keras", "model.h5", "saved_model"])
def test_a_loss_of_the_users_own_is_left_out(
    inputs: list[np.ndarray], tmp_path: Path, form: str
) -> None:
    import tf_keras

    class OwnLoss(tf_keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return y_pred - y_true

    network = small_network()
    network.compile("adam", OwnLoss())
    network.save(tmp_path / form)
    loaded = load_keras(Model(tmp_path / form))
    np.testing.assert_allclose(loaded(inputs), network(inputs), rtol=1e-6)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_keras_3_file_is_rebuilt(name: str, tmp_path: Path) -> None:
    import keras
    import tf_keras

    source = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="last")])
    source.save(tmp_path / name)
    whole = load_whole(Model(tmp_path / name))
    loaded, difference = whole.model, whole.rebuilt_difference
    assert isinstance(loaded, tf_keras.Model)
    assert difference is not None
    assert difference < 1e-6
    np.testing.assert_array_equal(loaded.get_layer("last").kernel, source.layers[-1].kernel)


def test_a_lambda_layer_of_keras_3_is_not_run_unasked(tmp_path: Path) -> None:
    import keras

    values = keras.Input((2,))
    layer = keras.layers.Lambda(lambda inputs: 2 * inputs, name="doubling")
    keras.Model(values, layer(values)).save(tmp_path / "model.keras")
    with pytest.raises(UntrustedModelError, match="doubling"):
        load_keras(Model(tmp_path / "model.keras"))


def test_a_class_that_is_registered_elsewhere_is_refused_and_named(tmp_path: Path) -> None:
    import keras

    class Doubling(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * 2

    # As of a class in the script that trained the model, which has no module to name.
    Doubling.__module__ = "__main__"
    known = keras.saving.get_custom_objects()
    keras.saving.register_keras_serializable("mine")(Doubling)
    try:
        keras.Sequential([keras.Input((2,)), Doubling()]).save(tmp_path / "model.keras")
    finally:
        del known["mine>Doubling"]
    model = Model(tmp_path / "model.keras")
    with pytest.raises(UntrustedModelError, match=r"class mine>Doubling[\s\S]*--trust-model"):
        load_keras(model)
    with pytest.raises(ModelError, match=r"classes of its own: mine>Doubling"):
        load_keras(model, trust=True)


@pytest.mark.parametrize("kept", [0, 10, 5000])
def test_a_cut_off_keras_file_is_refused(network: Any, tmp_path: Path, kept: int) -> None:
    file = tmp_path / "model.keras"
    network.save(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.keras can't be read"):
        load_keras(Model(file))


def test_saved_models_are_found_in_both_layouts(network: Any, tmp_path: Path) -> None:
    model = saved(network, tmp_path / "model")
    assert SavedModel.open(model).folder == tmp_path / "model" / "Format-Serving"
    assert SavedModel.open(Model(model.serving_dir)).folder == model.serving_dir


def test_what_is_no_model_is_described(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"a folder with notes\.txt"):
        SavedModel.open(Model(tmp_path))
    with pytest.raises(ModelError, match="a file of 5 bytes"):
        load_keras(Model(tmp_path / "notes.txt"))
