"""Means over examples of two models, with intervals for how they differ.

Both models saw the same examples, so the intervals are of paired differences.
They are normal approximations, of sums that can be merged in any order.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054

Interval = tuple[float, float]


@dataclass
class PairedMeans:
    """Sums of one value for each example and model.

    Attributes:
        count: Examples.
        sums: float64 [5]: source, candidate, their squares, their product.
    """

    count: int = 0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))

    def add(self, source: NDArray[np.float64], candidate: NDArray[np.float64]) -> None:
        """Count examples in; both float64 [batch]."""
        self.count += len(source)
        self.sums += [
            source.sum(),
            candidate.sum(),
            source @ source,
            candidate @ candidate,
            source @ candidate,
        ]

    def merge(self, other: "PairedMeans") -> None:
        """Count all of `other` in."""
        self.count += other.count
        self.sums += other.sums

    @property
    def source(self) -> float:
        """The source's mean."""
        return float(self.sums[0]) / self.count

    @property
    def candidate(self) -> float:
        """The candidate's mean."""
        return float(self.sums[1]) / self.count

    def difference_interval(self) -> Interval | None:
        """Return the 95% interval of the source's mean less the candidate's.

        None of fewer than two examples.
        """
        if self.count < 2:
            return None
        centre = self.source - self.candidate
        half = Z_95 * math.sqrt(self._variance(1.0, 1.0) / self.count)
        return centre - half, centre + half

    def growth_interval(self, power: float = 1.0) -> Interval | None:
        """Return the 95% interval of (candidate / source) ** power - 1, of two positive means.

        By the delta method on the ratio's logarithm, so that it can't reach
        below -1. With power 0.5 and squared errors it is that of the growth of
        the root mean squared error.

        None of fewer than two examples, and where a mean is not positive.
        """
        if self.count < 2 or self.source <= 0 or self.candidate <= 0:
            return None
        centre = power * math.log(self.candidate / self.source)
        variance = self._variance(1 / self.source, 1 / self.candidate) / self.count
        half = Z_95 * power * math.sqrt(variance)
        # Of a growth beyond a double's range only that it is huge is of interest.
        low, high = (math.expm1(min(end, 700.0)) for end in (centre - half, centre + half))
        return low, high

    def _variance(self, a: float, b: float) -> float:
        """Return the unbiased variance of a * source - b * candidate."""
        squares = (
            a * a * self.sums[2] + b * b * self.sums[3] - 2 * a * b * self.sums[4]
        ) / self.count
        mean = a * self.source - b * self.candidate
        # Rounding may leave a little less than 0 where both are the same.
        return max(0.0, float(squares) - mean * mean) * self.count / (self.count - 1)


@dataclass
class TokenSums:
    """Tokens in examples: how many, and how many more the source got right.

    The tokens of one example are no independent draws, so the interval counts
    examples: it is that of a ratio of means over clusters (W. G. Cochran,
    "Sampling Techniques", 3rd edition, 1977, section 6.3).

    Attributes:
        count: Examples with at least one token.
        sums: float64 [5] over examples: lost (tokens that the source got right
            less those of the candidate), tokens, their squares, their product.
    """

    count: int = 0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))

    def add(self, lost: NDArray[np.float64], tokens: NDArray[np.float64]) -> None:
        """Count examples in; both float64 [batch]."""
        self.count += int(np.count_nonzero(tokens))
        self.sums += [lost.sum(), tokens.sum(), lost @ lost, tokens @ tokens, lost @ tokens]

    def merge(self, other: "TokenSums") -> None:
        """Count all of `other` in."""
        self.count += other.count
        self.sums += other.sums

    def interval(self) -> Interval | None:
        """Return the 95% interval of the drop in token accuracy; None of under two examples."""
        if self.count < 2:
            return None
        lost, tokens, lost_squares, token_squares, products = (float(one) for one in self.sums)
        drop = lost / tokens
        residuals = max(0.0, lost_squares - 2 * drop * products + drop * drop * token_squares)
        half = Z_95 * math.sqrt(residuals * self.count / (self.count - 1)) / tokens
        return max(-1.0, drop - half), min(1.0, drop + half)
