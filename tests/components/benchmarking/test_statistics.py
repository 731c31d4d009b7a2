"""The speed-up's interval holds the truth, also when it is 'no difference'."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paring.benchmarking.statistics import (
    RESOLUTION,
    _weighted_medians,
    has_settled,
    percentiles,
    speedup,
)

seeds = st.integers(min_value=0, max_value=2**32 - 1)


def _latencies(
    random: np.random.Generator,
    drift: np.ndarray,
    *,
    calls: int = 30,
    scale: float = 1.0,
    load: float = 0.01,
) -> np.ndarray:
    """Like real ones: a bias for each load, the machine's drift, a right tail."""
    rounds, windows = drift.shape
    bias = np.exp(random.normal(0, load, (rounds, 1, 1)))
    tail = 1 + random.exponential(0.05, (rounds, windows, calls))
    return scale * bias * drift[:, :, None] * tail


def _drift(random: np.random.Generator, rounds: int = 8, windows: int = 4) -> np.ndarray:
    steps = random.normal(0, 0.05, rounds * windows)
    return np.exp(np.cumsum(steps)).reshape(rounds, windows)


def test_interval_holds_one_when_both_sides_are_the_same_model() -> None:
    held = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        drift = _drift(random)
        result = speedup(_latencies(random, drift), _latencies(random, drift), seed=seed)
        held += result.low <= 1 <= result.high
    assert held >= 57


def test_interval_holds_one_as_often_where_a_narrow_one_ends_the_measurement() -> None:
    held, used = 0, 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        drift = _drift(random)
        source, candidate = (_latencies(random, drift, load=0.02) for _ in range(2))
        for rounds in range(3, 9):
            result = speedup(source[:rounds], candidate[:rounds], seed=seed)
            if result.high <= result.estimate * 1.05:
                break
        held += result.low <= 1 <= result.high
        used += rounds
    assert held >= 56
    assert used <= 60 * 5


def test_interval_finds_a_real_difference_and_holds_it() -> None:
    held = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        drift = _drift(random)
        source = _latencies(random, drift, scale=1.2)
        result = speedup(source, _latencies(random, drift), seed=seed)
        assert result.low > 1
        held += result.low <= 1.2 <= result.high
    assert held >= 28


def test_one_sided_bursts_of_load_make_no_winner() -> None:
    random = np.random.default_rng(0)
    source, candidate = (_latencies(random, np.ones((8, 4))) for _ in range(2))
    source[3] *= 1.6
    source[6] *= 1.5
    result = speedup(source, candidate)
    assert result.low <= 1 <= result.high


def test_more_rounds_make_a_narrower_interval() -> None:
    random = np.random.default_rng(1)
    many, few = np.ones((32, 4)), np.ones((4, 4))
    wide = speedup(_latencies(random, few, calls=5), _latencies(random, few, calls=5))
    narrow = speedup(_latencies(random, many, calls=5), _latencies(random, many, calls=5))
    assert narrow.high / narrow.low < wide.high / wide.low


def test_no_interval_is_narrower_than_the_resolution() -> None:
    constant = np.full((4, 2, 10), 3.0)
    result = speedup(2 * constant, constant)
    assert result.estimate == 2
    assert result.low == pytest.approx(2 / (1 + RESOLUTION))
    assert result.high == pytest.approx(2 * (1 + RESOLUTION))


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(min_value=0.01, max_value=100))
def test_exchanging_the_sides_reverses_the_interval(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    drift = _drift(random, 5, 3)
    source = _latencies(random, drift, scale=scale)
    candidate = _latencies(random, drift, calls=400)
    item, other = speedup(source, candidate), speedup(candidate, source)
    assert other.estimate == pytest.approx(1 / item.estimate)
    assert other.low == pytest.approx(1 / item.high)
    assert other.high == pytest.approx(1 / item.low)
    assert item.low < item.estimate < item.high


def test_interval_is_the_same_for_the_same_seed_only() -> None:
    random = np.random.default_rng(2)
    source, candidate = (_latencies(random, _drift(random)) for _ in range(2))
    assert speedup(source, candidate, seed=1) == speedup(source, candidate, seed=1)
    assert speedup(source, candidate, seed=1) != speedup(source, candidate, seed=2)


@pytest.mark.parametrize("shape", [(1, 4, 10), (3, 2, 10)])
def test_sides_without_pairs_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        speedup(np.ones(shape), np.ones((shape[0], 4, 10)))


def test_resampled_median_is_that_of_the_repeated_samples() -> None:
    random = np.random.default_rng(3)
    samples = random.random((3, 2, 6))
    weights = random.integers(0, 4, (50, 6)).astype(np.int32)
    weights[:, 0] += 1
    expected = [np.median(np.repeat(samples.reshape(6, 6), weight, axis=0)) for weight in weights]
    assert _weighted_medians(samples, weights) == pytest.approx(expected)


def test_percentiles_pool_all_windows() -> None:
    samples = np.arange(1.0, 102.0).reshape(101, 1, 1)
    result = percentiles(samples)
    assert (result.p50, result.p90, result.p99) == pytest.approx((51, 91, 100))


def test_warming_up_goes_on_while_calls_get_faster() -> None:
    assert not has_settled([1.0, 1.0])
    assert not has_settled([9.0, 1.5, 1.2])
    assert has_settled([9.0, 1.0, 1.05, 1.02])


def test_load_that_slows_calls_down_is_not_taken_for_warming_up() -> None:
    assert has_settled([1.0, 1.4, 1.2])
