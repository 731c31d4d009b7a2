"""Taking channels out: the smaller model is the original with them unread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from paring.errors import UnsupportedError
from paring.training.channels.channel_graph import Role
from paring.training.channels.importance import filter_norms
from paring.training.channels.surgery import Cut, choose, without_channels
from paring.training.channels.tracing import trace

# Layers that mix what they read, unless each group of a convolution is one channel.
_MIXING = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv2DTranspose,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.Dense,
)
_NOT_MIXING = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
# Maxima lose nan on the way.
_MAXIMA = (layers.ReLU, layers.MaxPooling1D, layers.MaxPooling2D, layers.GlobalMaxPooling2D)


def sequential_cnn() -> Any:
    return tf_keras.Sequential(
        [
            layers.Conv2D(8, 3, activation="relu", input_shape=(12, 12, 3)),
            layers.MaxPooling2D(),
            layers.BatchNormalization(),
            layers.Conv2D(10, 3, padding="same", use_bias=False),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Flatten(),
            layers.Dense(12, activation="swish"),
            layers.Dropout(0.5),
            layers.Dense(4),
        ]
    )


def dense_stack() -> Any:
    return tf_keras.Sequential(
        [
            layers.Dense(20, "tanh", input_shape=(9,)),
            layers.Dense(16, "sigmoid"),
            layers.Dense(3),
        ]
    )


def cnn_1d() -> Any:
    return tf_keras.Sequential(
        [
            layers.Conv1D(8, 5, padding="causal", activation="relu", input_shape=(32, 2)),
            layers.MaxPooling1D(2),
            layers.DepthwiseConv1D(3, activation="relu"),
            layers.SeparableConv1D(12, 3, depth_multiplier=2),
            layers.BatchNormalization(scale=False),
            layers.GlobalAveragePooling1D(),
            layers.Dense(4),
        ]
    )


def concatenations() -> Any:
    image = tf_keras.Input((8, 8, 3))
    item = layers.Conv2D(6, 1, activation="hard_sigmoid")(image)
    two = layers.Conv2D(10, 3, padding="same", activation="relu")(image)
    both = layers.BatchNormalization()(layers.Concatenate()([item, two, image]))
    # Ties the first part of a wide layer to one, the rest to two and to the input.
    wide = layers.Add()([both, layers.Conv2D(19, 1)(both)])
    below = layers.Concatenate(axis=1)([wide, both])
    pooled = layers.GlobalMaxPooling2D()(layers.ZeroPadding2D(1)(below))
    return tf_keras.Model(image, layers.Dense(5)(pooled))


def squeeze_and_excite() -> Any:
    image = tf_keras.Input((8, 8, 3))
    values = layers.Conv2D(8, 3, use_bias=False)(image)
    values = layers.BatchNormalization()(values)
    values = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="swish")(values)
    gate = layers.Reshape((1, 1, -1))(layers.GlobalAveragePooling2D()(values))
    gate = layers.Conv2D(4, 1, activation="swish")(gate)
    gate = layers.Conv2D(16, 1, activation="sigmoid")(gate)
    values = layers.Conv2D(6, 1)(layers.Multiply()([values, gate]))
    return tf_keras.Model(image, layers.Dense(5)(layers.Flatten()(values)))


def grouped_convolutions() -> Any:
    image = tf_keras.Input((8, 8, 3))
    values = layers.Conv2D(12, 1, activation="relu")(image)
    values = layers.Conv2D(8, 3, groups=2, activation="relu")(values)
    values = layers.Conv2D(16, 3, groups=8)(values)
    return tf_keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(values)))


def encoder_and_decoder() -> Any:
    image = tf_keras.Input((8, 8, 3))
    down = layers.Conv2D(8, 3, strides=2, padding="same", activation="elu")(image)
    up = layers.Conv2DTranspose(6, 2, strides=2, activation="relu")(down)
    up = layers.Average()([up, layers.Conv2D(6, 1)(layers.UpSampling2D()(down))])
    up = layers.SeparableConv2D(10, 3, depth_multiplier=2, activation="relu")(up)
    values = layers.Reshape((6 * 6, 10))(up)
    values = layers.Reshape((9, 40))(layers.Permute((1, 2))(values))
    return tf_keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling1D()(values)))


def shared_layers() -> Any:
    image = tf_keras.Input((8, 8, 3))
    shared, normal = layers.Conv2D(8, 1), layers.BatchNormalization()
    item = normal(shared(layers.Conv2D(20, 1, activation="relu")(image)))
    two = normal(shared(layers.Conv2D(20, 3, activation="relu", padding="same")(image)))
    pooled = layers.GlobalAveragePooling2D()(layers.Subtract()([item, two]))
    return tf_keras.Model(image, layers.Dense(5)(pooled))


def nested_models() -> Any:
    values = tf_keras.Input((None, None, 8), name="values")
    inner = layers.Conv2D(8, 3, padding="same", activation="relu")(values)
    block = tf_keras.Model(values, layers.Add()([values, inner]), name="block")
    head = tf_keras.Sequential(
        [layers.Flatten(input_shape=(8, 8, 8)), layers.Dense(12, "relu"), layers.Dense(5)],
        name="head",
    )
    image = tf_keras.Input((8, 8, 3), name="image")
    stem = layers.Conv2D(8, 1, name="stem")(image)
    # Twice, so that what goes into each is tied.
    return tf_keras.Model(image, head(block(block(stem))))


def called_functions() -> Any:
    image = tf_keras.Input((8, 8, 3))
    values = layers.Conv2D(8, 3)(image / 2.0)
    values = values * tf.nn.silu(values) * 0.5 + 1.0
    other = tf.math.sigmoid(layers.Conv2D(6, 3)(image))
    values = tf.concat([values, other], axis=-1)
    values = tf.reduce_mean(values, axis=[1, 2])
    return tf_keras.Model(image, layers.Dense(5)(values))


def transformer() -> Any:
    tokens = tf_keras.Input((7, 8))
    attended = layers.MultiHeadAttention(2, 4)(tokens, tokens)
    values = layers.LayerNormalization()(tokens + attended)
    inner = layers.Dense(24, activation="gelu")(values)
    values = layers.LayerNormalization()(layers.Add()([values, layers.Dense(8)(inner)]))
    return tf_keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(values)))


NETWORKS = [
    sequential_cnn,
    dense_stack,
    cnn_1d,
    concatenations,
    squeeze_and_excite,
    grouped_convolutions,
    encoder_and_decoder,
    shared_layers,
    nested_models,
    called_functions,
    transformer,
]
APPLICATIONS = [
    "ResNet50",
    "MobileNetV2",
    "EfficientNetB0",
    pytest.param("MobileNetV3Small", marks=pytest.mark.slow),
]


def randomize(model: Any) -> None:
    """Give every weight a value, so that no channel is like another one."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        name, shape = variable.name, tuple(variable.shape)
        if "gamma" in name or "variance" in name:
            values = generator.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            values = generator.normal(0, 0.3, shape)
        else:
            fan_in = np.prod(shape[: -2 if "depthwise" in name else -1])
            values = generator.normal(0, fan_in**-0.5, shape)
        variable.assign(values)


