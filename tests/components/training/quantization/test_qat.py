"""Layers and inputs of a model that quantization-aware training rounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import QuantizedModel, TFLiteModel
from paring.data.examples import Split
from paring.execution import Call, execute
from paring.runtimes import open_runtime
from paring.steps.convert_tflite import convert_tflite
from paring.steps.quantize import quantize
from paring.training.quantization.qat import calibrate_ranges, fake_quantized

generator = np.random.default_rng(0)
LABELS = np.arange(240) % 2


def trained(inputs: Any, hidden: Any, values: np.ndarray, folder: Path) -> tuple[Path, Path]:
    """A classifier of `values` that ends in `hidden`, and its examples."""
    import tf_keras

    scores = tf_keras.layers.Dense(2, activation="softmax", name="scores")(hidden)
    network = tf_keras.Model(inputs, scores)
    network.compile(tf_keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    network.fit(values, LABELS, epochs=15, verbose=0)
    save_signature(network, folder / "model")
    np.savez(folder / "examples.npz", x_train=values, y_train=LABELS)
    return folder / "model", folder / "examples.npz"


def as_integers(
    model: Path, examples: Path, values: np.ndarray, folder: Path
) -> tuple[QuantizedModel, float]:
    """The model after quantize, and the accuracy of its int8 file."""
    call = Call(
        {"model": model, "examples": examples}, {"quantized": folder / "out"}, {"epochs": 1}
    )
    artifact = execute(quantize, call)["quantized"]
    assert isinstance(artifact, QuantizedModel)
    call = Call(
        {"model": artifact.path, "examples": examples},
        {"converted": folder / "int8"},
        {"quantization": "int8"},
    )
    converted = execute(convert_tflite, call)["converted"]
    assert isinstance(converted, TFLiteModel)
    (scores,) = open_runtime(converted).run({"x": values}).values()
    return artifact, float(np.mean(scores.argmax(axis=1) == LABELS))


@pytest.mark.parametrize("kind", ["SeparableConv1D", "Conv1DTranspose"])
def test_convolutions_over_one_dimension_stay_in_float(kind: str, tmp_path: Path) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    values = generator.normal(size=(240, 16, 4)).astype(np.float32)
    values[:, :, 0] += LABELS[:, None]
    layers = tf_keras.layers
    inputs = tf_keras.Input((16, 4), name="x")
    hidden = getattr(layers, kind)(8, 3, padding="same")(inputs)
    hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
    hidden = layers.GlobalAveragePooling1D()(hidden)
    model, examples = trained(inputs, hidden, values, tmp_path)
    artifact, accuracy = as_integers(model, examples, values, tmp_path)
    assert f"is a {kind}, which has no quantized form" in "; ".join(artifact.float_layers)
    assert artifact.quantized_tensors >= 3
    assert accuracy > 0.9


@pytest.mark.parametrize("rescaled", [True, False])
def test_integer_inputs_are_not_rounded(rescaled: bool, tmp_path: Path) -> None:
    import tensorflow as tf
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    values = generator.integers(0, 128, (240, 8, 8, 1)).astype(np.uint8)
    values += (LABELS * 100).astype(np.uint8)[:, None, None, None]
    layers = tf_keras.layers
    inputs = tf_keras.Input((8, 8, 1), name="x", dtype="uint8")
    first = layers.Rescaling(1 / 255)(inputs) if rescaled else tf.cast(inputs, tf.float32) / 255.0
    hidden = layers.Conv2D(8, 3, activation="relu")(first)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    model, examples = trained(inputs, hidden, values, tmp_path)
    artifact, accuracy = as_integers(model, examples, values, tmp_path)
    assert artifact.quantized_tensors >= 4
    assert accuracy > 0.9


def test_separable_convolutions_keep_their_weights_beside_layers_that_keras_named() -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    # The names that Keras gives to the first layers of their kinds, and one that is taken.
    hidden = inputs = tf_keras.Input((8, 8, 4), name="x")
    hidden = layers.Conv2D(4, 1, name="conv2d")(hidden)
    hidden = layers.SeparableConv2D(4, 3, activation="swish", name="first")(hidden)
    hidden = layers.DepthwiseConv2D(1, name="depthwise_conv2d")(hidden)
    hidden = layers.SeparableConv2D(4, 3, name="second")(hidden)
    hidden = layers.Conv2D(4, 1, name="conv2d_1")(hidden)
    scores = layers.GlobalAveragePooling2D(name="first_depthwise")(hidden)
    network = tf_keras.Model(inputs, scores)
    made = fake_quantized(network)

    assert not made.float_layers
    names = [layer.name for layer in made.model.layers]
    assert len(set(names)) == len(names)
    assert [name for name in names if "_pointwise" in name] == [
        "first_pointwise",
        "second_pointwise",
    ]
    expected = [weights.numpy() for weights in network.trainable_weights]
    result = [weights.numpy() for weights in made.model.trainable_weights]
    assert len(result) == len(expected)
    for item, other in zip(expected, result, strict=True):
        np.testing.assert_array_equal(item, other)


@pytest.mark.parametrize("first", [True, False])
def test_a_separable_convolution_beside_a_plain_one_computes_the_same(first: bool) -> None:
    import tf_keras

    tf_keras.backend.reset_uids()
    tf_keras.utils.set_random_seed(0)
    values = generator.uniform(-1, 1, (16, 8, 8, 4)).astype(np.float32)
    layers = tf_keras.layers
    plain, separable = layers.Conv2D(4, 1), layers.SeparableConv2D(4, 3, padding="same")
    inputs = tf_keras.Input((8, 8, 4), name="x")
    hidden = separable(plain(inputs)) if first else plain(separable(inputs))
    network = tf_keras.Model(inputs, hidden)
    made = fake_quantized(network).model
    split, rows = Split({"x": values}, None, 16), np.arange(16)
    calibrate_ranges(made, split, rows, batch_size=16, seed=0)
    made(values, training=True)  # takes the ranges of weights and inputs
    expected, result = (model(values, training=False).numpy() for model in (network, made))
    assert np.corrcoef(expected.ravel(), result.ravel())[0, 1] > 0.999
