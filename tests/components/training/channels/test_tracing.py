"""Groups of a model's channels that are removed together, and reasons to keep them."""

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from paring.training.channels.tracing import trace


def _widths(model: Any) -> dict[str, int]:
    """Count the channels that can be removed one by one, by the layers that make them."""
    return {str(group): len(group.channels) for group in trace(model).groups() if not group.whole}


def _whole(model: Any) -> dict[str, str]:
    return {str(group): group.whole for group in trace(model).groups() if group.whole}


def _network(
    between: Callable[[Any], Any],
    shape: tuple[int | None, ...] = (6, 6, 3),
    batch_size: int | None = None,
) -> Any:
    image = tf_keras.Input(shape, batch_size, name="image")
    values = between(layers.Conv2D(4, 1, name="stem")(image))
    while values.shape.rank > 2:
        values = tf_keras.backend.mean(values, axis=1)
    return tf_keras.Model(image, layers.Dense(5, name="scores")(values))


def test_channels_of_a_residual_sum_go_together() -> None:
    def between(values: Any) -> Any:
        inner = layers.Conv2D(8, 1, name="inner")(values)
        return layers.Add()([values, layers.Conv2D(4, 1, name="last")(inner)])

    assert _widths(_network(between)) == {"stem, last": 4, "inner": 8}


def test_parts_of_a_sum_with_a_concatenation_go_with_what_was_concatenated() -> None:
    def between(values: Any) -> Any:
        joined = layers.Concatenate()([values, layers.Conv2D(6, 1, name="other")(values)])
        return layers.Add()([joined, layers.Conv2D(10, 1, name="wide")(joined)])

    assert _widths(_network(between)) == {"stem, wide": 4, "other, wide": 6}


def test_groups_of_a_convolution_lose_the_same_places() -> None:
    def between(values: Any) -> Any:
        return layers.Conv2D(8, 1, groups=2, name="grouped")(values)

    assert _widths(_network(between)) == {"stem": 2, "grouped": 4}


def test_a_group_with_many_makers_is_named_by_three() -> None:
    def between(values: Any) -> Any:
        others = [layers.Conv2D(4, 1, name=f"branch_{i}")(values) for i in range(4)]
        return layers.Maximum()([values, *others])

    assert _widths(_network(between)) == {"stem, branch_0, branch_1 and 2 more": 4}


def test_the_output_of_the_model_is_whole() -> None:
    model = _network(layers.GlobalAveragePooling2D())
    assert _whole(model) == {"scores": "scores (Dense) gives the model's output"}


class Doubled(layers.Conv2D):
    """A kind that computes something else than what it derives from."""

    def call(self, inputs: Any) -> Any:
        return tf.concat([super().call(inputs)] * 2, axis=-1)


_NOT_FOLLOWED = "is of a kind whose channels can't be followed"


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.LayerNormalization(name="x"), f"x (LayerNormalization) {_NOT_FOLLOWED}"),
        (layers.Softmax(name="x"), f"x (Softmax) {_NOT_FOLLOWED}"),
        (layers.Lambda(lambda values: values, name="x"), f"x (Lambda) {_NOT_FOLLOWED}"),
        (Doubled(4, 1, name="x"), f"x (Doubled) {_NOT_FOLLOWED}"),
        (
            layers.TimeDistributed(layers.Dense(4), name="x"),
            f"x (TimeDistributed) {_NOT_FOLLOWED}",
        ),
        (
            layers.Activation("softmax", name="x"),
            "x (Activation) has the activation softmax over them",
        ),
        (
            layers.BatchNormalization(axis=1, name="x"),
            "x (BatchNormalization) normalizes another axis than the last",
        ),
        (
            layers.Rescaling([1.0, 2.0, 3.0, 4.0], name="x"),
            "x (Rescaling) has numbers of its own for each channel",
        ),
        (
            layers.Dropout(0.5, noise_shape=(None, 1, 1, 4), name="x"),
            "x (Dropout) has a noise shape with the number of channels in it",
        ),
        (
            layers.Reshape((6, 6, 2, 2), name="x"),
            "x (Reshape) splits the channels, or joins them with an axis of no fixed size",
        ),
        (
            layers.Permute((3, 1, 2), name="x"),
            "x (Permute) moves the channels to another axis",
        ),
        (
            layers.AveragePooling2D(data_format="channels_first", name="x"),
            "x (AveragePooling2D) has its channels first",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_channels_that_a_layer_mixes_are_whole(layer: Any, reason: str) -> None:
    whole = _whole(_network(layer))
    assert whole.pop("scores") == "scores (Dense) gives the model's output"
    # A layer of an unknown kind may make channels of its own.
    assert whole.pop("x", reason) == reason
    assert whole == {"stem": reason}


def test_a_layer_of_an_unknown_kind_with_a_kernel_is_named_itself() -> None:
    tokens = tf_keras.Input((5,))
    values = layers.LSTM(8, name="memory")(layers.Embedding(9, 6, name="words")(tokens))
    whole = _whole(tf_keras.Model(tokens, layers.Dense(2, name="scores")(values)))
    assert list(whole) == ["words", "memory", "scores"]
    assert whole["memory"] == f"memory (LSTM) {_NOT_FOLLOWED}"


def test_called_functions_are_followed_if_they_keep_channels_apart() -> None:
    def apart(values: Any) -> Any:
        return tf.nn.relu6(values + 3.0) * (1 / 6)

    def mixed(values: Any) -> Any:
        return tf.nn.softmax(values)

    def scaled(values: Any) -> Any:
        return values * tf.constant([1.0, 2.0, 3.0, 4.0])

    assert _widths(_network(apart)) == {"stem": 4}
    assert "(tf.nn.softmax)" in _whole(_network(mixed))["stem"]
    assert "numbers of its own" in _whole(_network(scaled))["stem"]


@pytest.mark.parametrize(
    "between",
    [
        lambda values: layers.Add(name="x")([values, tf.ones((1, 6, 6, 4))]),
        lambda values: tf.concat([values, tf.ones((1, 6, 6, 4))], axis=1),
    ],
)
def test_constants_beside_the_models_tensors_keep_channels_whole(
    between: Callable[[Any], Any],
) -> None:
    reason = _whole(_network(between, (6, 6, 3), batch_size=1))["stem"]
    assert reason.endswith(" takes numbers beside tensors of the model")


def test_axes_that_are_joined_must_be_of_fixed_size() -> None:
    joined = layers.Reshape((-1, 24))
    assert _widths(_network(joined, (None, 6, 3))) == {"stem": 4}
    of_no_size = layers.Reshape((-1, 24), name="x")
    assert _whole(_network(of_no_size, (6, None, 3)))["stem"] == (
        "x (Reshape) splits the channels, or joins them with an axis of no fixed size"
    )


def test_models_inside_are_followed_as_if_their_layers_stood_in_the_model() -> None:
    values = tf_keras.Input((6, 6, 4))
    inner = layers.Conv2D(4, 1, name="inner")(values)
    block = tf_keras.Model(values, layers.Add()([values, inner]))
    assert _widths(_network(block)) == {"stem, inner": 4}


class Subclassed(tf_keras.Model):
    """A model whose layers are not known before it runs."""

    def call(self, inputs: Any) -> Any:
        return inputs * 2


def test_a_subclassed_model_inside_keeps_what_it_takes_whole() -> None:
    model = _network(Subclassed(name="own"))
    assert _whole(model)["stem"] == f"own (Subclassed) {_NOT_FOLLOWED}"
