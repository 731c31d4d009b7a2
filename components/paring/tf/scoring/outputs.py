"""One output of two models: what is made of it, and what it scores."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paring.errors import ExamplesError, ParameterError, UnsupportedError
from paring.metrics import AGREEMENT, TOKEN_AGREEMENT, VALUE_AGREEMENT, Metric
from paring.tf.scoring.classes import ClassTally
from paring.tf.scoring.means import Interval, TokenSums
from paring.tf.scoring.values import ValueTally

# The first one is what auto stands for.
_OF_CLASSES: tuple[str, ...] = ("top_1", "top_k", "auc")
_OF_TOKENS: tuple[str, ...] = ("token_accuracy",)
_OF_VALUES: tuple[str, ...] = ("rmse", "mae")
_ROUNDING = 1e-3
"""By how much the sum of one row of probabilities may differ from 1."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Scoring:
    """How an output is scored.

    Attributes:
        reads: "classes" takes the last axis as scores, of the whole example or
            of each token; "values" takes numbers; "either" finds out: outputs
            that are probabilities throughout are classes.
        metric: As selection.json names it; "" without labels.
        top_k: For the metric top_k of that; else 0.
    """

    reads: Literal["classes", "values", "either"]
    metric: str = ""
    top_k: int = 0

    @classmethod
    def of(cls, metric: str, top_k: int, labels: Array | None) -> "Scoring":
        """The scoring that goes with `metric` and the kind of the labels.

        Args:
            metric: One of `paring.metrics.NAMES`; auto goes by the labels.
            top_k: For the metric top_k.
            labels: Integers [count] are classes, integers [count, ...] tokens,
                floats values; or None.

        Raises:
            ParameterError: The metric is none for labels of that kind.
        """
        if labels is None:
            if metric == "auto":
                return cls("either")
            return cls("values" if metric in _OF_VALUES else "classes")
        if labels.dtype.kind == "f":
            kind, fitting = "floating-point numbers", _OF_VALUES
        elif labels.ndim > 1:
            kind, fitting = "one class id for each token", _OF_TOKENS
        else:
            kind, fitting = "one class id for each example", _OF_CLASSES
        if metric == "auto":
            metric = fitting[0]
        if metric not in fitting:
            raise ParameterError(
                f"metric: {metric} does not go with these labels",
                received=f"labels of {kind}, {labels.dtype} {list(labels.shape)}",
                remedy=f"take {' or '.join(fitting)}, or auto",
            )
        if metric == "top_k" and top_k > 1:
            return cls("classes", f"top_{top_k}", top_k)
        reads: Literal["classes", "values"] = "values" if fitting is _OF_VALUES else "classes"
        return cls(reads, "top_1" if metric == "top_k" else metric)


@dataclass(frozen=True)
class Scored:
    """What an output, or the user's function, came to.

    Attributes:
        metric: Which score it is.
        source, score: The source's, and the candidate's.
        interval: 95% interval of the drop; None where there is none.
    """

    metric: Metric
    source: float
    score: float
    interval: Interval | None = None

    def summary(self) -> dict[str, Any]:
        """Its figures in evaluation.json.

        Raises:
            UnsupportedError: The drop is relative to a score that is not above 0.
        """
        if self.metric.is_relative and self.source <= 0:
            raise UnsupportedError(
                f"the source's {self.metric.label} is not above 0, so no share of it can be lost",
                received=self.source,
                remedy="take another metric, or leave out labels that are the source's own outputs",
            )
        low, high = self.interval or (None, None)
        return {
            "metric": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "score": self.score,
            "source_score": self.source,
            "drop": self.metric.drop(self.source, self.score),
            "drop_low": low,
            "drop_high": high,
        }