def cut(model: Any, ratio: float, multiple_of: int = 1) -> Cut:
    """The channels with the smallest filters taken out."""
    graph = trace(model)
    return choose(graph, filter_norms(graph), ratio=ratio, multiple_of=multiple_of)


def _mixes(layer: Any) -> bool:
    if isinstance(layer, _NOT_MIXING) or not isinstance(layer, _MIXING):
        return False
    return getattr(layer, "groups", 1) == 1 or layer.kernel.shape[-2] > 1


def unread(model: Any, chosen: Cut, features: Any) -> Any:
    """Return the outputs of `model` if nothing reads the filters and units to be removed.

    It knows of no graph: what these give is nan, nan spreads with all that depends
    on it, and the next layer that mixes channels reads 0 in its place.
    """
    own_calls = []

    def change(layer: Any, call: Callable[..., Any]) -> None:
        own_calls.append((layer, vars(layer).get("call")))
        layer.call = tf.autograph.experimental.do_not_convert(call)

    def mixing(layer: Any, own: Any) -> Callable[..., Any]:
        going = next(
            ~chosen.kept[part.channels]
            for part in chosen.graph.parts
            if part.layer is layer and part.role is Role.PRODUCER
        )
        return lambda values: tf.where(
            going, np.nan, own(tf.where(tf.math.is_nan(values), 0.0, values))
        )

    def maximum(own: Any) -> Callable[..., Any]:
        def call(values: Any) -> Any:
            lost = tf.reduce_any(tf.math.is_nan(values), axis=range(len(values.shape) - 1))
            return tf.where(lost, np.nan, own(values))

        return call

    for layer in model._flatten_layers():
        if isinstance(layer, _MAXIMA):
            change(layer, maximum(layer.call))
        elif _mixes(layer):
            change(layer, mixing(layer, layer.call))
    try:
        return model(features, training=False).numpy()
    finally:
        for layer, own in own_calls:
            del layer.call
            if own is not None:
                layer.call = own


