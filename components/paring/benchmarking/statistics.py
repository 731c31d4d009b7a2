"""Speed-ups from repeated latency measurements, with confidence intervals.

The design follows Kalibera and Jones, "Quantifying Performance Changes with
Effect Size Confidence Intervals" (arXiv:2007.10899): measure on every level
that varies, and resample on every level. Here these are rounds, in which both
models are loaded again (two loads of one file differ by a percent or so, by
where their memory lies, however long each is timed), and pairs of windows
within a round, which see the same drift of the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Counts = np.ndarray[Any, np.dtype[np.int32]]

RESAMPLES = 1000
RESOLUTION = 0.01
"""The relative difference below which no interval tells two models apart: what
the same file differs by from itself, loaded again, on a machine at rest."""

# A window is represented by at most so many of its quantiles while resampling.
_QUANTILES = 256
# Elements of the arrays that resampling works on at a time.
_CHUNK = 1 << 19


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of one call's latency, in the unit of the samples."""

    p50: float
    p90: float
    p99: float


def percentiles(samples: Array) -> Percentiles:
    """Return the percentiles of all samples pooled, linearly interpolated.

    Args:
        samples: Latencies, of any shape; at least one.
    """
    p50, p90, p99 = np.quantile(samples, (0.5, 0.9, 0.99))
    return Percentiles(float(p50), float(p90), float(p99))


def speedup(
    source: Array, candidate: Array, *, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Return the source's median latency over the candidate's.

    The interval is a paired two-level bootstrap of the ratio's logarithm:
    rounds are drawn with replacement, then window pairs within each, the same
    for both sides. It is symmetric about the estimate (Hall, "On Symmetric
    Bootstrap Confidence Intervals", J. R. Stat. Soc. B 50(1), 1988), which
    stands bursts of other load on one side better than plain percentiles do,
    and at the expanded level by which Hesterberg corrects for few units ("What
    Teachers Should Know About the Bootstrap", arXiv:1411.5279). It reaches at
    least `RESOLUTION` to each side, and exchanging the sides reverses it.

    Args:
        source: Latencies, [rounds, windows, calls in a window]; rounds >= 2.
        candidate: The same for the candidate; its calls may be of another number.
        seed: Of the resampling.
        confidence: The level of the interval, between 0 and 1.

    Raises:
        ValueError: Rounds or windows differ, or there is one round only.
    """
    rounds, windows = source.shape[:2]
    if candidate.shape[:2] != (rounds, windows) or rounds < 2:
        raise ValueError(f"no pairs: {source.shape} beside {candidate.shape}")
    weights = _resampled_weights(rounds, windows, np.random.default_rng(seed))
    ratios = np.log(_weighted_medians(source, weights)) - np.log(
        _weighted_medians(candidate, weights)
    )
    estimate = float(np.median(source) / np.median(candidate))
    errors = np.abs(ratios - np.log(estimate))
    reach = float(np.quantile(errors, 1 - 2 * _expanded_tail(rounds, confidence)))
    factor = max(float(np.exp(reach)), 1 + RESOLUTION)
    return Interval(estimate, estimate / factor, estimate * factor)


def has_settled(medians: Sequence[float], *, windows: int = 3, tolerance: float = 0.1) -> bool:
    """Return whether the latencies of successive windows have stopped falling.

    Warming up makes calls faster, and other load on the machine makes them slower and faster. So
    only a fall by more than `tolerance` over the last `windows` medians counts as warming up.
    """
    last = medians[-windows:]
    return len(last) == windows and last[-1] * (1 + tolerance) >= last[0]


def _resampled_weights(rounds: int, windows: int, random: np.random.Generator) -> Counts:
    """Count the draws of each window, [resamples, rounds * windows]."""
    drawn_rounds = random.integers(rounds, size=(RESAMPLES, rounds, 1))
    drawn_windows = random.integers(windows, size=(RESAMPLES, rounds, windows))
    drawn = (drawn_rounds * windows + drawn_windows).reshape(RESAMPLES, -1)
    cells = rounds * windows
    offsets = np.arange(RESAMPLES)[:, None] * cells
    counts = np.bincount((drawn + offsets).ravel(), minlength=RESAMPLES * cells)
    return counts.reshape(RESAMPLES, cells).astype(np.int32)


def _weighted_medians(samples: Array, weights: Counts) -> Array:
    """Return the median of the samples for each row of weights of their windows."""
    cells = samples.reshape(weights.shape[1], -1)
    if cells.shape[1] > _QUANTILES:
        levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        cells = np.quantile(cells, levels, axis=1).T
    values = cells.ravel()
    order = np.argsort(values)
    values = values[order]
    cell_of = order // cells.shape[1]
    medians = []
    for rows in np.array_split(weights, 1 + weights.shape[0] * len(values) // _CHUNK):
        doubled = 2 * np.cumsum(rows[:, cell_of], axis=1, dtype=np.int32)
        total = doubled[:, -1:] // 2
        lower = values[(doubled >= total).argmax(axis=1)]
        upper = values[(doubled > total).argmax(axis=1)]
        medians.append((lower + upper) / 2)
    return np.concatenate(medians)


def _expanded_tail(rounds: int, confidence: float) -> float:
    """Return the percentile level at each end for an interval over so few rounds."""
    # SciPy, which scikit-learn brings along; imported late for its half second.
    from scipy.stats import t

    quantile = float(t.ppf((1 + confidence) / 2, rounds - 1))
    return NormalDist().cdf(-quantile * (rounds / (rounds - 1)) ** 0.5)
