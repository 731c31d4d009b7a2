"""Distillation: what is asked of a teacher, and what the loss makes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from scipy.special import expit, log_softmax, softmax

from paring.artifacts import Model
from paring.data.examples import Split
from paring.errors import UnsupportedError
from paring.models.signature import TensorSpec
from paring.training.distillation.distillation import (
    TeacherOutputs,
    agreement,
    compute_teacher_outputs,
    logits_of,
    open_teacher,
    penultimate,
    pupil,
)
from paring.training.distillation.students import StudentSpec

layers = tf_keras.layers

GENERATOR = np.random.default_rng(0)
VALUES = GENERATOR.normal(size=(10, 6)).astype(np.float32)


@pytest.fixture
def split() -> Split:
    """Ten rows of six numbers, in three classes."""
    return Split({"values": VALUES}, np.arange(10) % 3, 10)


def _save(model: Any, folder: Path) -> Model:
    model.save(folder / "model.keras")
    return Model(folder / "model.keras")


def _save_bare(call: Any, folder: Path, batch: int | None = None) -> Model:
    module = tf.Module()
    module.scale = tf.Variable(tf.ones(6))
    spec = tf.TensorSpec([batch, 6], tf.float32, name="values")
    module.serve = tf.function(
        lambda values: {"scores": call(values * module.scale)}, input_signature=[spec]
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return Model(folder)


def _classifier(units: int = 3, activation: str | None = "softmax") -> Any:
    values = tf_keras.Input((6,), name="values")
    hidden = layers.Dense(5, activation="relu", name="hidden")(values)
    dropped = layers.Dropout(0.5)(hidden)
    return tf_keras.Model(values, layers.Dense(units, activation=activation)(dropped))


@pytest.mark.parametrize(
    ("units", "activation"), [(3, "softmax"), (3, None), (1, "sigmoid"), (1, None)]
)
def test_a_keras_teachers_scores_are_kept_as_logits(
    tmp_path: Path, split: Split, units: int, activation: str | None
) -> None:
    model = _classifier(units, activation)
    teacher = open_teacher(_save(model, tmp_path), seed=0)
    lessons = compute_teacher_outputs(teacher, split, tmp_path / "lessons.npy", with_features=True)

    assert lessons.wanted.activation == (activation or "linear")
    logits = tf_keras.Model(model.input, model.layers[-1].output)(VALUES).numpy()
    result = lessons.logits(np.arange(10))
    if activation == "softmax":
        np.testing.assert_allclose(softmax(result, axis=1), logits, rtol=1e-4)
    elif activation == "sigmoid":
        np.testing.assert_allclose(expit(result), logits, rtol=1e-4)
    else:
        np.testing.assert_allclose(result, logits, rtol=1e-5)
    assert teacher.parameters == model.count_params()
    np.testing.assert_array_equal(lessons.table[:, 0], split.labels)


def test_features_are_those_before_the_last_layer_in_units_of_their_deviation(
    tmp_path: Path, split: Split
) -> None:
    model = _classifier()
    teacher = open_teacher(_save(model, tmp_path), seed=0)
    lessons = compute_teacher_outputs(teacher, split, tmp_path / "lessons.npy", with_features=True)
    features = lessons.table[:, 4:]
    assert features.shape == (10, lessons.features) == (10, 5)
    hidden = tf_keras.Model(model.input, model.get_layer("hidden").output)(VALUES).numpy()
    centred = hidden - hidden.mean(axis=0)
    np.testing.assert_allclose(features, centred / centred.std(), atol=1e-5)


@pytest.mark.parametrize("batch", [None, 4])
def test_a_bare_saved_model_can_teach_whatever_its_batch_size(
    tmp_path: Path, split: Split, batch: int | None
) -> None:
    teacher = open_teacher(_save_bare(tf.nn.softmax, tmp_path / "model", batch), seed=0)
    lessons = compute_teacher_outputs(teacher, split, tmp_path / "lessons.npy", with_features=False)
    assert (lessons.wanted.activation, lessons.wanted.units, teacher.parameters) == (
        "softmax",
        6,
        6,
    )
    np.testing.assert_allclose(
        lessons.logits(np.arange(10)), log_softmax(VALUES, axis=1), rtol=1e-4
    )


def test_logits_of_a_bare_saved_model_are_told_from_probabilities(
    tmp_path: Path, split: Split
) -> None:
    teacher = open_teacher(_save_bare(lambda values: 3 * values, tmp_path / "model"), seed=0)
    lessons = compute_teacher_outputs(teacher, split, tmp_path / "lessons.npy", with_features=False)
    assert lessons.wanted.activation == "linear"
    np.testing.assert_allclose(lessons.logits(np.arange(10)), 3 * VALUES, rtol=1e-5)


def test_features_of_a_bare_saved_model_are_refused(tmp_path: Path, split: Split) -> None:
    teacher = open_teacher(_save_bare(tf.nn.softmax, tmp_path / "model"), seed=0)
    with pytest.raises(UnsupportedError, match="feature_weight = 0"):
        compute_teacher_outputs(teacher, split, tmp_path / "lessons.npy", with_features=True)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (tf.sigmoid, "neither logits nor the probabilities"),
        (tf.math.log, "no finite numbers"),
    ],
)
def test_scores_that_teach_nothing_are_refused(
    tmp_path: Path, split: Split, call: Any, words: str
) -> None:
    teacher = open_teacher(_save_bare(call, tmp_path / "model"), seed=0)
    with pytest.raises(UnsupportedError, match=words):
        compute_teacher_outputs(teacher, split, tmp_path / "lessons.npy", with_features=False)


def test_a_teacher_with_two_inputs_or_without_classes_is_refused(tmp_path: Path) -> None:
    item, two = tf_keras.Input((6,)), tf_keras.Input((6,))
    both = layers.Add()([item, two])
    with pytest.raises(UnsupportedError, match="one input and one output"):
        open_teacher(_save(tf_keras.Model([item, two], layers.Dense(3)(both)), tmp_path), seed=0)
    image = tf_keras.Input((4, 4, 3))
    with pytest.raises(UnsupportedError, match="one input and one output"):
        open_teacher(_save(tf_keras.Model(image, layers.Conv2D(3, 1)(image)), tmp_path), seed=0)


def _loss(units: int, activation: str, labels: Any, taught: Any, given: Any, **changes: Any) -> Any:
    """The loss of rows, traced as Keras does it: without knowing how long they are."""
    table = np.concatenate([np.reshape(labels, (-1, 1)), taught], axis=1).astype(np.float32)
    wanted = StudentSpec(TensorSpec("values", (None, 6), "float32"), units, activation)
    student = tf_keras.Sequential([tf_keras.Input((6,)), layers.Dense(units)])
    settings = {"temperature": 1.0, "soft_weight": 1.0, "feature_weight": 0.0, **changes}
    taught_student = pupil(student, TeacherOutputs(table, wanted, 0), **settings)
    traced = tf.function(
        taught_student.loss,
        input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([None, units])],
    )
    return traced(table, given.astype(np.float32)).numpy()


def test_the_loss_is_hintons() -> None:
    taught, given = GENERATOR.normal(size=(2, 4, 3))
    labels = np.array([0, 1, 2, 1])
    loss = _loss(
        3, "softmax", labels, taught, softmax(given, axis=1), temperature=3.0, soft_weight=0.7
    )
    wanted = softmax(taught / 3, axis=1)
    away = log_softmax(taught / 3, axis=1) - log_softmax(given / 3, axis=1)
    hard = -log_softmax(given, axis=1)[np.arange(4), labels]
    expected = 0.7 * 9 * np.sum(wanted * away, axis=1) + 0.3 * hard
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_the_loss_of_a_single_unit_counts_both_classes() -> None:
    taught, given = GENERATOR.normal(size=(2, 4, 1))
    labels = np.array([0, 1, 0, 1])
    loss = _loss(1, "sigmoid", labels, taught, expit(given), temperature=2.0, soft_weight=0.5)

    def two(logits: Any) -> Any:
        return np.concatenate([np.zeros_like(logits), logits], axis=1)

    wanted = softmax(two(taught) / 2, axis=1)
    away = log_softmax(two(taught) / 2, axis=1) - log_softmax(two(given) / 2, axis=1)
    hard = -log_softmax(two(given), axis=1)[np.arange(4), labels]
    expected = 0.5 * 4 * np.sum(wanted * away, axis=1) + 0.5 * hard
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_a_student_that_agrees_in_everything_has_no_loss() -> None:
    taught = GENERATOR.normal(size=(4, 3))
    loss = _loss(3, "linear", np.zeros(4), taught, taught + 5.0, temperature=2.0)
    assert loss == pytest.approx(0, abs=1e-5)


def test_probabilities_of_zero_and_one_have_finite_logits() -> None:
    sure = np.array([[0.0, 1.0]], np.float32)
    assert np.isfinite(logits_of(sure, "softmax")).all()
    assert np.isfinite(logits_of(sure[:, 1:], "sigmoid")).all()


def test_the_regressor_is_no_part_of_the_student(split: Split, tmp_path: Path) -> None:
    teacher = open_teacher(_save(_classifier(), tmp_path), seed=0)
    lessons = compute_teacher_outputs(teacher, split, tmp_path / "lessons.npy", with_features=True)
    student = tf_keras.Sequential(
        [tf_keras.Input((6,)), layers.Dense(2), layers.Dense(3, activation="softmax")]
    )
    before = student.count_params()
    made = pupil(student, lessons, temperature=1.0, soft_weight=1.0, feature_weight=1.0)
    assert made.model.output_shape == (None, 3 + 5)
    assert made.model.count_params() == before + 2 * 5 + 5
    assert student.count_params() == before


def test_the_features_of_a_convolution_are_averaged_over_the_image() -> None:
    image = tf_keras.Input((4, 4, 2))
    scores = layers.Flatten()(layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1)(image)))
    result = tf_keras.Model(image, penultimate(tf_keras.Model(image, scores)))
    pixels = GENERATOR.random((2, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(result(pixels), pixels.mean(axis=(1, 2)), rtol=1e-5)


def test_features_inside_a_model_in_the_model_are_refused() -> None:
    inner = tf_keras.Sequential([tf_keras.Input((6,)), layers.Dense(3)])
    outer = tf_keras.Sequential([tf_keras.Input((6,)), inner, layers.Softmax()])
    with pytest.raises(UnsupportedError, match="does not show the features"):
        penultimate(outer)


def test_agreement_is_the_share_of_equal_classes(split: Split, tmp_path: Path) -> None:
    model = _classifier()
    teacher = open_teacher(_save(model, tmp_path), seed=0)
    lessons = compute_teacher_outputs(teacher, split, tmp_path / "lessons.npy", with_features=False)
    rows = np.arange(10)
    assert agreement(model, lessons, split=split, rows=rows) == 1.0
    other = _classifier()
    both = [network(VALUES).numpy().argmax(axis=1) for network in (model, other)]
    assert agreement(other, lessons, split=split, rows=rows) == np.mean(both[0] == both[1])
