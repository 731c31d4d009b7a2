"""Sums over class ids, counts or flags of two models, compared by equality."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.evaluation.scoring.classes import accuracy_interval, interval_ends, weights_of_right
from paring.evaluation.scoring.exact_sums import ExactSums
from paring.evaluation.scoring.means import Interval

_MOST_CLASSES = 1024
_MOST_CONFUSED = 20


@dataclass
class IdentifierTally:
    """Sums over integer predictions; its size is bounded however many there are.

    Attributes:
        count: Predictions.
        labelled: Predictions with a label.
        sums: [7], weights of the predictions: of all, of those with a label, and of these the
            squares; both right, source right alone, candidate right alone; equal in both models.
        classes: The labels, int64, sorted.
        class_counts: Predictions of each label, int64.
        class_sums: [3, labels], weights of the predictions: of the label, those that the
            source, and that the candidate got right.
        confusion: How often the candidate predicted another than the label, by both.
        is_bounded: Whether there are few enough labels to keep `classes` and
            `confusion`; all of them are empty otherwise.
    """

    count: int = 0
    labelled: int = 0
    sums: ExactSums = field(default_factory=lambda: ExactSums(7))
    classes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    class_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    class_sums: ExactSums = field(default_factory=lambda: ExactSums(3, 0))
    confusion: dict[tuple[int, int], int] = field(default_factory=dict)
    is_bounded: bool = True

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
        agreeing = source == candidate
        if labels is None:
            nothing = np.zeros(len(weights))
            terms = [weights, *[nothing] * 5, weights * agreeing]
            self.sums.add(np.stack(terms, axis=1))
            differing: NDArray[np.int64] = (~agreeing).astype(np.int64)
            return differing
        self.labelled += len(labels)
        source_right, right = source == labels, candidate == labels
        judged = weights_of_right(source_right, right, weights)
        terms = [weights, weights, weights * weights, *judged, weights * agreeing]
        self.sums.add(np.stack(terms, axis=1))
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
        self.count += other.count
        self.labelled += other.labelled
        self.sums.merge(other.sums)
        self.is_bounded &= other.is_bounded
        self._add_classes(other.classes, other.class_counts, other.class_sums)
        for pair, number in other.confusion.items():
            self._add_confusion(pair, number)
        self._keep_bounded()

    def scores(self) -> tuple[float, float, Interval]:
        """Return the source's and the candidate's accuracy, and the interval of the drop."""
        _, weight, squares, both, source_only, candidate_only, _ = self.sums.values().tolist()
        return (
            (both + source_only) / weight,
            (both + candidate_only) / weight,
            accuracy_interval(source_only, candidate_only, weight=weight, squares=squares),
        )

    def summary(self) -> dict[str, Any]:
        """Return the figures of evaluation.json that are of classes; see the step `evaluate`."""
        weight, labelled_weight, _, _, source_only, candidate_only, agreeing = (
            self.sums.values().tolist()
        )
        result: dict[str, Any] = {
            "agreement": agreeing / weight,
            "nan_predictions": 0,
            "source_nan_predictions": 0,
        }
        if self.labelled:
            source, candidate, interval = self.scores()
            result |= {"accuracy": candidate, "source_accuracy": source}
            result |= {"accuracy_drop": (source_only - candidate_only) / labelled_weight}
            result |= interval_ends("accuracy_drop", interval)
        if self.labelled and self.is_bounded:
            figures = np.column_stack([self.classes, self.class_counts]).tolist()
            result["classes"] = [
                {
                    "class": label,
                    "count": count,
                    "accuracy": right / weight,
                    "source_accuracy": source_right / weight,
                }
                for (label, count), (weight, source_right, right) in zip(
                    figures, self.class_sums.values().T.tolist(), strict=True
                )
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
        """Count in what each model got right of each label."""
        ids, places = np.unique(labels.astype(np.int64), return_inverse=True)
        terms = ExactSums.of(np.stack([weights, weights * source_right, weights * right]))
        self._add_classes(ids, np.bincount(places), terms.grouped(places, len(ids)))

    def _add_classes(
        self, labels: NDArray[np.int64], counts: NDArray[np.int64], sums: ExactSums
    ) -> None:
        """Add the figures of each of these labels."""
        if not len(labels):
            return
        both = np.concatenate([self.classes, labels])
        self.classes, places = np.unique(both, return_inverse=True)
        numbers = np.concatenate([self.class_counts, counts])
        self.class_counts = np.zeros(len(self.classes), np.int64)
        np.add.at(self.class_counts, places, numbers)
        merged = ExactSums.concatenate([self.class_sums, sums])
        self.class_sums = merged.grouped(places, len(self.classes))

    def _add_confusion(self, pair: tuple[int, int], number: int) -> None:
        self.confusion[pair] = self.confusion.get(pair, 0) + number

    def _keep_bounded(self) -> None:
        """Drop what would outgrow memory, as for counts, whose values are many."""
        if len(self.classes) > _MOST_CLASSES or len(self.confusion) > _MOST_CLASSES**2:
            self.is_bounded = False
        if not self.is_bounded:
            self.classes = self.class_counts = np.zeros(0, np.int64)
            self.class_sums = ExactSums(3, 0)
            self.confusion.clear()
