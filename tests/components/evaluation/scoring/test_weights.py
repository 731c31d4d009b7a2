"""Weighted scores: integer weights equal repeated examples, in every metric."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers.scored_outputs import CASES, COUNT

from paring.evaluation.scoring import Tally, make_plan
from paring.evaluation.scoring.function import load_function
from paring.evaluation.scoring.means import PairedMeans

Array = NDArray[Any]
WEIGHTS = np.random.default_rng(5).integers(0, 5, COUNT)
FIGURES = ("score", "source_score", "drop", "agreement", "accuracy", "source_accuracy")


def scored(
    source: Array, candidate: Array, labels: Array | None, weights: Array | None, metric: str
) -> dict[str, Any]:
    """The summary of merged batches of 20."""
    plan = make_plan(metric, top_k=2, gated="", outputs={"y": labels})
    function = load_function(plan.function) if plan.function else None
    total = Tally(plan)
    for start in range(0, len(source), 20):
        rows = slice(start, start + 20)
        tally = Tally(plan)
        given = {} if labels is None else {"y": labels[rows]}
        tally.add(
            {"y": source[rows]},
            {"y": candidate[rows]},
            labels=given,
            function=function,
            weights=None if weights is None else weights[rows],
        )
        total.merge(tally)
    return total.summary()


def _equal(item: float | None, other: float | None) -> bool:
    if item is None or other is None:
        return item is other
    return item == pytest.approx(other, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_integer_weights_equal_repeated_examples(case: str) -> None:
    source, candidate, labels, metric = CASES[case]
    result = scored(source, candidate, labels, WEIGHTS, metric)
    several = [None if item is None else np.repeat(item, WEIGHTS, axis=0)
               for item in (source, candidate, labels)]  # fmt: skip
    repeated = scored(several[0], several[1], several[2], None, metric)
    for figure in FIGURES:
        assert _equal(result[figure], repeated[figure]), figure
    assert result["count"] == np.count_nonzero(WEIGHTS)
    for item, other in zip(result["classes"] or [], repeated["classes"] or [], strict=True):
        assert item["accuracy"] == pytest.approx(other["accuracy"])
        assert item["count"] <= other["count"]


@pytest.mark.parametrize("case", CASES)
def test_equal_weights_of_any_size_change_nothing(case: str) -> None:
    source, candidate, labels, metric = CASES[case]
    result = scored(source, candidate, labels, np.full(COUNT, 0.37), metric)
    plain = scored(source, candidate, labels, None, metric)
    for figure in (*FIGURES, "drop_low", "drop_high", "accuracy_drop_low", "accuracy_drop_high"):
        assert _equal(result[figure], plain[figure]), figure
    assert result["count"] == plain["count"]


@pytest.mark.parametrize("case", CASES)
def test_weights_of_zero_equal_examples_left_out(case: str) -> None:
    source, candidate, labels, metric = CASES[case]
    kept = np.arange(COUNT) % 3 > 0
    result = scored(source, candidate, labels, kept.astype(float), metric)
    labels = None if labels is None else labels[kept]
    left_out = scored(source[kept], candidate[kept], labels, None, metric)
    for name, value in left_out.items():
        if isinstance(value, float):
            assert _equal(result[name], value), name
        else:
            assert result[name] == value or isinstance(value, list), name


def test_the_interval_of_a_weighted_mean_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(1000):
        weights = generator.exponential(size=200)
        source = generator.normal(size=200)
        means = PairedMeans()
        means.add(source, source - 0.1 + 0.5 * generator.normal(size=200), weights)
        low, high = means.difference_interval() or (0, 0)
        covered.append(low <= 0.1 <= high)
    assert 0.92 < np.mean(covered) < 0.98


def test_repeating_examples_tells_no_more_than_weighing_them() -> None:
    source, candidate, labels, metric = CASES["classes"]
    once = scored(source, candidate, labels, None, metric)
    thrice = scored(source, candidate, labels, np.full(COUNT, 3), metric)
    assert thrice["drop_low"] == pytest.approx(once["drop_low"])
    uneven = scored(source, candidate, labels, np.where(np.arange(COUNT) % 9, 0.1, 9.0), metric)
    width = once["drop_high"] - once["drop_low"]
    assert uneven["drop_high"] - uneven["drop_low"] > 1.5 * width
