"""Quantization-aware training (QAT) with tensorflow-model-optimization.

Fake-quantization nodes round weights and activations to 8 bits in the forward
pass and let gradients through, as in Jacob et al., "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018
(arXiv:1712.05877).
"""

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
from paring.errors import UnsupportedError
from paring.models.loading import optimization_classes
from paring.models.precision import finalize
from paring.training.feeding import Rows, feature_batches, features_at

# The transformations take these apart into layers that have a quantized form. Those of
# SeparableConv1D put Lambda layers of their own around it, which Keras loads unsafely alone.
_TAKEN_APART = (tf_keras.layers.SeparableConv2D,)

# Layers that a batch normalization after them is folded into.
_FOLDING = (
    tf_keras.layers.Conv2D,
    tf_keras.layers.DepthwiseConv2D,
    tf_keras.layers.Dense,
    *_TAKEN_APART,
)

# The kernels that may end in an activation.
_KERNELS = (*_FOLDING, tf_keras.layers.Conv2DTranspose)

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
            place. Weights are int8, symmetric, per channel in convolutions;
            activations are int8, asymmetric, per tensor.
        in_float: The layers that have no quantized form and compute as before,
            each with the reason.
    """

    model: Any
    in_float: Mapping[str, str]


def fake_quantized(model: Any, unlike: Collection[str] = ()) -> FakeQuantized:
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
    if any(map(_ends_in_swish, model.layers)):
        with optimization_classes(), _refusing(model):
            model, _ = model_transformer.ModelTransformer(model, [_SwishApart()]).transform()
    in_float = _in_float(model, registry)
    kept = [one for one in model.layers if one.weights and one.name not in in_float]
    if not kept:
        raise _refused(model, "; ".join(list(in_float.values())[:3]) or "no layer with weights")

    exact = set(unlike) | {
        one._keras_history.layer.name for one in model.inputs if not one.dtype.is_floating
    }
    inner = _preparing(model, unlike)
    output_only = default_8bit_quantize_configs.Default8BitOutputQuantizeConfig()

    def annotate(layer: Any) -> Any:
        if layer.name in inner:
            return layer
        if layer.name not in in_float:
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
    return FakeQuantized(quantized, in_float)


def unlike_layers(model: Any, split: Split, rows: Rows) -> list[str]:
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


def _preparing(model: Any, unlike: Collection[str]) -> set[str]:
    """Return the layers between inputs of unlike scales and the first layers with a kernel.

    Without those whose output such a layer, or any other, reads: that has scales that are
    alike, and is rounded.
    """
    found: set[str] = set(unlike)
    for layer in model.layers:
        before = {one.name for one in _before(layer)}
        if isinstance(layer, _PREPARING) and before and before <= found:
            found.add(layer.name)
    readers: dict[str, set[str]] = {name: set() for name in found}
    for layer in model.layers:
        for one in _before(layer):
            readers.setdefault(one.name, set()).add(layer.name)
    return {name for name in found if readers[name] and readers[name] <= found} - set(unlike)


def _before(layer: Any) -> list[Any]:
    return [one for node in layer.inbound_nodes for one in tf.nest.flatten(node.inbound_layers)]


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
    """

    def pattern(self) -> Any:
        """Return the pattern of layers with a kernel that end in a swish."""
        kinds = "|".join(one.__name__ for one in _KERNELS)
        return transforms.LayerPattern(kinds, {"activation": "swish"})

    def replacement(self, match_layer: Any) -> Any:
        """Return the layer without the swish, and a layer for that."""
        config = match_layer.layer["config"]
        swish = tf_keras.layers.Activation(config["activation"], name=f"{config['name']}_swish")
        config["activation"] = "linear"
        written = tf_keras.layers.serialize(swish, use_legacy_format=True)
        written["name"] = swish.name
        return transforms.LayerNode(written, input_layers=[match_layer])


def _ends_in_swish(layer: Any) -> bool:
    return isinstance(layer, _KERNELS) and layer.activation is tf_keras.activations.swish


@contextmanager
def _refusing(model: Any) -> Iterator[None]:
    """Raise an error that names the model if the library fails."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _refused(model, f"{type(error).__name__}: {error}"[:300]) from error


def _refused(model: Any, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"model {model.name} can't be trained with fake quantization",
        received=why,
        remedy="use a recipe without quantize: convert_tflite quantizes after training"
        " and takes more kinds of layers",
    )


def stale_ranges(model: Any) -> list[str]:
    """Return the layers whose kernels are not rounded to their own range, after training.

    Args:
        model: What `fake_quantized` made, trained.

    Returns:
        Their names, each with its range and its largest weight.
    """
    found: list[str] = []
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
                found.append(
                    f"{layer.name}: a range of {limits.max():.3g} for weights up to"
                    f" {weights.max():.3g}"
                )
    return found


def calibrate_ranges(model: Any, split: Split, rows: Rows, batch_size: int, seed: int) -> None:
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
        for batch in feature_batches(model, split, some, batch_size):
            model(batch, training=False)
    for found in seen.values():
        # Zero stays in the range, so that padding is exact.
        found.weights["min_var"].assign(min(np.mean(found.lows), 0.0))
        found.weights["max_var"].assign(max(np.mean(found.highs), 0.0))


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
            found = seen.setdefault(weights["min_var"].ref(), _Range(weights))
            found.lows.append(float(tf.reduce_min(inputs)))
            found.highs.append(float(tf.reduce_max(inputs)))
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


def _in_float(model: Any, registry: Any) -> dict[str, str]:
    """Return the layers that the library can't quantize, each with the reason."""
    found: dict[str, str] = {}
    for layer in model.layers:
        if isinstance(layer, (tf_keras.layers.InputLayer, *_TAKEN_APART)):
            continue
        if _is_folded(layer, model):
            continue
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if not registry.supports(layer):
            found[layer.name] = (
                f"layer {layer.name} is a {_kind(layer)}, which has no quantized form"
            )
        elif activation not in _ACTIVATIONS:
            found[layer.name] = (
                f"layer {layer.name} has the activation {activation}, and none of that"
                " kind is quantized"
            )
        elif _ends_in_swish(layer):
            found[layer.name] = (
                f"layer {layer.name} is called several times, so that its swish can't be"
                " quantized apart from it"
            )
    return found


def _registry() -> Any:
    """Return the library's registry of layers' quantized forms."""
    scheme = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme()
    return scheme.get_quantize_registry()


def _is_folded(layer: Any, model: Any) -> bool:
    """Return whether `layer` is a batch normalization that is folded into the layer before it.

    Nothing else may read the output of that layer.
    """
    if not isinstance(layer, tf_keras.layers.BatchNormalization):
        return False
    before = _before(layer)
    outputs = {id(tensor) for tensor in model.outputs}
    return any(
        isinstance(one, _FOLDING)
        and one.activation is tf_keras.activations.linear
        and len(one.inbound_nodes) == len(one.outbound_nodes) == 1
        and id(one.output) not in outputs
        for one in before
    )


def _kind(layer: Any) -> str:
    if isinstance(layer, tf_keras.Model):
        return "model inside the model"
    called = layer.get_config().get("function")
    # A bare TensorFlow function in a functional model, such as tf.nn.gelu.
    return f"call of tf.{called}" if isinstance(called, str) else type(layer).__name__
