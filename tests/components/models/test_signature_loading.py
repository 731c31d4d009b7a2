"""Loading of signatures without the functions that they do not call."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from paring.errors import ModelError
from paring.models.saved_model import SavedModel
from paring.models.signature_loading import load_signatures


def outputs(loaded: Any, values: Any) -> Any:
    """The only output of `serving_default` for the values of its only input."""
    signature = loaded.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    (tensor,) = signature(**{name: tf.constant(values)}).values()
    return tensor.numpy()


def layered(folder: Path) -> None:
    """Save a Keras 2 model with a loop and an update of batch statistics."""
    inputs = keras.Input((6, 4))
    hidden = inputs
    for units in (8, 8, 6):
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
        hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.LSTM(5)(hidden)
    keras.Model(inputs, keras.layers.Dense(3)(hidden)).save(folder, save_format="tf")


def with_gradient(folder: Path) -> None:
    """Save a function with a gradient of its own and a table, beside twenty others."""
    module = tf.Module()
    module.scale = tf.Variable(3.0)
    keys, values = tf.constant([0, 1], tf.int64), tf.constant([5.0, 7.0])
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, values), default_value=-1.0
    )

    @tf.custom_gradient
    def doubled(tensor: tf.Tensor) -> Any:
        return 2.0 * tensor, lambda upstream: 2.0 * upstream

    def branch(tensor: tf.Tensor) -> tf.Tensor:
        return tf.cond(tf.reduce_sum(tensor) > 0, lambda: doubled(tensor), lambda: -tensor)

    def serve(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        looked_up = module.table.lookup(tf.cast(rows, tf.int64))
        return {"made": branch(rows) * module.scale + looked_up}

    module.others = [
        tf.function(
            lambda rows, add=add: doubled(rows) + add,
            input_signature=[tf.TensorSpec([None, 4])],
        )
        for add in range(20)
    ]
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, 4])])
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(folder), signatures=module.serve, options=options)


@pytest.mark.parametrize(
    ("write", "shape"), [(layered, (5, 6, 4)), (with_gradient, (5, 4))], ids=["keras", "module"]
)
def test_the_answers_are_those_of_the_whole_model(
    write: Callable[[Path], None], shape: tuple[int, ...], tmp_path: Path
) -> None:
    # A path that TensorFlow would read as a pattern.
    folder = tmp_path / "model [1]"
    write(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", folder)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = outputs(tf.saved_model.load(str(tmp_path / "plain")), values)
    np.testing.assert_array_equal(outputs(load_signatures(SavedModel(folder)), values), expected)
    np.testing.assert_array_equal(
        outputs(load_signatures(SavedModel(folder), whole=True), values), expected
    )


def test_only_a_whole_load_has_the_functions_that_no_signature_calls(tmp_path: Path) -> None:
    with_gradient(tmp_path)
    values = np.ones((1, 4), np.float32)
    whole = load_signatures(SavedModel(tmp_path), whole=True)
    np.testing.assert_array_equal(whole.others[3](values).numpy(), 2 * values + 3)
    with pytest.raises(TypeError, match="not callable"):
        load_signatures(SavedModel(tmp_path)).others[3](values)


def test_a_model_with_assets_keeps_their_paths(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("red\ngreen\n")
    module = tf.Module()
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module.table = tf.lookup.StaticHashTable(initializer, default_value=-1)
    module.others = [
        tf.function(lambda row, add=add: row + add, input_signature=[tf.TensorSpec([None])])
        for add in range(20)
    ]
    module.serve = tf.function(
        lambda words: {"made": module.table.lookup(words)},
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    vocabulary.unlink()
    loaded = load_signatures(SavedModel(tmp_path / "model"))
    assert list(outputs(loaded, ["green", "blue", "red"])) == [1, -1, 0]
    tf.saved_model.save(loaded, str(tmp_path / "again"), signatures=loaded.signatures)
    assert list(outputs(load_signatures(SavedModel(tmp_path / "again")), ["green"])) == [1]


def test_a_broken_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    layered(tmp_path)
    shutil.rmtree(tmp_path / "variables")
    with pytest.raises(ModelError, match=re.escape(str(tmp_path))):
        load_signatures(SavedModel(tmp_path))
