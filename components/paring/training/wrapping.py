"""Wrapping of the layers of a model that a method can change."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras

from paring.errors import UnsupportedError

_NORMALIZATIONS = (tf_keras.layers.BatchNormalization, tf_keras.layers.LayerNormalization)


@dataclass(frozen=True)
class Wrapped:
    """A model with some of its layers wrapped.

    Attributes:
        model: It shares its weights with the one that it was made from.
        wrappers: What was put around layers, in the model and in models inside it.
        left_out: Names and kinds of the other layers with weights, some with the
            reason; normalizations aside, whose scales and offsets no method makes
            sparse or shared.
    """

    model: Any
    wrappers: list[Any]
    left_out: list[str]


def wrap_layers(model: Any, wrap: Callable[[Any], Any | None], *, step: str, done: str) -> Wrapped:
    """Put wrappers around the layers of `model`, and of the models inside it.

    Args:
        model: A sequential or functional tf_keras model, with weights.
        wrap: Gives the wrapper around a layer; where there is none for it, the reason,
            or None.
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
        wrapper = wrap(layer)
        reason = f": {wrapper}" if isinstance(wrapper, str) else ""
        if wrapper is not None and not reason:
            wrappers.append(wrapper)
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


def share_of_zeros(kernels: Iterable[np.ndarray[Any, Any]]) -> float:
    """Return the share of zeros among all weights of the kernels, from 0 to 1."""
    counts = [(np.count_nonzero(kernel == 0), kernel.size) for kernel in kernels]
    return float(sum(zeros for zeros, _ in counts) / sum(size for _, size in counts))
