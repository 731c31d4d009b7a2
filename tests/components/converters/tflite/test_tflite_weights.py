"""The weights of a TFLite file are measured in the file itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.converters.tflite.conversion import Quantization, convert
from paring.converters.tflite.tflite_weights import (
    StoredTensor,
    StoredWeights,
    stored_weights,
    weight_tensors,
)
from paring.models.saved_model import SavedModel

_VALUES = np.array([-0.7, -0.2, 0, 0, 0, 0.1, 0.4, 0.9], np.float32)


def _shared(shape: tuple[int, ...]) -> Any:
    """A kernel of six values, three eighths of it zero, at another scale in each channel."""
    return np.resize(_VALUES, np.prod(shape)).reshape(shape)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution and a dense layer of six values, with biases, and a depthwise one."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 2), name="image")
    values = layers.Conv2D(24, 5, bias_initializer="ones", name="convolution")(image)
    # It is folded into the convolution, where it scales each channel.
    values = layers.BatchNormalization(name="normal")(values)
    values = layers.DepthwiseConv2D(3, name="depthwise")(values)
    scores = layers.Dense(8, bias_initializer="ones", name="scores")(layers.Flatten()(values))
    network = tf_keras.Model(image, scores)
    for name in ("convolution", "scores"):
        kernel = network.get_layer(name).kernel
        kernel.assign(_shared(kernel.shape))
    normal = network.get_layer("normal")
    normal.moving_variance.assign(np.linspace(0.1, 9, 24))
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_signature(network, folder)
    return folder


_SIZES = {"convolution": 5 * 5 * 2 * 24, "depthwise": 3 * 3 * 24, "scores": 2 * 2 * 24 * 8}


def _converted(folder: Path, quantization: Quantization) -> bytes:
    def images() -> Iterator[dict[str, Any]]:
        generator = np.random.default_rng(0)
        for _ in range(4):
            yield {"image": generator.random((1, 8, 8, 2), np.float32)}

    return convert(
        SavedModel(folder), quantization, images if quantization == "int8" else None
    ).content


def _by_layer(content: bytes) -> dict[str, StoredTensor]:
    sizes = {size: name for name, size in _SIZES.items()}
    return {sizes[tensor.values.size]: tensor for tensor in weight_tensors(content)}


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [("none", "float32"), ("fp16", "float16"), ("dynamic", "int8"), ("int8", "int8")],
)
def test_kernels_are_found_in_the_form_that_they_are_stored_in(
    saved: Path, quantization: Quantization, dtype: str
) -> None:
    content = _converted(saved, quantization)
    tensors = _by_layer(content)
    assert sorted(tensors) == ["convolution", "depthwise", "scores"]
    assert tensors["convolution"].values.dtype == dtype
    assert tensors["convolution"].zeros == 0.375 * _SIZES["convolution"]
    assert tensors["scores"].zeros == 0.375 * _SIZES["scores"]
    measured = stored_weights(content)
    assert measured.count == sum(_SIZES.values())
    zeros = sum(tensor.zeros for tensor in tensors.values())
    assert measured.sparsity == zeros / measured.count
    assert measured.sparsity >= 0.375 * (1 - _SIZES["depthwise"] / measured.count)


def test_int8_keeps_the_clusters_of_each_channel_but_not_of_the_kernel(saved: Path) -> None:
    kernel = _by_layer(_converted(saved, "int8"))["convolution"].values
    assert kernel.shape[0] == 24
    for channel in kernel:
        assert len(np.unique(channel)) <= 6
    assert stored_weights(_converted(saved, "int8")).distinct == len(np.unique(kernel))


def test_the_count_of_values_is_that_of_the_tensor_with_the_median_weight(tmp_path: Path) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    values = tf_keras.Input((40,))
    hidden = tf_keras.layers.Dense(30, name="many")(values)
    network = tf_keras.Model(values, tf_keras.layers.Dense(50, name="few")(hidden))
    few = network.get_layer("few").kernel
    few.assign(_shared(few.shape))
    save_signature(network, tmp_path / "model")
    assert stored_weights(_converted(tmp_path / "model", "none")).distinct == 6


def test_embeddings_and_recurrent_kernels_are_weights(tmp_path: Path) -> None:
    import tf_keras

    layers = tf_keras.layers
    tokens = tf_keras.Input((6,), batch_size=1, dtype="int32", name="tokens")
    values = layers.LSTM(4)(layers.Embedding(20, 8)(tokens))
    save_signature(tf_keras.Model(tokens, layers.Dense(3)(values)), tmp_path / "model")
    measured = stored_weights(_converted(tmp_path / "model", "none"))
    assert measured.count == 20 * 8 + (8 + 4) * 4 * 4 + 4 * 3


def test_a_model_without_weights_has_none(tmp_path: Path) -> None:
    import tf_keras

    values = tf_keras.Input((4,))
    network = tf_keras.Model(values, tf_keras.layers.ReLU()(values))
    save_signature(network, tmp_path / "model")
    content = _converted(tmp_path / "model", "none")
    assert stored_weights(content) == StoredWeights(0, None, None)
