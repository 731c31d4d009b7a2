"""Families of student networks: MobileNetV2, MobileNetV3 and EfficientNet.

M. Sandler and others, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018
(arXiv:1801.04381); A. Howard and others, "Searching for MobileNetV3", 2019
(arXiv:1905.02244); M. Tan and Q. Le, "EfficientNet: Rethinking Model Scaling for
Convolutional Neural Networks", 2019 (arXiv:1905.11946). All stack inverted residual
blocks, so one builder reads their tables. It uses layers only that can be pruned,
quantized and converted, and leaves out the dropout that the papers train with.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import tf_keras

layers = tf_keras.layers


@dataclass(frozen=True)
class _Stage:
    """Some inverted residual blocks, the first with the stride.

    Attributes:
        channels: Of the output.
        expansion: How many times the input's channels are in the middle.
        activation: relu, relu6, hard_swish or swish.
        squeeze: Whether channels are weighed by squeeze-and-excitation.
    """

    channels: int
    expansion: float
    repeats: int = 1
    stride: int = 1
    kernel: int = 3
    activation: str = "relu6"
    squeeze: bool = False


@dataclass(frozen=True)
class _Family:
    """A network of stages between a first and a last convolution.

    Attributes:
        stem, head: Channels of the two.
        top: Units of a dense layer after the pooling; 0 for none.
        activation: Of these three.
        squeeze_input: Whether the squeeze has a quarter of the block's input
            channels rather than of those in its middle.
    """

    stem: int
    stages: tuple[_Stage, ...]
    head: int
    top: int = 0
    activation: str = "relu6"
    squeeze_input: bool = False

    def scaled(self, width: float, depth: float) -> "_Family":
        """Return the family with `width` times the channels and `depth` times the blocks.

        The last convolution too: the papers leave it wide below a width of 1,
        for a thousand classes, and it would be most of a small student.
        """
        stages = tuple(
            replace(
                stage,
                channels=_in_eights(stage.channels * width),
                repeats=math.ceil(stage.repeats * depth),
            )
            for stage in self.stages
        )
        return replace(
            self,
            stem=_in_eights(self.stem * width),
            stages=stages,
            head=_in_eights(self.head * width),
            top=_in_eights(self.top * width) if self.top else 0,
        )


def _v3(expansion: float, channels: int, kernel: int, stride: int, kind: str) -> _Stage:
    """Return a row of MobileNetV3's tables; `kind` is RE or HS, with SE or without."""
    activation = "hard_swish" if "HS" in kind else "relu"
    return _Stage(channels, expansion, 1, stride, kernel, activation, "SE" in kind)


def _b0(channels: int, expansion: float, repeats: int, stride: int, kernel: int) -> _Stage:
    """Return a row of EfficientNet-B0's table."""
    return _Stage(channels, expansion, repeats, stride, kernel, "swish", True)


FAMILIES: Final = {
    "mobilenet_v2": _Family(
        stem=32,
        stages=(
            _Stage(16, 1),
            _Stage(24, 6, repeats=2, stride=2),
            _Stage(32, 6, repeats=3, stride=2),
            _Stage(64, 6, repeats=4, stride=2),
            _Stage(96, 6, repeats=3),
            _Stage(160, 6, repeats=3, stride=2),
            _Stage(320, 6),
        ),
        head=1280,
    ),
    "mobilenet_v3_small": _Family(
        stem=16,
        stages=(
            _v3(1, 16, 3, 2, "RE SE"),
            _v3(72 / 16, 24, 3, 2, "RE"),
            _v3(88 / 24, 24, 3, 1, "RE"),
            _v3(4, 40, 5, 2, "HS SE"),
            _v3(6, 40, 5, 1, "HS SE"),
            _v3(6, 40, 5, 1, "HS SE"),
            _v3(3, 48, 5, 1, "HS SE"),
            _v3(3, 48, 5, 1, "HS SE"),
            _v3(6, 96, 5, 2, "HS SE"),
            _v3(6, 96, 5, 1, "HS SE"),
            _v3(6, 96, 5, 1, "HS SE"),
        ),
        head=576,
        top=1024,
        activation="hard_swish",
    ),
    "mobilenet_v3_large": _Family(
        stem=16,
        stages=(
            _v3(1, 16, 3, 1, "RE"),
            _v3(4, 24, 3, 2, "RE"),
            _v3(3, 24, 3, 1, "RE"),
            _v3(3, 40, 5, 2, "RE SE"),
            _v3(3, 40, 5, 1, "RE SE"),
            _v3(3, 40, 5, 1, "RE SE"),
            _v3(6, 80, 3, 2, "HS"),
            _v3(2.5, 80, 3, 1, "HS"),
            _v3(2.3, 80, 3, 1, "HS"),
            _v3(2.3, 80, 3, 1, "HS"),
            _v3(6, 112, 3, 1, "HS SE"),
            _v3(6, 112, 3, 1, "HS SE"),
            _v3(6, 160, 5, 2, "HS SE"),
            _v3(6, 160, 5, 1, "HS SE"),
            _v3(6, 160, 5, 1, "HS SE"),
        ),
        head=960,
        top=1280,
        activation="hard_swish",
    ),
    "efficientnet": _Family(
        stem=32,
        stages=(
            _b0(16, 1, 1, 1, 3),
            _b0(24, 6, 2, 2, 3),
            _b0(40, 6, 2, 2, 5),
            _b0(80, 6, 3, 2, 3),
            _b0(112, 6, 3, 1, 5),
            _b0(192, 6, 4, 2, 5),
            _b0(320, 6, 1, 1, 3),
        ),
        head=1280,
        activation="swish",
        squeeze_input=True,
    ),
}


