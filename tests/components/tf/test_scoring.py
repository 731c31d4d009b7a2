"""Tallies of paired predictions, against the same figures by hand."""

import math

import numpy as np
import pytest

from paring.errors import ExamplesError, UnsupportedError
from paring.tf.scoring import Tally, compare, paired_interval

RANDOM = np.random.default_rng(0)


def test_the_sums_do_not_depend_on_how_the_examples_are_batched() -> None:
    source, candidate = RANDOM.random((2, 100, 4))
    labels = RANDOM.integers(0, 4, 100)
    whole, left, right = Tally(), Tally(), Tally()
    whole.add(compare(source, candidate, labels))
    for start in range(0, 100, 7):
        rows = slice(start, start + 7)
        part = left if start < 50 else right
        part.add(compare(source[rows], candidate[rows], labels[rows]))
    merged = Tally()
    for part in (left, Tally(), right):
        merged.merge(part)
    found = merged.summary()
    assert found == whole.summary()
    top, source_top = candidate.argmax(1), source.argmax(1)
    assert found["accuracy"] == np.mean(top == labels)
    assert found["source_accuracy"] == np.mean(source_top == labels)
    assert found["agreement"] == np.mean(top == source_top)
    assert found["accuracy_drop"] == pytest.approx(
        found["source_accuracy"] - found["accuracy"], abs=1e-12
    )
    for row in found["classes"]:
        chosen = labels == row["class"]
        assert row["count"] == chosen.sum()
        assert row["accuracy"] == np.mean(top[chosen] == labels[chosen])
        assert row["source_accuracy"] == np.mean(source_top[chosen] == labels[chosen])
    assert sum(row["count"] for row in found["most_confused"]) == np.sum(top != labels)
    worst = found["most_confused"][0]
    assert worst["count"] == np.sum((labels == worst["label"]) & (top == worst["predicted"]))


def test_one_value_within_0_to_1_everywhere_is_a_probability() -> None:
    tally = Tally()
    tally.add(compare(np.array([[0.4], [0.6]]), np.array([[0.1], [0.2]]), np.array([0, 1])))
    tally.add(compare(np.array([[0.9]]), np.array([[0.8]]), np.array([1])))
    found = tally.summary()
    assert found["threshold"] == 0.5
    assert (found["source_accuracy"], found["accuracy"]) == (1, pytest.approx(2 / 3))


def test_one_value_out_of_0_to_1_anywhere_makes_all_of_them_logits() -> None:
    tally = Tally()
    # This batch alone looks like probabilities.
    tally.add(compare(np.array([[0.4], [0.6]]), np.array([[0.1], [0.2]]), np.array([1, 1])))
    tally.add(compare(np.array([[-3.0]]), np.array([[0.3]]), np.array([0])))
    found = tally.summary()
    assert found["threshold"] == 0
    assert (found["source_accuracy"], found["accuracy"]) == (1, pytest.approx(2 / 3))


def test_nan_is_wrong_and_agrees_with_nothing() -> None:
    scores = np.array([[0.9, 0.1], [np.nan, 0.1], [0.2, 0.8]])
    tally = Tally()
    tally.add(compare(scores, scores, np.array([0, 0, 1])))
    found = tally.summary()
    assert found["nan_predictions"] == found["source_nan_predictions"] == 1
    assert found["accuracy"] == found["agreement"] == pytest.approx(2 / 3)


def test_other_classes_and_labels_beyond_them_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"\[5, 4\], candidate \[5, 3\]"):
        compare(np.zeros((5, 4)), np.zeros((5, 3)), None)
    with pytest.raises(UnsupportedError, match="classifiers"):
        compare(np.zeros((5, 4, 4)), np.zeros((5, 4, 4)), None)
    with pytest.raises(ExamplesError, match="0 to 3"):
        compare(np.zeros((2, 4)), np.zeros((2, 4)), np.array([0, 4]))


def test_many_classes_are_counted_without_a_confusion_matrix() -> None:
    tally = Tally()
    scores = RANDOM.random((8, 1025))
    tally.add(compare(scores, scores, scores.argmax(1)))
    found = tally.summary()
    assert (found["accuracy"], found["most_confused"]) == (1, None)


def test_the_interval_is_that_of_the_formula() -> None:
    low, high = paired_interval(8, 2, 98)
    half = 1.959963984540054 * math.sqrt((0.09 + 0.03 - 0.06**2) / 100)
    assert (low, high) == (pytest.approx(0.06 - half), pytest.approx(0.06 + half))


def test_the_interval_of_equal_models_holds_0_and_has_a_width() -> None:
    low, high = paired_interval(0, 0, 360)
    assert low == -high
    assert high > 0


@pytest.mark.parametrize(("lost", "won"), [(0.04, 0.02), (0.01, 0.0), (0.1, 0.1)])
def test_the_interval_covers_the_true_drop_as_often_as_it_says(lost: float, won: float) -> None:
    draws = np.random.default_rng(1).multinomial(360, [lost, won, 1 - lost - won], 4000)
    covered = [
        low <= lost - won <= high
        for low, high in (paired_interval(int(b), int(c), 360) for b, c, _ in draws)
    ]
    assert 0.93 < np.mean(covered) <= 1
