"""Gate, Pareto front and selection among candidates, as pure functions.

Two measurements of the same thing never agree exactly, so differences that are
within the noise count as none where a candidate is held against the source:
a latency whose speed-up's interval holds 1, peak memory within a few per cent,
and an accuracy above the source's. Sizes are exact; peak memory counts in steps
among all. That keeps "nothing beats
the source" a result which a lucky run does not overturn.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from paring.evaluation.metrics import ACCURACY, Metric, format_distinct

SOURCE = "source"

Objective = Literal["latency", "size", "memory"]

MEMORY_NOISE = 0.05
"""Share by which two peaks of the same program's memory may differ by chance."""

SIZE_TIE = 0.02
"""Sizes that differ by less than this share don't decide between tied candidates."""

SPEED_TIE = 0.05
"""Speed-ups that differ by more than this share, and by more than one standard error, decide,
though noise may explain it."""

LARGEST_SPEED_TIE = 0.2
"""Speed-ups that differ by more than this share decide, however noisy the machine is."""

_QUANTILE = 1.96
"""Standard errors from an estimate to the limit of its 95% interval."""

_ROUNDING = 1e-9
"""0.98 - 0.97 is a little more than 0.01 in binary; this much is let pass."""

BYTES_PER_MB = 1_000_000


@dataclass(frozen=True)
class Measured:
    """Measured values of one candidate; None where a value was not measured.

    Attributes:
        id: The candidate's id; `SOURCE` is the model all others are held against.
        drop: Loss against the source by the gate's metric; below 0 is a gain.
        metric: That metric.
        others: Of a model with several outputs, name, metric and loss of each
            other one that the gate is on.
        p50_ms: Median latency of one call.
        speedup: The source's median latency over this one's, in one run.
        speedup_low, speedup_high: The speed-up's confidence interval.
        size_bytes: Size of the served files.
        peak_memory_bytes: Peak resident memory.
    """

    id: str
    drop: float | None = None
    p50_ms: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    metric: Metric = ACCURACY
    others: tuple[tuple[str, Metric, float], ...] = ()

    @property
    def is_source(self) -> bool:
        """True if this is the source model."""
        return self.id == SOURCE

    @property
    def relative_latency(self) -> float:
        """Latency as a multiple of the source's, 1.0 where noise may explain it.

        From the speed-up, not from `p50_ms`: the speed-up compares calls of one
        run that alternate, so a machine that was busy in one run and idle in the
        next does not change it. Infinite where it was not measured.
        """
        if self.is_source:
            return 1.0
        if self.speedup is None or self.speedup_low is None or self.speedup_high is None:
            return math.inf
        if self.speedup_low <= 1 <= self.speedup_high:
            return 1.0
        return 1 / self.speedup

    @property
    def size(self) -> float:
        """Size in bytes, infinite where unknown."""
        return math.inf if self.size_bytes is None else self.size_bytes

    def memory(self, source: "Measured") -> float:
        """Return the peak memory in bytes, the source's if noise may explain the difference."""
        if self.peak_memory_bytes is None:
            return math.inf
        reference = source.peak_memory_bytes
        if reference and abs(self.peak_memory_bytes / reference - 1) <= MEMORY_NOISE:
            return reference
        return self.peak_memory_bytes

    def memory_level(self, source: "Measured") -> float:
        """Return the peak memory in steps of twice the noise, 0 around the source's.

        Steps, unlike tolerances, keep dominance transitive; two measurements of
        the same memory fall on one of them unless it lies at their border.
        """
        if not self.peak_memory_bytes or not source.peak_memory_bytes:
            return math.inf
        ratio = self.peak_memory_bytes / source.peak_memory_bytes
        return round(math.log(ratio) / (2 * math.log1p(MEMORY_NOISE)))


