"""The area under the ROC curve, from counts of scores."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_MOST_KEYS = 2**20
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
class Ranks:
    """Counts of each score over the examples of class 0 and of class 1.

    Exact up to 2**20 different scores. Beyond, neighbouring ones are counted as
    one, so that memory stays bounded: the lowest bits of the keys are dropped,
    as many as it takes. What is left does not depend on the order of merges.

    Attributes:
        keys: Sorted, without the dropped bits.
        counts: float64 [2, keys]: examples of class 0, and of class 1, by their weights.
        shift: Bits that were dropped.
    """

    keys: Keys = field(default_factory=lambda: np.zeros(0, np.uint64))
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 0)))
    shift: int = 0
    _pending: list[tuple[Keys, NDArray[np.float64]]] = field(default_factory=list)
    _pending_keys: int = 0

    def add(
        self,
        keys: Keys,
        positive: NDArray[np.bool_],
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Count examples in; see `score_keys`. Without weights [n] each counts 1."""
        counts = np.stack([~positive, positive]).astype(np.float64)
        if weights is not None:
            counts *= weights
        self._append(keys >> np.uint64(self.shift), counts)

    def merge(self, other: "Ranks") -> None:
        """Count all of `other` in."""
        if other.shift > self.shift:
            self._drop_bits(other.shift - self.shift)
        behind = np.uint64(self.shift - other.shift)
        for keys, counts in ((other.keys, other.counts), *other._pending):
            self._append(keys >> behind, counts)

    def _append(self, keys: Keys, counts: NDArray[np.float64]) -> None:
        self._pending.append((keys, counts))
        self._pending_keys += len(keys)
        # Sorting each batch in by itself would take far longer.
        if self._pending_keys > max(len(self.keys), _MOST_KEYS // 8):
            self.compact()

    def compact(self) -> None:
        """Sort in what waits, and drop bits where there are too many keys."""
        everything = [(self.keys, self.counts), *self._pending]
        self._pending, self._pending_keys = [], 0
        self._count(
            np.concatenate([keys for keys, _ in everything]),
            np.concatenate([counts for _, counts in everything], axis=1),
        )
        while len(self.keys) > _MOST_KEYS:
            self._drop_bits(1)

    def _drop_bits(self, bits: int) -> None:
        self.shift += bits
        waiting = self._pending
        self._pending = [(keys >> np.uint64(bits), counts) for keys, counts in waiting]
        self._count(self.keys >> np.uint64(bits), self.counts)

    def _count(self, keys: Keys, counts: NDArray[np.float64]) -> None:
        self.keys, places = np.unique(keys, return_inverse=True)
        self.counts = np.zeros((2, len(self.keys)))
        for total, part in zip(self.counts, counts, strict=True):
            np.add.at(total, places, part)

    def area(self) -> tuple[float, float] | None:
        """Return the area, and by how much it may be off; None where a class is missing.

        The share of pairs of an example of each class in which that of class 1
        scores higher; a tie counts half (D. Bamber, "The area above the ordinal
        dominance graph and the area below the receiver operating characteristic
        graph", Journal of Mathematical Psychology 12(4), 1975).
        """
        self.compact()
        negative, positive = self.counts
        pairs = float(negative.sum() * positive.sum())
        if not pairs:
            return None
        below = np.cumsum(negative) - negative
        tied = float(positive @ negative)
        area = (float(positive @ below) + tied / 2) / pairs
        return area, tied / 2 / pairs if self.shift else 0.0
