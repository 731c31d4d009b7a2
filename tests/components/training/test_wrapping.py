"""Every kernel of a model is wrapped, or named among those that are left as they are."""

from typing import Any

import tf_keras

from paring.training.pruning.pruning import Pruning, prunable_layers
from paring.training.quantization.clustering import Clustering

layers = tf_keras.layers


def _model() -> Any:
    image = tf_keras.Input((8, 8, 4), name="image")
    values = layers.SeparableConv2D(8, 3, name="separable")(image)
    values = layers.Reshape((36, 8))(values)
    values = layers.SeparableConv1D(8, 3, name="separable_1d")(values)
    attended = layers.MultiHeadAttention(2, 4, name="attention")(values, values)
    mixed = layers.EinsumDense("abc,cd->abd", (None, 8), name="einsum")(attended)
    sequence = layers.GRU(6, return_sequences=True, name="gru")(mixed)
    both = layers.Bidirectional(layers.LSTM(5), name="both")(sequence)
    return tf_keras.Model(image, layers.Dense(10, name="digit")(both))


def _left_out(result: list[str]) -> dict[str, str]:
    return {name: reason for name, _, reason in (item.partition(" ") for item in result)}


def test_kernels_that_are_not_pruned_are_named_beside_those_that_are() -> None:
    model = _model()
    sparsities = dict.fromkeys(prunable_layers(model, "unstructured"), 0.5)
    pruning = Pruning(model, sparsities=sparsities, steps=2, pattern="unstructured")
    # The GRU's recurrent kernel is pruned too, and its bias of two axes is no kernel.
    assert _left_out(pruning.left_out) == {
        "separable.depthwise_kernel": "(SeparableConv2D: only its pointwise_kernel can be pruned)",
        "separable_1d.depthwise_kernel": (
            "(SeparableConv1D: only its pointwise_kernel can be pruned)"
        ),
        "attention": "(MultiHeadAttention)",
        "einsum": "(EinsumDense)",
        "both": "(Bidirectional)",
    }


def test_kernels_that_are_not_clustered_are_named_beside_those_that_are() -> None:
    clustering = Clustering(_model(), clusters=4, preserve_sparsity=False)
    assert _left_out(clustering.left_out) == {
        "separable.depthwise_kernel": (
            "(SeparableConv2D: only its pointwise_kernel can be clustered)"
        ),
        "separable_1d.depthwise_kernel": (
            "(SeparableConv1D: only its pointwise_kernel can be clustered)"
        ),
        "attention": "(MultiHeadAttention)",
        "einsum": "(EinsumDense)",
        "gru": "(GRU)",
        "both": "(Bidirectional)",
    }
