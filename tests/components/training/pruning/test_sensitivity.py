"""A budget of zeros is spread over layers by what their zeros cost."""

import numpy as np
import pytest

from paring.data.examples import Split
from paring.models.signature import Signature
from paring.training.feeding import Portions
from paring.training.pruning.pruning import prunable_layers
from paring.training.pruning.sensitivity import Sensitivity, allocate, scan
from paring.training.strategy import Devices
from paring.training.training import Training

_LEVELS = (0.0, 0.5, 0.75, 0.95)


def _layer(weights: int, *losses: float) -> Sensitivity:
    return Sensitivity("layer", weights, _LEVELS, losses)


def _total(sensitivity: list[Sensitivity], shares: list[float]) -> float:
    zeros = sum(share * item.weights for item, share in zip(sensitivity, shares, strict=True))
    return zeros / sum(item.weights for item in sensitivity)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.6, 0.9, 0.95])
def test_all_layers_together_have_the_sparsity_asked_for(sparsity: float) -> None:
    result = [_layer(100, 1, 1.2, 2, 9), _layer(4000, 1, 1.1, 1.3, 3), _layer(7, 1, 5, 6, 7)]
    shares = allocate(result, sparsity)
    assert _total(result, shares) == pytest.approx(sparsity)
    assert all(0 <= share <= 0.95 + 1e-9 for share in shares)


def test_zeros_that_cost_nothing_are_taken_first() -> None:
    result = [_layer(100, 1, 2, 3, 4), _layer(100, 1, 1, 1, 1)]
    assert allocate(result, 0.475) == pytest.approx([0, 0.95])
    assert allocate(result, 0.6) == pytest.approx([0.25, 0.95])


def test_cost_is_counted_for_each_weight() -> None:
    # The same loss at the same sparsity buys ten times the zeros in the second.
    result = [_layer(100, 1, 2, 3, 4), _layer(1000, 1, 2, 3, 4)]
    small, large = allocate(result, 0.5)
    assert small == 0
    assert large == pytest.approx(0.55)


def test_a_loss_that_falls_counts_as_level() -> None:
    result = [_layer(100, 1, 0.5, 1, 9), _layer(100, 1, 1.1, 1.2, 1.3)]
    assert allocate(result, 0.375) == pytest.approx([0.75, 0])


def test_a_cheap_end_behind_a_dear_beginning_is_reached_through_it() -> None:
    # To 0.5 it costs more than from there on: the hull is a straight line.
    result = [_layer(100, 1, 4, 4, 4), _layer(100, 1, 2, 3, 9)]
    first, second = allocate(result, 0.5)
    assert second == pytest.approx(0.5)
    assert first == pytest.approx(0.5)


def test_the_scan_prunes_one_layer_at_a_time_and_leaves_the_model_as_it_was() -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    inner = tf_keras.Sequential([tf_keras.Input((6,)), layers.Dense(8, name="inside")])
    values = tf_keras.Input((6,), name="values")
    scores = layers.Dense(3, name="scores")(inner(values))
    model = tf_keras.Model(values, scores)
    generator = np.random.default_rng(0)
    split = Split(
        {"values": generator.normal(size=(40, 6)).astype(np.float32)},
        generator.integers(0, 3, 40),
        40,
    )
    rows = np.arange(40)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    portions = Portions(rows[:20], rows[20:])
    training = Training(
        model, Signature({}, {}), split, portions, loss, 8, 0, Devices("one_device")
    )
    before = [variable.numpy() for variable in model.variables]

    result = scan(
        training, prunable_layers(model, "unstructured"), sparsity=0.5, pattern="unstructured"
    )

    assert [(item.layer, item.weights) for item in result] == [("inside", 48), ("scores", 24)]
    for variable, values in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)
    first, second = result
    assert first.levels[0] == 0
    assert first.levels[-1] == 0.95
    model.compile(loss=loss)
    features, labels = split.features["values"][20:], split.labels[20:]
    dense = model.evaluate(features, labels, verbose=0)
    assert first.losses[0] == second.losses[0] == pytest.approx(dense, rel=1e-5)
    # The one weight in 24 that stays at 0.95 is the largest.
    kernel = model.get_layer("scores").kernel
    values = kernel.numpy()
    kernel.assign(np.where(np.abs(values) == np.abs(values).max(), values, 0))
    alone = model.evaluate(features, labels, verbose=0)
    assert second.losses[-1] == pytest.approx(alone, rel=1e-5)
