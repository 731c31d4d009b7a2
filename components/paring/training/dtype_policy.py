"""Copies of a model that compute in another dtype, with the same float32 weights."""

from typing import Any

from paring.errors import UnsupportedError
from paring.models.library_types import KerasModel
from paring.models.precision import set_weights


def with_dtype_policy(model: KerasModel, policy: str) -> KerasModel:
    """Return a copy of `model` whose layers compute by `policy`.

    Layers that give the model's outputs, and models inside it that do, compute in float32
    whatever the policy is, so that a loss is not taken of rounded scores.

    Args:
        model: A sequential or functional tf_keras model, with float32 weights.
        policy: float32 or mixed_bfloat16; the weights are float32 in both.

    Raises:
        UnsupportedError: A layer takes no such dtype.
    """
    config = model.get_config()
    _set_policy(config, policy, {output._keras_history.layer.name for output in model.outputs})
    try:
        copied = type(model).from_config(config)
    except (TypeError, ValueError) as error:
        # Calls of TensorFlow functions find float32 beside bfloat16.
        raise UnsupportedError(
            f"model {model.name} can't compute in {policy}",
            received=str(error)[:300],
            remedy="give strategy one_device, mirrored or multi_worker, which compute in float32",
        ) from error
    set_weights(copied, model.get_weights())
    return copied


def _set_policy(config: Any, policy: str, exact: set[str]) -> None:
    """Set the dtype of layers anywhere in `config`, but for those named in `exact`."""
    if isinstance(config, list | tuple):
        for item in config:
            _set_policy(item, policy, exact)
    elif isinstance(config, dict):
        if config.get("name") in exact or config.get("class_name") == "InputLayer":
            policy = "float32"
        if _policy_of(config.get("dtype")) in ("float32", "mixed_bfloat16"):
            config["dtype"] = policy
        for key, item in config.items():
            # The arguments of calls, such as the dtype that tf.cast gives, are no policies.
            if key != "inbound_nodes":
                _set_policy(item, policy, exact)


def _policy_of(dtype: Any) -> Any:
    # Keras writes a policy as its name, or as a serialized object.
    return dtype["config"].get("name") if isinstance(dtype, dict) else dtype