def features(name: str, values: Any, *, width: float, depth: float) -> Any:
    """Put the network of a family on `values`, up to where the classes come from.

    Args:
        name: One of `FAMILIES`.
        values: Images, a Keras tensor [batch, height, width, channels] of mean 0 and
            deviation 1.
        width: Times the channels that the paper gives.
        depth: Times the blocks.

    Returns:
        A Keras tensor [batch, features].
    """
    return _network(FAMILIES[name].scaled(width, depth), values)


def _network(family: _Family, values: Any) -> Any:
    """Build the network up to the features [batch, channels] before the classifier."""
    values = layers.Conv2D(family.stem, 3, 2, padding="same", use_bias=False)(values)
    values = _activated(_normalized(values), family.activation)
    for stage in family.stages:
        for index in range(stage.repeats):
            stride = stage.stride if index == 0 else 1
            values = _block(values, replace(stage, stride=stride), family.squeeze_input)
    values = layers.Conv2D(family.head, 1, use_bias=False)(values)
    values = _activated(_normalized(values), family.activation)
    values = layers.GlobalAveragePooling2D()(values)
    if family.top:
        values = _activated(layers.Dense(family.top)(values), family.activation)
    return values


def _block(inputs: Any, stage: _Stage, squeeze_input: bool) -> Any:
    """Expand, filter each channel, weigh the channels, and project back."""
    channels = inputs.shape[-1]
    middle = _in_eights(channels * stage.expansion)
    values = inputs
    if stage.expansion != 1:
        values = layers.Conv2D(middle, 1, use_bias=False)(values)
        values = _activated(_normalized(values), stage.activation)
    values = layers.DepthwiseConv2D(stage.kernel, stage.stride, padding="same", use_bias=False)(
        values
    )
    values = _activated(_normalized(values), stage.activation)
    if stage.squeeze:
        values = (
            _squeezed(values, max(1, channels // 4), "swish", "sigmoid")
            if squeeze_input
            else _squeezed(values, _in_eights(middle / 4), "relu", "hard_sigmoid")
        )
    values = _normalized(layers.Conv2D(stage.channels, 1, use_bias=False)(values))
    if stage.stride == 1 and channels == stage.channels:
        return layers.Add()([inputs, values])
    return values


def _squeezed(values: Any, squeeze: int, activation: str, gate: str) -> Any:
    """Weigh channels: J. Hu, L. Shen and G. Sun, 2018 (arXiv:1709.01507)."""
    weights = layers.GlobalAveragePooling2D(keepdims=True)(values)
    weights = _activated(layers.Conv2D(squeeze, 1)(weights), activation)
    weights = _activated(layers.Conv2D(values.shape[-1], 1)(weights), gate)
    return layers.Multiply()([values, weights])


def _normalized(values: Any) -> Any:
    return layers.BatchNormalization(momentum=0.9)(values)


def _activated(values: Any, kind: str) -> Any:
    # In layers that have a quantized form, which hard_swish as a function has not.
    match kind:
        case "relu":
            return layers.ReLU()(values)
        case "relu6":
            return layers.ReLU(6.0)(values)
        case "hard_sigmoid":
            return layers.Rescaling(1 / 6)(layers.ReLU(6.0)(layers.Rescaling(1.0, 3.0)(values)))
        case "hard_swish":
            return layers.Multiply()([values, _activated(values, "hard_sigmoid")])
    return layers.Activation(kind)(values)


def _in_eights(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8, and never below nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
