"""Keras models in half precision become the same models in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Model
from paring.execution import Call, execute
from paring.graphs.full_precision import precision_of
from paring.models.loading import load_keras, load_whole
from paring.models.precision import in_float32
from paring.models.saved_model import SavedModel
from paring.steps.import_model import import_model

IMAGES = np.random.default_rng(0).random((16, 8, 8, 1)).astype(np.float32)
POLICIES = ("mixed_float16", "float16", "mixed_bfloat16")


def network(library: Any, policy: str) -> Any:
    """A network of the policy but for its input and, in mixed ones, its scores."""
    library.utils.set_random_seed(3)
    layers = library.layers
    image = library.Input((8, 8, 1), name="image")
    x = layers.Normalization(mean=0.5, variance=0.1, dtype=policy)(image)
    x = layers.Conv2D(8, 3, activation="relu", dtype=policy)(x)
    x = layers.BatchNormalization(dtype=policy)(x)
    added = layers.Add(dtype=policy)([x, layers.Conv2D(8, 1, dtype=policy)(x)])
    x = layers.Flatten(dtype=policy)(added)
    last = "float32" if policy.startswith("mixed") else policy
    scores = layers.Dense(3, activation="softmax", name="scores", dtype=last)(x)
    model = library.Model(image, scores)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def imported(original: Path, out: Path) -> Model:
    model = execute(import_model, Call({"original": original}, {"model": out}, {}))["model"]
    assert isinstance(model, Model)
    return model


@pytest.mark.filterwarnings("ignore:.*HDF5")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("library", "form"),
    [
        ("tf_keras", "model.keras"),
        ("tf_keras", "model.h5"),
        ("tf_keras", "folder"),
        ("keras", "model.keras"),
        ("keras", "model.h5"),
    ],
)
def test_a_keras_model_is_imported_in_float32_and_its_policy_recorded(
    library: str, form: str, policy: str, tmp_path: Path
) -> None:
    import importlib

    import tensorflow as tf

    source = network(importlib.import_module(library), policy)
    expected = np.asarray(source(IMAGES), np.float32)
    source.save(tmp_path / form)
    model = imported(tmp_path / form, tmp_path / "out")
    assert model.source_precision == (policy,)
    assert model.trained_on == ""
    assert not precision_of(SavedModel(model.serving_dir))
    signature = SavedModel(model.serving_dir).signature()
    assert {output.dtype for output in signature.outputs.values()} == {"float32"}
    serve = tf.saved_model.load(str(model.serving_dir)).signatures["serving_default"]
    (served,) = serve(tf.constant(IMAGES)).values()
    np.testing.assert_allclose(served, expected, atol=0.02)
    # The same weights, so the two differ, but by rounding alone.
    kept = load_whole(model)
    assert kept.source_precision is None
    np.testing.assert_allclose(kept.model(IMAGES), served, rtol=1e-4, atol=1e-6)
    again = imported(model.path, tmp_path / "again")
    assert again.source_precision == (policy,)


def test_a_model_in_float32_is_left_as_it_is(tmp_path: Path) -> None:
    import tf_keras

    source = network(tf_keras, "float32")
    assert in_float32(source) == (source, None)
    source.save(tmp_path / "model.keras")
    assert imported(tmp_path / "model.keras", tmp_path / "out").source_precision is None


def test_casts_within_a_model_are_widened(tmp_path: Path) -> None:
    import tensorflow as tf
    import tf_keras

    vector = tf_keras.Input((4,), dtype="float16", name="vector")
    halved = tf.cast(tf.cast(vector, tf.float32) * 3.0, tf.float16)
    tf_keras.Model(vector, halved + halved).save(tmp_path / "model.keras")
    whole = load_whole(Model(tmp_path / "model.keras"))
    assert whole.source_precision == ("float16",)
    values = np.full((2, 4), 1 / 3, np.float32)
    given = whole.model(values)
    assert given.dtype == tf.float32
    # In float16 it would be off by 4e-4.
    np.testing.assert_allclose(given, 6 * values, rtol=1e-6)


def test_learned_normalization_survives_every_copy(tmp_path: Path) -> None:
    """Its mean and variance are constants of the layer beside its weights."""
    import keras
    import tf_keras

    values = np.random.default_rng(0).normal([5, 300], [2, 70], (64, 2)).astype(np.float32)
    for library, policy in ((tf_keras, "mixed_float16"), (keras, "mixed_float16"), (keras, None)):
        normalization = library.layers.Normalization()
        normalization.adapt(values)
        source = library.Sequential(
            [library.Input((2,)), normalization, library.layers.Dense(3, dtype=policy)]
        )
        file = tmp_path / f"{library.__name__}-{policy}.keras"
        source.save(file)
        np.testing.assert_allclose(
            load_keras(Model(file))(values), np.asarray(source(values), np.float32), atol=0.02
        )
