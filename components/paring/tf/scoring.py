"""Top-1 predictions of a candidate and its source, tallied into sums."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.errors import ExamplesError, UnsupportedError

_MOST_CONFUSED = 20
_CONFUSION_CLASSES = 1024
_Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Outcome:
    """What both models said about one batch of examples.

    A model with one value for each example is read in two ways at once, as a
    probability (over 0.5 is class 1) and as a logit (over 0); which of the two
    it is shows when all values have been seen. Hence the axis `readings`.

    Attributes:
        source, candidate: Class ids, int64 [readings, batch]; -1 for NaN.
        labels: int64 [batch], or None.
        classes: How many there are.
        low, high: The least and the greatest value of the source's scores.
    """

    source: NDArray[np.int64]
    candidate: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    classes: int
    low: float
    high: float


def compare(
    source: NDArray[Any], candidate: NDArray[Any], labels: NDArray[np.int64] | None
) -> Outcome:
    """The outcome of one batch.

    Args:
        source: Scores [batch, classes], or [batch, 1] or [batch] for two classes.
        candidate: Scores of the same shape.
        labels: Class ids [batch], or None.

    Raises:
        UnsupportedError: The scores are no classifier's, or the candidate has
            other classes than the source.
        ExamplesError: A label is not one of the classes.
    """
    if source.ndim not in (1, 2) or source.shape != candidate.shape:
        raise UnsupportedError(
            "the models' outputs can't be compared class by class",
            received=f"source {list(source.shape)}, candidate {list(candidate.shape)}",
            remedy="give classifiers with one output [batch, classes]",
        )
    classes = 2 if source.ndim == 1 or source.shape[1] == 1 else int(source.shape[1])
    if labels is not None and labels.size and int(labels.max()) >= classes:
        raise ExamplesError(
            "a label is not one of the model's classes",
            received=int(labels.max()),
            remedy=f"give class ids of 0 to {classes - 1}",
        )
    finite = source[np.isfinite(source)]
    return Outcome(
        _top1(source),
        _top1(candidate),
        labels,
        classes,
        float(finite.min(initial=np.inf)),
        float(finite.max(initial=-np.inf)),
    )


def _top1(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Class ids [readings, batch]; see `Outcome`."""
    rows = scores.reshape(len(scores), -1)
    broken = np.isnan(rows).any(axis=1) if rows.dtype.kind == "f" else np.zeros(len(rows), bool)
    if rows.shape[1] == 1:
        top = np.stack([rows[:, 0] > 0.5, rows[:, 0] > 0]).astype(np.int64)
    else:
        top = rows.argmax(axis=1).astype(np.int64)[np.newaxis]
    top[:, broken] = -1
    return top


