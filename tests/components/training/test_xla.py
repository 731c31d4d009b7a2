"""Refusals by name of what XLA can't compile, before a TPU is opened."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from paring.artifacts import Examples, Model
from paring.data.examples import Split
from paring.errors import UnsupportedError
from paring.training.distillation.compiling import check_student_compiles
from paring.training.losses import loss_for
from paring.training.training import check_on_processor, open_training
from paring.training.xla import check_compiles, naming_refusals

OPTIONS: dict[str, Any] = {"batch_size": 8, "seed": 0}
BATCH = (np.ones((8, 6), np.float32), np.zeros(8, np.float32))


def _network(function: Callable[[Any], Any]) -> Any:
    """Return a network with a function of TensorFlow between two layers."""
    values = tf_keras.Input((6,), name="values")
    hidden = tf_keras.layers.Dense(6, name="hidden")(values)
    changed = tf_keras.layers.Lambda(function, output_shape=(6,), name="odd")(hidden)
    return tf_keras.Model(values, tf_keras.layers.Dense(3, "softmax", name="scores")(changed))


def _saveable() -> Any:
    """Return a network with a shape that depends on values, of TensorFlow's functions alone."""
    values = tf_keras.Input((6,), name="values")
    changed = values + tf.cast(tf.reduce_sum(tf.where(values > 0)), tf.float32)
    scores = tf_keras.layers.Dense(3, "softmax", name="scores")(changed)
    return tf_keras.Model(values, scores)


def _in_python(values: Any) -> Any:
    return tf.ensure_shape(tf.py_function(lambda item: item, [values], values.dtype), values.shape)


def _positive(values: Any) -> Any:
    return values + tf.cast(tf.reduce_sum(tf.where(values > 0)), values.dtype)


def _loss(_: Any, outputs: Any) -> Any:
    return tf.reduce_mean(outputs)


def test_a_network_of_plain_layers_compiles() -> None:
    check_compiles(_network(tf.nn.relu), _loss, BATCH)


@pytest.mark.parametrize(
    ("function", "operator", "reason"),
    [
        (_in_python, "EagerPyFunc", "no kernel"),
        (_positive, "Where", "no fixed shape"),
    ],
)
def test_the_layer_and_the_operator_in_the_way_are_named(
    function: Callable[[Any], Any], operator: str, reason: str
) -> None:
    with pytest.raises(UnsupportedError) as raised:
        check_compiles(_network(function), _loss, BATCH)
    assert "layer odd" in str(raised.value)
    assert f"({operator}): " in str(raised.value)
    assert reason in str(raised.value)
    assert "one_device" in raised.value.remedy


def test_a_lookup_table_is_named_though_xla_names_no_operator() -> None:
    ids = tf_keras.Input((2,), dtype=tf.int64, name="ids")
    known = tf_keras.layers.IntegerLookup(vocabulary=[3, 5], name="known")(ids)
    network = tf_keras.Model(ids, tf_keras.layers.Embedding(4, 2)(known))
    with pytest.raises(UnsupportedError, match=r"layer known.*\(LookupTableFindV2\)"):
        check_compiles(network, _loss, (np.array([[3, 5]]), np.zeros(1)))


@pytest.mark.parametrize("end", ["softmax", None])
def test_the_loss_of_tokens_with_padding_compiles(end: str | None) -> None:
    ids = tf_keras.Input((6,), dtype=tf.int64)
    hidden = tf_keras.layers.LSTM(4, return_sequences=True)(
        tf_keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    )
    tagger = tf_keras.Model(ids, tf_keras.layers.Dense(5, end)(hidden))
    labels = np.array([[0, 1, 2, 4, -1, -1]])
    check_compiles(tagger, loss_for(tagger, labels), (np.array([[1, 2, 3, 4, 0, 0]]), labels))


def test_a_network_that_takes_text_is_refused_by_its_input() -> None:
    words = tf_keras.Input((2,), dtype=tf.string, name="words")
    ids = tf_keras.layers.StringLookup(vocabulary=["a"])(words)
    network = tf_keras.Model(words, tf_keras.layers.Embedding(3, 2)(ids))
    with pytest.raises(UnsupportedError, match=r"input words .*text"):
        check_compiles(network, _loss, (np.array([["a", "b"]], object), np.zeros(1)))


def test_a_students_own_layers_are_checked_in_bfloat16() -> None:
    split = Split({"values": BATCH[0]}, None, 8)
    plain = tf_keras.Sequential([tf_keras.Input((6,), name="values"), tf_keras.layers.Dense(3)])
    check_student_compiles(plain, split, 4)
    with pytest.raises(UnsupportedError, match=r"\(Where\): its result has no fixed shape"):
        check_student_compiles(_saveable(), split, 4)


def test_an_error_of_xla_while_training_names_the_operator_and_others_stay() -> None:
    network = _network(_in_python)
    network.compile("sgd", "sparse_categorical_crossentropy", jit_compile=True)
    with pytest.raises(UnsupportedError, match=r"layer odd.*EagerPyFunc"), naming_refusals(network):
        network.fit(*BATCH, batch_size=8, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError), naming_refusals(network):
        tf.reshape(tf.zeros(3), (2, 2))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Examples]:
    """A model with tf.where in it, and examples for it."""
    folder = tmp_path_factory.mktemp("odd")
    _saveable().save(folder / "model.keras")
    inputs = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    labels = np.arange(40) % 3
    np.savez(folder / "x.npz", x_train=inputs, y_train=labels, x_eval=inputs, y_eval=labels)
    return Model(folder / "model.keras"), Examples(folder / "x.npz")


def test_training_on_the_processor_is_unlimited_by_xla(odd: tuple[Model, Examples]) -> None:
    assert open_training(*odd, **OPTIONS).devices.strategy == "one_device"
    with pytest.raises(UnsupportedError, match=r"\(Where\)"):
        check_on_processor(*odd, **OPTIONS)


def test_a_tpu_is_not_opened_for_what_xla_refuses(
    odd: tuple[Model, Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libtpu.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    # Something answers there, so that it counts as a TPU. Opening it would wait for its own words.
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("TPU_NAME", f"grpc://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UnsupportedError, match="XLA can't compile the training"):
            open_training(*odd, strategy="tpu", **OPTIONS)
