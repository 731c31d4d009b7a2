"""Masks of padding reach the layers behind wrapped ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras

from paring.models.loading import optimization_classes, save_keras
from paring.training.pruning.pruning import Pruning, prunable_layers
from paring.training.quantization.clustering import Clustering
from paring.training.quantization.qat import fake_quantized

layers = tf_keras.layers

TOKENS = np.random.default_rng(0).integers(1, 30, (8, 6)).astype(np.int32)
PADDED = np.pad(TOKENS, ((0, 0), (0, 3)))


def _classifier(*between: Any) -> Any:
    """A network on sequences of any length, whose padding is 0."""
    tf_keras.utils.set_random_seed(0)
    tokens = tf_keras.Input((None,), dtype="int32", name="tokens")
    values = layers.Embedding(30, 8, mask_zero=True)(tokens)
    for item in between:
        values = item(values)
    return tf_keras.Model(tokens, layers.Dense(3, activation="softmax")(values))


MODELS: dict[str, Callable[[], Any]] = {
    "lstm": lambda: _classifier(layers.LSTM(8)),
    "bidirectional": lambda: _classifier(layers.Bidirectional(layers.LSTM(8))),
    "dense": lambda: _classifier(
        layers.Dense(8), layers.ReLU(), layers.Dense(8), layers.GlobalAveragePooling1D()
    ),
}


def _pruned(model: Any) -> Any:
    sparsities = dict.fromkeys(prunable_layers(model, "unstructured"), 0.5)
    return Pruning(model, sparsities=sparsities, steps=4, pattern="unstructured").model


def _clustered(model: Any) -> Any:
    return Clustering(model, clusters=4, preserve_sparsity=False).model


def _quantized(model: Any) -> Any:
    return fake_quantized(model).model


def _ignores_padding(model: Any) -> None:
    """Assert that longer padding changes no output."""
    np.testing.assert_allclose(
        model(PADDED, training=False), model(TOKENS, training=False), atol=1e-6
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wrapped", [_pruned, _clustered, _quantized])
def test_a_wrapped_model_ignores_padding_as_its_source_does(
    name: str, wrapped: Callable[[Any], Any]
) -> None:
    model = MODELS[name]()
    _ignores_padding(model)
    _ignores_padding(wrapped(model))


def test_a_model_with_fake_quantization_ignores_padding_after_loading(tmp_path: Path) -> None:
    file = tmp_path / "Format-Keras" / "model.keras"
    made = _quantized(MODELS["dense"]())
    save_keras(made, file)
    with optimization_classes():
        loaded = tf_keras.models.load_model(file, compile=False)
    _ignores_padding(loaded)
    np.testing.assert_allclose(
        loaded(PADDED, training=False), made(PADDED, training=False), atol=1e-6
    )


def test_a_pruned_layer_trains_behind_a_mask() -> None:
    model = MODELS["bidirectional"]()
    sparsities = dict.fromkeys(prunable_layers(model, "unstructured"), 0.5)
    pruning = Pruning(model, sparsities=sparsities, steps=2, pattern="unstructured")
    pruning.model.compile("adam", "sparse_categorical_crossentropy")
    labels = np.arange(8) % 3
    pruning.model.fit(
        PADDED, labels, batch_size=4, epochs=1, verbose=0, callbacks=[pruning.callback()]
    )
    assert pruning.shortfalls() == []
    _ignores_padding(pruning.strip())
