"""Sums over class ids, counts or flags of two models, compared by equality."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.evaluation.scoring.classes import accuracy_interval, interval_ends
from paring.evaluation.scoring.means import Interval

_MOST_CLASSES = 1024
_MOST_CONFUSED = 20
_SUMS = (
    *("count", "weight", "labelled_weight", "labelled_squares"),
    *("agreeing", "both", "source_only", "candidate_only"),
)


@dataclass
class IdentifierTally:
    """Sums over integer predictions; its size is bounded however many there are.

    Attributes:
        count: Predictions.
        weight: Their weights in sum.
        labelled_weight, labelled_squares: The weights of predictions with a label in sum, and
            the sum of their squares.
        agreeing: Weight of the predictions that are equal in both models.
        both, source_only, candidate_only: Weight of the predictions that equal their label.
        classes: For each label: its count, its weight, and the weight of those that the
            source, and that the candidate predicted.
        confusion: How often the candidate predicted another than the label, by both.
        is_bounded: Whether there are few enough labels to keep `classes` and
            `confusion`; both are empty otherwise.
    """

    count: int = 0
    weight: float = 0.0
    labelled_weight: float = 0.0
    labelled_squares: float = 0.0
    agreeing: float = 0.0
    both: float = 0.0
    source_only: float = 0.0
    candidate_only: float = 0.0
    classes: dict[int, list[float]] = field(default_factory=dict)
    confusion: dict[tuple[int, int], int] = field(default_factory=dict)
    is_bounded: bool = True

    @property
    def labelled(self) -> bool:
        """Return whether any prediction has a label."""
        return self.labelled_weight > 0

    def add(
        self,
        source: NDArray[Any],
        candidate: NDArray[Any],
        *,
        labels: NDArray[Any] | None,
        weights: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Count predictions in; all [predictions], labels or None.

        Returns:
            1 where the source alone equals the label, -1 where the candidate alone does,
            int64 [predictions]; without labels 1 where they differ.
        """
        self.count += len(source)
        self.weight += float(weights.sum())
        self.agreeing += float(weights[source == candidate].sum())
        if labels is None:
            differing: NDArray[np.int64] = (source != candidate).astype(np.int64)
            return differing
        self.labelled_weight += float(weights.sum())
        self.labelled_squares += float(weights @ weights)
        source_right, right = source == labels, candidate == labels
        self.both += float(weights[source_right & right].sum())
        self.source_only += float(weights[source_right & ~right].sum())
        self.candidate_only += float(weights[right & ~source_right].sum())
        self._count_classes(labels, source_right, right, weights)
        wrong = ~right
        pairs = np.stack([labels[wrong], candidate[wrong]], axis=1).astype(np.int64)
        for pair, number in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
            self._add_confusion((int(pair[0]), int(pair[1])), int(number))
        self._keep_bounded()
        lost: NDArray[np.int64] = source_right.astype(int) - right
        return lost

    def merge(self, other: "IdentifierTally") -> None:
        """Count all of `other` in."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.is_bounded &= other.is_bounded
        for label, counts in other.classes.items():
            self._add_class(label, counts)
        for pair, number in other.confusion.items():
            self._add_confusion(pair, number)
        self._keep_bounded()

    def scores(self) -> tuple[float, float, Interval]:
        """Return the source's and the candidate's accuracy, and the interval of the drop."""
        return (
            (self.both + self.source_only) / self.labelled_weight,
            (self.both + self.candidate_only) / self.labelled_weight,
            accuracy_interval(
                self.source_only,
                self.candidate_only,
                weight=self.labelled_weight,
                squares=self.labelled_squares,
            ),
        )

    def summary(self) -> dict[str, Any]:
        """Return the figures of evaluation.json that are of classes; see the step `evaluate`."""
        result: dict[str, Any] = {
            "agreement": self.agreeing / self.weight,
            "nan_predictions": 0,
            "source_nan_predictions": 0,
        }
        if self.labelled:
            source, candidate, interval = self.scores()
            result |= {"accuracy": candidate, "source_accuracy": source}
            drop = (self.source_only - self.candidate_only) / self.labelled_weight
            result |= {"accuracy_drop": drop}
            result |= interval_ends("accuracy_drop", interval)
        if self.labelled and self.is_bounded:
            result["classes"] = [
                {
                    "class": label,
                    "count": int(count),
                    "accuracy": right / weight,
                    "source_accuracy": source_right / weight,
                }
                for label, (count, weight, source_right, right) in sorted(self.classes.items())
            ]
            order = sorted(self.confusion.items(), key=lambda item: (-item[1], item[0]))
            result["most_confused"] = [
                {"label": label, "predicted": predicted, "count": count}
                for (label, predicted), count in order[:_MOST_CONFUSED]
            ]
        return result

    def _count_classes(
        self,
        labels: NDArray[Any],
        source_right: NDArray[Any],
        right: NDArray[Any],
        weights: NDArray[np.float64],
    ) -> None:
        ids, places = np.unique(labels, return_inverse=True)
        columns = [
            np.bincount(places, item, minlength=len(ids))
            for item in (None, weights, weights * source_right, weights * right)
        ]
        for label, *counts in zip(ids, *columns, strict=True):
            self._add_class(int(label), [float(count) for count in counts])

    def _add_class(self, label: int, counts: list[float]) -> None:
        known = self.classes.get(label, [0.0] * len(counts))
        self.classes[label] = [item + more for item, more in zip(known, counts, strict=True)]

    def _add_confusion(self, pair: tuple[int, int], number: int) -> None:
        self.confusion[pair] = self.confusion.get(pair, 0) + number

    def _keep_bounded(self) -> None:
        """Drop what would outgrow memory, as for counts, whose values are many."""
        if len(self.classes) > _MOST_CLASSES or len(self.confusion) > _MOST_CLASSES**2:
            self.is_bounded = False
        if not self.is_bounded:
            self.classes.clear()
            self.confusion.clear()