@dataclass
class OutputTally:
    """Sums over examples; its size does not depend on how many there were.

    Attributes:
        scoring: How the output is scored.
        count: Examples.
        of_tokens: Whether it has an axis between the examples' and the last.
        probable: Whether all of the source's values so far are probabilities.
        classes, values: One, or of "either" both, of these are counted.
        tokens: For each reading of `classes`; empty where it has no tokens.
    """

    scoring: Scoring
    count: int = 0
    of_tokens: bool = False
    probable: bool = True
    classes: ClassTally = field(default_factory=ClassTally)
    values: ValueTally = field(default_factory=ValueTally)
    tokens: list[TokenSums] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.classes.top_k = self.scoring.top_k
        self.classes.ranked = self.scoring.metric == "auc"

    def add(self, source: Array, candidate: Array, labels: Array | None) -> None:
        """Count a batch in.

        Args:
            source: The output [batch, ...] of the source.
            candidate: That of the candidate, of the same shape.
            labels: Integers [batch], or [batch, ...] as the output without its
                last axis, those below 0 padding; floats of the output's shape;
                or None.

        Raises:
            UnsupportedError: The outputs' shapes differ, or they hold no numbers.
            ExamplesError: The labels are of another shape, or no classes of the
                model.
            ParameterError: See `ClassTally.add`.
        """
        numbers = source.dtype.kind in "biuf" and candidate.dtype.kind in "biuf"
        if source.ndim == 0 or source.shape != candidate.shape or not numbers:
            shapes = [f"{list(one.shape)}" + ("" if numbers else f" {one.dtype}")
                      for one in (source, candidate)]  # fmt: skip
            raise UnsupportedError(
                "the models' outputs can't be compared example by example",
                received=f"source {shapes[0]}, candidate {shapes[1]}",
                remedy="give models with the same outputs, of numbers [batch, ...]",
            )
        self.count += len(source)
        if self.scoring.reads != "classes":
            self._add_values(source, candidate, labels)
        if self.scoring.reads != "values":
            self._add_classes(source, candidate, labels)

    def merge(self, other: "OutputTally") -> None:
        """Count all of `other` in."""
        if self.count == 0:
            self.of_tokens = other.of_tokens
            self.tokens = [TokenSums() for _ in other.tokens]
        self.count += other.count
        self.probable &= other.probable
        self.classes.merge(other.classes)
        self.values.merge(other.values)
        for total, part in zip(self.tokens, other.tokens, strict=True):
            total.merge(part)

    def _add_values(self, source: Array, candidate: Array, labels: Array | None) -> None:
        rows = [one.reshape(len(one), -1).astype(np.float64) for one in (source, candidate)]
        wanted = None
        if labels is not None:
            if labels.size != source.size:
                raise _other_shape(labels, source, list(source.shape))
            wanted = labels.reshape(len(labels), -1).astype(np.float64)
        self.values.add(rows[0], rows[1], wanted)

    def _add_classes(self, source: Array, candidate: Array, labels: Array | None) -> None:
        places = source.shape[:-1] if source.ndim > 1 else source.shape
        classes = source.shape[-1] if source.ndim > 1 else 1
        if labels is not None and labels.shape != places:
            raise _other_shape(labels, source, list(places))
        rows, others = source.reshape(-1, classes), candidate.reshape(-1, classes)
        self.of_tokens = source.ndim > 2
        if self.scoring.reads == "either":
            self.probable &= _are_probabilities(rows)
        if not self.of_tokens or labels is None:
            self.classes.add(rows, others, labels)
            return
        flat = labels.reshape(-1)
        real = flat >= 0
        lost = self.classes.add(rows[real], others[real], flat[real])
        if lost is None:
            raise TypeError("rows with labels have no losses")
        if not self.tokens:
            self.tokens = [TokenSums() for _ in lost]
        tokens = real.reshape(len(source), -1).sum(axis=1).astype(np.float64)
        for sums, one in zip(self.tokens, lost, strict=True):
            spread = np.zeros(len(flat))
            spread[real] = one
            sums.add(spread.reshape(len(source), -1).sum(axis=1), tokens)

    @property
    def _is_of_values(self) -> bool:
        reads = self.scoring.reads
        return reads == "values" or (reads == "either" and not self.probable)

    def scored(self) -> Scored:
        """The scores of the output.

        Raises:
            ExamplesError: There is no label that is not padding, or see
                `ClassTally.scores`.
            UnsupportedError: An error of NaN; see `ValueTally.check`.
        """
        metric = self.scoring.metric
        if self._is_of_values:
            self.values.check()
            if metric:
                return Scored(Metric.named(metric), *self.values.scores(metric))
            return Scored(Metric.named(VALUE_AGREEMENT), 1.0, self.values.agreement())
        if not metric:
            agreement = self.classes.summary()["agreement"]
            name = TOKEN_AGREEMENT if self.of_tokens else AGREEMENT
            return Scored(Metric.named(name), 1.0, agreement)
        if not self.classes.labelled:
            raise ExamplesError(
                "all labels of the eval split are padding",
                received="no label of 0 or more",
                remedy="give the class id of each token that counts",
            )
        if metric != "token_accuracy":
            return Scored(Metric.named(metric), *self.classes.scores(metric))
        source, score, _ = self.classes.scores("top_1")
        interval = self.tokens[self.classes.reading].interval()
        return Scored(Metric.named(metric), source, score, interval)

    def summary(self) -> dict[str, Any]:
        """Its figures in evaluation.json, without those of `scored`."""
        if self._is_of_values:
            return self.values.summary()
        found = self.classes.summary()
        if self.of_tokens:
            found["tokens"] = self.classes.count
        if self.tokens:
            low, high = self.tokens[self.classes.reading].interval() or (None, None)
            found |= {"accuracy_drop_low": low, "accuracy_drop_high": high}
        if self.scoring.metric == "auc":
            found["score_error"] = self.classes.area_error()
        return found


def _other_shape(labels: Array, output: Array, wanted: list[int]) -> ExamplesError:
    return ExamplesError(
        "the labels have another shape than the model's output asks for",
        received=f"labels {list(labels.shape)}, output {list(output.shape)}",
        remedy=f"give labels of shape {wanted} for such a batch",
    )


def _are_probabilities(rows: Array) -> bool:
    """Whether each row is a distribution, or a single value from 0 to 1."""
    within = bool(((rows >= 0) & (rows <= 1)).all())
    if rows.shape[1] == 1 or not within:
        return within
    sums = rows.sum(axis=1, dtype=np.float64)
    return bool((np.abs(sums - 1) <= _ROUNDING).all())
