"""Wrapping of the layers of a model that a method can change."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras

from paring.errors import UnsupportedError
from paring.models.library_types import KerasModel

_NORMALIZATIONS = (tf_keras.layers.BatchNormalization, tf_keras.layers.LayerNormalization)


@dataclass(frozen=True)
class Wrapped:
    """A model with some of its layers wrapped.

    Attributes:
        model: It shares its weights with the one that it was made from.
        wrappers: What was put around layers, in the model and in models inside it.
        left_out: Names and kinds of the other layers with weights, some with the
            reason, and of other kernels of wrapped layers, as LAYER.KERNEL;
            normalizations aside, whose scales and offsets no method makes sparse or
            shared.
    """

    model: KerasModel
    wrappers: list[Any]
    left_out: list[str]


def wrap_layers(
    model: KerasModel,
    wrap: Callable[[Any], Any | None],
    kernels: Callable[[Any], Sequence[Any]],
    *,
    step: str,
    done: str,
) -> Wrapped:
    """Put wrappers around the layers of `model`, and of the models inside it.

    Args:
        model: A sequential or functional tf_keras model, with weights.
        wrap: Gives the wrapper around a layer; where there is none for it, the reason,
            or None.
        kernels: Gives the variables of a layer that its wrapper changes.
        step: The step's name, for the message.
        done: What the step does to weights, as a participle.

    Raises:
        UnsupportedError: `wrap` takes no layer.
    """
    wrappers: list[Any] = []
    left_out: list[str] = []

    visited: dict[int, Any] = {}

    def visit(layer: Any) -> Any:
        # A layer may be part of several models.
        if id(layer) not in visited:
            visited[id(layer)] = of(layer)
        return visited[id(layer)]

    def of(layer: Any) -> Any:
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=visit)
        # Wrappers may put something else in the kernels' place.
        others = _other_kernels(layer, kernels(layer), done)
        wrapper = wrap(layer)
        reason = f": {wrapper}" if isinstance(wrapper, str) else ""
        if wrapper is not None and not reason:
            wrappers.append(wrapper)
            left_out.extend(others)
            return wrapper
        # A reason is given of frozen layers too.
        if (layer.trainable_weights or reason) and not isinstance(layer, _NORMALIZATIONS):
            left_out.append(f"{layer.name} ({type(layer).__name__}{reason})")
        return layer

    wrapped = tf_keras.models.clone_model(model, clone_function=visit)
    if not wrappers:
        raise UnsupportedError(
            f"model {model.name} has no layer whose weights can be {done}",
            received=", ".join(left_out) or "no layers with weights",
            remedy=f"use a recipe without {step}",
        )
    return Wrapped(wrapped, wrappers, left_out)


def _other_kernels(layer: Any, kernels: Sequence[Any], done: str) -> list[str]:
    """Return the names of a layer's kernels that are not among `kernels`, with the reason."""
    changed = {id(kernel) for kernel in kernels}
    names = " and ".join(_weight_name(kernel) for kernel in kernels)
    return [
        f"{layer.name}.{_weight_name(weight)}"
        f" ({type(layer).__name__}: only its {names} can be {done})"
        for weight in layer.weights
        # The biases of a GRU have two axes.
        if id(weight) not in changed
        and weight.shape.rank > 1
        and "bias" not in _weight_name(weight)
    ]


def _weight_name(variable: Any) -> str:
    return str(variable.name).partition(":")[0].rpartition("/")[2]


def share_of_zeros(kernels: Iterable[np.ndarray[Any, Any]]) -> float:
    """Return the share of zeros among all weights of the kernels, from 0 to 1."""
    counts = [(np.count_nonzero(kernel == 0), kernel.size) for kernel in kernels]
    return float(sum(zeros for zeros, _ in counts) / sum(size for _, size in counts))
