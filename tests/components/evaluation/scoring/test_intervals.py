"""Intervals of differences of areas, and of agreement: by the formulas, and by simulation."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from paring.evaluation.scoring.means import ShareSums
from paring.evaluation.scoring.outputs import OutputTally, Scoring
from paring.evaluation.scoring.ranks import PairedRanks

Array = NDArray[Any]
Z = 1.959963984540054


def _interval(
    source: Array, candidate: Array, positive: Array, weights: Array | None = None
) -> tuple[float, float]:
    ranks = PairedRanks()
    ranks.add(source, candidate, positive=positive, weights=weights)
    result = ranks.drop_interval()
    assert result is not None
    return result


def _examples(generator: np.random.Generator, count: int) -> tuple[Array, Array, Array, Array]:
    """Labels, the scores of two models that go wrong together, and weights.

    Examples of more weight are separated less, by the candidate least of all.
    """
    positive = generator.random(count) < 0.4
    weights = generator.exponential(size=count) + 0.05
    hidden = generator.normal(size=(3, count))
    source = positive * 1.5 + hidden[0] + 0.4 * hidden[1]
    candidate = positive * (1.5 - 0.4 * np.minimum(weights, 2)) + hidden[0] + 0.6 * hidden[2]
    return positive, source.round(2), candidate.round(2), weights


def test_the_interval_of_areas_is_that_of_delong() -> None:
    """From all pairs of an example of each class, as in the paper."""
    positive, source, candidate, _ = _examples(np.random.default_rng(0), 120)
    placements = []
    for scores in (source, candidate):
        own, others = scores[positive][:, np.newaxis], scores[~positive]
        kernel = (own > others) + 0.5 * (own == others)
        placements.append((kernel.mean(axis=1), kernel.mean(axis=0)))
    variance = 0.0
    for which in range(2):
        covariance = np.cov([placements[0][which], placements[1][which]])
        contrast = np.array([1, -1])
        variance += contrast @ covariance @ contrast / len(placements[0][which])
    drop = roc_auc_score(positive, source) - roc_auc_score(positive, candidate)
    half = Z * np.sqrt(variance)
    assert _interval(source, candidate, positive) == pytest.approx((drop - half, drop + half))
    weights = np.full(120, 0.3)
    assert _interval(source, candidate, positive, weights) == pytest.approx(
        (drop - half, drop + half)
    )


def test_the_interval_of_weighted_areas_is_as_wide_as_resampling_says() -> None:
    generator = np.random.default_rng(1)
    positive, source, candidate, weights = _examples(generator, 400)
    drops = []
    for _ in range(600):
        rows = generator.integers(0, 400, 400)
        source_area, area = (
            roc_auc_score(positive[rows], scores[rows], sample_weight=weights[rows])
            for scores in (source, candidate)
        )
        drops.append(source_area - area)
    low, high = _interval(source, candidate, positive, weights)
    assert (high - low) / (2 * Z) == pytest.approx(np.std(drops), rel=0.1)
    plain_low, plain_high = _interval(source, candidate, positive)
    assert high - low > 1.2 * (plain_high - plain_low)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_of_areas_covers_the_true_drop_as_often_as_it_says(weighted: bool) -> None:
    generator = np.random.default_rng(2)
    positive, source, candidate, weights = _examples(generator, 400_000)
    own = weights if weighted else None
    source_area, area = (
        roc_auc_score(positive, scores, sample_weight=own) for scores in (source, candidate)
    )
    covered = []
    for _ in range(800):
        positive, source, candidate, weights = _examples(generator, 250)
        own = weights if weighted else None
        low, high = _interval(source, candidate, positive, own)
        covered.append(low <= source_area - area <= high)
    assert 0.925 < np.mean(covered) < 0.975


def test_one_example_of_a_class_has_no_interval() -> None:
    ranks = PairedRanks()
    ranks.add(np.array([0.1, 0.2, 0.3]), np.zeros(3), positive=np.array([False, True, False]))
    assert ranks.areas() == (0.5, 0.5)
    assert ranks.drop_interval() is None


def test_the_interval_of_agreement_is_that_of_wilson() -> None:
    sums = ShareSums()
    sums.add(np.array([[1]] * 7 + [[0]] * 93), np.ones(100))
    expected = binomtest(7, 100).proportion_ci(method="wilson")
    assert sums.interval() == pytest.approx((expected.low, expected.high))


def test_agreement_of_all_has_an_interval_with_a_width() -> None:
    """Tokens of one example count as one where nothing tells more."""
    # Of this many, rounding left the lower end above 0.
    sums = ShareSums()
    sums.add(np.zeros((64, 1), int), np.ones(64))
    assert sums.interval() == (0.0, pytest.approx(0.0566, abs=1e-4))
    single, several = ShareSums(), ShareSums()
    single.add(np.zeros((50, 1), int), np.ones(50))
    several.add(np.zeros((50, 30), int), np.ones(50))
    assert single.interval() == several.interval() == (0.0, pytest.approx(0.0713, abs=1e-4))


@pytest.mark.parametrize("tokens", [1, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_of_agreement_covers_the_true_one_as_often_as_it_says(
    tokens: int, weighted: bool
) -> None:
    """Tokens of an example go wrong together, and more often where it weighs more."""
    generator = np.random.default_rng(3)

    def examples(count: int) -> tuple[Array, Array]:
        weights = generator.exponential(size=count) + 0.05
        odds = 0.06 * np.minimum(weights, 2) * generator.gamma(2, 0.5, count)
        differing = generator.random((count, tokens)) < np.minimum(odds, 1)[:, np.newaxis]
        return differing.astype(np.int64), weights if weighted else np.ones(count)

    differing, weights = examples(400_000)
    share = np.average(differing.mean(axis=1), weights=weights)
    covered = []
    for _ in range(1500):
        sums, more = ShareSums(), ShareSums()
        differing, weights = examples(300)
        sums.add(differing[:100], weights[:100])
        more.add(differing[100:], weights[100:])
        sums.merge(more)
        low, high = sums.interval() or (0, 0)
        covered.append(low <= share <= high)
    assert 0.92 < np.mean(covered) < 0.98


@pytest.mark.parametrize("kind", ["classes", "ids", "tokens"])
def test_agreement_without_labels_gets_the_interval(kind: str) -> None:
    generator = np.random.default_rng(4)
    shape = {"classes": (80, 3), "ids": (80,), "tokens": (80, 5, 3)}[kind]
    source = generator.integers(0, 9, shape)
    candidate = np.where(generator.random(shape) < 0.1, 9, source)
    if kind != "ids":
        source, candidate = (
            item / item.sum(axis=-1, keepdims=True) + 0.0
            for item in (source + 1.0, candidate + 1.0)
        )
    tally = OutputTally(Scoring.of("auto", 5, labels=None))
    for rows in (slice(0, 30), slice(30, 80)):
        batch = OutputTally(Scoring.of("auto", 5, labels=None))
        batch.add(source[rows], candidate[rows], labels=None)
        tally.merge(batch)
    result = tally.scored().summary()
    assert result["metric"].endswith("agreement")
    assert result["no_interval"] is None
    assert 0 < result["drop_low"] < result["drop"] < result["drop_high"] < 1


def test_agreement_of_values_has_no_interval_and_a_reason() -> None:
    source = np.random.default_rng(5).normal(size=(40, 3))
    tally = OutputTally(Scoring.of("auto", 5, labels=None))
    tally.add(source, source + 0.1, labels=None)
    result = tally.scored().summary()
    assert result["metric"] == "value_agreement"
    assert result["drop_low"] is result["drop_high"] is None
    assert "covariances of all values" in result["no_interval"]
