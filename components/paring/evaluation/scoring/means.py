"""Means over examples of two models, with intervals for how they differ.

Both models saw the same examples, so the intervals are of paired differences.
They are normal approximations, of exact sums, so that no order of merges changes them.

With sample weights a mean is a ratio, the weighted sum over the sum of weights, and its
variance that of such a ratio (W. G. Cochran, "Sampling Techniques", 3rd edition, 1977,
section 2.11). The number of examples is what it is, however large the weights are.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paring.evaluation.scoring.exact_sums import ExactSums

Z_95 = 1.959963984540054

Interval = tuple[float, float]


@dataclass
class PairedMeans:
    """Sums of one value for each example and model.

    Attributes:
        count: Examples.
        totals: Of the weights, and of the weighted values of source and candidate; then by
            the squares of the weights: of 1, source, candidate, their squares, their product.
    """

    count: int = 0
    totals: ExactSums = field(default_factory=lambda: ExactSums(9))

    def add(
        self,
        source: NDArray[np.float64],
        candidate: NDArray[np.float64],
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Count examples in; all float64 [batch], without weights each counts 1.

        Raises:
            UnsupportedError: See `ExactSums.add`.
        """
        if weights is None:
            weights = np.ones(len(source))
        self.count += len(source)
        item, other = weights * source, weights * candidate
        terms = (
            *(weights, item, other),
            *(weights * weights, weights * item, weights * other),
            *(item * item, other * other, item * other),
        )
        self.totals.add(np.stack(terms, axis=1))

    def merge(self, other: "PairedMeans") -> None:
        """Count all of `other` in."""
        self.count += other.count
        self.totals.merge(other.totals)

    @property
    def source(self) -> float:
        """The source's mean."""
        weight, source, _ = self.totals.values()[:3].tolist()
        return float(source / weight)

    @property
    def candidate(self) -> float:
        """The candidate's mean."""
        weight, _, candidate = self.totals.values()[:3].tolist()
        return float(candidate / weight)

    def difference_interval(self) -> Interval | None:
        """Return the 95% interval of the source's mean less the candidate's.

        None of fewer than two examples.
        """
        if self.count < 2:
            return None
        centre = self.source - self.candidate
        half = Z_95 * math.sqrt(self._variance(1.0, 1.0))
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
        variance = self._variance(1 / self.source, 1 / self.candidate)
        half = Z_95 * power * math.sqrt(variance)
        # Of a growth beyond a double's range only that it is huge is of interest.
        low, high = (math.expm1(min(end, 700.0)) for end in (centre - half, centre + half))
        return low, high

    def _variance(self, a: float, b: float) -> float:
        """Return the variance of the mean of a * source - b * candidate."""
        weight, _, _, ones, *moments = self.totals.values().tolist()
        source, candidate, squares, others, products = moments
        mean = a * self.source - b * self.candidate
        residuals = (
            (a * a * squares + b * b * others - 2 * a * b * products)
            - 2 * mean * (a * source - b * candidate)
            + mean * mean * ones
        )
        # Rounding may leave a little less than 0 where both are the same.
        rows = self.count / (self.count - 1)
        return float(max(0.0, residuals) / (weight * weight) * rows)


@dataclass
class TokenSums:
    """Tokens in examples: how many, and how many more the source got right.

    The tokens of one example are no independent draws, so the interval counts
    examples: it is that of a ratio of means over clusters (W. G. Cochran,
    "Sampling Techniques", 3rd edition, 1977, section 6.3).

    Attributes:
        count: Examples with at least one token.
        sums: [5] over examples: lost (tokens that the source got right
            less those of the candidate), tokens, their squares, their product.
    """

    count: int = 0
    sums: ExactSums = field(default_factory=lambda: ExactSums(5))

    def add(self, lost: NDArray[np.float64], tokens: NDArray[np.float64]) -> None:
        """Count examples in; both float64 [batch], times the examples' weights."""
        self.count += int(np.count_nonzero(tokens))
        terms = (lost, tokens, lost * lost, tokens * tokens, lost * tokens)
        self.sums.add(np.stack(terms, axis=1))

    def merge(self, other: "TokenSums") -> None:
        """Count all of `other` in."""
        self.count += other.count
        self.sums.merge(other.sums)

    def interval(self) -> Interval | None:
        """Return the 95% interval of the drop in token accuracy; None of under two examples."""
        if self.count < 2:
            return None
        lost, tokens, lost_squares, token_squares, products = self.sums.values().tolist()
        drop = lost / tokens
        residuals = max(0.0, lost_squares - 2 * drop * products + drop * drop * token_squares)
        half = Z_95 * math.sqrt(residuals * self.count / (self.count - 1)) / tokens
        return max(-1.0, drop - half), min(1.0, drop + half)


@dataclass
class ShareSums:
    """Predictions of which each is of one kind or not, one or several in each example.

    Attributes:
        examples: In each example, the weight of predictions of that kind, and of all.
        squares: The sum of the squares of the predictions' weights.
    """

    examples: TokenSums = field(default_factory=TokenSums)
    squares: ExactSums = field(default_factory=ExactSums)

    def add(self, of_kind: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        """Count examples in.

        Args:
            of_kind: 1 of that kind and 0 else, [examples, predictions].
            weights: How much each example counts, float64 [examples].
        """
        each = of_kind.shape[1]
        self.examples.add(weights * of_kind.sum(axis=1), weights * each)
        self.squares.add(weights * weights * each)

    def merge(self, other: "ShareSums") -> None:
        """Count all of `other` in."""
        self.examples.merge(other.examples)
        self.squares.merge(other.squares)

    def interval(self) -> Interval | None:
        """Return the 95% interval of the share of that kind; None without predictions.

        The score interval of E. B. Wilson, "Probable inference, the law of succession, and
        statistical inference", Journal of the American Statistical Association 22(158),
        1927, which is right for shares of 0 and near it too, for as many predictions as these
        are worth: those of an independent sample whose share has the same variance, which
        is that of a ratio over the examples (E. L. Korn and B. I. Graubard, "Confidence
        intervals for proportions with small expected number of positive counts estimated
        from survey data", Survey Methodology 24(2), 1998). At most they are worth what
        independent predictions of these weights are (L. Kish, "Survey Sampling", 1965,
        section 8.2). Where all are of one kind, their variance says nothing, and each
        example counts as one prediction.
        """
        kind, total, kind_squares, squares, products = self.examples.sums.values().tolist()
        if not total:
            return None
        share = kind / total
        residuals = kind_squares - 2 * share * products + share * share * squares
        spread = share * (1 - share)
        worth = min(
            total * total / float(self.squares.values()),
            spread * total * total / max(residuals, 1e-300),
        )
        # Rounding may leave more or less than nothing of either.
        if min(kind, total - kind) <= 1e-12 * total:
            worth = total * total / squares
        above = Z_95 * Z_95 / worth
        centre = (share + above / 2) / (1 + above)
        half = Z_95 / (1 + above) * math.sqrt(max(0.0, spread) / worth + above / (4 * worth))
        # Without a prediction of the kind, or of another one, the end is 0 or 1 but for rounding.
        low = 0.0 if share <= 0 else max(0.0, centre - half)
        high = 1.0 if share >= 1 else min(1.0, centre + half)
        return low, high
