"""Tallies of paired classes, against the same figures by hand."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, top_k_accuracy_score

from paring.errors import ExamplesError, ParameterError, UnsupportedError
from paring.evaluation.scoring import Tally, Threshold, make_plan
from paring.evaluation.scoring.classes import ClassTally, accuracy_interval
from paring.evaluation.scoring.ranks import PairedRanks

RANDOM = np.random.default_rng(0)


def tally_of(
    source: Any,
    candidate: Any,
    labels: Any = None,
    *,
    metric: str = "auto",
    top_k: int = 5,
    threshold: float = 0.5,
) -> Tally:
    thresholds = {"scores": Threshold(threshold, "the test")}
    tally = Tally(
        make_plan(metric, top_k=top_k, gated="", outputs={"scores": labels}, thresholds=thresholds)
    )
    tally.add(
        {"scores": source},
        {"scores": candidate},
        labels={} if labels is None else {"scores": labels},
    )
    return tally


@pytest.mark.parametrize("metric", ["top_1", "top_k"])
def test_the_sums_do_not_depend_on_how_the_examples_are_batched(metric: str) -> None:
    source, candidate = RANDOM.random((2, 100, 4))
    labels = RANDOM.integers(0, 4, 100)
    whole = tally_of(source, candidate, labels, metric=metric, top_k=2)
    left, right, merged = (Tally(whole.plan) for _ in range(3))
    for start in range(0, 100, 7):
        rows = slice(start, start + 7)
        part = left if start < 50 else right
        part.merge(tally_of(source[rows], candidate[rows], labels[rows], metric=metric, top_k=2))
    for part in (left, Tally(whole.plan), right):
        merged.merge(part)
    result = merged.summary()
    assert result == whole.summary()
    top, source_top = candidate.argmax(1), source.argmax(1)
    assert result["accuracy"] == np.mean(top == labels)
    assert result["source_accuracy"] == np.mean(source_top == labels)
    assert result["agreement"] == np.mean(top == source_top)
    assert result["accuracy_drop"] == pytest.approx(
        result["source_accuracy"] - result["accuracy"], abs=1e-12
    )
    for row in result["classes"]:
        chosen = labels == row["class"]
        assert row["count"] == chosen.sum()
        assert row["accuracy"] == np.mean(top[chosen] == labels[chosen])
        assert row["source_accuracy"] == np.mean(source_top[chosen] == labels[chosen])
    assert sum(row["count"] for row in result["most_confused"]) == np.sum(top != labels)
    worst = result["most_confused"][0]
    assert worst["count"] == np.sum((labels == worst["label"]) & (top == worst["predicted"]))


def test_auto_is_top_1_of_integers_and_its_drop_is_in_points() -> None:
    source, candidate = RANDOM.random((2, 100, 4))
    labels = source.argmax(1)
    result = tally_of(source, candidate, labels).summary()
    assert (result["metric"], result["higher_is_better"]) == ("top_1", True)
    assert (result["score"], result["source_score"]) == (result["accuracy"], 1)
    assert result["drop"] == pytest.approx(1 - result["accuracy"])
    assert result["drop_low"] < result["drop"] < result["drop_high"]


@pytest.mark.parametrize(
    ("threshold", "source_accuracy", "accuracy"), [(0.5, 1, 1 / 3), (0.0, 2 / 3, 2 / 3)]
)
def test_one_value_is_class_1_over_the_threshold_in_both_models(
    threshold: float, source_accuracy: float, accuracy: float
) -> None:
    source, candidate = np.array([[0.4], [0.6], [0.9]]), np.array([[0.6], [0.2], [0.8]])
    tally = tally_of(source, candidate, np.array([0, 1, 1]), threshold=threshold)
    result = tally.summary()
    assert (result["threshold"], result["threshold_origin"]) == (threshold, "the test")
    assert result["source_accuracy"] == pytest.approx(source_accuracy)
    assert result["accuracy"] == pytest.approx(accuracy)
    assert result["drop"] == pytest.approx(source_accuracy - accuracy)


def test_nan_is_wrong_and_agrees_with_nothing() -> None:
    scores = np.array([[0.9, 0.1], [np.nan, 0.1], [0.2, 0.8]])
    for metric in ("top_1", "auc"):
        result = tally_of(scores, scores, np.array([0, 0, 1]), metric=metric).summary()
        assert result["nan_predictions"] == result["source_nan_predictions"] == 1
        assert result["accuracy"] == result["agreement"] == pytest.approx(2 / 3)
    # It ranks above the only one of class 1.
    assert result["score"] == pytest.approx(1 / 2)


def test_other_shapes_and_labels_beyond_the_classes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"\[5, 4\], candidate \[5, 3\]"):
        tally_of(np.zeros((5, 4)), np.zeros((5, 3)))
    with pytest.raises(UnsupportedError, match="numbers"):
        tally_of(np.zeros((5, 4), "S1"), np.zeros((5, 4), "S1"))
    with pytest.raises(ExamplesError, match="0 to 3"):
        tally_of(np.zeros((2, 4)), np.zeros((2, 4)), np.array([0, 4]))
    with pytest.raises(ExamplesError, match=r"labels \[2\], output \[2, 3, 4\]"):
        tally_of(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), np.array([0, 1]))


def test_many_classes_are_counted_without_their_confusion() -> None:
    scores = RANDOM.random((8, 1025))
    result = tally_of(scores, scores, scores.argmax(1)).summary()
    assert (result["accuracy"], result["most_confused"]) == (1, None)


def test_top_k_is_that_of_scikit_learn() -> None:
    source, candidate = RANDOM.random((2, 200, 6))
    labels = RANDOM.integers(0, 6, 200)
    result = tally_of(source, candidate, labels, metric="top_k", top_k=3).summary()
    assert result["metric"] == "top_3"
    assert result["score"] == pytest.approx(top_k_accuracy_score(labels, candidate, k=3))
    assert result["source_score"] == pytest.approx(top_k_accuracy_score(labels, source, k=3))
    assert result["accuracy"] == np.mean(candidate.argmax(1) == labels)
    assert result["drop_low"] < result["drop"] < result["drop_high"]


def test_of_equal_scores_the_first_come_first_as_for_the_class_chosen() -> None:
    scores, labels = np.ones((4, 4)), np.arange(4)
    shares = [
        tally_of(scores, scores, labels, metric="top_k", top_k=k).summary()["score"]
        for k in (1, 2, 3)
    ]
    assert shares == [0.25, 0.5, 0.75]


def test_a_top_k_of_all_classes_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"1 to 3"):
        tally_of(np.zeros((2, 4)), np.zeros((2, 4)), np.array([0, 1]), metric="top_k", top_k=4)


@pytest.mark.parametrize("shape", ["one value", "probabilities", "logits"])
def test_auc_is_that_of_scikit_learn(shape: str) -> None:
    labels = RANDOM.integers(0, 2, 500)
    # Rounded, so that many scores are tied.
    logits = (labels + RANDOM.normal(size=(2, 500)) * 2).round(1).astype(np.float32)
    columns = np.stack([np.zeros_like(logits), logits], axis=2)
    scores = {
        "one value": logits[..., np.newaxis],
        "probabilities": np.exp(columns) / np.exp(columns).sum(axis=2, keepdims=True),
        "logits": columns,
    }[shape]
    result = tally_of(scores[0], scores[1], labels, metric="auc").summary()
    assert result["source_score"] == pytest.approx(roc_auc_score(labels, logits[0]), abs=1e-12)
    assert result["score"] == pytest.approx(roc_auc_score(labels, logits[1]), abs=1e-12)
    assert result["score_error"] == 0
    assert result["drop"] == pytest.approx(result["source_score"] - result["score"])
    assert result["drop_low"] < result["drop"] < result["drop_high"]


def test_auc_of_more_scores_than_are_kept_is_off_by_no_more_than_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paring.evaluation.scoring.ranks._MOST_PAIRS", 64)
    labels = RANDOM.integers(0, 2, 4000)
    scores = labels + RANDOM.normal(size=(2, 4000))
    scores[1] = scores[0].round()
    positive = labels == 1
    orders = []
    for size in (4000, 130, 17):
        parts = [PairedRanks() for _ in range(3)]
        for number, start in enumerate(range(0, 4000, size)):
            rows = slice(start, start + size)
            parts[number % 3].add(scores[0, rows], scores[1, rows], positive=positive[rows])
        total = PairedRanks()
        for part in parts:
            total.merge(part)
        orders.append((total.areas(), total.area_error(), total.drop_interval()))
        assert len(total.keys) <= 64
    assert orders[0] == orders[1] == orders[2]
    areas, error, interval = orders[0]
    assert areas is not None
    assert interval is not None
    assert 0 < error < 0.2
    for area, own in zip(areas, scores, strict=True):
        assert abs(area - roc_auc_score(labels, own)) <= error


def test_auc_needs_two_classes_and_labels_of_both() -> None:
    with pytest.raises(UnsupportedError, match="3 classes"):
        tally_of(np.zeros((2, 3)), np.zeros((2, 3)), np.array([0, 1]), metric="auc")
    one_sided = tally_of(np.zeros((2, 1)), np.zeros((2, 1)), np.array([1, 1]), metric="auc")
    with pytest.raises(ExamplesError, match="both classes"):
        one_sided.summary()


def test_the_interval_is_that_of_the_formula() -> None:
    low, high = accuracy_interval(8, 2, weight=98)
    half = 1.959963984540054 * math.sqrt((0.09 + 0.03 - 0.06**2) / 100)
    assert (low, high) == (pytest.approx(0.06 - half), pytest.approx(0.06 + half))


def test_the_interval_of_equal_models_holds_0_and_has_a_width() -> None:
    low, high = accuracy_interval(0, 0, weight=360)
    assert low == -high
    assert high > 0


@pytest.mark.parametrize(("lost", "won"), [(0.04, 0.02), (0.01, 0.0), (0.1, 0.1)])
def test_the_interval_covers_the_true_drop_as_often_as_it_says(lost: float, won: float) -> None:
    draws = np.random.default_rng(1).multinomial(360, [lost, won, 1 - lost - won], 4000)
    covered = [
        low <= lost - won <= high
        for low, high in (accuracy_interval(int(b), int(c), weight=360) for b, c, _ in draws)
    ]
    assert 0.93 < np.mean(covered) <= 1


def test_an_empty_tally_changes_nothing() -> None:
    tally = ClassTally()
    tally.merge(ClassTally())
    assert tally.count == tally.classes == 0