@dataclass(frozen=True)
class Gate:
    """Constraints on candidates, and the objective among those that pass.

    Attributes:
        max_accuracy_drop: Largest loss against the source by the candidates'
            metric: 0.01 for one point, of an error for a growth by 1%.
        max_latency_ms: Limit on the median latency of one call; 0 for none.
        max_size_mb: Limit on the served size, in 10**6 bytes; 0 for none.
        max_memory_mb: Limit on peak memory, in 10**6 bytes; 0 for none.
        objective: Ranking criterion among the candidates that pass.
    """

    max_accuracy_drop: float = 0.01
    max_latency_ms: float = 0.0
    max_size_mb: float = 0.0
    max_memory_mb: float = 0.0
    objective: Objective = "latency"

    def objections(self, candidate: Measured) -> list[str]:
        """Return the reasons why `candidate` does not pass, a sentence each; empty if it passes."""
        result = [] if candidate.is_source else self._accuracy_objections(candidate)
        if candidate.p50_ms is None:
            result.append("its latency was not measured")
        else:
            result += _over("p50 latency", candidate.p50_ms, self.max_latency_ms, "ms")
        for name, value, budget in (
            ("size", candidate.size_bytes, self.max_size_mb),
            ("peak memory", candidate.peak_memory_bytes, self.max_memory_mb),
        ):
            if value is not None:
                result += _over(name, value / BYTES_PER_MB, budget, "MB")
            elif budget:
                result.append(f"its {name} was not measured, the budget is {budget:g} MB")
        return result

    def _accuracy_objections(self, candidate: Measured) -> list[str]:
        if candidate.drop is None:
            return [f"its {candidate.metric.label} was not measured"]
        allowed = self.max_accuracy_drop
        result = []
        if candidate.drop > allowed + _ROUNDING:
            result.append(candidate.metric.objection(candidate.drop, allowed))
        return result + [
            f"output {name}: {metric.objection(drop, allowed)}"
            for name, metric, drop in candidate.others
            if drop > allowed + _ROUNDING
        ]


@dataclass(frozen=True)
class SpeedRatio:
    """Speed of one candidate as a multiple of another's, with its 95% interval.

    Attributes:
        estimate: The ratio of the median latencies.
        low, high: Its interval.
        is_certain: Whether the two candidates' own intervals are apart, and this one does
            not hold 1.
    """

    estimate: float
    low: float
    high: float
    is_certain: bool

    @property
    def inverse(self) -> "SpeedRatio":
        """The ratio the other way round."""
        return SpeedRatio(1 / self.estimate, 1 / self.high, 1 / self.low, self.is_certain)


def speed_ratio(candidate: Measured, other: Measured) -> SpeedRatio | None:
    """Compute how many times as fast `candidate` is as `other`; None where it was not measured.

    The source is what speed-ups are measured against, so a candidate's own interval is that
    of the ratio to it. Two candidates were measured in two runs: the distances from the
    estimates to the limits are added as independent errors of logarithms (G. Y. Zou and
    A. Donner, "Construction of confidence limits about effect measures", Statistics in
    Medicine 27(10), 2008).
    """
    both = _logarithms(candidate), _logarithms(other)
    if both[0] is None or both[1] is None:
        return None
    (centre, low, high), (base, base_low, base_high) = both[0], both[1]
    estimate = centre - base
    below = math.hypot(centre - low, base_high - base)
    above = math.hypot(high - centre, base - base_low)
    limits = math.exp(estimate - below), math.exp(estimate + above)
    return SpeedRatio(math.exp(estimate), *limits, is_certain=low > base_high or high < base_low)


def _logarithms(candidate: Measured) -> tuple[float, float, float] | None:
    """Return the logarithms of the speed-up and its limits."""
    if candidate.is_source:
        return 0.0, 0.0, 0.0
    result = candidate.speedup, candidate.speedup_low, candidate.speedup_high
    if None in result or min(value for value in result if value is not None) <= 0:
        return None
    speedup, low, high = (math.log(value) for value in result if value is not None)
    return speedup, low, high


def _over(name: str, value: float, budget: float, unit: str) -> list[str]:
    if not budget or value <= budget:
        return []
    shown, limit = format_distinct(value, budget)
    return [f"its {name} is {shown} {unit}, the budget is {limit} {unit}"]


