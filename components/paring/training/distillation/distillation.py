"""Distillation of a teacher's scores and features into a student.

The scores by G. Hinton, O. Vinyals and J. Dean, "Distilling the Knowledge in a Neural
Network", 2015 (arXiv:1503.02531); the features by A. Romero and others, "FitNets: Hints
for Thin Deep Nets", 2015 (arXiv:1412.6550). What the teacher says of each example is
computed once and kept in a mapped file, so it takes no part in the training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from paring.artifacts import Model
from paring.data.examples import Split, class_ids
from paring.errors import UnsupportedError
from paring.graphs import graph
from paring.models.arguments import by_name
from paring.models.library_types import KerasModel
from paring.models.loading import keras_source, load_keras
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature, TensorSpec
from paring.training.distillation.students import StudentSpec
from paring.training.feeding import Rows, features_at
from paring.training.losses import last_activation, loss_for
from paring.training.training import seed_everything, signature_of

# Below it a probability's logarithm is cut off; float32 holds smaller ones.
_LEAST = 1e-30
# A float32 below 1 is no nearer to it.
_NEAR_ONE = 1e-7
# Of the sum of probabilities to 1.
_SUM_TOLERANCE = 1e-3

_FORWARD_BATCH = 128


@dataclass(frozen=True)
class Teacher:
    """Source model whose outputs a student is trained on.

    Attributes:
        signature: What it takes and gives.
        call: From the split and row numbers to scores, float32 [rows, units].
        keras_model: Its tf_keras form; None for a bare SavedModel.
        parameters: Elements of all of its weights.
    """

    signature: Signature
    call: Callable[[Split, Rows], NDArray[np.float32]]
    keras_model: KerasModel | None
    parameters: int

    @property
    def units(self) -> int:
        """Number of output values for an example."""
        return int(next(iter(self.signature.outputs.values())).shape[1] or 0)

    @property
    def input(self) -> TensorSpec:
        """Input of the model."""
        return next(iter(self.signature.inputs.values()))


def open_teacher(model: Model, seed: int) -> Teacher:
    """Load the source, in Keras form where it has one and as a SavedModel elsewhere.

    Raises:
        UnsupportedError: It has several inputs or outputs, or its output is not
            float32 [batch, classes].
        ModelError: It is missing or broken.
    """
    seed_everything(seed)
    if keras_source(model) is not None:
        network = load_keras(model)
        signature = signature_of(model, network)
        _check_signature(signature)
        # It refuses what ends in no classifier's activation.
        loss_for(network)

        def ask_keras(split: Split, rows: Rows) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = network(
                features_at(network, split, rows), training=False
            ).numpy()
            return scores

        return Teacher(signature, ask_keras, network, network.count_params())

    saved = SavedModel.open(model)
    signature = saved.signature()
    _check_signature(signature)
    function = graph.load_function(saved)
    name, spec = next(iter(signature.inputs.items()))

    call = by_name(function)

    def ask(split: Split, rows: Rows) -> NDArray[np.float32]:
        values = tf.constant(np.asarray(split.features[name][rows]), dtype=spec.dtype)
        (result,) = call({name: values}).values()
        scores: NDArray[np.float32] = result.numpy()
        return scores

    weights = graph.weights(function, graph.frozen_graph(function, signature))
    return Teacher(signature, ask, None, sum(weight.count for weight in weights))


def _check_signature(signature: Signature) -> None:
    (*_, output), inputs = signature.outputs.values(), signature.inputs
    classifies = len(output.shape) == 2 and output.shape[1] and output.dtype == "float32"
    if len(inputs) != 1 or len(signature.outputs) != 1 or not classifies:
        given = ", ".join(f"{item.dtype} {list(item.shape)}" for item in signature.outputs.values())
        raise UnsupportedError(
            "distillation takes a source with one input and one output float32 [batch, classes]",
            received=f"inputs {', '.join(inputs)}; outputs {given}",
            remedy="use a recipe without distill",
        )


@dataclass(frozen=True)
class TeacherOutputs:
    """Teacher's outputs for every example of a split, and the labels.

    Attributes:
        table: float32 [count, 1 + units + features], mapped from a file: the class id,
            0 without labels; the scores as logits; the features with mean 0, and
            deviation 1 over all of them.
        wanted: What a student must take and give.
        features: Number of features; 0 where none were requested.
    """

    table: NDArray[np.float32]
    wanted: StudentSpec
    features: int

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """Return the teacher's scores at `rows`, as logits [rows, units]."""
        return np.asarray(self.table[rows, 1 : 1 + self.wanted.units])


