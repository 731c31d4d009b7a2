"""Fine-tuning: the right loss, the best epoch, exact statistics, the same every time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from paring.artifacts import Model
from paring.data.examples import Split
from paring.errors import ExamplesError, StepFailedError, UnsupportedError
from paring.models.signature import Signature, TensorSpec
from paring.training.batch_norm import Reestimation, reestimate_batch_norm
from paring.training.feeding import hold_out, shuffled_batches
from paring.training.losses import loss_for
from paring.training.strategy import Devices
from paring.training.training import (
    check_trainable,
    fine_tune,
    keep_signature,
    order_labels,
    seed_everything,
    signature_of,
)
from paring_pipelines.demo import Digits

layers = tf_keras.layers

ONE = Devices("one_device")


@pytest.fixture
def split(digits: Digits) -> Split:
    """The digits as 8x8 images again, which small models learn fast."""
    images = np.ascontiguousarray(digits.x_train[:, ::4, ::4])
    return Split({"image": images}, digits.y_train, len(images))


def _network(*, momentum: float = 0.99, dropout: float = 0.0) -> Any:
    return tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1), name="image"),
            layers.Flatten(),
            layers.Dense(32, name="hidden"),
            layers.BatchNormalization(momentum=momentum, name="norm"),
            layers.ReLU(),
            layers.Dropout(dropout),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def _fine_tune(model: Any, split: Split, **changes: Any) -> None:
    settings = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3, "seed": 0, **changes}
    fine_tune(model, split, hold_out(split, 0), loss=loss_for(model), **settings)


def _accuracy(model: Any, split: Split) -> float:
    scores = model(split.features["image"], training=False).numpy()
    return float(np.mean(scores.argmax(axis=1) == split.labels))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(split: Split) -> None:
    def trained(seed: int) -> list[Any]:
        seed_everything(0)
        model = _network(dropout=0.3)
        _fine_tune(model, split, epochs=1, seed=seed)
        weights: list[Any] = model.get_weights()
        return weights

    first, again, other = trained(0), trained(0), trained(1)
    for item, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(item, two)
    assert any(not np.array_equal(item, two) for item, two in zip(first, other, strict=True))


def _recorder(recorded: list[Any]) -> Any:
    """Keeps the trained weights at each epoch's end."""
    callback = tf_keras.callbacks.LambdaCallback()
    callback.on_epoch_end = lambda epoch, logs=None: recorded.append(
        [variable.numpy() for variable in callback.model.trainable_variables]
    )
    return callback


def test_the_weights_of_the_best_epoch_are_restored(split: Split) -> None:
    seed_everything(0)
    model = _network()
    epochs: list[Any] = []
    # A rate at which the loss jumps about, so that the last epoch is not the best.
    _fine_tune(model, split, epochs=6, learning_rate=0.3, callbacks=[_recorder(epochs)])
    result = [variable.numpy() for variable in model.trainable_variables]

    portions, losses = hold_out(split, 0), []
    for weights in epochs:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)
        reestimate_batch_norm(model, split, portions.train, batch_size=32)
        features, labels = split.features["image"], split.labels
        assert labels is not None
        rows = portions.validation
        losses.append(model.evaluate(features[rows], labels[rows], verbose=0))
    best = int(np.argmin(losses))
    assert best != len(epochs) - 1
    for item, two in zip(result, epochs[best], strict=True):
        np.testing.assert_array_equal(item, two)


def test_only_epochs_that_may_be_kept_are(split: Split) -> None:
    seed_everything(0)
    model = _network()
    epochs: list[Any] = []
    # Training goes on improving, yet only the second epoch may be the result.
    may_keep = lambda: len(epochs) == 2  # noqa: E731
    _fine_tune(model, split, epochs=2, callbacks=[_recorder(epochs)], may_keep=may_keep)
    for item, two in zip(model.trainable_variables, epochs[1], strict=True):
        np.testing.assert_array_equal(item.numpy(), two)


def test_a_diverged_training_is_an_error(split: Split) -> None:
    with pytest.raises(StepFailedError, match="lower learning_rate"):
        _fine_tune(_network(), split, epochs=1, learning_rate=1e38)


def test_batch_norm_statistics_are_exact_averages_over_the_rows(split: Split) -> None:
    seed_everything(0)
    model = _network()
    rows = np.arange(100, 1109)
    # 1,009 rows leave a last batch of 17, which must weigh as little as it should.
    reestimate_batch_norm(model, split, rows, batch_size=32)

    inputs = tf_keras.Model(model.inputs, model.get_layer("hidden").output)
    values = inputs(split.features["image"][rows]).numpy().astype(np.float64)
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean.numpy(), values.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), values.var(axis=0), rtol=1e-5)
    assert "call" not in vars(norm)