def assert_is_the_model_with_channels_unread(model: Any, ratio: float) -> None:
    randomize(model)
    chosen = cut(model, ratio)
    shape = [2, *model.inputs[0].shape[1:]]
    features = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    whole = model(features, training=False).numpy()
    smaller = without_channels(model, chosen)

    result = smaller(features, training=False).numpy()
    expected = unread(model, chosen, features)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * largest)
    # The channels that went did matter, so the comparison above says something.
    assert np.abs(whole - expected).max() > 1e-3 * largest
    assert smaller.count_params() < model.count_params()
    np.testing.assert_array_equal(model(features, training=False).numpy(), whole)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("build", NETWORKS)
def test_a_smaller_network_is_the_original_with_channels_unread(
    build: Callable[[], Any], ratio: float
) -> None:
    assert_is_the_model_with_channels_unread(build(), ratio)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_smaller_application_is_the_original_with_channels_unread(name: str) -> None:
    build = getattr(tf_keras.applications, name)
    model = build(input_shape=(32, 32, 3), weights=None, classes=10, classifier_activation=None)
    for ratio in (0.3, 0.5):
        assert_is_the_model_with_channels_unread(model, ratio)


@pytest.mark.parametrize("build", NETWORKS)
def test_a_smaller_network_is_loaded_again_as_it_was_saved(
    build: Callable[[], Any], tmp_path: Path
) -> None:
    model = build()
    smaller = without_channels(model, cut(model, 0.5))
    smaller.save(tmp_path / "smaller.keras")
    again = tf_keras.models.load_model(tmp_path / "smaller.keras", compile=False)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    features = np.ones([2, *model.inputs[0].shape[1:]], np.float32)
    np.testing.assert_allclose(
        again(features, training=False), smaller(features, training=False), atol=1e-6
    )


def _filters(model: Any) -> dict[str, int]:
    return {layer.name: layer.filters for layer in model.layers if hasattr(layer, "filters")}


def test_inner_layers_shrink_by_the_square_of_what_stays() -> None:
    model = tf_keras.Sequential(
        [
            layers.Conv2D(20, 3, input_shape=(8, 8, 3)),
            layers.Conv2D(40, 3, use_bias=False, name="inner"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    smaller = without_channels(model, cut(model, 0.3))
    before, after = (item.get_layer("inner").count_params() for item in (model, smaller))
    assert after / before == pytest.approx(0.7**2)


def test_widths_stay_multiples_where_asked() -> None:
    model = sequential_cnn()
    smaller = without_channels(model, cut(model, 0.5, multiple_of=4))
    assert list(_filters(model).values()) == [8, 10]
    # 5 of 10 would stay, and 8 is the next multiple.
    assert list(_filters(smaller).values()) == [4, 8]


def test_a_group_is_left_whole_where_the_ratio_takes_less_than_one() -> None:
    model = tf_keras.Sequential(
        [
            layers.Dense(3, input_shape=(4,), name="narrow"),
            layers.Dense(10, name="wide"),
            layers.Dense(2, name="scores"),
        ]
    )
    chosen = cut(model, 0.3)
    assert chosen.removed == 3
    assert chosen.unprunable_groups == [
        "narrow: only 3 that can go one by one",
        "scores: scores (Dense) gives the model's output",
    ]


def test_some_channels_always_stay() -> None:
    model = dense_stack()
    assert without_channels(model, cut(model, 0.999)).count_params() > 0


def test_a_model_in_which_nothing_can_go_is_unsupported_by_its_couplings() -> None:
    image = tf_keras.Input((8, 8, 3), name="image")
    values = layers.Conv2D(3, 1, name="residual")(image)
    values = layers.Conv2D(4, 1, name="before")(layers.Add()([values, image]))
    values = layers.LayerNormalization(name="normal")(values)
    scores = layers.Dense(4, name="scores")(layers.Flatten()(values))
    with pytest.raises(UnsupportedError) as caught:
        cut(tf_keras.Model(image, scores), 0.5)
    assert caught.value.received.split("; ") == [
        "residual: added to image, the model's input",
        "before: normal (LayerNormalization) is of a kind whose channels can't be followed",
        "scores: scores (Dense) gives the model's output",
    ]
