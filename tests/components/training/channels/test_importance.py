"""The measures of a channel's importance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras
from tf_keras import layers

from paring.artifacts import Examples, Model
from paring.training.channels.channel_graph import ChannelGraph
from paring.training.channels.importance import channel_scores, filter_norms, normalization_scales
from paring.training.channels.tracing import trace
from paring.training.training import Training, open_training


def _scores_of(graph: ChannelGraph, scores: Any, makers: str) -> Any:
    (group,) = (item for item in graph.groups() if str(item) == makers)
    return scores[group.channels]


def test_the_norm_of_a_filter_is_its_share_of_the_layers_weights() -> None:
    kernel = np.array([[1, -2, 0], [2, 3, 1]], np.float32)
    dense = layers.Dense(3, name="inner")
    model = tf_keras.Sequential([tf_keras.Input((2,)), dense, layers.Dense(2)])
    dense.set_weights([kernel, np.ones(3)])
    graph = trace(model)
    np.testing.assert_allclose(_scores_of(graph, filter_norms(graph), "inner"), [1, 5 / 3, 1 / 3])


def test_layers_whose_channels_are_tied_have_an_equal_say() -> None:
    values = tf_keras.Input((2,))
    large, small = layers.Dense(2, name="large"), layers.Dense(2, name="small")
    model = tf_keras.Model(values, layers.Dense(2)(layers.Add()([large(values), small(values)])))
    large.set_weights([100 * np.array([[1, 3], [0, 0]], np.float32), np.zeros(2)])
    small.set_weights([np.array([[2, 0], [0, 0]], np.float32), np.zeros(2)])
    graph = trace(model)
    np.testing.assert_allclose(
        _scores_of(graph, filter_norms(graph), "large, small"), [0.5 + 2, 1.5 + 0]
    )


def test_a_channels_scales_are_added_up_without_their_signs() -> None:
    image = tf_keras.Input((4, 4, 1))
    normal = [layers.BatchNormalization() for _ in range(2)]
    values = normal[0](layers.Conv2D(3, 1, name="inner")(image))
    values = normal[1](layers.DepthwiseConv2D(3)(values))
    values = layers.Dense(6, name="plain")(layers.Flatten()(values))
    model = tf_keras.Model(image, layers.Dense(2)(values))
    normal[0].gamma.assign([1.0, -2.0, 0.5])
    normal[1].gamma.assign([0.25, 0.0, -1.0])
    graph = trace(model)
    scales = normalization_scales(graph)
    np.testing.assert_allclose(_scores_of(graph, scales, "inner"), [1.25, 2.0, 1.5])
    assert np.isnan(_scores_of(graph, scales, "plain")).all()


@pytest.fixture
def training(tmp_path: Path) -> Callable[[Any], Training]:
    """Opens 30 random examples in 3 classes for a model, which is saved first."""

    def open_for(model: Any) -> Training:
        generator = np.random.default_rng(0)
        features = generator.normal(size=(30, *model.inputs[0].shape[1:])).astype(np.float32)
        labels = np.arange(30) % 3
        np.savez(
            tmp_path / "few.npz",
            x_train=features, y_train=labels, x_eval=features, y_eval=labels,
        )  # fmt: skip
        model.save(tmp_path / "model.keras")
        return open_training(
            Model(tmp_path / "model.keras"), Examples(tmp_path / "few.npz"), batch_size=32, seed=0
        )

    return open_for


def test_the_taylor_score_is_the_squared_slope_of_the_loss(
    training: Callable[[Any], Training],
) -> None:
    image = tf_keras.Input((4, 4, 2), name="image")
    values = layers.Conv2D(5, 3, activation="tanh", padding="same", name="inner")(image)
    values = layers.DepthwiseConv2D(3, name="depthwise")(values)
    # Two layers read the same channels, one of them each channel at four places.
    item = layers.Dense(4, activation="tanh")(layers.Flatten()(values))
    two = layers.Dense(4)(layers.GlobalMaxPooling2D()(values))
    scores = layers.Dense(3, activation="softmax")(layers.Add()([item, two]))
    opened = training(tf_keras.Model(image, scores))
    graph = trace(opened.model)
    result = _scores_of(graph, channel_scores(graph, "taylor", opened), "inner")

    # What the loss does when all that the depthwise layer gives of a channel is
    # multiplied by 1 + h and by 1 - h.
    depthwise = opened.model.get_layer("depthwise")
    kernel, bias = depthwise.get_weights()
    rows = opened.portions.train
    features = np.asarray(opened.split.features["image"][rows])
    labels = opened.split.labels[rows]

    def loss(channel: int, gate: float) -> float:
        gates = np.where(np.arange(5) == channel, gate, 1.0)
        depthwise.set_weights([kernel * gates[:, None], bias * gates])
        return float(opened.loss(labels, opened.model(features, training=False)))

    h = 1e-2
    slopes = [(loss(item, 1 + h) - loss(item, 1 - h)) / (2 * h) for item in range(5)]
    np.testing.assert_allclose(result, np.square(slopes), rtol=0.02, atol=1e-9)


def _crossentropy(labels: Any, scores: Any) -> Any:
    scores = np.clip(scores, 1e-7, 1 - 1e-7)
    return -np.mean(labels * np.log(scores) + (1 - labels) * np.log(1 - scores))


def _head(kind: str, values: Any) -> Any:
    """An output of its own kind over values [batch, 4, 4, 5]."""
    if kind == "pixels":
        return layers.Conv2D(1, 1, activation="sigmoid", name=kind)(values)
    flat = layers.Flatten()(values)
    if kind == "binary":
        return layers.Dense(1, activation="sigmoid", name=kind)(flat)
    if kind == "several":
        return layers.Dense(3, activation="sigmoid", name=kind)(flat)
    return layers.Dense(1, name=kind)(flat)


_LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "pixels": lambda labels, scores: _crossentropy(labels, scores[..., 0]),
    "binary": lambda labels, scores: _crossentropy(labels, scores[:, 0]),
    "several": _crossentropy,
    "scalar": lambda labels, values: np.mean(np.square(labels - values[:, 0])),
}


@pytest.mark.parametrize(
    "heads", [("binary",), ("scalar",), ("pixels",), ("several",), ("binary", "scalar", "pixels")]
)
def test_the_taylor_score_takes_the_loss_that_training_takes(
    heads: tuple[str, ...], tmp_path: Path
) -> None:
    """Check outputs [batch, 1] with labels [batch], above all, and several outputs."""
    generator = np.random.default_rng(0)
    image = tf_keras.Input((4, 4, 2), name="image")
    inner = layers.Conv2D(5, 3, activation="tanh", padding="same", name="inner")(image)
    values = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(inner)
    model = tf_keras.Model(image, [_head(kind, values) for kind in heads])
    columns = {
        "image": generator.normal(size=(40, 4, 4, 2)).astype(np.float32),
        "pixels": generator.integers(0, 2, (40, 4, 4)),
        "binary": generator.integers(0, 2, 40),
        "several": generator.integers(0, 2, (40, 3)),
        "scalar": generator.normal(size=40).astype(np.float32),
    }
    arrays = {
        f"{'label' if heads == (name,) else name}_{split}": columns[name]
        for name in ("image", *heads)
        for split in ("train", "eval")
    }
    np.savez(tmp_path / "few.npz", **arrays)
    model.save(tmp_path / "model.keras")
    opened = open_training(
        Model(tmp_path / "model.keras"), Examples(tmp_path / "few.npz"), batch_size=64, seed=0
    )
    graph = trace(opened.model)
    result = _scores_of(graph, channel_scores(graph, "taylor", opened), "inner")

    rows = opened.portions.train
    depthwise = opened.model.get_layer("depthwise")
    kernel, bias = depthwise.get_weights()

    def loss(channel: int, gate: float) -> float:
        gates = np.where(np.arange(5) == channel, gate, 1.0)
        depthwise.set_weights([kernel * gates[:, None], bias * gates])
        given = opened.model(columns["image"][rows], training=False)
        outputs = given if len(heads) > 1 else [given]
        return float(
            sum(
                _LOSSES[kind](columns[kind][rows], output.numpy())
                for kind, output in zip(heads, outputs, strict=True)
            )
        )

    h = 1e-2
    slopes = [(loss(item, 1 + h) - loss(item, 1 - h)) / (2 * h) for item in range(5)]
    np.testing.assert_allclose(result, np.square(slopes), rtol=0.02, atol=1e-8)


def test_the_measures_do_not_agree_on_what_goes_first(
    training: Callable[[Any], Training],
) -> None:
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((4, 4, 2), name="image")
    normal = layers.BatchNormalization(gamma_initializer="random_normal")
    values = normal(layers.Conv2D(12, 3, name="inner")(image))
    scores = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(values))
    opened = training(tf_keras.Model(image, scores))
    graph = trace(opened.model)
    orders = {
        tuple(np.argsort(_scores_of(graph, channel_scores(graph, item, opened), "inner")))
        for item in ("l1", "batch_norm", "taylor")
    }
    assert len(orders) == 3
