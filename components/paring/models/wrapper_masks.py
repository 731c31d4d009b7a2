"""Masks of layers, such as of padding, carried through wrappers of optimization methods.

Keras gives a wrapper the mask of its inputs, but neither knows whether the layer inside
takes one, nor asks it for the mask of its outputs. By themselves the wrappers of
tensorflow-model-optimization fail on the first and lose the second.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def output_mask(layer: Any, inputs: Any, mask: Any) -> Any:
    """Return the mask of a layer's outputs.

    Args:
        layer: The layer inside a wrapper.
        inputs: What it is called on, a tensor or several.
        mask: The mask of each of them, bool, or None.

    Returns:
        A mask, several, or None where there is none or the layer carries none on.
    """
    return layer.compute_mask(inputs, mask) if layer.supports_masking else None


def call_arguments(layer: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's keyword arguments without a mask that the layer does not take."""
    known = inspect.getfullargspec(layer.call)
    takes_mask = "mask" in known.args or "mask" in known.kwonlyargs or known.varkw is not None
    return {name: value for name, value in arguments.items() if takes_mask or name != "mask"}


def carry_masks() -> None:
    """Have the library's wrappers for fake quantization carry masks.

    Models with them are also built by the library itself and from files, by the names of
    its classes, so these get the methods.
    """
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_annotate import (
        QuantizeAnnotate,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import (
        QuantizeWrapper,
    )

    for kind in (QuantizeAnnotate, QuantizeWrapper):
        if "compute_mask" not in vars(kind):
            kind.compute_mask = _compute_mask
            kind.call = _fitted(kind.call)


def _compute_mask(self: Any, inputs: Any, mask: Any = None) -> Any:
    return output_mask(self.layer, inputs, mask)


def _fitted(call: Callable[..., Any]) -> Callable[..., Any]:
    # Without functools.wraps, by which AutoGraph would find the source of `call`.
    def fitted(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **call_arguments(self.layer, kwargs))

    return fitted
