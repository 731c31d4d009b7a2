"""The areas under the ROC curves of two models, from counts of their pairs of scores."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paring.evaluation.scoring.exact_sums import ExactSums
from paring.evaluation.scoring.means import Z_95, Interval

Keys = NDArray[np.uint64]
Values = NDArray[np.float64]

_MOST_PAIRS = 2**20
_SIGN = np.uint64(1 << 63)
_LAST = np.uint64(2**64 - 1)


def score_keys(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Keys:
    """Return integers in the order of the scores.

    The bits of a double, read as an integer, are in the order of the numbers
    but for the sign. A score that is NaN gets the place that is worst for its
    example, since a prediction with NaN is wrong.

    Args:
        scores: float64 [n].
        positive: Which examples are of class 1, bool [n].
    """
    bits = (scores + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    keys: Keys = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    broken = np.isnan(scores)
    keys[broken & positive] = 0
    keys[broken & ~positive] = _LAST
    return keys


@dataclass
class PairedRanks:
    """Counts of each pair of scores, over the examples of class 0 and of class 1.

    Exact up to 2**20 different pairs. Beyond, neighbouring scores are counted as
    one, so that memory stays bounded: the lowest bits of the keys are dropped,
    as many as it takes. What is left does not depend on the order of merges.

    Attributes:
        keys: Pairs of the source's key and the candidate's, without the dropped bits,
            uint64 [pairs, 2], sorted.
        sums: [4, pairs]: the weights of examples of class 0, and of class 1, and
            their squares.
        counts: Examples of class 0, and of class 1.
        shift: Bits that were dropped.
    """

    keys: Keys = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    sums: ExactSums = field(default_factory=lambda: ExactSums(4, 0))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    shift: int = 0
    _pending: list[tuple[Keys, ExactSums]] = field(default_factory=list)
    _pending_pairs: int = 0

    def add(
        self,
        source: NDArray[np.float64],
        candidate: NDArray[np.float64],
        *,
        positive: NDArray[np.bool_],
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Count examples in.

        Args:
            source: The source's scores, float64 [n].
            candidate: The candidate's.
            positive: Which examples are of class 1, bool [n].
            weights: How much each counts, float64 [n]; 1 if left out.
        """
        each = np.ones(len(source)) if weights is None else weights
        classes = np.stack([~positive, positive]).astype(np.float64)
        self.counts += np.count_nonzero(classes, axis=1)
        keys = np.stack([score_keys(item, positive) for item in (source, candidate)], axis=1)
        sums = np.concatenate([classes * each, classes * np.square(each)])
        self._append(keys >> np.uint64(self.shift), ExactSums.of(sums))

    def merge(self, other: "PairedRanks") -> None:
        """Count all of `other` in."""
        self.counts += other.counts
        if other.shift > self.shift:
            self._drop_bits(other.shift - self.shift)
        behind = np.uint64(self.shift - other.shift)
        for keys, sums in ((other.keys, other.sums), *other._pending):
            self._append(keys >> behind, sums)

    def _append(self, keys: Keys, sums: ExactSums) -> None:
        self._pending.append((keys, sums))
        self._pending_pairs += len(keys)
        # Sorting each batch in by itself would take far longer.
        if self._pending_pairs > max(len(self.keys), _MOST_PAIRS // 8):
            self._compact()

    def _compact(self) -> None:
        """Sort in what waits, and drop bits where there are too many pairs."""
        everything = [(self.keys, self.sums), *self._pending]
        self._pending, self._pending_pairs = [], 0
        self._count(
            np.concatenate([keys for keys, _ in everything]),
            ExactSums.concatenate([sums for _, sums in everything]),
        )
        while len(self.keys) > _MOST_PAIRS:
            self._drop_bits(1)

    def _drop_bits(self, bits: int) -> None:
        self.shift += bits
        waiting = self._pending
        self._pending = [(keys >> np.uint64(bits), sums) for keys, sums in waiting]
        self._count(self.keys >> np.uint64(bits), self.sums)

    def _count(self, keys: Keys, sums: ExactSums) -> None:
        if not len(keys):
            return
        # Sorting numbers is many times as fast as sorting rows.
        (own, first), (others, second) = (np.unique(item, return_inverse=True) for item in keys.T)
        pairs, places = np.unique(first * len(others) + second, return_inverse=True)
        self.keys = np.stack([own[pairs // len(others)], others[pairs % len(others)]], axis=1)
        self.sums = sums.grouped(places, len(pairs))

    def areas(self) -> tuple[float, float] | None:
        """Return the source's area and the candidate's; None where a class is missing.

        The share of pairs of an example of each class in which that of class 1
        scores higher; a tie counts half (D. Bamber, "The area above the ordinal
        dominance graph and the area below the receiver operating characteristic
        graph", Journal of Mathematical Psychology 12(4), 1975).
        """
        self._compact()
        if not self.counts.all():
            return None
        positive = self.sums.values()[1]
        source, candidate = (
            _dot(positive, self._placements(model)[0]) / math.fsum(positive) for model in range(2)
        )
        return source, candidate

    def area_error(self) -> float:
        """Return the bound on the error of both areas: 0 unless bits were dropped."""
        self._compact()
        if not self.shift or not self.counts.all():
            return 0.0
        ties = []
        for keys in self.keys.T:
            _, places = np.unique(keys, return_inverse=True)
            negative, positive = self.sums.grouped(places, places.max() + 1).values()[:2]
            ties.append(_dot(negative, positive) / (math.fsum(negative) * math.fsum(positive)))
        return max(ties) / 2

    def drop_interval(self) -> Interval | None:
        """Return the 95% interval of the source's area less the candidate's.

        It is that of E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the
        Areas under Two or More Correlated Receiver Operating Characteristic Curves: A
        Nonparametric Approach", Biometrics 44(3), 1988, from the placement of each example
        among those of the other class. With sample weights the means of the placements are
        weighted, and their variances those of ratios (W. G. Cochran, "Sampling Techniques",
        3rd edition, 1977, section 2.11), as for surveys; with equal weights both are the same.

        None where there are fewer than two examples of a class.
        """
        areas = self.areas()
        if areas is None or self.counts.min() < 2:
            return None
        drop = areas[0] - areas[1]
        variance = 0.0
        # Placements of examples of class 1 come first.
        of_source, of_candidate = self._placements(0), self._placements(1)
        sums = self.sums.values()
        for kind, own, other in zip((1, 0), of_source, of_candidate, strict=True):
            weights, squares = sums[kind], sums[kind + 2]
            count = int(self.counts[kind])
            residuals = _dot(squares, np.square(own - other - drop))
            variance += residuals / math.fsum(weights) ** 2 * count / (count - 1)
        half = Z_95 * math.sqrt(variance)
        return max(-1.0, drop - half), min(1.0, drop + half)

    def _placements(self, model: int) -> tuple[Values, Values]:
        """Return the placement of each pair of scores, of an example of class 1 and of class 0.

        The weighted share of the examples of the other class that the model, 0 or 1, ranks
        on the right side of it; ties count half.
        """
        _, places = np.unique(self.keys[:, model], return_inverse=True)
        negative, positive = self.sums.grouped(places, places.max() + 1).values()[:2]
        below = (np.cumsum(negative) - negative / 2) / negative.sum()
        above = 1 - (np.cumsum(positive) - positive / 2) / positive.sum()
        return below[places], above[places]


def _dot(items: Values, others: Values) -> float:
    """Return the sum of products, which with `@` depends on the number of threads."""
    return math.fsum((items * others).tolist())
