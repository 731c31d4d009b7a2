"""Check that XLA compiles the training of a model, before a TPU is opened for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from paring.errors import UnsupportedError
from paring.graphs.xla import compile_refusals
from paring.models.library_types import KerasModel
from paring.models.xla import Refusal, refusal_in, refusals_in_short, text_refusals


def check_compiles(model: KerasModel, loss: Callable[..., Any], batch: tuple[Any, ...]) -> None:
    """Refuse a model whose training step XLA can't compile for the shapes of one batch.

    The step is converted, not run: the forward pass in training, the loss and its gradients.

    Args:
        model: A tf_keras model.
        loss: Takes the labels, the model's outputs and, if the batch has them, the weights;
            returns a scalar.
        batch: Features and labels, and weights or not, as the model takes them.

    Raises:
        UnsupportedError: It can't; the message names the layers and the operators.
    """
    flat = [np.asarray(item) for item in tf.nest.flatten(batch)]
    text = text_refusals(item.name for item in model.inputs if item.dtype == tf.string)
    if text:
        raise _unsupported(model, text)

    def step(*given: Any) -> Any:
        features, labels, *weights = tf.nest.pack_sequence_as(batch, list(given))
        with tf.GradientTape() as tape:
            outputs = model(features, training=True)
            value = loss(labels, outputs, *weights)
        return tape.gradient(value, model.trainable_variables)

    refused = compile_refusals(step, [tf.TensorSpec(item.shape, item.dtype) for item in flat])
    if refused:
        raise _unsupported(model, refused)


@contextmanager
def naming_refusals(model: KerasModel) -> Iterator[None]:
    """Raise XLA's refusals of what runs inside as errors that name the layer and the operator.

    Raises:
        UnsupportedError: XLA could not compile it.
    """
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        refusal = refusal_in(error)
        if refusal is None:
            raise
        raise _unsupported(model, [refusal]) from error


def _unsupported(model: KerasModel, refused: Sequence[Refusal]) -> UnsupportedError:
    return UnsupportedError(
        f"XLA can't compile the training of model {model.name}, which a TPU needs",
        received=refusals_in_short([_in_layer(model, item) for item in refused]),
        remedy="move this into the preparation of the examples, or write it with operators"
        " of TensorFlow whose results have a static shape; strategy one_device, mirrored and"
        " multi_worker train the model as it is",
    )


def _in_layer(model: KerasModel, refusal: Refusal) -> str:
    """Return a refusal with the innermost layer that its operator belongs to."""
    names = {layer.name for layer in model.submodules if isinstance(layer, tf.Module)}
    parts = refusal.place.split("/")
    layer = next((part for part in reversed(parts[:-1]) if part in names), "")
    return f"layer {layer}: {refusal}" if layer else str(refusal)
