"""Signatures of one function are found, and those that another form lacks."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tests.helpers.signatures import HEAD, WEIGHTS, save_estimator, save_module

from paring.models.same_signatures import dropped_signatures, same_signatures
from paring.models.saved_model import SavedModel


def test_two_names_of_one_function_are_the_same_signature(tmp_path: Path) -> None:
    save_module(tmp_path / "model", default="predict")
    model = SavedModel(tmp_path / "model", "again")
    assert same_signatures(model) == ("again", "predict", "serving_default")
    assert dropped_signatures(model) == ("embed", "letter", "parse")
    assert dropped_signatures(model, ["letter"]) == ("embed", "parse")


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_what_keras_exports_is_one_function_under_two_names(tmp_path: Path, library: str) -> None:
    import importlib

    keras = importlib.import_module(library)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    network.export(str(tmp_path / "model"))
    assert same_signatures(SavedModel(tmp_path / "model")) == ("serving_default", "serve")


def test_signatures_of_tensorflow_1_are_told_apart(tmp_path: Path) -> None:
    save_estimator(tmp_path)
    model = SavedModel(tmp_path)
    assert same_signatures(model) == ("serving_default", "classification")
    assert dropped_signatures(model) == ("predict", "regression")


@pytest.mark.parametrize(
    "other",
    [
        lambda x, w: tf.nn.relu(x @ w + 1e-3),
        lambda x, w: tf.nn.relu(x @ w),
        lambda x, w: x @ w,
    ],
    ids=["another constant", "another variable", "another operator"],
)
def test_the_same_types_and_shapes_are_not_the_same_function(tmp_path: Path, other: Any) -> None:
    module = tf.Module()
    module.first, module.second = tf.Variable(WEIGHTS @ HEAD), tf.Variable(WEIGHTS @ HEAD)
    spec = [tf.TensorSpec([None, 8], tf.float32, name="x")]
    signatures = {
        "serving_default": tf.function(
            lambda x: {"y": tf.nn.relu(x @ module.first)}, input_signature=spec
        ),
        "other": tf.function(lambda x: {"y": other(x, module.second)}, input_signature=spec),
    }
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    assert same_signatures(SavedModel(tmp_path)) == ("serving_default",)


def test_a_copy_of_a_function_is_the_same(tmp_path: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable(WEIGHTS)
    spec = [tf.TensorSpec([None, 8], tf.float32, name="x")]

    def made() -> Any:
        return tf.function(lambda x: {"y": tf.nn.relu(x @ module.weights)}, input_signature=spec)

    tf.saved_model.save(
        module, str(tmp_path), signatures={"serving_default": made(), "copy": made()}
    )
    assert same_signatures(SavedModel(tmp_path)) == ("serving_default", "copy")
