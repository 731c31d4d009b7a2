"""Training with sample weights: as Keras' fit takes them, and without the examples of weight 0."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from paring.data.examples import Split
from paring.training.feeding import hold_out, labelled_batches
from paring.training.losses import loss_for, total_loss
from paring.training.training import compile_loss, fine_tune, order_labels, seed_everything

layers = tf_keras.layers
COUNT = 120
RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=(COUNT, 6)).astype(np.float32)
CLASSES = VALUES[:, :3].argmax(axis=1)
WEIGHTS = RANDOM.integers(0, 4, COUNT).astype(np.float64)


def _network() -> Any:
    seed_everything(1)
    return tf_keras.Sequential(
        [
            tf_keras.Input((6,), name="values"),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Dense(3, activation="softmax"),
        ]
    )


def _trained(split: Split) -> list[NDArray[Any]]:
    model = _network()
    fine_tune(
        model,
        split,
        hold_out(split, 0),
        loss=loss_for(model, *order_labels(model, split)),
        epochs=3,
        batch_size=16,
        learning_rate=1e-2,
        seed=0,
    )
    result: list[NDArray[Any]] = model.get_weights()
    return result


def test_weights_of_zero_equal_left_out_examples_to_the_bit() -> None:
    kept = np.flatnonzero(WEIGHTS)
    whole = _trained(Split({"values": VALUES}, CLASSES, COUNT, "y", {}, WEIGHTS))
    rest = Split({"values": VALUES[kept]}, CLASSES[kept], len(kept), "y", {}, WEIGHTS[kept])
    for item, other in zip(whole, _trained(rest), strict=True):
        np.testing.assert_array_equal(item, other)


def test_equal_weights_of_one_change_nothing_and_others_do() -> None:
    plain = _trained(Split({"values": VALUES}, CLASSES, COUNT, "y"))
    ones = _trained(Split({"values": VALUES}, CLASSES, COUNT, "y", {}, np.ones(COUNT)))
    uneven = _trained(Split({"values": VALUES}, CLASSES, COUNT, "y", {}, WEIGHTS + 1))
    for item, other in zip(plain, ones, strict=True):
        np.testing.assert_array_equal(item, other)
    assert any(not np.array_equal(item, other) for item, other in zip(plain, uneven, strict=True))


def test_fitting_goes_to_the_heavy_examples() -> None:
    # The same inputs have two labels each; the one with the weight is learned.
    values, classes = np.repeat(VALUES, 2, axis=0), np.repeat(CLASSES, 2)
    classes[1::2] = (classes[1::2] + 1) % 3
    for heavy in (0, 1):
        weights = np.where(np.arange(len(values)) % 2 == heavy, 5.0, 0.05)
        split = Split({"values": values}, classes, len(values), "y", {}, weights)
        model = _network()
        settings: dict[str, Any] = {"epochs": 40, "batch_size": 16, "learning_rate": 0.02}
        fine_tune(model, split, hold_out(split, 0), loss=loss_for(model), seed=0, **settings)
        predicted = model(values[heavy::2], training=False).numpy().argmax(axis=1)
        assert np.mean(predicted == classes[heavy::2]) > 0.9


def _entropies(scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Cross-entropy of each label; 0 where it is padding."""
    chosen = np.take_along_axis(scores, np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    result: NDArray[Any] = np.where(labels >= 0, -np.log(chosen), 0)
    return result


def _losses(model: Any, split: Split) -> tuple[float, float]:
    """The loss of a batch by `evaluate`, and called by hand."""
    loss = loss_for(model, *order_labels(model, split))
    compile_loss(model, loss)
    rows = np.arange(split.count)
    ((features, labels, *weights),) = labelled_batches(model, split, rows, batch_size=split.count)
    batches = labelled_batches(model, split, rows, batch_size=split.count)
    by_keras = model.evaluate(batches, verbose=0, return_dict=True)["loss"]
    by_hand = total_loss(loss, labels, model(features, training=False), *weights)
    return float(by_keras), float(by_hand)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_of_tokens_and_pixels_is_weighted_by_example(
    shape: tuple[int, ...], padded: bool
) -> None:
    values = RANDOM.normal(size=(12, *shape, 2)).astype(np.float32)
    labels = RANDOM.integers(-1 if padded else 0, 3, (12, *shape))
    weights = np.arange(12) / 3
    model = tf_keras.Sequential(
        [tf_keras.Input((*shape, 2)), layers.Dense(3, activation="softmax")]
    )
    split = Split({"values": values}, labels, 12, "y", {}, weights)
    entropies = _entropies(model(values).numpy(), labels)
    spread = weights.reshape(-1, *[1] * len(shape))
    wanted = (entropies * spread).sum() / np.count_nonzero(labels >= 0)
    np.testing.assert_allclose(_losses(model, split), wanted, rtol=1e-5)


def test_the_loss_of_single_values_of_pixels_is_weighted_by_example() -> None:
    values = RANDOM.normal(size=(12, 4, 5, 1)).astype(np.float32)
    weights = np.arange(12) / 3
    model = tf_keras.Sequential([tf_keras.Input((4, 5, 1)), layers.Dense(1, activation="sigmoid")])
    labels = RANDOM.integers(-1, 2, (12, 4, 5))
    split = Split({"values": values}, labels, 12, "y", {}, weights)
    share = model(values).numpy()[..., 0]
    entropies = np.where(labels == 1, -np.log(share), -np.log(1 - share)) * (labels >= 0)
    wanted = (entropies * weights[:, None, None]).sum() / np.count_nonzero(labels >= 0)
    np.testing.assert_allclose(_losses(model, split), wanted, rtol=1e-4)


@pytest.mark.parametrize("wanted", [(), (1,), (3,), (4, 5), (4, 5, 2)])
def test_the_squared_error_of_values_of_any_shape_is_weighted_by_example(
    wanted: tuple[int, ...],
) -> None:
    size = int(np.prod(wanted))
    inputs = tf_keras.Input((6,), name="values")
    outputs = layers.Reshape(wanted)(layers.Dense(size)(inputs))
    model = tf_keras.Model(inputs, outputs)
    # Paring stores one value for each example as [count].
    labels = RANDOM.normal(size=(COUNT, *(() if wanted == (1,) else wanted))).astype(np.float32)
    split = Split({"values": VALUES}, labels, COUNT, "y", {}, WEIGHTS)
    errors = model(VALUES).numpy().reshape(COUNT, -1) - labels.reshape(COUNT, -1)
    expected = np.mean(np.square(errors).mean(axis=1) * WEIGHTS)
    np.testing.assert_allclose(_losses(model, split), expected, rtol=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_the_losses_of_several_outputs_are_weighted_each(named: bool) -> None:
    inputs = tf_keras.Input((6,), name="values")
    kind = layers.Dense(3, activation="softmax", name="kind")(inputs)
    box = layers.Reshape((2, 2, 1), name="box")(layers.Dense(4)(inputs))
    model = tf_keras.Model(inputs, {"what": kind, "where": box} if named else [kind, box])
    places = RANDOM.normal(size=(COUNT, 2, 2, 1)).astype(np.float32)
    split = Split({"values": VALUES}, places, COUNT, "box", {"kind": CLASSES}, WEIGHTS)
    scores, result = (item.numpy() for item in tf.nest.flatten(model(VALUES)))
    expected = np.mean(_entropies(scores, CLASSES) * WEIGHTS)
    expected += np.mean(np.square(result - places).mean(axis=(1, 2, 3)) * WEIGHTS)
    np.testing.assert_allclose(_losses(model, split), expected, rtol=1e-5)