def dominates(candidate: Measured, other: Measured, source: Measured) -> bool:
    """Return whether `candidate` is nowhere worse than `other` and somewhere better.

    An accuracy above the source's is no advantage over the source: fine-tuning
    moves accuracy both ways by a few examples. It is one over other candidates,
    and keeps the source from dominating; so this is a strict partial order.
    """
    gain_counts = not other.is_source

    def costs(which: Measured) -> tuple[float, float, float, float]:
        drop = loss(which) if gain_counts else max(loss(which), 0.0)
        return drop, which.relative_latency, which.size, which.memory_level(source)

    pairs = list(zip(costs(candidate), costs(other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def pareto_front(passing: Iterable[Measured], source: Measured) -> list[Measured]:
    """Return the candidates that no other dominates, in their order.

    Over accuracy drop, latency, size and peak memory. `source` gives the figures
    that noise is judged by, whether or not it is among `passing`.
    """
    everyone = list(passing)
    return [a for a in everyone if not any(dominates(b, a, source) for b in everyone)]


def choose(passing: Sequence[Measured], source: Measured, objective: Objective) -> Measured | None:
    """Return the best one on the front of `passing` by `objective`; None if it is empty.

    Those whose latency or memory is within the noise of the best count as tied with
    it. Of them the smallest is taken; of those about as small as it the source,
    else the most accurate. By size, of those exactly as small as the smallest, the
    ones within the noise of the fastest are tied. Where the source passes, only what
    beats it on latency, size or memory comes into question.
    """
    front = pareto_front(passing, source)
    if any(candidate.is_source for candidate in passing):
        front = [item for item in front if item.is_source or _beats(item, source)]
    if not front:
        return None

    def by_size(candidate: Measured) -> tuple[float | bool | str, ...]:
        return (
            candidate.size,
            candidate.relative_latency,
            candidate.memory(source),
            not candidate.is_source,
            loss(candidate),
            candidate.id,
        )

    def by_accuracy(candidate: Measured) -> tuple[float | bool | str, ...]:
        return (not candidate.is_source, loss(candidate), *by_size(candidate))

    if objective == "size":
        smallest = min(item.size for item in front)
        equal = [item for item in front if item.size == smallest]
        best = min(equal, key=by_size)
        return min((item for item in equal if as_fast(item, best)), key=by_accuracy)
    if objective == "memory":
        least = min(item.memory(source) for item in front)
        tied = [item for item in front if item.memory(source) <= least * (1 + MEMORY_NOISE)]
    else:
        best = min(front, key=lambda item: (item.relative_latency, *by_size(item)))
        tied = [item for item in front if as_fast(item, best)]
    smallest = min(item.size for item in tied)
    return min((item for item in tied if item.size <= smallest * (1 + SIZE_TIE)), key=by_accuracy)


def _beats(candidate: Measured, source: Measured) -> bool:
    lighter = candidate.memory(source) < source.memory(source)
    return (
        candidate.relative_latency < source.relative_latency
        or candidate.size < source.size
        or lighter
    )


def loss(candidate: Measured) -> float:
    """Return the accuracy drop, infinite where it was not measured."""
    if candidate.is_source:
        return 0.0
    return math.inf if candidate.drop is None else candidate.drop


def as_fast(candidate: Measured, best: Measured) -> bool:
    """Return whether `candidate` is as fast as `best`, the faster one, within the noise.

    That is, they differ by one standard error at most, and by no more than 20% (the rule by which
    Breiman et al. choose among models: Classification and Regression Trees, 1984, section 3.4.3).
    Or they differ by 5% at most, and one of the two lies within the other's interval: a machine
    that is busy in only one of their runs widens that one's. Where `best` is no faster than the
    source, only those as fast as the source are.
    """
    if candidate.relative_latency <= best.relative_latency or best.relative_latency == 1.0:
        return candidate.relative_latency <= best.relative_latency
    ratio = speed_ratio(best, candidate)
    if ratio is None:
        return False
    error = math.log(ratio.estimate / ratio.low) / _QUANTILE
    if ratio.estimate <= min(math.exp(error), 1 + LARGEST_SPEED_TIE):
        return True
    if ratio.estimate > 1 + SPEED_TIE:
        return False
    within_best = (
        best.speedup_low is not None and 1 / candidate.relative_latency >= best.speedup_low
    )
    within_one = (
        candidate.speedup_high is not None and 1 / best.relative_latency <= candidate.speedup_high
    )
    return within_best or within_one