def compute_teacher_outputs(
    teacher: Teacher, split: Split, file: Path, *, with_features: bool
) -> TeacherOutputs:
    """Have the teacher go through the whole split once.

    Args:
        teacher: From `open_teacher`.
        split: The train split.
        file: The `.npy` file to write.
        with_features: Whether its features are wanted too.

    Raises:
        UnsupportedError: Features are wanted of a bare SavedModel or of a model that
            hides them, or the scores are no classifier's.
    """
    units, hidden, width = teacher.units, None, 0
    if with_features:
        if teacher.keras_model is None:
            raise UnsupportedError(
                "the source is a bare SavedModel, whose features can't be read",
                received="feature_weight above 0",
                remedy="give feature_weight = 0: its scores suffice to learn from",
            )
        tensor = penultimate(teacher.keras_model)
        hidden = tf_keras.Model(teacher.keras_model.inputs, tensor)
        width = int(tensor.shape[-1])
    table = open_memmap(file, "w+", np.float32, (split.count, 1 + units + width))
    ids = class_ids(split.labels)
    table[:, 0] = 0 if ids is None else ids
    fixed = teacher.input.shape[0]
    size = fixed or _FORWARD_BATCH
    broken = 0
    for start in range(0, split.count, size):
        part = table[start : start + size]
        # Where the batch's size is fixed, the last row again and again.
        end = start + (fixed or len(part))
        rows = np.minimum(np.arange(start, end), split.count - 1)
        part[:, 1 : 1 + units] = teacher.call(split, rows)[: len(part)]
        if hidden is not None:
            result = hidden(features_at(hidden, split, rows), training=False)
            part[:, 1 + units :] = result.numpy()[: len(part)]
        broken += int((~np.isfinite(part)).any(axis=1).sum())
    if broken:
        raise UnsupportedError(
            "the source gives values that are no finite numbers",
            received=f"for {broken} of {split.count} examples",
            remedy="look at these examples, or use a recipe without distill",
        )
    if teacher.keras_model is not None:
        activation = last_activation(teacher.keras_model.outputs[0])
    else:
        activation = _activation_of(table[:, 1 : 1 + units])
    for start in range(0, split.count, size):
        part = table[start : start + size, 1 : 1 + units]
        part[:] = logits_of(tf.constant(part), activation).numpy()
    if width:
        _standardize(table[:, 1 + units :], split.used_rows)
    return TeacherOutputs(table, StudentSpec(teacher.input, units, activation), width)


