"""The mobile families: the papers' networks at scale 1, and what the scales change."""

from typing import Any

import pytest
import tf_keras

from paring.training.distillation.families import features

applications = tf_keras.applications


def _network(name: str, *, width: float = 1.0, depth: float = 1.0, classes: int = 10) -> Any:
    image = tf_keras.Input((32, 32, 3))
    values = features(name, image, width=width, depth=depth)
    return tf_keras.Model(image, tf_keras.layers.Dense(classes)(values))


def _count(model: Any, kind: type) -> int:
    return sum(isinstance(layer, kind) for layer in model.layers)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("mobilenet_v2", applications.MobileNetV2),
        ("mobilenet_v3_small", applications.MobileNetV3Small),
        ("mobilenet_v3_large", applications.MobileNetV3Large),
        ("efficientnet", applications.EfficientNetB0),
    ],
)
def test_at_scale_1_they_have_the_parameters_and_layers_of_kerass_own(
    name: str, build: Any
) -> None:
    own = build(input_shape=(32, 32, 3), weights=None, classes=1000)
    # EfficientNet's standardizes its images by weights that are not trained.
    standardizing = [
        layer for layer in own.layers if isinstance(layer, tf_keras.layers.Normalization)
    ]
    wanted = own.count_params() - sum(item.count_params() for item in standardizing)
    made = _network(name, classes=1000)
    assert made.count_params() == wanted
    for kind in (tf_keras.layers.DepthwiseConv2D, tf_keras.layers.BatchNormalization):
        assert _count(made, kind) == _count(own, kind)


def test_the_width_scales_every_convolution_in_multiples_of_8() -> None:
    def channels(width: float) -> list[int]:
        model = _network("mobilenet_v2", width=width)
        return [layer.filters for layer in model.layers if type(layer) is tf_keras.layers.Conv2D]

    whole, half = channels(1.0), channels(0.5)
    assert all(item % 8 == 0 for item in half)
    assert (half[0], half[-1]) == (whole[0] // 2, whole[-1] // 2)
    assert all(small < large for small, large in zip(half, whole, strict=True) if large > 16)


def test_the_depth_scales_the_blocks() -> None:
    # 2 and a half times the 1, 2, 2, 3, 3, 4 and 1 blocks, rounded up.
    blocks = _count(_network("efficientnet", width=0.1, depth=2.5), tf_keras.layers.DepthwiseConv2D)
    assert blocks == 3 + 5 + 5 + 8 + 8 + 10 + 3


def test_no_layer_calls_a_bare_function_which_could_not_be_quantized() -> None:
    known = (
        *("Conv2D", "DepthwiseConv2D", "Dense", "BatchNormalization", "ReLU", "Rescaling"),
        *("Multiply", "Add", "GlobalAveragePooling2D", "InputLayer"),
    )
    model = _network("mobilenet_v3_small", width=0.1)
    assert {type(layer).__name__ for layer in model.layers} <= set(known)
