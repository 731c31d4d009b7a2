"""Loss between the outputs of a graph in training and those of its source.

Of scores it is the cross-entropy of G. Hinton, O. Vinyals and J. Dean, "Distilling the
Knowledge in a Neural Network", 2015 (arXiv:1503.02531), at temperature 1.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.data.examples import Split, class_ids
from paring.errors import UnsupportedError
from paring.training.graphs.graph_model import GraphModel

Kind = Literal["classes", "flags", "probabilities", "values"]

# Below it a probability's logarithm is cut off; float32 holds smaller ones.
_LEAST = 1e-30
# Of the sum of probabilities to 1.
_SUM_TOLERANCE = 1e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaughtOutput:
    """An output that the source teaches.

    Attributes:
        name: Its name in the signature.
        tensor: The graph's tensor that is compared: logits, where the graph has them.
        kind: classes are logits of a softmax, flags those of sigmoids, probabilities add up to 1
            over the last axis, values are anything else.
        scale: What the squared error of values is divided by: their variance.
        by_example: Whether its first axis is the batch's.
    """

    name: str
    tensor: str
    kind: Kind
    scale: float = 1.0
    by_example: bool = True

    def loss(self, student: Any, teacher: Any) -> Any:
        """Return the losses [batch] of tensors [batch, ...]; a scalar of other tensors."""
        student, teacher = tf.cast(student, tf.float32), tf.cast(teacher, tf.float32)
        match self.kind:
            case "classes":
                wanted = tf.nn.softmax(teacher)
                losses = tf.nn.softmax_cross_entropy_with_logits(wanted, student)
                # Its own entropy is no loss: a student that agrees in everything has 0.
                losses -= tf.nn.softmax_cross_entropy_with_logits(wanted, teacher)
            case "flags":
                wanted = tf.sigmoid(teacher)
                losses = tf.nn.sigmoid_cross_entropy_with_logits(wanted, student)
                losses -= tf.nn.sigmoid_cross_entropy_with_logits(wanted, teacher)
            case "probabilities":
                losses = teacher * (_log_of(teacher) - _log_of(student))
                losses = tf.reduce_sum(losses, axis=-1)
            case "values":
                losses = tf.math.squared_difference(student, teacher) / self.scale
        if not self.by_example:
            return tf.reduce_mean(losses)
        return tf.reduce_mean(tf.reshape(losses, [tf.shape(losses)[0], -1]), axis=1)


def taught_outputs(
    model: GraphModel, split: Split, outputs: Mapping[str, NDArray[Any]], count: int
) -> Sequence[TaughtOutput]:
    """Return the outputs that can be taught, and how each is compared.

    Scores are known by the activation that the graph ends in, by labels that are class ids, or
    by their sum.

    Args:
        model: The model.
        split: Its labels say which outputs are classes.
        outputs: The source's outputs for some examples, in float32.
        count: The number of these examples.

    Raises:
        UnsupportedError: No output is of a floating type, one is not finite, or the examples
            have weights and one has no axis for examples.
    """
    left = sorted(model.graph.outputs.keys() - model.scores.keys())
    if left:
        _log.info("outputs that are no numbers of a floating type teach nothing: %s", left)
    result = []
    for name, (activation, tensor) in model.scores.items():
        given = outputs[name]
        if not np.isfinite(given).all():
            raise UnsupportedError(
                f"output {name!r} of the source has values that are no finite numbers",
                received=f"{np.count_nonzero(~np.isfinite(given))} of {given.size}",
                remedy="look at these examples, or use a recipe without training steps",
            )
        kind = _kind(activation, given, split.labels_by_output.get(name))
        whole = model.graph.outputs[name] if kind in ("probabilities", "values") else tensor
        scale = float(np.var(given)) or 1.0
        by_example = given.shape[:1] == (count,)
        if split.weights is not None and not by_example:
            raise UnsupportedError(
                f"output {name!r} has no axis for examples, so that these can't be weighted",
                received=f"a shape of {given.shape} for {count} examples",
                remedy="give examples without weights, or a signature of outputs [batch, ...]",
            )
        result.append(TaughtOutput(name, whole, kind, scale, by_example))
    if not result:
        raise UnsupportedError(
            "the source has no output that training could compare",
            received=f"outputs {', '.join(left)}, none of a floating type",
            remedy="export a signature with scores or values, or use a recipe without training"
            " steps",
        )
    return result


def _kind(activation: str, given: NDArray[Any], labels: NDArray[Any] | None) -> Kind:
    several = given.ndim > 1 and given.shape[-1] > 1
    if activation == "softmax":
        return "classes"
    if activation == "sigmoid":
        return "flags"
    if several and given.min() >= 0 and np.abs(given.sum(axis=-1) - 1).max() <= _SUM_TOLERANCE:
        return "probabilities"
    ids = class_ids(labels)
    if ids is None and labels is not None and labels.dtype.kind in "iu":
        # Of tokens or pixels.
        ids = labels
    if ids is not None and several and given.ndim == ids.ndim + 1:
        return "classes"
    if ids is not None and given.ndim == 2 and not several:
        return "flags"
    return "values"


def _log_of(probabilities: Any) -> Any:
    return tf.math.log(tf.maximum(probabilities, _LEAST))
