"""Keras 3 models rebuilt in tf_keras: the same weights, the same outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from paring.artifacts import Model
from paring.errors import UnsupportedError
from paring.models.bridge import rebuild
from paring.models.loading import load_keras

IMAGE = {"input_shape": (32, 32, 3), "weights": None, "classes": 10}
applications = keras.applications


def cnn_1d() -> Any:
    return keras.Sequential(
        [
            keras.Input((64, 3), name="signal"),
            layers.Conv1D(8, 5, padding="causal", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling1D(2),
            layers.SeparableConv1D(16, 3, activation="silu"),
            layers.SpatialDropout1D(0.1),
            layers.GlobalMaxPooling1D(),
            layers.Dense(4, activation="softmax"),
        ],
        name="cnn_1d",
    )


def recurrent() -> Any:
    tokens = keras.Input((20,), dtype="int32", name="tokens")
    values = layers.Embedding(100, 12, mask_zero=True)(tokens)
    values = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(values)
    values = layers.TimeDistributed(layers.Dense(7, activation="tanh"))(values)
    values = layers.GRU(5)(values)
    return keras.Model(tokens, layers.Dense(1, activation="sigmoid")(values), name="recurrent")


def transformer() -> Any:
    tokens = keras.Input((16,), dtype="int32", name="tokens")
    values = layers.Embedding(50, 24)(tokens)
    for _ in range(2):
        attended = layers.MultiHeadAttention(3, 8, dropout=0.1)(values, values)
        values = layers.LayerNormalization(epsilon=1e-6)(values + attended)
        inner = layers.Dense(48, activation="gelu")(values)
        inner = layers.Dropout(0.1)(layers.Dense(24)(inner))
        values = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([values, inner]))
    pooled = layers.GlobalAveragePooling1D()(values)
    return keras.Model(tokens, layers.Dense(3, activation="softmax")(pooled), name="transformer")


def nested() -> Any:
    encoder = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6, activation="relu6"), layers.LayerNormalization()],
        name="encoder",
    )
    first, second = keras.Input((8,), name="first"), keras.Input((8,), name="second")
    # The encoder's weights are shared.
    joined = layers.Concatenate()([encoder(first), encoder(second)])
    inner_in = keras.Input((12,))
    inner = keras.Model(inner_in, [layers.Dense(5)(inner_in), layers.Dense(2)(inner_in)])
    outputs = inner(joined)
    return keras.Model([first, second], outputs, name="nested")


def operations() -> Any:
    image = keras.Input((8, 8, 4), name="image")
    values = (image - 0.5) * 2.0
    values = 1.0 - values / 4.0
    values = layers.Conv2D(6, 3, padding="same", activation="hard_swish")(values)
    values = layers.LeakyReLU(negative_slope=0.1)(values) + values
    values = ops.relu(values) * layers.Activation("hard_sigmoid")(values)
    values = ops.reshape(values, (-1, 64, 6))
    values = ops.mean(values, axis=1)
    return keras.Model(image, layers.Dense(3)(values), name="operations")


def preprocessing() -> Any:
    image = keras.Input((8, 8, 3), name="image")
    values = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    values = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(values)
    values = layers.Flatten()(layers.ZeroPadding2D(1)(values))
    return keras.Model(image, layers.Dense(2)(values), name="preprocessing")


MODELS: dict[str, Callable[[], Any]] = {
    "MobileNet": lambda: applications.MobileNet(alpha=0.25, **IMAGE),
    "MobileNetV2": lambda: applications.MobileNetV2(alpha=0.35, **IMAGE),
    "MobileNetV3Small": lambda: applications.MobileNetV3Small(**IMAGE),
    "MobileNetV3Large": lambda: applications.MobileNetV3Large(**IMAGE),
    "EfficientNetB0": lambda: applications.EfficientNetB0(**IMAGE),
    "EfficientNetV2B0": lambda: applications.EfficientNetV2B0(**IMAGE),
    "ResNet50": lambda: applications.ResNet50(**IMAGE),
    "cnn_1d": cnn_1d,
    "recurrent": recurrent,
    "transformer": transformer,
    "nested": nested,
    "operations": operations,
    "preprocessing": preprocessing,
}


def _randomize(model: Any) -> None:
    """Other weights than a new layer has, whose zeros and ones hide mistakes."""
    generator = np.random.default_rng(0)
    for variable in model.weights:
        value = np.asarray(variable)
        if value.dtype.kind == "f":
            variable.assign(value + 0.02 * generator.random(value.shape))


def _random_inputs(model: Any) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [
        generator.integers(0, 50, (3, *item.shape[1:])).astype(item.dtype)
        if "int" in item.dtype
        else generator.normal(size=(3, *item.shape[1:])).astype(item.dtype)
        for item in model.inputs
    ]


def _run(model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs = model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
    return outputs if isinstance(outputs, list) else [outputs]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_keras_3_file_loads_with_its_outputs(name: str, tmp_path: Path) -> None:
    source = MODELS[name]()
    _randomize(source)
    source.save(tmp_path / "model.keras")
    loaded = load_keras(Model(tmp_path / "model.keras"))

    assert loaded.count_params() == source.count_params()
    assert loaded.input_names == [item._keras_history.operation.name for item in source.inputs]
    inputs = _random_inputs(source)
    for expected, result in zip(_run(source, inputs), _run(loaded, inputs), strict=True):
        assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_difference_is_reported() -> None:
    source = nested()
    _randomize(source)
    rebuilt = rebuild(source)
    assert 0 <= rebuilt.difference < 1e-5
    assert [layer.name for layer in rebuilt.model.layers if layer.name == "encoder"] == ["encoder"]


class _Doubling(layers.Layer):
    def call(self, values: Any) -> Any:
        return 2 * values


def test_a_layer_of_the_users_own_is_named() -> None:
    values = keras.Input((4,))
    model = keras.Model(values, _Doubling(name="doubling")(values))
    with pytest.raises(UnsupportedError, match="doubling, a _Doubling of Keras 3") as error:
        rebuild(model)
    assert "export" in error.value.remedy


def test_a_subclassed_model_is_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.dense = layers.Dense(2)

        def call(self, values: Any) -> Any:
            return self.dense(values)

    model = Own()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(UnsupportedError, match="own of Keras 3 is subclassed"):
        rebuild(model)


def test_outputs_that_differ_are_refused() -> None:
    values = keras.Input((4,), name="values")
    layer = layers.Softmax(axis=1)
    model = keras.Model(values, layer(values))
    # As if a setting had been lost on the way.
    layer.get_config = lambda: {"name": "softmax", "axis": 0}
    with pytest.raises(UnsupportedError, match="computes something else"):
        rebuild(model)


@pytest.mark.parametrize("broken", ["shares", "logarithms"])
def test_each_of_several_outputs_is_compared_by_its_own_size(broken: str) -> None:
    """Also where another one is large, or both models have NaN in it."""
    values = keras.Input((4,), name="values")
    softmax = layers.Softmax(axis=1, name="softmax")
    shares = softmax(values)
    prices = layers.Rescaling(1e9, name="prices")(values)
    logarithms = keras.ops.log(layers.Rescaling(1.0, offset=-0.5, name="shifted")(values))
    model = keras.Model(values, [prices, shares, logarithms])
    rebuilt = rebuild(model)
    assert np.isnan(rebuilt.model(np.zeros((1, 4), np.float32))[2]).all()
    assert rebuilt.difference <= 1e-5 * 1e9
    layer, settings = {
        "shares": (softmax, {"name": "softmax", "axis": 0}),
        "logarithms": (model.get_layer("shifted"), {"name": "shifted", "scale": 1.0}),
    }[broken]
    layer.get_config = lambda: settings
    with pytest.raises(UnsupportedError, match="computes something else"):
        rebuild(model)


def _on_ids(ids: Any, dtype: str) -> Any:
    """A classifier of sequences of numbers that become ids first."""
    numbers = keras.Input((6,), dtype=dtype, name="numbers")
    values = layers.Embedding(40, 8)(ids(numbers))
    values = layers.GlobalAveragePooling1D()(values)
    return keras.Model(numbers, layers.Dense(3, activation="softmax")(values))


@pytest.mark.parametrize("adapted", [True, False])
def test_a_lookup_keeps_its_vocabulary(adapted: bool, tmp_path: Path) -> None:
    words = [7, 3, 11]
    lookup = layers.IntegerLookup(vocabulary=None if adapted else words, mask_token=0)
    if adapted:
        lookup.adapt(np.repeat([*words, 0], [4, 3, 2, 5]))
    source = _on_ids(lookup, "int64")
    source.save(tmp_path / "model.keras")
    made = load_keras(Model(tmp_path / "model.keras"))
    # Known, unknown and masked ones.
    given = np.array([[7, 3, 11, 0, 5, 900], [11, 11, 7, 7, -1, 3]])
    np.testing.assert_allclose(made(given), source(given), atol=1e-6)


def test_bins_that_were_found_from_data_are_kept(tmp_path: Path) -> None:
    bins = layers.Discretization(num_bins=4)
    bins.adapt(np.linspace(-3, 9, 100).astype(np.float32))
    source = _on_ids(bins, "float32")
    source.save(tmp_path / "model.keras")
    made = load_keras(Model(tmp_path / "model.keras"))
    given = np.array([[-5, -1, 2, 4, 7, 30]], np.float32)
    np.testing.assert_allclose(made(given), source(given), atol=1e-6)


def test_a_model_of_text_is_unsupported() -> None:
    words = keras.Input((4,), dtype="string", name="words")
    ids = layers.StringLookup(vocabulary=["a", "b"])(words)
    values = layers.Flatten()(layers.Embedding(5, 2)(ids))
    with pytest.raises(UnsupportedError, match=r"takes text[\s\S]*words"):
        rebuild(keras.Model(words, layers.Dense(2)(values)))