def test_masked_steps_do_not_count_in_the_statistics() -> None:
    values = np.array([[[1.0], [3.0], [0.0]], [[5.0], [0.0], [0.0]]], np.float32)
    steps = tf_keras.Input((3, 1), name="steps")
    norm = layers.BatchNormalization()
    model = tf_keras.Model(steps, norm(layers.Masking(0.0)(steps)))

    reestimate_batch_norm(model, Split({"steps": values}, None, 2), np.arange(2), batch_size=2)

    assert norm.moving_mean.numpy() == pytest.approx([3.0])
    assert norm.moving_variance.numpy() == pytest.approx([8 / 3])


def test_frozen_batch_norm_keeps_its_statistics(split: Split) -> None:
    model = _network()
    model.get_layer("norm").trainable = False
    before = model.get_layer("norm").get_weights()
    reestimate_batch_norm(model, split, np.arange(64), batch_size=32)
    for item, two in zip(before, model.get_layer("norm").get_weights(), strict=True):
        np.testing.assert_array_equal(item, two)


def test_a_short_training_with_a_slow_momentum_is_right_at_inference(split: Split) -> None:
    seed_everything(0)
    model = _network(momentum=0.999)
    plain = tf_keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    plain.compile(tf_keras.optimizers.Adam(1e-2), loss_for(plain))
    batches = shuffled_batches(plain, split, hold_out(split, 0).train, batch_size=32, seed=0)
    plain.fit(batches, steps_per_epoch=40, epochs=2, verbose=0)
    _fine_tune(model, split, learning_rate=1e-2)

    assert _accuracy(model, split) > 0.95
    assert _accuracy(model, split) > _accuracy(plain, split) + 0.02


def test_validation_rows_are_not_trained_on(split: Split) -> None:
    portions = hold_out(split, 0)
    assert len(portions.validation) == round(split.count / 10)
    assert not set(portions.train) & set(portions.validation)
    assert len(portions.train) + len(portions.validation) == split.count


def test_fewer_rows_than_a_batch_are_one_batch(split: Split) -> None:
    batches = shuffled_batches(_network(), split, np.arange(20), batch_size=32, seed=0)
    features, labels = next(iter(batches))
    assert len(features) == len(labels) == 20


def test_the_learning_rate_can_fall_to_zero(split: Split) -> None:
    model = _network()
    _fine_tune(model, split, decay=True)
    steps = len(hold_out(split, 0).train) // 32
    assert int(model.optimizer.iterations) == 2 * steps
    # Of the last step, which begins just before the end of the cosine.
    assert float(model.optimizer.learning_rate) < 1e-3 / steps


def test_targets_stand_in_the_place_of_labels(split: Split) -> None:
    """A model that is taught the classes in reverse learns them so, without labels."""
    assert split.labels is not None
    reverse = 9 - split.labels
    unlabelled = Split(split.features, None, split.count)
    seed_everything(0)
    model = _network()
    fine_tune(
        model,
        unlabelled,
        hold_out(split, 0),
        loss=loss_for(model),
        epochs=2,
        batch_size=32,
        learning_rate=1e-2,
        seed=0,
        targets=reverse,
    )
    assert _accuracy(model, Split(split.features, reverse, split.count)) > 0.9


def test_statistics_can_be_taken_again_with_other_weights(split: Split) -> None:
    model, rows = _network(), np.arange(100)
    again = Reestimation(model)
    again(split, rows, batch_size=32)
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(2 * hidden.kernel)
    again(split, rows, batch_size=32)
    result = model.get_layer("norm").get_weights()
    reestimate_batch_norm(model, split, rows, batch_size=32)
    for item, two in zip(result, model.get_layer("norm").get_weights(), strict=True):
        np.testing.assert_array_equal(item, two)


def test_examples_without_labels_are_unsupported(split: Split) -> None:
    unlabelled = Split(split.features, None, split.count)
    with pytest.raises(UnsupportedError, match="fine-tuning needs labels"):
        check_trainable(_network(), unlabelled, batch_size=32, devices=ONE)


def test_a_fixed_batch_size_overrides_the_parameter(split: Split) -> None:
    image = tf_keras.Input(batch_shape=(4, 8, 8, 1))
    model = tf_keras.Model(image, layers.Dense(10)(layers.Flatten()(image)))
    assert check_trainable(model, split, batch_size=32, devices=ONE) == 4
    with pytest.raises(ExamplesError, match="batches of 4"):
        check_trainable(model, split.take([0, 1, 2]), batch_size=32, devices=ONE)


def _spec(name: str) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, (None,), "float32")}


def test_the_signature_names_of_the_source_are_kept() -> None:
    model = _network()
    keep_signature(model, Signature(_spec("pixels"), _spec("scores")))
    assert (list(model.input_names), list(model.output_names)) == (["pixels"], ["scores"])

    two = _two_headed()
    with pytest.raises(UnsupportedError, match="order is ambiguous"):
        keep_signature(two, Signature(_spec(two.input_names[0]), _spec("scores")))


