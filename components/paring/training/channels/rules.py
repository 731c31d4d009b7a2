"""Rules on how each kind of layer relates its outputs' channels to its inputs'.

Only exact kinds have a rule: a subclass may compute something else. A layer without
one, or used in a way that its rule does not know, keeps the channels around it whole.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from paring.training.channels.channel_graph import ChannelGraph, Channels, Role

layers = tf_keras.layers

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: The layer.
        inputs: The channels of each tensor that goes in.
        shapes: The shapes of these tensors, the batch first.
        output_shape: The shape of the first tensor that comes out.
        constants: The arguments that are not tensors of the model, by name.
    """

    layer: Any
    inputs: list[Channels]
    shapes: list[Shape]
    output_shape: Shape
    constants: dict[str, Any]


class NotFollowedError(Exception):
    """A layer whose channels can't be followed, with the reason as it follows the name."""


Rule = Callable[[ChannelGraph, Call], Channels]


def follow(graph: ChannelGraph, call: Call) -> Channels:
    """Return the channels of what `call` gives; notes the layer's weights in `graph`.

    Raises:
        NotFollowedError: There is no rule for this layer.
    """
    layer = call.layer
    rule = _RULES.get(type(layer))
    if rule is None:
        raise NotFollowedError("is of a kind whose channels can't be followed")
    if getattr(layer, "data_format", None) == "channels_first":
        raise NotFollowedError("has its channels first")
    if any(not shape or shape[-1] is None for shape in call.shapes):
        raise NotFollowedError("takes a number of channels that is not fixed")
    made = rule(graph, call)
    activation = getattr(layer, "activation", None)
    if activation is not None and not _is_elementwise(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        graph.keep_whole(made, f"{describe(layer)} has the activation {name} over them")
    return made


def describe(layer: Any) -> str:
    """Return the layer's name and kind."""
    return f"{layer.name} ({_function(layer) or type(layer).__name__})"


def _function(layer: Any) -> str:
    """Return the TensorFlow function that the layer is a call of, or ""."""
    called = layer.get_config().get("function") if isinstance(layer, _FUNCTION_CALL) else None
    return f"tf.{called}" if isinstance(called, str) else ""


def _is_elementwise(activation: Any) -> bool:
    return type(activation) in _ELEMENTWISE_LAYERS or any(
        activation is item for item in _ELEMENTWISE_ACTIVATIONS
    )


# Layers that make channels.


def _convolution(graph: ChannelGraph, call: Call) -> Channels:
    layer, given = call.layer, call.inputs[0]
    groups, read, kernel = layer.groups, len(given) // layer.groups, layer.kernel
    if groups > 1 and read == 1:
        # A depthwise convolution by another name.
        made = np.repeat(given, layer.filters // groups)
        graph.add_count(layer, "groups", given)
    else:
        made = graph.new(layer.filters, layer)
        if groups > 1:
            # All groups lose the same places, so that they stay equally wide.
            _tie_blocks(graph, given, groups)
            _tie_blocks(graph, made, groups)
        graph.add_axis(layer, kernel, axis=-2, channels=given[:read], role=Role.CONSUMER)
    graph.add_axis(layer, kernel, axis=-1, channels=made, role=Role.PRODUCER)
    return _with_bias(graph, layer, "filters", made)


def _tie_blocks(graph: ChannelGraph, channels: Channels, blocks: int) -> None:
    first, *others = np.split(channels, blocks)
    for item in others:
        graph.tie(first, item)


def _transposed_convolution(graph: ChannelGraph, call: Call) -> Channels:
    layer = call.layer
    made = graph.new(layer.filters, layer)
    graph.add_axis(layer, layer.kernel, axis=-1, channels=call.inputs[0], role=Role.CONSUMER)
    graph.add_axis(layer, layer.kernel, axis=-2, channels=made, role=Role.PRODUCER)
    return _with_bias(graph, layer, "filters", made)


def _separable_convolution(graph: ChannelGraph, call: Call) -> Channels:
    layer, given = call.layer, call.inputs[0]
    made = graph.new(layer.filters, layer)
    between = np.repeat(given, layer.depth_multiplier)
    graph.add_axis(layer, layer.depthwise_kernel, axis=-2, channels=given, role=Role.CONSUMER)
    graph.add_axis(layer, layer.pointwise_kernel, axis=-2, channels=between, role=Role.PASSTHROUGH)
    graph.add_axis(layer, layer.pointwise_kernel, axis=-1, channels=made, role=Role.PRODUCER)
    return _with_bias(graph, layer, "filters", made)


def _dense(graph: ChannelGraph, call: Call) -> Channels:
    layer = call.layer
    made = graph.new(layer.units, layer)
    graph.add_axis(layer, layer.kernel, axis=-2, channels=call.inputs[0], role=Role.CONSUMER)
    graph.add_axis(layer, layer.kernel, axis=-1, channels=made, role=Role.PRODUCER)
    return _with_bias(graph, layer, "units", made)


def _with_bias(graph: ChannelGraph, layer: Any, key: str, made: Channels) -> Channels:
    graph.add_count(layer, key, made)
    if layer.use_bias:
        graph.add_axis(layer, layer.bias, axis=-1, channels=made, role=Role.PASSTHROUGH)
    return made


# Layers that hand each channel on, changed by weights of its own or by none.


def _depthwise_convolution(graph: ChannelGraph, call: Call) -> Channels:
    layer, given = call.layer, call.inputs[0]
    made = np.repeat(given, layer.depth_multiplier)
    graph.add_axis(layer, layer.depthwise_kernel, axis=-2, channels=given, role=Role.PRODUCER)
    if layer.use_bias:
        graph.add_axis(layer, layer.bias, axis=-1, channels=made, role=Role.PASSTHROUGH)
    return made


def _batch_normalization(graph: ChannelGraph, call: Call) -> Channels:
    layer, given = call.layer, call.inputs[0]
    if [axis % len(call.shapes[0]) for axis in layer.axis] != [len(call.shapes[0]) - 1]:
        raise NotFollowedError("normalizes another axis than the last")
    for weight in layer.weights:
        role = Role.SCALES if weight is layer.gamma else Role.PASSTHROUGH
        graph.add_axis(layer, weight, axis=-1, channels=given, role=role)
    return given


def _parametric_relu(graph: ChannelGraph, call: Call) -> Channels:
    layer, given = call.layer, call.inputs[0]
    if layer.alpha.shape[-1] == len(given):
        graph.add_axis(layer, layer.alpha, axis=-1, channels=given, role=Role.PASSTHROUGH)
    return given


def _unchanged(graph: ChannelGraph, call: Call) -> Channels:
    return call.inputs[0]


def _dropout(graph: ChannelGraph, call: Call) -> Channels:
    shape = call.layer.noise_shape
    if shape is not None and shape[-1] not in (None, 1):
        raise NotFollowedError("has a noise shape with the number of channels in it")
    return call.inputs[0]


def _rescaling(graph: ChannelGraph, call: Call) -> Channels:
    if np.size(call.layer.scale) > 1 or np.size(call.layer.offset) > 1:
        raise NotFollowedError("has numbers of its own for each channel")
    return call.inputs[0]


# Layers that move channels, or bring those of several tensors together.


def _permutation(graph: ChannelGraph, call: Call) -> Channels:
    if call.layer.dims[-1] != len(call.shapes[0]) - 1:
        raise NotFollowedError("moves the channels to another axis")
    return call.inputs[0]


def _reshaping(graph: ChannelGraph, call: Call) -> Channels:
    given, shape, last = call.inputs[0], call.shapes[0], call.output_shape[-1]
    # The last axis stays, or takes in whole axes before it, as Flatten does.
    for start in range(len(shape) - 1, 0, -1):
        merged = shape[start:]
        if None not in merged and math.prod(item for item in merged if item is not None) == last:
            made = np.tile(given, last // len(given))
            if type(call.layer) is layers.Reshape:
                graph.add_count(call.layer, "target_shape", made)
            return made
    raise NotFollowedError("splits the channels, or joins them with an axis of no fixed size")


def _elementwise(graph: ChannelGraph, call: Call) -> Channels:
    return _together(graph, call.inputs)


def _together(graph: ChannelGraph, inputs: list[Channels]) -> Channels:
    widest = max(inputs, key=len)
    for item in inputs:
        # A width of 1 is spread over the others' channels. It can't be cut anyway.
        if len(item) == len(widest):
            graph.tie(widest, item)
        elif len(item) != 1:
            raise NotFollowedError("takes tensors of different widths")
    return widest


def _concatenation(graph: ChannelGraph, call: Call) -> Channels:
    return _concatenated(graph, call, call.layer.axis)


def _concatenated(graph: ChannelGraph, call: Call, axis: int) -> Channels:
    rank = len(call.shapes[0])
    if axis % rank == rank - 1:
        return np.concatenate(call.inputs)
    return _together(graph, call.inputs)


# Calls of TensorFlow functions, which are layers in a functional model.


def _function_call(graph: ChannelGraph, call: Call) -> Channels:
    name = _function(call.layer).removeprefix("tf.")
    if name in _ELEMENTWISE_FUNCTIONS:
        if any(
            np.size(constant) > 1
            for constant in call.constants.values()
            if not isinstance(constant, str)
        ):
            raise NotFollowedError("has numbers of its own for each channel")
        return _together(graph, call.inputs)
    if name == "concat":
        return _concatenated(graph, call, int(call.constants["axis"]))
    if name in _REDUCTIONS:
        rank = len(call.shapes[0])
        axes = call.constants.get("axis")
        if axes is not None and (rank - 1) not in [item % rank for item in np.ravel(axes)]:
            return call.inputs[0]
    raise NotFollowedError("is a call of a function that is not known to keep channels apart")


_FUNCTION_CALL = tf_keras.src.layers.core.tf_op_layer.TFOpLambda

_ELEMENTWISE_FUNCTIONS = frozenset(
    {
        "__operators__.add", "cast", "clip_by_value", "identity", "math.abs", "math.add",
        "math.divide", "math.maximum", "math.minimum", "math.multiply", "math.negative",
        "math.sigmoid", "math.softplus", "math.square", "math.subtract", "math.tanh",
        "math.truediv", "nn.elu", "nn.gelu", "nn.leaky_relu", "nn.relu", "nn.relu6", "nn.selu",
        "nn.silu", "nn.softsign", "stop_gradient",
    }
)  # fmt: skip
_REDUCTIONS = frozenset({"math.reduce_max", "math.reduce_mean", "math.reduce_sum"})

_activations = tf_keras.activations
_ELEMENTWISE_ACTIVATIONS = (
    _activations.linear, _activations.relu, _activations.elu, _activations.selu,
    _activations.softplus, _activations.softsign, _activations.swish, _activations.gelu,
    _activations.tanh, _activations.sigmoid, _activations.exponential,
    _activations.hard_sigmoid, _activations.mish, tf.nn.relu, tf.nn.relu6, tf.nn.elu,
    tf.nn.selu, tf.nn.gelu, tf.nn.silu, tf.nn.leaky_relu, tf.nn.tanh, tf.nn.sigmoid,
    tf.nn.softplus, tf.nn.softsign,
)  # fmt: skip
_ELEMENTWISE_LAYERS = (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.ThresholdedReLU)

_RULES: dict[type, Rule] = {
    **dict.fromkeys([layers.Conv1D, layers.Conv2D, layers.Conv3D], _convolution),
    **dict.fromkeys(
        [layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose],
        _transposed_convolution,
    ),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable_convolution),
    **dict.fromkeys([layers.DepthwiseConv1D, layers.DepthwiseConv2D], _depthwise_convolution),
    layers.Dense: _dense,
    layers.BatchNormalization: _batch_normalization,
    layers.PReLU: _parametric_relu,
    layers.Dropout: _dropout,
    layers.Rescaling: _rescaling,
    layers.Permute: _permutation,
    **dict.fromkeys([layers.Flatten, layers.Reshape], _reshaping),
    layers.Concatenate: _concatenation,
    **dict.fromkeys(
        [
            layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply,
            layers.Subtract,
        ],
        _elementwise,
    ),
    _FUNCTION_CALL: _function_call,
    **dict.fromkeys(
        [
            *_ELEMENTWISE_LAYERS, layers.Activation, layers.ActivityRegularization,
            layers.GaussianDropout, layers.GaussianNoise,
            layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
            layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D,
            layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
            layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D,
            layers.GlobalAveragePooling3D, layers.GlobalMaxPooling1D,
            layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
            layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D,
            layers.Cropping1D, layers.Cropping2D, layers.Cropping3D,
            layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D,
            layers.RepeatVector,
        ],
        _unchanged,
    ),
}  # fmt: skip
