"""The last operator of small SavedModels, as several libraries write them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.graphs.last_operator import last_activation
from paring.models.saved_model import SavedModel


def _head(keras: Any, activation: str | None) -> Any:
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, keras.layers.Dense(1, activation=activation)(inputs))


def _activation(folder: Path) -> str | None:
    (output,) = SavedModel(folder).signature().outputs
    return last_activation(SavedModel(folder).meta_graph, output, "serving_default")


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
@pytest.mark.parametrize(
    ("activation", "wanted"), [("sigmoid", "sigmoid"), (None, "linear"), ("tanh", None)]
)
def test_a_dense_layers_activation_is_seen(
    library: str, activation: str | None, wanted: str | None, tmp_path: Path
) -> None:
    import importlib

    _head(importlib.import_module(library), activation).export(str(tmp_path / "model"))
    assert _activation(tmp_path / "model") == wanted


def _of_function(serve: Callable[[Any], Any], folder: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.weight = tf.Variable(np.ones((4, 1), np.float32))
    module.serve = tf.function(
        lambda x: {"y": serve(tf.matmul(x, module.weight))},
        input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")],
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def test_reshapes_and_casts_and_calls_behind_it_are_passed_through(tmp_path: Path) -> None:
    import tensorflow as tf

    inner = tf.function(lambda logits: (tf.zeros(3), tf.sigmoid(logits)))
    _of_function(lambda y: tf.cast(tf.reshape(inner(y)[1], [-1]), tf.float64), tmp_path / "model")
    assert _activation(tmp_path / "model") == "sigmoid"


@pytest.mark.timeout(60)
def test_a_graph_that_leads_back_to_where_it_began_ends() -> None:
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    meta_graph = MetaGraphDef()
    meta_graph.signature_def["serving_default"].outputs["y"].name = "first:0"
    meta_graph.graph_def.node.add(name="first", op="Identity", input=["second:0"])
    meta_graph.graph_def.node.add(name="second", op="Identity", input=["first:0"])
    assert last_activation(meta_graph, "y", "serving_default") is None


def test_arithmetic_behind_an_activation_is_none_that_is_known(tmp_path: Path) -> None:
    import tensorflow as tf

    # A calibrated probability: neither 0.5 nor 0 by its last operator.
    _of_function(lambda y: tf.sigmoid(y) * 0.9 + 0.05, tmp_path / "calibrated")
    assert _activation(tmp_path / "calibrated") is None
    _of_function(lambda y: tf.add(tf.matmul(y, [[2.0]]), [0.5]), tmp_path / "biased")
    assert _activation(tmp_path / "biased") == "linear"
