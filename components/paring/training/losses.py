"""Loss of fine-tuning, chosen by a model's last activation and its labels."""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from paring.data.columns import are_flags, are_one_hot
from paring.errors import UnsupportedError
from paring.models.library_types import KerasModel

_SHAPE_ONLY = (tf_keras.layers.Reshape, tf_keras.layers.Flatten, tf_keras.layers.Dropout)


def loss_for(model: KerasModel, *labels: NDArray[Any]) -> Any:
    """Return the loss that fits the model's labels and its last activation.

    Of floats it is the mean squared error, but of zeros and ones under a sigmoid
    binary cross-entropy, and of one-hot rows under softmax or no activation
    cross-entropy. Of class ids softmax gives cross-entropy on
    probabilities, no activation the same on logits; with a single unit, sigmoid
    or none give binary cross-entropy, and so they do where labels of the output's
    own shape say which of several apply. Of class ids of tokens or pixels it is
    the same cross-entropy, without those that are padding.

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


def _loss(model: KerasModel, output: Any, labels: NDArray[Any]) -> Any:
    activation = last_activation(output)
    if labels.dtype.kind == "f":
        if activation == "sigmoid" and are_flags(labels):
            return _of_examples(tf_keras.losses.BinaryCrossentropy(), output)
        if activation in ("softmax", "linear") and are_one_hot(labels):
            # The loss of a row of zeros, which is padding, is 0.
            return tf_keras.losses.CategoricalCrossentropy(from_logits=activation == "linear")
        return _of_examples(tf_keras.losses.MeanSquaredError(), output)
    of_tokens = labels.ndim > 1
    units = output.shape[-1]
    single = activation in ("sigmoid", "linear")
    several = labels.ndim == 2 and labels.shape[1:] == tuple(output.shape[1:])
    if several and units != 1 and single:
        return tf_keras.losses.BinaryCrossentropy(from_logits=activation == "linear")
    if output.shape.rank != labels.ndim + 1:
        wanted = "[batch, ..., classes]" if of_tokens else "[batch, classes]"
        raise UnsupportedError(
            f"an output of model {model.name} is not a classifier's {wanted}",
            received=f"an output of shape {tuple(output.shape)}",
            remedy="give integers of the output's shape without its last axis, or floats of its"
            " shape; conversion works on this model as it is",
        )
    if units == 1 and single:
        kind = TokenCrossentropy if of_tokens else tf_keras.losses.BinaryCrossentropy
        return kind(from_logits=activation == "linear")
    if units != 1 and activation in ("softmax", "linear"):
        if of_tokens:
            return TokenClassCrossentropy(from_logits=activation == "linear")
        return tf_keras.losses.SparseCategoricalCrossentropy(from_logits=activation == "linear")
    raise UnsupportedError(
        f"model {model.name} ends in an activation that no loss for class labels goes with",
        received=f"{activation} over {units} units",
        remedy="end it in softmax or no activation over several units, or in sigmoid or no"
        " activation over one; conversion works on this model as it is",
    )


def _of_examples(loss: Any, output: Any) -> Any:
    """Return a loss that has a value for each example, of an output [batch] too."""
    return ScalarLoss(loss) if output.shape.rank == 1 else loss


def total_loss(loss: Any, labels: Any, outputs: Any, weights: Any = None) -> Any:
    """Return the loss of a batch as `fit` computes it, for whoever has to call it by hand.

    A tf_keras loss compares labels [batch] with outputs [batch, 1] by broadcasting them to
    [batch, batch], unless it is called through `fit` or `evaluate`; and only these add
    several outputs up.

    Args:
        loss: From `loss_for`.
        labels: Those of a batch, in the structure of the model's outputs.
        outputs: What the model gives, [batch, ...].
        weights: Sample weights of each output, in the same structure; None for none.

    Returns:
        A scalar tensor.
    """
    losses = loss if isinstance(loss, list) else [loss]
    total = tf.constant(0.0)
    flat = tf.nest.flatten(labels)
    given_weights = [None] * len(flat) if weights is None else tf.nest.flatten(weights)
    parts = zip(losses, flat, tf.nest.flatten(outputs), given_weights, strict=True)
    for item, given, output, weight in parts:
        wanted = tf.convert_to_tensor(given)
        if wanted.shape.rank == 1 and output.shape.rank == 2:
            wanted = tf.expand_dims(wanted, -1)
        total += item(wanted, output, sample_weight=weight)
    return total


class ScalarLoss(tf_keras.losses.Loss):  # type: ignore[misc]
    """A loss of an output [batch], which tf_keras would average over the batch at once.

    Args:
        loss: A loss of outputs [batch, 1].
    """

    def __init__(self, loss: Any) -> None:
        super().__init__(name=loss.name)
        self.loss = loss

    def call(self, labels: Any, outputs: Any) -> Any:
        """Compute the losses [batch] of labels [batch] and outputs [batch]."""
        return self.loss.call(tf.expand_dims(labels, -1), tf.expand_dims(outputs, -1))


class TokenCrossentropy(tf_keras.losses.Loss):  # type: ignore[misc]
    """Binary cross-entropy of each token or pixel, the mean over those that are not padding.

    Args:
        from_logits: Whether the outputs are logits, not probabilities.
    """

    def __init__(self, *, from_logits: bool) -> None:
        super().__init__(name="token_crossentropy")
        self.from_logits = from_logits

    def call(self, labels: Any, outputs: Any) -> Any:
        """Return the losses of labels [batch, ...] and outputs [batch, ..., 1], padding below 0."""
        real = labels >= 0
        wanted = tf.cast(tf.maximum(labels, 0), outputs.dtype)
        losses = tf_keras.backend.binary_crossentropy(
            wanted, tf.squeeze(outputs, -1), from_logits=self.from_logits
        )
        # What the reduction leaves out, as it does for other losses that ignore a class.
        losses._keras_mask = real
        return losses


class TokenClassCrossentropy(tf_keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy of each token or pixel, the mean over those that are not padding.

    That of tf_keras with `ignore_class` takes the others out of the batch, whose size then depends
    on values, which XLA does not compile.

    Args:
        from_logits: Whether the outputs are logits, not probabilities.
    """

    def __init__(self, *, from_logits: bool) -> None:
        super().__init__(name="token_class_crossentropy")
        self.from_logits = from_logits

    def call(self, labels: Any, outputs: Any) -> Any:
        """Return the losses of labels [batch, ...] and outputs [batch, ..., classes]."""
        real = labels >= 0
        losses = tf_keras.backend.sparse_categorical_crossentropy(
            tf.maximum(labels, 0), outputs, from_logits=self.from_logits
        )
        losses = tf.where(real, losses, tf.zeros_like(losses))
        # What the reduction leaves out, as it does for other losses that ignore a class.
        losses._keras_mask = real
        return losses


def last_activation(output: Any) -> str:
    """Return the name of the activation that an output comes from."""
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