def test_a_keras_file_has_the_signature_that_it_is_exported_under(
    digits_keras: Path, digits_model: Path
) -> None:
    network = tf_keras.models.load_model(digits_keras, compile=False)
    assert signature_of(Model(digits_keras), network) == signature_of(Model(digits_model), network)


def test_a_regressor_learns_and_keeps_its_best_epoch() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(600, 4)).astype(np.float32)
    wanted = (values @ np.array([3.0, -2, 1, 0], np.float32) + 5).astype(np.float32)
    split = Split({"values": values}, wanted, len(values))
    seed_everything(0)
    inputs = tf_keras.Input((4,), name="values")
    model = tf_keras.Model(inputs, layers.Dense(1)(layers.Dense(16, activation="relu")(inputs)))
    portions = hold_out(split, 0)
    assert len(portions.validation) == 60
    settings: dict[str, Any] = {"epochs": 20, "batch_size": 32, "learning_rate": 0.01, "seed": 0}
    fine_tune(model, split, portions, loss=loss_for(model, wanted), **settings)
    errors = model(values, training=False).numpy()[:, 0] - wanted
    assert np.sqrt(np.square(errors).mean()) < 0.5


def test_a_tagger_learns_what_is_not_padding() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 20, (400, 6)).astype(np.int32)
    tags = (tokens % 3).astype(np.int64)
    # Were padding a class, half of all would be of it.
    tags[generator.random(tags.shape) < 0.5] = -1
    split = Split({"tokens": tokens}, tags, len(tokens))
    seed_everything(0)
    inputs = tf_keras.Input((6,), dtype="int32", name="tokens")
    end = layers.Dense(3, activation="softmax")
    model = tf_keras.Model(inputs, end(layers.Embedding(20, 8)(inputs)))
    settings: dict[str, Any] = {"epochs": 8, "batch_size": 32, "learning_rate": 0.03, "seed": 0}
    fine_tune(model, split, hold_out(split, 0), loss=loss_for(model, tags), **settings)
    chosen = model(tokens, training=False).numpy().argmax(axis=-1)
    assert np.mean(chosen == tokens % 3) > 0.95


def _two_headed(*, named: bool = False) -> Any:
    values = tf_keras.Input((4,), name="values")
    hidden = layers.Dense(16, activation="relu", name="hidden")(values)
    kind = layers.Dense(3, activation="softmax", name="kind")(hidden)
    box = layers.Dense(2, name="box")(hidden)
    # Not in the order of their names, which the signature has.
    outputs = {"what": kind, "where": box} if named else [kind, box]
    return tf_keras.Model(values, outputs, name="two_headed")


@pytest.mark.parametrize("named", [False, True])
def test_several_outputs_have_a_loss_each_in_the_models_order(named: bool) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(600, 4)).astype(np.float32)
    kinds = values[:, :3].argmax(axis=1)
    split = Split({"values": values}, values[:, :2], 600, "box", {"kind": kinds})
    seed_everything(0)
    model = _two_headed(named=named)
    labels = order_labels(model, split)
    assert [label.dtype.kind for label in labels] == ["i", "f"]
    losses = loss_for(model, *labels)
    assert [item.name for item in losses] == [
        "sparse_categorical_crossentropy",
        "mean_squared_error",
    ]
    settings: dict[str, Any] = {"epochs": 15, "batch_size": 32, "learning_rate": 0.01, "seed": 0}
    fine_tune(model, split, hold_out(split, 0), loss=losses, **settings)
    kind, box = (item.numpy() for item in tf.nest.flatten(model(values, training=False)))
    assert np.mean(kind.argmax(axis=1) == kinds) > 0.9
    assert np.sqrt(np.square(box - values[:, :2]).mean()) < 0.3


def test_an_output_without_labels_can_not_be_trained() -> None:
    split = Split({"values": np.zeros((4, 4), np.float32)}, np.zeros((4, 2)), 4, "box")
    with pytest.raises(UnsupportedError, match=r"2 outputs[\s\S]*no labels for kind"):
        order_labels(_two_headed(), split)


def test_one_hot_rows_train_as_the_class_ids_that_they_stand_for(split: Split) -> None:
    rows = np.eye(10, dtype=np.float32)[split.labels]
    one_hot = Split(split.features, rows, split.count)
    for by_ids, by_rows in zip(
        vars(hold_out(split, 0)).values(), vars(hold_out(one_hot, 0)).values(), strict=True
    ):
        np.testing.assert_array_equal(by_ids, by_rows)
    trained = []
    for given in (split, one_hot):
        seed_everything(0)
        model = _network()
        loss = loss_for(model, given.labels)
        fine_tune(
            model,
            given,
            hold_out(given, 0),
            loss=loss,
            epochs=1,
            batch_size=32,
            learning_rate=1e-3,
            seed=0,
        )
        trained.append(model(split.features["image"][:64], training=False).numpy())
    np.testing.assert_allclose(trained[0], trained[1], atol=1e-3)
