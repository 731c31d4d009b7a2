"""Sums over the classes that two models predict."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.errors import ExamplesError, ParameterError, UnsupportedError
from paring.evaluation.scoring.exact_sums import ExactSums
from paring.evaluation.scoring.means import Z_95, Interval
from paring.evaluation.scoring.ranks import PairedRanks

_MOST_CONFUSED = 20
_CONFUSION_CLASSES = 1024

Values = NDArray[np.float64]


@dataclass
class ClassTally:
    """Sums over rows of scores; its size does not depend on how many there were.

    Attributes:
        threshold: Of a model with one value for each row: class 1 is what lies over it.
        top_k: A label among the k highest scores is right, in `top_sums`; 0 to
            count none.
        ranked: Whether `ranks` are counted, of two classes.
        count: Rows.
        labelled: Rows with a label.
        sums: [7], weights of the rows: of all, of those with a label, and of these the
            squares; both right, source right alone, candidate right alone, agreeing.
        broken: Rows with NaN from the source, and from the candidate.
        class_counts: int64 [classes]: rows of the class.
        class_sums: [3, classes], weights of the rows: of the class, those that the
            source, and that the candidate got right.
        confusion: How often the candidate took one class for another, by
            label * classes + class; none above 1,024 classes, where it would
            outgrow memory.
        top_sums: [3], both right, source right alone, candidate right alone.
        ranks: Both models' scores.
        single: Whether there is one value for each row.
    """

    threshold: float = 0.5
    top_k: int = 0
    ranked: bool = False
    count: int = 0
    labelled: int = 0
    sums: ExactSums = field(default_factory=lambda: ExactSums(7))
    broken: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    class_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    class_sums: ExactSums = field(default_factory=lambda: ExactSums(3, 0))
    confusion: dict[int, int] = field(default_factory=dict)
    top_sums: ExactSums = field(default_factory=lambda: ExactSums(3))
    ranks: PairedRanks = field(default_factory=PairedRanks)
    single: bool = False

    @property
    def classes(self) -> int:
        """Number of classes; 0 before the first row."""
        return self.class_sums.shape[1]

    def add(
        self,
        source: NDArray[Any],
        candidate: NDArray[Any],
        *,
        labels: NDArray[np.int64] | None,
        weights: Values | None = None,
    ) -> NDArray[np.int64]:
        """Count rows in.

        Args:
            source: Scores [rows, classes], or [rows, 1] for two classes.
            candidate: Scores of the same shape.
            labels: Class ids [rows], or None.
            weights: How much each row counts, float64 [rows]; 1 if left out.

        Returns:
            What the candidate lost of each row, int64 [rows]: 1 where the source
            alone is right, -1 where the candidate alone is; without labels 1 where they
            don't agree.

        Raises:
            ExamplesError: A label is not one of the classes.
            ParameterError: top_k is no fewer than there are classes.
            UnsupportedError: Ranks of more than two classes are requested.
        """
        classes = 2 if source.shape[1] == 1 else source.shape[1]
        if self.count == 0:
            self.single = source.shape[1] == 1
            self.class_counts = np.zeros(classes, np.int64)
            self.class_sums = ExactSums(3, classes)
        self._check(classes, labels)
        if weights is None:
            weights = np.ones(len(source))
        self.count += len(source)
        top, other = self._top_1(source), self._top_1(candidate)
        agreeing = (top == other) & (top >= 0)
        self.broken += [np.count_nonzero(top < 0), np.count_nonzero(other < 0)]
        if labels is None:
            nothing = np.zeros(len(weights))
            terms = [weights, *[nothing] * 5, weights * agreeing]
            self.sums.add(np.stack(terms, axis=1))
            differing: NDArray[np.int64] = (~agreeing).astype(np.int64)
            return differing
        self.labelled += len(labels)
        source_right, right = top == labels, other == labels
        judged = weights_of_right(source_right, right, weights)
        terms = [weights, weights, weights * weights, *judged, weights * agreeing]
        self.sums.add(np.stack(terms, axis=1))
        self._count_classes(labels, source_right, right, weights)
        self._count_confusion(other, labels)
        if self.top_k:
            judged = weights_of_right(
                _in_top_k(source, labels, self.top_k),
                _in_top_k(candidate, labels, self.top_k),
                weights,
            )
            self.top_sums.add(np.stack(judged, axis=1))
        if self.ranked:
            scores, others = _score_of_class_1(source), _score_of_class_1(candidate)
            self.ranks.add(scores, others, positive=labels == 1, weights=weights)
        lost: NDArray[np.int64] = source_right.astype(int) - right
        return lost

    def merge(self, other: "ClassTally") -> None:
        """Count all of `other` in."""
        if other.count == 0:
            return
        if self.count == 0:
            self.single, self.class_sums = other.single, ExactSums(*other.class_sums.shape)
            self.class_counts = np.zeros_like(other.class_counts)
        self.count += other.count
        self.labelled += other.labelled
        self.sums.merge(other.sums)
        self.broken += other.broken
        self.class_counts += other.class_counts
        self.class_sums.merge(other.class_sums)
        self.top_sums.merge(other.top_sums)
        for pair, number in other.confusion.items():
            self.confusion[pair] = self.confusion.get(pair, 0) + number
        self.ranks.merge(other.ranks)

    def _check(self, classes: int, labels: NDArray[np.int64] | None) -> None:
        if labels is not None and labels.size and int(labels.max()) >= classes:
            raise ExamplesError(
                "a label is not one of the model's classes",
                received=int(labels.max()),
                remedy=f"give class ids of 0 to {classes - 1}",
            )
        if self.top_k >= classes:
            raise ParameterError(
                f"top_k: of {classes} classes each is among the highest {self.top_k}",
                received=self.top_k,
                remedy=f"give a top_k of 1 to {classes - 1}, or metric top_1",
            )
        if self.ranked and classes != 2:
            raise UnsupportedError(
                "metric auc is that of two classes",
                received=f"{classes} classes",
                remedy="use top_1 or top_k, or a function of your own",
            )

    def _count_classes(
        self,
        labels: NDArray[np.int64],
        source_right: NDArray[np.bool_],
        right: NDArray[np.bool_],
        weights: Values,
    ) -> None:
        """Count in what each model got right of each class."""
        self.class_counts += np.bincount(labels, minlength=self.classes)
        terms = ExactSums.of(np.stack([weights, weights * source_right, weights * right]))
        self.class_sums.merge(terms.grouped(labels, self.classes))

    def _count_confusion(self, other: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        """Count in the classes that the candidate took for others."""
        if self.classes > _CONFUSION_CLASSES:
            return
        wrong = (other != labels) & (other >= 0)
        pairs, numbers = np.unique(labels[wrong] * self.classes + other[wrong], return_counts=True)
        for pair, number in zip(pairs.tolist(), numbers.tolist(), strict=True):
            self.confusion[pair] = self.confusion.get(pair, 0) + number

    def _top_1(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """Return the class ids [rows]; -1 for NaN."""
        if scores.shape[1] == 1:
            top = (scores[:, 0] > self.threshold).astype(np.int64)
        else:
            top = scores.argmax(axis=1).astype(np.int64)
        top[_broken(scores)] = -1
        return top

    def scores(self, metric: str) -> tuple[float, float, Interval | None]:
        """Return the source's and the candidate's score, and the interval of the drop.

        Args:
            metric: top_1, auc, or top_ and `top_k`.

        Raises:
            ExamplesError: All labels are of one class, and auc is requested.
        """
        if metric == "auc":
            areas = self.ranks.areas()
            if areas is None:
                raise ExamplesError(
                    "metric auc needs labels of both classes in the eval split",
                    received="labels of one class alone",
                    remedy="give examples of both, or use metric top_1",
                )
            return *areas, self.ranks.drop_interval()
        _, weight, squares, *judged, _ = self.sums.values().tolist()
        if metric != "top_1":
            judged = self.top_sums.values().tolist()
        both, source_only, candidate_only = judged
        return (
            (both + source_only) / weight,
            (both + candidate_only) / weight,
            accuracy_interval(source_only, candidate_only, weight=weight, squares=squares),
        )

    def summary(self) -> dict[str, Any]:
        """Return the figures of evaluation.json that are of classes; see the step `evaluate`."""
        source_nan, nan = (int(value) for value in self.broken)
        sums = self.sums.values().tolist()
        result: dict[str, Any] = {
            "agreement": sums[-1] / sums[0],
            "threshold": self.threshold if self.single else None,
            "nan_predictions": nan,
            "source_nan_predictions": source_nan,
        }
        if self.labelled:
            source, candidate, interval = self.scores("top_1")
            result |= {"accuracy": candidate, "source_accuracy": source}
            result |= {
                "accuracy_drop": self._accuracy_drop(),
                **interval_ends("accuracy_drop", interval),
            }
            result |= {"classes": self._classes(), "most_confused": self._most_confused()}
        return result

    def _accuracy_drop(self) -> float:
        _, weight, _, _, source_only, candidate_only, _ = self.sums.values().tolist()
        return float((source_only - candidate_only) / weight)

    def _classes(self) -> list[dict[str, Any]]:
        return [
            {
                "class": number,
                "count": int(count),
                "accuracy": float(right / weight) if count else None,
                "source_accuracy": float(source_right / weight) if count else None,
            }
            for number, (count, (weight, source_right, right)) in enumerate(
                zip(self.class_counts, self.class_sums.values().T, strict=True)
            )
        ]

    def _most_confused(self) -> list[dict[str, int]] | None:
        if self.classes > _CONFUSION_CLASSES:
            return None
        counted = self.confusion
        order = sorted(counted, key=lambda pair: (-counted[pair], pair))
        return [
            {
                "label": pair // self.classes,
                "predicted": pair % self.classes,
                "count": counted[pair],
            }
            for pair in order[:_MOST_CONFUSED]
        ]


def interval_ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return the figures NAME_low and NAME_high of evaluation.json, null without an interval."""
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _broken(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of the rows that hold NaN; bool [rows]."""
    if scores.dtype.kind != "f":
        return np.zeros(len(scores), bool)
    broken: NDArray[np.bool_] = np.isnan(scores).any(axis=1)
    return broken


def _in_top_k(scores: NDArray[Any], labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Return whether each label's score is among the k highest; of equals the first counts."""
    own = scores[np.arange(len(scores)), labels][:, np.newaxis]
    earlier = np.arange(scores.shape[1]) < labels[:, np.newaxis]
    place = np.count_nonzero((scores > own) | ((scores == own) & earlier), axis=1)
    result: NDArray[np.bool_] = (place < k) & ~_broken(scores)
    return result


def _score_of_class_1(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return scores whose order is that of the model's confidence in class 1."""
    values = scores.astype(np.float64)
    if values.shape[1] == 1:
        return values[:, 0]
    # Of probabilities and of logits alike.
    difference: NDArray[np.float64] = values[:, 1] - values[:, 0]
    return difference


def weights_of_right(
    source: NDArray[np.bool_], candidate: NDArray[np.bool_], weights: Values
) -> list[Values]:
    """Return the weights of what both, the source alone, and the candidate alone got right."""
    return [
        weights * which for which in (source & candidate, source & ~candidate, candidate & ~source)
    ]


def accuracy_interval(
    source_only: float, candidate_only: float, *, weight: float, squares: float | None = None
) -> Interval:
    """Return the 95% confidence interval for the drop in accuracy, source less candidate.

    Both models saw the same examples, so only those that one of them alone got
    right bear on the difference. The interval is the adjusted Wald interval of
    D. G. Bonett and R. M. Price, "Adjusted Wald Confidence Interval for a
    Difference of Binomial Proportions Based on Paired Data", Journal of
    Educational and Behavioral Statistics 37(4), 2012, which keeps its coverage
    with few discordant pairs, and has a width even with none. With sample weights the
    shares count as those of as many examples as the weights are worth, the square of their
    sum over the sum of their squares (L. Kish, "Survey Sampling", 1965, section 8.2).

    Args:
        source_only: Weight of the examples that the source alone got right.
        candidate_only: Weight of the examples that the candidate alone got right.
        weight: The weights of all examples in sum, above 0.
        squares: The sum of the weights' squares; left out where all weights are 1.
    """
    scale = 1.0 if squares is None else weight / squares
    count = weight * scale
    lost = (source_only * scale + 1) / (count + 2)
    won = (candidate_only * scale + 1) / (count + 2)
    centre = lost - won
    half = Z_95 * math.sqrt((lost + won - centre**2) / (count + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)
