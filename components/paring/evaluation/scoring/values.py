"""Sums over the values that two regressors predict."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.errors import UnsupportedError
from paring.evaluation.scoring.exact_sums import ExactSums, exact_products
from paring.evaluation.scoring.means import Interval, PairedMeans

Values = NDArray[np.float64]


@dataclass
class ValueTally:
    """Sums over examples; its size does not depend on how many there were.

    Attributes:
        broken: Examples with NaN or infinity from the source, and from the
            candidate.
        absolute, squared: Each model's absolute and squared error against the
            label, the mean over an example's values; without labels empty.
        weight: The weights of examples where both models gave finite numbers.
        difference: The weighted squared differences between the models.
        sums: The weighted values of the source, [values].
        squares: The weighted squares of the source's values, of all together.
    """

    broken: list[int] = field(default_factory=lambda: [0, 0])
    absolute: PairedMeans = field(default_factory=PairedMeans)
    squared: PairedMeans = field(default_factory=PairedMeans)
    weight: ExactSums = field(default_factory=ExactSums)
    difference: ExactSums = field(default_factory=ExactSums)
    sums: ExactSums = field(default_factory=lambda: ExactSums(0))
    squares: ExactSums = field(default_factory=ExactSums)

    def add(
        self, source: Values, candidate: Values, *, labels: Values | None, weights: Values
    ) -> None:
        """Count examples in; all float64 [batch, values], labels or None, weights [batch].

        Raises:
            UnsupportedError: See `ExactSums.add`.
        """
        whole = [np.isfinite(item).all(axis=1) for item in (source, candidate)]
        for model, finite in enumerate(whole):
            self.broken[model] += int(np.count_nonzero(~finite))
        both = whole[0] & whole[1]
        source, candidate, weights = source[both], candidate[both], weights[both]
        if len(source) == 0:
            return
        self._count(source, candidate, weights)
        if labels is not None:
            # Each row is added up as the others are only if it lies in memory as they do.
            errors = [np.ascontiguousarray(item - labels[both]) for item in (source, candidate)]
            absolute = [np.abs(error).mean(axis=1) for error in errors]
            squared = [np.square(error).mean(axis=1) for error in errors]
            self.absolute.add(absolute[0], absolute[1], weights)
            self.squared.add(squared[0], squared[1], weights)

    def merge(self, other: "ValueTally") -> None:
        """Count all of `other` in."""
        self.broken = [item + more for item, more in zip(self.broken, other.broken, strict=True)]
        if not self.sums.shape[0]:
            self.sums = ExactSums(*other.sums.shape)
        if other.sums.shape[0]:
            self.sums.merge(other.sums)
        for name in ("weight", "difference", "squares"):
            getattr(self, name).merge(getattr(other, name))
        self.absolute.merge(other.absolute)
        self.squared.merge(other.squared)

    def _count(self, source: Values, candidate: Values, weights: Values) -> None:
        """Count in what the agreement is made of, as one difference of exact sums."""
        if not self.sums.shape[0]:
            self.sums = ExactSums(source.shape[1])
        each = weights[:, np.newaxis]
        self.weight.add(weights)
        self.difference.add((np.square(candidate - source) * each).reshape(-1))
        for term in exact_products(source, each):
            self.sums.add(term)
        for square in exact_products(source, source):
            for term in exact_products(square, each):
                self.squares.add(term.reshape(-1))

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
        difference, weight, squares = (
            _exact(item) for item in (self.difference, self.weight, self.squares)
        )
        if difference == 0:
            return 1.0
        # Of a tiny part of the sum of squares nothing is lost either.
        numbers, exponent = self.sums.integers()
        squared_sums = sum(number * number for number in numbers) * Fraction(4) ** exponent
        spread = squares - squared_sums / weight
        return max(0.0, float(1 - difference / spread)) if spread > 0 else 0.0

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


def _exact(total: ExactSums) -> Fraction:
    (number,), exponent = total.integers()
    return number * Fraction(2) ** exponent
