"""The loss that goes with a model's end and with its labels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from paring.errors import UnsupportedError
from paring.training.losses import loss_for

layers = tf_keras.layers


def _classifier(end: Callable[[Any], Any]) -> Any:
    values = tf_keras.Input((4,))
    return tf_keras.Model(values, end(values))


@pytest.mark.parametrize(
    ("end", "kind", "from_logits"),
    [
        (layers.Dense(3, activation="softmax"), "sparse_categorical_crossentropy", False),
        (layers.Dense(3), "sparse_categorical_crossentropy", True),
        (
            lambda x: layers.Softmax()(layers.Dense(3)(x)),
            "sparse_categorical_crossentropy",
            False,
        ),
        (
            lambda x: tf.nn.softmax(layers.Dense(3)(x)),
            "sparse_categorical_crossentropy",
            False,
        ),
        (
            lambda x: layers.Reshape((3,))(layers.Dense(3, activation="softmax")(x)),
            "sparse_categorical_crossentropy",
            False,
        ),
        (layers.Dense(1, activation="sigmoid"), "binary_crossentropy", False),
        (layers.Dense(1), "binary_crossentropy", True),
    ],
)
def test_the_loss_fits_the_last_activation(end: Any, kind: str, from_logits: bool) -> None:
    loss = loss_for(_classifier(end))
    assert loss.name == kind
    assert loss.get_config()["from_logits"] is from_logits


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (layers.Dense(3, activation="relu"), "relu over 3 units"),
        (layers.Dense(1, activation="softmax"), "softmax over 1 units"),
        (lambda x: [layers.Dense(3)(x), layers.Dense(3)(x)], "2 outputs, 1 with labels"),
        (lambda x: layers.Reshape((3, 1))(layers.Dense(3)(x)), r"\[batch, classes\]"),
    ],
)
def test_a_model_that_no_loss_fits_is_unsupported(end: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        loss_for(_classifier(end))


FLOATS = np.zeros(4, np.float32)
TOKENS = np.zeros((4, 6), np.int64)


def _tagger(end: Callable[[Any], Any]) -> Any:
    tokens = tf_keras.Input((6,), dtype="int32", name="tokens")
    return tf_keras.Model(tokens, end(layers.Embedding(20, 8)(tokens)), name="tagger")


def test_the_loss_of_floats_is_the_squared_error_whatever_the_activation() -> None:
    for end in (layers.Dense(1), layers.Dense(1, activation="relu"), layers.Dense(3)):
        assert loss_for(_classifier(end), FLOATS).name == "mean_squared_error"
    # Integers of the same model are classes.
    assert loss_for(_classifier(layers.Dense(1)), FLOATS.astype(int)).name == "binary_crossentropy"


@pytest.mark.parametrize(
    ("end", "from_logits"),
    [
        (layers.Dense(3, activation="softmax"), False),
        (layers.Dense(3), True),
        (layers.TimeDistributed(layers.Dense(3, activation="softmax")), False),
    ],
)
def test_the_loss_of_tokens_leaves_padding_out(end: Any, from_logits: bool) -> None:
    loss = loss_for(_tagger(end), TOKENS)
    assert loss.from_logits is from_logits
    scores = np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]], np.float32)
    padded = loss(np.array([[1, -1]]), scores)
    np.testing.assert_allclose(padded, loss(np.array([[1]]), scores[:, :1]), rtol=1e-6)
    assert float(padded) != pytest.approx(float(loss(np.array([[1, 0]]), scores)))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda x: layers.Dense(3)(layers.Flatten()(x)), r"\[batch, ..., classes\]"),
        (layers.Dense(3, activation="sigmoid"), "sigmoid over 3 units"),
    ],
)
def test_an_output_that_has_no_tokens_is_unsupported(end: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        loss_for(_tagger(end), TOKENS)


@pytest.mark.parametrize(("activation", "from_logits"), [("sigmoid", False), (None, True)])
def test_one_value_a_token_is_two_classes_without_padding(
    activation: str | None, from_logits: bool
) -> None:
    loss = loss_for(_tagger(layers.Dense(1, activation=activation)), TOKENS)
    logits = np.array([[[0.3], [-1.2], [5.0]]], np.float32)
    outputs = logits if from_logits else 1 / (1 + np.exp(-logits))
    # -log of the probability of the right class, of the two tokens that are labelled.
    wanted = np.mean([np.log1p(np.exp(-0.3)), np.log1p(np.exp(-1.2))])
    np.testing.assert_allclose(loss(np.array([[1, 0, -1]]), outputs), wanted, rtol=1e-5)


@pytest.mark.parametrize(("activation", "from_logits"), [("sigmoid", False), (None, True)])
def test_labels_of_which_several_apply_have_a_binary_loss(
    activation: str | None, from_logits: bool
) -> None:
    several = np.array([[1, 0, 1], [0, 0, 1]])
    loss = loss_for(_classifier(layers.Dense(3, activation=activation)), several)
    assert (loss.name, loss.get_config()["from_logits"]) == ("binary_crossentropy", from_logits)


def test_floats_of_zeros_and_ones_under_a_sigmoid_are_classes() -> None:
    flags = np.array([0, 1, 1, 0], np.float32)
    sigmoid = _classifier(layers.Dense(1, activation="sigmoid"))
    assert loss_for(sigmoid, flags).name == "binary_crossentropy"
    assert loss_for(sigmoid, flags / 2).name == "mean_squared_error"
    assert loss_for(_classifier(layers.Dense(1)), flags).name == "mean_squared_error"


@pytest.mark.parametrize(("activation", "from_logits"), [("softmax", False), (None, True)])
def test_the_loss_of_one_hot_rows_is_that_of_their_classes(
    activation: str | None, from_logits: bool
) -> None:
    rows = np.eye(3, dtype=np.float32)[[2, 0, 1, 1]]
    loss = loss_for(_classifier(layers.Dense(3, activation=activation)), rows)
    scores = np.array([[1.0, 0.2, -3.0], [0.5, 0.0, 2.0], [0.0, 0.0, 0.0], [9.0, 1.0, 1.0]])
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    wanted = -np.mean(np.log(shares[np.arange(4), [2, 0, 1, 1]]))
    outputs = scores if from_logits else shares
    np.testing.assert_allclose(loss(rows, outputs.astype(np.float32)), wanted, rtol=1e-5)


def test_the_loss_of_one_hot_tokens_leaves_rows_of_zeros_out() -> None:
    rows = np.eye(3, dtype=np.float32)[np.zeros((4, 6), int)]
    rows[:, 4:] = 0
    loss = loss_for(_tagger(layers.Dense(3, activation="softmax")), rows)
    scores = np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]], np.float32)
    labels = np.array([[[1, 0, 0], [0, 0, 0]]], np.float32)
    # The mean over both tokens, of which one has a loss.
    np.testing.assert_allclose(loss(labels, scores), -np.log(0.5) / 2, rtol=1e-5)


def test_flags_and_soft_labels_are_not_one_hot() -> None:
    one_hot = np.eye(3, dtype=np.float32)
    sigmoid = _classifier(layers.Dense(3, activation="sigmoid"))
    assert loss_for(sigmoid, one_hot).name == "binary_crossentropy"
    softmax = _classifier(layers.Dense(3, activation="softmax"))
    for values in (one_hot * 0.9 + 0.1 / 3, 1 - one_hot):
        assert loss_for(softmax, values).name == "mean_squared_error"


@pytest.mark.parametrize("end", ["softmax", None])
def test_tokens_have_the_loss_of_keras_and_its_gradients(end: str | None) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(-1, 3, (4, 5))
    weights = tf.constant([1.0, 0.0, 2.0, 0.5])
    inputs = generator.normal(size=(4, 5, 4)).astype(np.float32)
    values = tf_keras.Input((5, 4))
    model = tf_keras.Model(values, layers.Dense(3, end)(values))
    expected = tf_keras.losses.SparseCategoricalCrossentropy(
        from_logits=end is None, ignore_class=-1
    )
    computed = []
    for loss in (expected, loss_for(model, labels)):
        for given in (None, weights):
            with tf.GradientTape() as tape:
                total = loss(labels, model(inputs), sample_weight=given)
            computed.append([total, *tape.gradient(total, model.trainable_variables)])
    for ours, theirs in zip(computed[2:], computed[:2], strict=True):
        for own, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)
