"""Quantization-aware training (QAT) with tensorflow-model-optimization.

Fake-quantization nodes round weights and activations to 8 bits in the forward
pass and let gradients through, as in Jacob et al., "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018
(arXiv:1712.05877).
"""

import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_configs,
    default_8bit_transforms,
)
from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import (
    model_transformer,
    transforms,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import (
    QuantizeWrapper,
)

from paring.data.examples import Split
from paring.data.scales import unlike_inputs
from paring.errors import UnsupportedError, first_line
from paring.models.library_types import KerasModel
from paring.models.loading import optimization_classes
from paring.models.precision import finalize
from paring.training.feeding import Rows, feature_batches, features_at

# Layers that a batch normalization after them is folded into.
_FOLDING = (
    tf_keras.layers.Conv2D,
    tf_keras.layers.DepthwiseConv2D,
    tf_keras.layers.Dense,
)

# The kernels that may end in an activation.
_KERNELS = (
    *_FOLDING,
    tf_keras.layers.Conv2DTranspose,
    tf_keras.layers.SeparableConv2D,
)

_ACTIVATIONS = frozenset({"linear", "relu", "swish", "silu", "softmax", "sigmoid", "tanh", "gelu"})

# These have integer kernels in TFLite, which need no more than the ranges.
_ELEMENTWISE = (
    tf_keras.layers.Average,
    tf_keras.layers.Maximum,
    tf_keras.layers.Minimum,
    tf_keras.layers.Multiply,
    tf_keras.layers.Normalization,
    tf_keras.layers.Rescaling,
    tf_keras.layers.Subtract,
)

# Before the first layer with a kernel, these keep the inputs' scales or even them out.
_PREPARING = (
    *_ELEMENTWISE,
    tf_keras.layers.BatchNormalization,
    tf_keras.layers.Concatenate,
    tf_keras.layers.Flatten,
    tf_keras.layers.Reshape,
)

# A range that many times too wide, or too narrow, is not that of the kernel.
_STALE = 4.0

# Examples that the first ranges are taken from.
_RANGE_EXAMPLES = 512


@dataclass(frozen=True)
class FakeQuantized:
    """A model with fake-quantization nodes.

    Attributes:
        model: A copy of the model that was given, with the same weights and names
            of layers; what ends in a swish is followed by a layer NAME_swish in its
            place, and a SeparableConv2D becomes NAME_depthwise and NAME_pointwise.
            Weights are int8, symmetric, per channel in convolutions; activations are
            int8, asymmetric, per tensor.
        float_layers: The layers that have no quantized form and compute as before,
            each with the reason.
    """

    model: KerasModel
    float_layers: Mapping[str, str]


def fake_quantized(model: KerasModel, unlike: Collection[str] = ()) -> FakeQuantized:
    """Put fake-quantization nodes into a copy of `model`, wherever they can go.

    Args:
        model: A sequential or functional tf_keras model.
        unlike: The names of the inputs whose channels have unlike scales. They are not
            rounded, nor what evens the scales out before the first layer with a kernel; what
            that gives is. Integer inputs are not rounded in any case.

    Raises:
        UnsupportedError: No layer with weights has a quantized form, or the library
            fails on the model for another reason.
    """
    # The layer put before the first one gets a numbered name, which ends up in
    # converted files; it must not depend on what this process made before.
    tf_keras.backend.reset_uids()
    registry = _registry()
    names = {item.name for item in model.layers}
    apart = [_SwishApart(names), _SeparableApart(names)]
    if any(_ends_in_swish(item) or _is_separable(item) for item in model.layers):
        with optimization_classes(), _refusing(model):
            model, _ = model_transformer.ModelTransformer(model, apart).transform()
    float_layers = _in_float(model, registry)
    kept = [item for item in model.layers if item.weights and item.name not in float_layers]
    if not kept:
        raise _refused(model, "; ".join(list(float_layers.values())[:3]) or "no layer with weights")

    exact = set(unlike) | {
        item._keras_history.layer.name for item in model.inputs if not item.dtype.is_floating
    }
    inner = _preparing(model, unlike)
    output_only = default_8bit_quantize_configs.Default8BitOutputQuantizeConfig()

    def annotate(layer: Any) -> Any:
        if layer.name in inner:
            return layer
        if layer.name not in float_layers:
            return tfmot.quantization.keras.quantize_annotate_layer(layer)
        if not (isinstance(layer, _ELEMENTWISE) or registry.supports(layer)):
            return layer
        # With a range for its output, what comes next gets quantized inputs.
        return tfmot.quantization.keras.quantize_annotate_layer(layer, quantize_config=output_only)

    with optimization_classes(), _refusing(model), _exact_inputs(exact):
        annotated = tf_keras.models.clone_model(model, clone_function=annotate)
        quantized = tfmot.quantization.keras.quantize_apply(
            annotated, quantized_layer_name_prefix=""
        )
    finalize(quantized)
    return FakeQuantized(quantized, float_layers)


def unlike_layers(model: KerasModel, split: Split, rows: Rows) -> list[str]:
    """Return the names of the model's inputs whose channels have unlike scales.

    Args:
        model: A tf_keras model.
        split: Gives the features.
        rows: Row numbers of the split; some of them are looked at.
    """
    features = features_at(model, split, rows[:_RANGE_EXAMPLES])
    if not isinstance(features, dict):
        features = {model.input_names[0]: features}
    return unlike_inputs([features])


def _preparing(model: KerasModel, unlike: Collection[str]) -> set[str]:
    """Return the layers between inputs of unlike scales and the first layers with a kernel.

    Without those whose output such a layer, or any other, reads: that has scales that are
    alike, and is rounded.
    """
    result: set[str] = set(unlike)
    for layer in model.layers:
        before = {item.name for item in _before(layer)}
        if isinstance(layer, _PREPARING) and before and before <= result:
            result.add(layer.name)
    readers: dict[str, set[str]] = {name: set() for name in result}
    for layer in model.layers:
        for item in _before(layer):
            readers.setdefault(item.name, set()).add(layer.name)
    return {name for name in result if readers[name] and readers[name] <= result} - set(unlike)


def _before(layer: Any) -> list[Any]:
    return [item for node in layer.inbound_nodes for item in tf.nest.flatten(node.inbound_layers)]


@contextmanager
def _exact_inputs(names: Collection[str]) -> Iterator[None]:
    """Keep the library from rounding the inputs of these names."""
    own = default_8bit_transforms.InputLayerQuantize.replacement

    def replacement(self: Any, match_layer: Any) -> Any:
        if match_layer.layer["config"]["name"] in names:
            return match_layer
        return own(self, match_layer)

    default_8bit_transforms.InputLayerQuantize.replacement = replacement
    try:
        yield
    finally:
        default_8bit_transforms.InputLayerQuantize.replacement = own


class _SwishApart(transforms.Transform):  # type: ignore[misc]
    """Transform that moves the swish at the end of a layer to a layer of its own.

    The library would quantize what comes after the swish, and not what goes into it. Since
    swish is an operator of its own in TFLite, the one before it would compute in float.

    Args:
        names: Names of the model's layers; gets those of the new ones.
    """

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def pattern(self) -> Any:
        """Return the pattern of layers with a kernel that end in a swish."""
        kinds = "|".join(kernel.__name__ for kernel in _KERNELS)
        return transforms.LayerPattern(kinds, {"activation": "swish"})

    def replacement(self, match_layer: Any) -> Any:
        """Return the layer without the swish, and a layer for that."""
        config = match_layer.layer["config"]
        swish = tf_keras.layers.Activation(
            config["activation"], name=_free(f"{config['name']}_swish", self._names)
        )
        config["activation"] = "linear"
        written = tf_keras.layers.serialize(swish, use_legacy_format=True)
        written["name"] = swish.name
        return transforms.LayerNode(written, input_layers=[match_layer])


class _SeparableApart(default_8bit_transforms.SeparableConvQuantize):  # type: ignore[misc]
    """Transform that takes a separable convolution apart into layers with a quantized form.

    The library's own transform gives the two layers Keras's next free names, which the model's
    layers may have already: it then never ended, or failed on the shapes. That of
    SeparableConv1D puts Lambda layers around it, which Keras loads unsafely alone, and isn't used.

    Args:
        names: Names of the model's layers; gets those of the new ones.
    """

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def replacement(self, match_layer: Any) -> Any:
        """Return the depthwise convolution and the pointwise one after it."""
        name = match_layer.layer["config"]["name"]
        pointwise = super().replacement(match_layer)
        (depthwise,) = pointwise.input_layers
        for node, part in ((depthwise, "depthwise"), (pointwise, "pointwise")):
            node.layer["name"] = _free(f"{name}_{part}", self._names)
            node.layer["config"]["name"] = node.layer["name"]
        return pointwise


def _free(name: str, names: set[str]) -> str:
    """Return `name`, numbered where it is among `names`, and add it to them."""
    numbered = (name if count == 1 else f"{name}_{count}" for count in itertools.count(1))
    free = next(item for item in numbered if item not in names)
    names.add(free)
    return free


def _is_separable(layer: Any) -> bool:
    return isinstance(layer, tf_keras.layers.SeparableConv2D)


def _ends_in_swish(layer: Any) -> bool:
    return isinstance(layer, _KERNELS) and layer.activation is tf_keras.activations.swish


@contextmanager
def _refusing(model: KerasModel) -> Iterator[None]:
    """Raise an error that names the model if the library fails."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _refused(model, first_line(error)) from error


def _refused(model: KerasModel, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"model {model.name} can't be trained with fake quantization",
        received=why,
        remedy="use a recipe without quantize: convert_tflite quantizes after training"
        " and takes more kinds of layers",
    )


def stale_ranges(model: KerasModel) -> list[str]:
    """Return the layers whose kernels are not rounded to their own range, after training.

    Args:
        model: What `fake_quantized` made, trained.

    Returns:
        Their names, each with its range and its largest weight.
    """
    result: list[str] = []
    for layer in model.layers:
        if not isinstance(layer, QuantizeWrapper):
            continue
        for variable, _, ranges in layer._weight_vars:
            bounds = (np.abs(ranges[name].numpy()) for name in ("min_var", "max_var"))
            limits = np.maximum(*bounds)
            weights = np.abs(variable.numpy())
            # One range for each channel, or one for all.
            per_channel = limits.shape == weights.shape[-1:]
            largest = weights.reshape(-1, weights.shape[-1] if per_channel else weights.size or 1)
            largest = largest.max(axis=0) if per_channel else largest.max()
            shares = (np.asarray(largest) / np.maximum(limits, 1e-30))[np.asarray(largest) > 0]
            if shares.size and not 1 / _STALE < float(np.median(shares)) < _STALE:
                result.append(
                    f"{layer.name}: a range of {limits.max():.3g} for weights up to"
                    f" {weights.max():.3g}"
                )
    return result


def calibrate_ranges(
    model: KerasModel, split: Split, rows: Rows, *, batch_size: int, seed: int
) -> None:
    """Set each activation's range to what is seen on some of the rows.

    The library starts all of them at [-6, 6] and moves them by a thousandth a
    step, so that after a short training they would still be about that.

    Args:
        model: What `fake_quantized` made.
        split: Gives the features.
        rows: Row numbers of the split; some of them are drawn.
        batch_size: Examples in a batch.
        seed: Of that draw.
    """
    draw = np.random.default_rng(seed)
    some = np.sort(draw.choice(rows, min(len(rows), _RANGE_EXAMPLES), replace=False))
    with _observed() as seen:
        for batch in feature_batches(model, split, some, batch_size=batch_size):
            model(batch, training=False)
    for result in seen.values():
        # Zero stays in the range, so that padding is exact.
        result.weights["min_var"].assign(min(np.mean(result.lows), 0.0))
        result.weights["max_var"].assign(max(np.mean(result.highs), 0.0))


@dataclass
class _Range:
    """Least and greatest value of each batch at one quantizer, and its variables."""

    weights: Mapping[str, Any]
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)


@contextmanager
def _observed() -> Iterator[dict[Any, _Range]]:
    """Make quantizers pass values on unchanged, and record the ranges of activations."""
    quantizers = tfmot.quantization.keras.quantizers
    activations = quantizers.MovingAverageQuantizer
    seen: dict[Any, _Range] = {}

    def observe(self: Any, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        if isinstance(self, activations):
            result = seen.setdefault(weights["min_var"].ref(), _Range(weights))
            result.lows.append(float(tf.reduce_min(inputs)))
            result.highs.append(float(tf.reduce_max(inputs)))
        return inputs

    kinds = (activations, quantizers.LastValueQuantizer, quantizers.AllValuesQuantizer)
    own = {kind: kind.__call__ for kind in kinds}
    try:
        for kind in kinds:
            kind.__call__ = observe
        yield seen
    finally:
        for kind, call in own.items():
            kind.__call__ = call


def _in_float(model: KerasModel, registry: Any) -> dict[str, str]:
    """Return the layers that the library can't quantize, each with the reason."""
    result: dict[str, str] = {}
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.InputLayer):
            continue
        if _is_folded(layer, model):
            continue
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if not registry.supports(layer):
            result[layer.name] = (
                f"layer {layer.name} is a {_kind(layer)}, which has no quantized form"
            )
        elif activation not in _ACTIVATIONS:
            result[layer.name] = (
                f"layer {layer.name} has the activation {activation}, and none of that"
                " kind is quantized"
            )
        elif _ends_in_swish(layer):
            result[layer.name] = (
                f"layer {layer.name} is called several times, so that its swish can't be"
                " quantized apart from it"
            )
    return result


def _registry() -> Any:
    """Return the library's registry of layers' quantized forms."""
    scheme = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme()
    return scheme.get_quantize_registry()


def _is_folded(layer: Any, model: KerasModel) -> bool:
    """Return whether `layer` is a batch normalization that is folded into the layer before it.

    Nothing else may read the output of that layer.
    """
    if not isinstance(layer, tf_keras.layers.BatchNormalization):
        return False
    before = _before(layer)
    outputs = {id(tensor) for tensor in model.outputs}
    return any(
        isinstance(item, _FOLDING)
        and item.activation is tf_keras.activations.linear
        and len(item.inbound_nodes) == len(item.outbound_nodes) == 1
        and id(item.output) not in outputs
        for item in before
    )


def _kind(layer: Any) -> str:
    if isinstance(layer, tf_keras.Model):
        return "model inside the model"
    called = layer.get_config().get("function")
    # A bare TensorFlow function in a functional model, such as tf.nn.gelu.
    return f"call of tf.{called}" if isinstance(called, str) else type(layer).__name__