def _activation_of(scores: NDArray[np.float32]) -> str:
    """Return the activation that gives such scores."""
    if scores.min() < 0 or scores.max() > 1:
        return "linear"
    if scores.shape[1] == 1:
        return "sigmoid"
    if np.abs(scores.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
        return "softmax"
    raise UnsupportedError(
        "the source's scores are neither logits nor the probabilities of classes",
        received=f"scores of 0 to 1, with sums of {scores.sum(axis=1).min():.3g}"
        f" to {scores.sum(axis=1).max():.3g}",
        remedy="use a recipe without distill",
    )


def _standardize(features: NDArray[np.float32], rows: Rows) -> None:
    """Give the features at `rows` mean 0 each, and deviation 1 over all of them."""
    features -= features[rows].mean(axis=0)
    deviation = features[rows].std()
    features /= deviation if deviation > 0 else 1


def logits_of(scores: Any, activation: str) -> Any:
    """Return logits that give `scores` by `activation`; softmax leaves them open by a constant."""
    if activation == "softmax":
        return tf.math.log(tf.maximum(scores, _LEAST))
    if activation == "sigmoid":
        inside = tf.clip_by_value(scores, _NEAR_ONE, 1 - _NEAR_ONE)
        return tf.math.log(inside) - tf.math.log1p(-inside)
    return scores


def penultimate(model: KerasModel) -> Any:
    """Return the features that the last layer with weights of a tf_keras model takes.

    Returns:
        A Keras tensor [batch, features]; positions of an image or a sequence are
        averaged, and dropout is not applied.

    Raises:
        UnsupportedError: That layer is inside a model in the model, takes several
            tensors, or there is none.
    """
    history = model.outputs[0]._keras_history
    while not history.layer.weights and _has_one_input(history):
        history = history.layer.get_input_at(history.node_index)._keras_history
    if isinstance(history.layer, tf_keras.Model) or not _has_one_input(history):
        raise UnsupportedError(
            f"model {model.name} does not show the features before its last layer",
            received=f"{history.layer.name} ({type(history.layer).__name__})",
            remedy="give feature_weight = 0, or a model without models inside it",
        )
    tensor = history.layer.get_input_at(history.node_index)
    while isinstance(tensor._keras_history.layer, tf_keras.layers.Dropout):
        made_by = tensor._keras_history
        tensor = made_by.layer.get_input_at(made_by.node_index)
    if len(tensor.shape) > 2:
        tensor = tf.reduce_mean(tensor, axis=list(range(1, len(tensor.shape) - 1)))
    return tensor


def _has_one_input(history: Any) -> bool:
    if isinstance(history.layer, tf_keras.layers.InputLayer):
        return False
    return not isinstance(history.layer.get_input_at(history.node_index), list | tuple | dict)


@dataclass(frozen=True)
class StudentTrainer:
    """Student in the form in which it is trained.

    Attributes:
        model: Shares its weights with the student. It gives the student's scores, and
            behind them its features as the regressor renders the teacher's.
        loss: Compares that with rows of `TeacherOutputs.table`, float32 [batch].
    """

    model: KerasModel
    loss: Callable[[Any, Any], Any]


def pupil(
    student: KerasModel,
    lessons: TeacherOutputs,
    *,
    temperature: float,
    soft_weight: float,
    feature_weight: float,
) -> StudentTrainer:
    """Put the loss of distillation on a student.

    It is soft_weight T^2 KL(teacher/T, student/T) + (1 - soft_weight) H(label, student)
    + feature_weight MSE(teacher's features, r(student's features)); KL and H, the
    divergence and the cross-entropy, are taken after softmax, or sigmoid for a single
    unit, and r is a linear map that is learned along. T^2 keeps the soft part's
    gradients as large as they are at T = 1 (Hinton and others, section 2).

    Args:
        student: A functional tf_keras model that gives `lessons.wanted`.
        lessons: What the teacher said.
        temperature: T, by which logits are divided in the soft part.
        soft_weight: From 0 to 1.
        feature_weight: 0 leaves that part out; `lessons` must hold features elsewise.

    Raises:
        UnsupportedError: Features are compared, and the student's can't be read.
    """
    outputs = student.output
    if feature_weight:
        rendered = tf_keras.layers.Dense(lessons.features, name="regressor")(penultimate(student))
        outputs = tf_keras.layers.Concatenate()([outputs, rendered])
    units, activation = lessons.wanted.units, lessons.wanted.activation

    def loss(lesson: Any, given: Any) -> Any:
        logits = logits_of(given[:, :units], activation)
        label, taught = lesson[:, 0], lesson[:, 1 : 1 + units]
        wanted = _probabilities(taught / temperature, units)
        soft = _cross_entropy(wanted, logits / temperature, units)
        # Its own entropy is no loss: a student that agrees in everything has 0.
        soft -= _cross_entropy(wanted, taught / temperature, units)
        total = soft_weight * temperature**2 * soft
        if soft_weight < 1:
            total += (1 - soft_weight) * _cross_entropy(_certain(label, units), logits, units)
        if feature_weight:
            away = lesson[:, 1 + units :] - given[:, units:]
            total += feature_weight * tf.reduce_mean(tf.square(away), axis=1)
        return total

    return StudentTrainer(tf_keras.Model(student.inputs, outputs), loss)


# Keras feeds rows of unknown length, so the number of units has to be handed in.


def _probabilities(logits: Any, units: int) -> Any:
    return tf.sigmoid(logits) if units == 1 else tf.nn.softmax(logits)


def _certain(labels: Any, units: int) -> Any:
    if units == 1:
        return labels[:, tf.newaxis]
    return tf.one_hot(tf.cast(labels, tf.int32), units)


def _cross_entropy(probabilities: Any, logits: Any, units: int) -> Any:
    """Compute the cross entropy of each example, [batch]; one unit stands for two classes."""
    if units == 1:
        return tf.nn.sigmoid_cross_entropy_with_logits(probabilities, logits)[:, 0]
    return tf.nn.softmax_cross_entropy_with_logits(probabilities, logits)


def agreement(student: KerasModel, lessons: TeacherOutputs, *, split: Split, rows: Rows) -> float:
    """Share of the rows where the student has its teacher's class, from 0 to 1."""
    scores = [
        student(features_at(student, split, rows[start : start + _FORWARD_BATCH]), training=False)
        for start in range(0, len(rows), _FORWARD_BATCH)
    ]
    given = logits_of(tf.concat(scores, axis=0), lessons.wanted.activation).numpy()
    return float(np.mean(_top(given) == _top(lessons.logits(rows))))


def _top(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    best: NDArray[np.int64] = logits.argmax(axis=1)
    return best
