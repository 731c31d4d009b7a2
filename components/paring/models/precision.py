"""Keras models that compute in half precision, as the same models in float32.

What training and the converters do is made for float32: weights in half precision lose the
steps of training, and most operators of TFLite take no other float.
"""

from typing import Any

import numpy as np

from paring.errors import UnsupportedError, first_line
from paring.models.library_types import KerasModel

HALF_DTYPES = frozenset({"float16", "half", "bfloat16"})
"""NumPy's and TensorFlow's names of the types that are half as long as float32."""

_HALF_POLICIES = HALF_DTYPES | {"mixed_float16", "mixed_bfloat16"}


def in_float32(model: KerasModel) -> tuple[Any, tuple[str, ...] | None]:
    """Return a model that computes as `model` does, in float32, and what that computes in.

    Args:
        model: A model of tf_keras or of Keras 3, with weights.

    Returns:
        `model` itself and None, where nothing in it is in half precision or it can't say
        of what layers it is made (a subclassed one); else a copy with its weights, and the
        dtype policies of half precision that were found.

    Raises:
        UnsupportedError: The copy can't be made, as where a layer of the user's own has
            half precision in its code.
    """
    try:
        config = model.get_config()
    except NotImplementedError:
        return model, None
    result: set[str] = set()
    config = _widened(config, result)
    if not result:
        return model, None
    policies = tuple(sorted(result))
    try:
        copied = type(model).from_config(config)
        set_weights(copied, model.get_weights())
    except Exception as error:
        # Keras raises bare ValueError and TypeError, and TensorFlow its own errors.
        raise UnsupportedError(
            f"model {model.name} computes in half precision and can't be brought into float32",
            received=f"{', '.join(policies)}: {first_line(error)}",
            remedy="build it with the dtype policy float32, copy its weights by set_weights,"
            " and save that",
        ) from error
    return copied, policies


def set_weights(model: KerasModel, weights: list[Any]) -> None:
    """Set all weights of a model, in the types that it has them in.

    Args:
        model: A model or layer of tf_keras or of Keras 3.
        weights: As `get_weights` of one with the same layers gives them.
    """
    kept = model.weights
    if len(kept) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(kept)} variables")
    dtypes = [np.dtype(getattr(item.dtype, "name", item.dtype)) for item in kept]
    model.set_weights(
        [np.asarray(item).astype(dtype) for item, dtype in zip(weights, dtypes, strict=True)]
    )
    finalize(model)


def finalize(model: KerasModel) -> None:
    """Have layers such as Normalization compute with the weights that were set.

    They keep constants that are made of their weights, which setting these leaves as
    they were.
    """
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else [model]
    for layer in layers:
        if hasattr(layer, "adapt") and hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _widened(config: Any, result: set[str]) -> Any:
    """Return a copy of a configuration in float32; add what was in half precision to `result`."""
    if isinstance(config, list | tuple):
        return type(config)(_widened(item, result) for item in config)
    if not isinstance(config, dict):
        return config
    widened = {key: _widened(value, result) for key, value in config.items()}
    dtype = config.get("dtype")
    # Keras writes a policy as its name, or as a serialized object.
    if isinstance(dtype, dict) and isinstance(dtype.get("config"), dict):
        policy = dtype["config"].get("name")
    else:
        policy = dtype
    if isinstance(policy, str) and policy in _HALF_POLICIES:
        widened["dtype"] = "float32"
        # A tensor between two layers tells what these compute in, by its own dtype alone.
        if "keras_history" not in config:
            result.add(policy)
    return widened
