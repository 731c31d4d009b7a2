"""The loss that a model is fine-tuned by, from how it ends and what its labels are."""

from typing import Any

import numpy as np
import tf_keras
from numpy.typing import NDArray

from paring.errors import UnsupportedError

_SHAPE_ONLY = (tf_keras.layers.Reshape, tf_keras.layers.Flatten, tf_keras.layers.Dropout)


def loss_for(model: Any, *labels: NDArray[Any]) -> Any:
    """The loss that fits the model's labels and its last activation.

    Of floats it is the mean squared error. Of class ids softmax gives
    cross-entropy on probabilities, no activation the same on logits; with a
    single unit, sigmoid or none give binary cross-entropy. Of class ids of
    tokens it is the same cross-entropy, without those that are padding.

    Args:
        model: A tf_keras model.
        labels: Those of each output, in order; without any, the only output has
            class ids.

    Returns:
        A tf_keras loss; a list of them for several outputs, which add up.

    Raises:
        UnsupportedError: An output is none that labels of that kind go with.
    """
    ids = np.zeros(0, np.int64)
    given = labels or (ids,)
    if len(given) != len(model.outputs):
        raise UnsupportedError(
            f"model {model.name} has other outputs than there are labels for",
            received=f"{len(model.outputs)} outputs, {len(given)} with labels",
            remedy="give labels for all of them; conversion works on this model as it is",
        )
    losses = [
        _loss(model, output, wanted) for output, wanted in zip(model.outputs, given, strict=True)
    ]
    return losses[0] if len(losses) == 1 else losses


def _loss(model: Any, output: Any, labels: NDArray[Any]) -> Any:
    if labels.dtype.kind == "f":
        return tf_keras.losses.MeanSquaredError()
    of_tokens = labels.ndim > 1
    if output.shape.rank != labels.ndim + 1:
        wanted = "[batch, ..., classes]" if of_tokens else "[batch, classes]"
        raise UnsupportedError(
            f"an output of model {model.name} is not a classifier's {wanted}",
            received=f"an output of shape {tuple(output.shape)}",
            remedy="training steps take classifiers of integer labels, and regressors of floats;"
            " conversion works on this model as it is",
        )
    units = output.shape[-1]
    activation = last_activation(output)
    if units == 1 and not of_tokens and activation in ("sigmoid", "linear"):
        return tf_keras.losses.BinaryCrossentropy(from_logits=activation == "linear")
    if units != 1 and activation in ("softmax", "linear"):
        return tf_keras.losses.SparseCategoricalCrossentropy(
            from_logits=activation == "linear", ignore_class=-1 if of_tokens else None
        )
    raise UnsupportedError(
        f"model {model.name} ends in an activation that no loss for class labels goes with",
        received=f"{activation} over {units} units",
        remedy="end it in softmax or no activation, or in sigmoid over a single unit",
    )


def last_activation(output: Any) -> str:
    """The name of the activation that an output comes from."""
    made_by = output._keras_history
    while isinstance(made_by.layer, _SHAPE_ONLY):
        made_by = made_by.layer.get_input_at(made_by.node_index)._keras_history
    layer = made_by.layer
    if isinstance(layer, tf_keras.Model):
        return last_activation(layer.outputs[made_by.tensor_index])
    if isinstance(layer, tf_keras.layers.TimeDistributed):
        layer = layer.layer
    if isinstance(layer, tf_keras.layers.Softmax):
        return "softmax"
    # A call of tf.nn.softmax in a functional model is a layer of this kind.
    called = layer.get_config().get("function")
    if isinstance(called, str):
        return called.rpartition(".")[2]
    activation = getattr(layer, "activation", tf_keras.activations.linear)
    return str(getattr(activation, "__name__", type(activation).__name__))