@dataclass
class Tally:
    """Sums over outcomes; its size does not depend on how many there were.

    Attributes:
        count: Examples.
        labelled: Examples with a label.
        sums: For each reading, int64 [readings, 6]: both right, source right
            alone, candidate right alone, agreeing, NaN from the source, NaN
            from the candidate.
        class_sums: int64 [readings, 3, classes]: examples of the class, those
            that the source, and that the candidate got right.
        confusion: int64 [readings, classes, classes], the candidate's classes
            by label; None above 1,024 classes, where it would outgrow memory.
        low, high: The range of the source's scores.
    """

    count: int = 0
    labelled: int = 0
    sums: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 6), np.int64))
    class_sums: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3, 0), np.int64))
    confusion: NDArray[np.int64] | None = None
    low: float = math.inf
    high: float = -math.inf

    def add(self, outcome: Outcome) -> None:
        """Count one outcome in."""
        if self.count == 0:
            self._size_for(len(outcome.source), outcome.classes)
        self.count += outcome.source.shape[1]
        self.low = min(self.low, outcome.low)
        self.high = max(self.high, outcome.high)
        labels = outcome.labels
        if labels is not None:
            self.labelled += len(labels)
        for reading, (source, candidate) in enumerate(
            zip(outcome.source, outcome.candidate, strict=True)
        ):
            sums = self.sums[reading]
            sums[3] += np.count_nonzero((source == candidate) & (source >= 0))
            sums[4] += np.count_nonzero(source < 0)
            sums[5] += np.count_nonzero(candidate < 0)
            if labels is None:
                continue
            source_right, right = source == labels, candidate == labels
            sums[0] += np.count_nonzero(source_right & right)
            sums[1] += np.count_nonzero(source_right & ~right)
            sums[2] += np.count_nonzero(right & ~source_right)
            for row, chosen in enumerate((labels, labels[source_right], labels[right])):
                self.class_sums[reading, row] += np.bincount(chosen, minlength=outcome.classes)
            if self.confusion is not None:
                valid = candidate >= 0
                np.add.at(self.confusion[reading], (labels[valid], candidate[valid]), 1)

    def merge(self, other: "Tally") -> None:
        """Count all of `other` in."""
        if other.count == 0:
            return
        if self.count == 0:
            self._size_for(len(other.sums), other.class_sums.shape[2])
        self.count += other.count
        self.labelled += other.labelled
        self.sums += other.sums
        self.class_sums += other.class_sums
        if self.confusion is not None and other.confusion is not None:
            self.confusion += other.confusion
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def _size_for(self, readings: int, classes: int) -> None:
        self.sums = np.zeros((readings, 6), np.int64)
        self.class_sums = np.zeros((readings, 3, classes), np.int64)
        if classes <= _CONFUSION_CLASSES:
            self.confusion = np.zeros((readings, classes, classes), np.int64)

    def summary(self) -> dict[str, Any]:
        """The figures of evaluation.json; see the step `evaluate`."""
        # One reading, or a probability; a logit leaves the range of 0 to 1.
        reading = 0 if len(self.sums) == 1 or (self.low >= 0 and self.high <= 1) else 1
        both, source_only, candidate_only, agree, source_nan, nan = (
            int(value) for value in self.sums[reading]
        )
        found: dict[str, Any] = {
            "count": self.count,
            "accuracy": None,
            "source_accuracy": None,
            "agreement": agree / self.count,
            "accuracy_drop": None,
            "accuracy_drop_low": None,
            "accuracy_drop_high": None,
            "threshold": None if len(self.sums) == 1 else (0.5, 0.0)[reading],
            "nan_predictions": nan,
            "source_nan_predictions": source_nan,
            "classes": None,
            "most_confused": None,
        }
        if self.labelled:
            low, high = paired_interval(source_only, candidate_only, self.labelled)
            found |= {
                "accuracy": (both + candidate_only) / self.labelled,
                "source_accuracy": (both + source_only) / self.labelled,
                "accuracy_drop": (source_only - candidate_only) / self.labelled,
                "accuracy_drop_low": low,
                "accuracy_drop_high": high,
                "classes": self._classes(reading),
                "most_confused": self._most_confused(reading),
            }
        return found

    def _classes(self, reading: int) -> list[dict[str, Any]]:
        return [
            {
                "class": number,
                "count": int(count),
                "accuracy": int(right) / int(count) if count else None,
                "source_accuracy": int(source_right) / int(count) if count else None,
            }
            for number, (count, source_right, right) in enumerate(self.class_sums[reading].T)
        ]

    def _most_confused(self, reading: int) -> list[dict[str, int]] | None:
        if self.confusion is None:
            return None
        wrong = self.confusion[reading].copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [
            {"label": int(label), "predicted": int(other), "count": int(wrong[label, other])}
            for label, other in pairs
            if wrong[label, other]
        ]


def paired_interval(source_only: int, candidate_only: int, count: int) -> tuple[float, float]:
    """95% confidence interval for the drop in accuracy, source less candidate.

    Both models saw the same examples, so only those that one of them alone got
    right bear on the difference. The interval is the adjusted Wald interval of
    D. G. Bonett and R. M. Price, "Adjusted Wald Confidence Interval for a
    Difference of Binomial Proportions Based on Paired Data", Journal of
    Educational and Behavioral Statistics 37(4), 2012, which keeps its coverage
    with few discordant pairs, and has a width even with none.

    Args:
        source_only: Examples that the source alone got right.
        candidate_only: Examples that the candidate alone got right.
        count: All examples, at least 1.
    """
    lost = (source_only + 1) / (count + 2)
    won = (candidate_only + 1) / (count + 2)
    centre = lost - won
    half = _Z_95 * math.sqrt((lost + won - centre**2) / (count + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)
