"""Sums over the values that two regressors predict."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.errors import UnsupportedError
from paring.evaluation.scoring.means import Interval, PairedMeans

Values = NDArray[np.float64]


@dataclass
class ValueTally:
    """Sums over examples; its size does not depend on how many there were.

    Attributes:
        weight: The weights of examples where both models gave finite numbers, in sum.
        broken: Examples with NaN or infinity from the source, and from the
            candidate.
        absolute, squared: Each model's absolute and squared error against the
            label, the mean over an example's values; without labels empty.
        difference: The weighted sum of squared differences between the models.
        mean: Of the source's values, float64 [values].
        spread: The weighted sum of squared distances from that mean, float64 [values].
    """

    weight: float = 0.0
    broken: list[int] = field(default_factory=lambda: [0, 0])
    absolute: PairedMeans = field(default_factory=PairedMeans)
    squared: PairedMeans = field(default_factory=PairedMeans)
    difference: float = 0.0
    mean: Values = field(default_factory=lambda: np.zeros(0))
    spread: Values = field(default_factory=lambda: np.zeros(0))

    def add(
        self, source: Values, candidate: Values, *, labels: Values | None, weights: Values
    ) -> None:
        """Count examples in; all float64 [batch, values], labels or None, weights [batch]."""
        whole = [np.isfinite(item).all(axis=1) for item in (source, candidate)]
        for model, finite in enumerate(whole):
            self.broken[model] += int(np.count_nonzero(~finite))
        both = whole[0] & whole[1]
        source, candidate, weights = source[both], candidate[both], weights[both]
        if len(source) == 0:
            return
        weight = float(weights.sum())
        mean = weights @ source / weight
        spread = weights @ np.square(source - mean)
        difference = float((weights @ np.square(candidate - source)).sum())
        self._count(weight, mean, spread, difference)
        if labels is not None:
            errors = [item - labels[both] for item in (source, candidate)]
            absolute = [np.abs(error).mean(axis=1) for error in errors]
            squared = [np.square(error).mean(axis=1) for error in errors]
            self.absolute.add(absolute[0], absolute[1], weights)
            self.squared.add(squared[0], squared[1], weights)

    def merge(self, other: "ValueTally") -> None:
        """Count all of `other` in."""
        self.broken = [item + more for item, more in zip(self.broken, other.broken, strict=True)]
        if other.weight:
            self._count(other.weight, other.mean, other.spread, other.difference)
        self.absolute.merge(other.absolute)
        self.squared.merge(other.squared)

    def _count(self, weight: float, mean: Values, spread: Values, difference: float) -> None:
        """Merge means and spreads as Chan, Golub and LeVeque do (1983)."""
        self.difference += difference
        if self.weight == 0:
            self.weight, self.mean, self.spread = weight, mean, spread
            return
        total = self.weight + weight
        step = mean - self.mean
        self.spread = self.spread + spread + np.square(step) * (self.weight * weight / total)
        self.mean = self.mean + step * (weight / total)
        self.weight = total

    def check(self) -> None:
        """Refuse models that gave something else than numbers.

        Raises:
            UnsupportedError: Of an example with NaN there is no error to average.
        """
        for model, broken in zip(("source", "candidate"), self.broken, strict=True):
            if broken:
                raise UnsupportedError(
                    f"the {model}'s output is NaN or infinite, so that it has no mean error",
                    received=f"{broken} such examples",
                    remedy="look for an overflow in it, as float16 or a diverged training give",
                )

    def scores(self, metric: str) -> tuple[float, float, Interval | None]:
        """Return the source's and the candidate's error, and the interval of its growth.

        Args:
            metric: mae or rmse. The root is taken of the mean over all values
                of all examples, weighted where there are weights.
        """
        if metric == "mae":
            return self.absolute.source, self.absolute.candidate, self.absolute.growth_interval()
        squared = self.squared
        return squared.source**0.5, squared.candidate**0.5, squared.growth_interval(0.5)

    def agreement(self) -> float:
        """Return the share of the variance of the source's values that the candidate explains.

        The coefficient of determination, at least 0: 1 less the squared differences over
        the squared distances of the source's values from their mean. 0.99 is a
        root mean squared difference of a tenth of the standard deviation.
        """
        spread = float(self.spread.sum())
        if self.difference == 0:
            return 1.0
        return max(0.0, 1 - self.difference / spread) if spread else 0.0

    def summary(self) -> dict[str, Any]:
        """Return the figures of evaluation.json that are of values; see the step `evaluate`."""
        result: dict[str, Any] = {
            "agreement": self.agreement(),
            "nan_predictions": self.broken[1],
            "source_nan_predictions": self.broken[0],
        }
        if self.absolute.count:
            for metric in ("mae", "rmse"):
                source, candidate, _ = self.scores(metric)
                result |= {metric: candidate, f"source_{metric}": source}
        return result
