"""Scoring of one output of two models."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paring.data.columns import are_flags, are_one_hot, one_hot_ids
from paring.errors import ExamplesError, ParameterError, UnsupportedError
from paring.evaluation.metrics import AGREEMENT, TOKEN_AGREEMENT, VALUE_AGREEMENT, Metric
from paring.evaluation.scoring.classes import ClassTally, interval_ends
from paring.evaluation.scoring.identifiers import IdentifierTally
from paring.evaluation.scoring.means import Interval, ShareSums, TokenSums
from paring.evaluation.scoring.values import ValueTally

# The first one is what auto stands for.
_OF_CLASSES: tuple[str, ...] = ("top_1", "top_k", "auc")
_OF_TOKENS: tuple[str, ...] = ("token_accuracy",)
_OF_VALUES: tuple[str, ...] = ("rmse", "mae")
_ROUNDING = 1e-3
"""By how much the sum of one row of probabilities may differ from 1."""

_NO_INTERVAL = (
    "that of a share of variance takes the covariances of all values, which are not summed up"
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Threshold:
    """Value from which an output of one value for each row is class 1, not 0.

    Attributes:
        value: 0.5 of a probability, 0 of a logit.
        origin: How it was found, for people.
    """

    value: float = 0.5
    origin: str = "assumed"

    @property
    def is_of_probabilities(self) -> bool:
        """True if the output's values are probabilities, not logits."""
        return self.value == 0.5


@dataclass(frozen=True)
class Scoring:
    """Kind, metric and threshold by which an output is scored.

    Attributes:
        reads: "classes" takes the last axis as scores, of the whole example or
            of each token; "values" takes numbers; "either" finds out: outputs
            that are probabilities throughout are classes. Integers are class ids
            themselves, unless the labels show that they are scores or values.
        metric: As selection.json names it; "" without labels.
        top_k: For the metric top_k of that; else 0.
        threshold: For an output of one value for each example or token.
        one_hot: Whether the labels are one-hot rows of classes.
    """

    reads: Literal["classes", "values", "either"]
    metric: str = ""
    top_k: int = 0
    threshold: Threshold = Threshold()
    one_hot: bool = False

    @classmethod
    def of(
        cls,
        metric: str,
        top_k: int,
        *,
        labels: Array | None,
        threshold: Threshold | None = None,
    ) -> "Scoring":
        """Return the scoring that goes with `metric` and the kind of the labels.

        Args:
            metric: One of `paring.evaluation.metrics.NAMES`; auto chooses by the labels.
            top_k: For the metric top_k.
            labels: Integers [count] are classes, integers [count, ...] tokens. Floats
                are values, with two exceptions: zeros and ones of an output whose single
                values are probabilities are classes, and so are one-hot rows of any
                other. None where there are no labels.
            threshold: Of an output whose single values stand for two classes.

        Raises:
            ParameterError: The metric is none for labels of that kind.
        """
        limit = threshold or Threshold()
        if labels is None:
            if metric == "auto":
                return cls("either", threshold=limit)
            return cls("values" if metric in _OF_VALUES else "classes", threshold=limit)
        probable = threshold is not None and threshold.is_of_probabilities
        floats = labels.dtype.kind == "f" and metric not in _OF_VALUES
        of_flags = floats and probable and are_flags(labels)
        one_hot = floats and not probable and are_one_hot(labels)
        if labels.dtype.kind == "f" and not of_flags and not one_hot:
            kind, fitting = "floating-point numbers", _OF_VALUES
        elif labels.ndim > (2 if one_hot else 1):
            kind, fitting = "one class id for each token", _OF_TOKENS
        else:
            kind, fitting = "one class id for each example", _OF_CLASSES
        if metric == "auto":
            metric = fitting[0]
        if metric not in fitting:
            raise ParameterError(
                f"metric: {metric} does not go with these labels",
                received=f"labels of {kind}, {labels.dtype} {list(labels.shape)}",
                remedy=f"use {' or '.join(fitting)}, or auto",
            )
        if metric == "top_k" and top_k > 1:
            return cls("classes", f"top_{top_k}", top_k, limit, one_hot)
        reads: Literal["classes", "values"] = "values" if fitting is _OF_VALUES else "classes"
        return cls(reads, "top_1" if metric == "top_k" else metric, 0, limit, one_hot)


@dataclass(frozen=True)
class Scored:
    """Scores of both models on an output, or by the user's function.

    Attributes:
        metric: Metric of the scores.
        source, score: Score of the source, and of the candidate.
        interval: 95% interval of the drop; None where there is none.
        no_interval: Reason why there is none.
    """

    metric: Metric
    source: float
    score: float
    interval: Interval | None = None
    no_interval: str = "there are too few examples, or the score is 0"

    def summary(self) -> dict[str, Any]:
        """Return the figures of the output in evaluation.json.

        Raises:
            UnsupportedError: The drop is relative to a score that is not above 0.
        """
        if self.metric.is_relative and self.source <= 0:
            raise UnsupportedError(
                f"the source's {self.metric.label} is not above 0, so no share of it can be lost",
                received=self.source,
                remedy="use another metric, or leave out labels that are the source's own outputs",
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
            "no_interval": None if self.interval else self.no_interval,
        }


@dataclass
class OutputTally:
    """Sums over examples; its size does not depend on how many there were.

    Attributes:
        scoring: How the output is scored.
        count: Examples.
        of_tokens: Whether an example has several predictions.
        of_ids: Whether the output's integers are the predictions themselves.
        probable: Whether all of the source's values so far are probabilities.
        classes, values, ids: One, or of "either" the first two, of these are counted.
        tokens: What each example lost, where it has several labelled predictions.
        differing: Predictions that differ, where there are no labels.
    """

    scoring: Scoring
    count: int = 0
    of_tokens: bool = False
    of_ids: bool = False
    probable: bool = True
    classes: ClassTally = field(default_factory=ClassTally)
    values: ValueTally = field(default_factory=ValueTally)
    ids: IdentifierTally = field(default_factory=IdentifierTally)
    tokens: TokenSums = field(default_factory=TokenSums)
    differing: ShareSums = field(default_factory=ShareSums)

    def __post_init__(self) -> None:
        self.classes.threshold = self.scoring.threshold.value
        self.classes.top_k = self.scoring.top_k
        self.classes.ranked = self.scoring.metric == "auc"

    def add(
        self,
        source: Array,
        candidate: Array,
        *,
        labels: Array | None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Count a batch in.

        Args:
            source: The output [batch, ...] of the source.
            candidate: That of the candidate, of the same shape.
            labels: Integers [batch], or [batch, ...] as the output without its
                last axis, those below 0 padding; floats of the output's shape, also
                one-hot rows; or None.
            weights: How much each example counts, above 0, float64 [batch]; 1 if left out.

        Raises:
            UnsupportedError: The outputs' shapes differ, or they hold no numbers.
            ExamplesError: The labels are of another shape, or no classes of the
                model.
            ParameterError: See `ClassTally.add`.
        """
        numbers = source.dtype.kind in "biuf" and candidate.dtype.kind in "biuf"
        if source.ndim == 0 or source.shape != candidate.shape or not numbers:
            shapes = [f"{list(item.shape)}" + ("" if numbers else f" {item.dtype}")
                      for item in (source, candidate)]  # fmt: skip
            raise UnsupportedError(
                "the models' outputs can't be compared example by example",
                received=f"source {shapes[0]}, candidate {shapes[1]}",
                remedy="give models with the same outputs, of numbers [batch, ...]",
            )
        if labels is not None and self.scoring.one_hot:
            if labels.shape != source.shape:
                raise _other_shape(labels, source, list(source.shape))
            labels = one_hot_ids(labels)
        self.count += len(source)
        if weights is None:
            weights = np.ones(len(source))
        self.of_ids = _are_ids(source, labels)
        if self.of_ids:
            self._add_ids(source, candidate, labels=labels, weights=weights)
            return
        if self.scoring.reads != "classes":
            self._add_values(source, candidate, labels=labels, weights=weights)
        if self.scoring.reads != "values":
            self._add_classes(source, candidate, labels=labels, weights=weights)

    def merge(self, other: "OutputTally") -> None:
        """Count all of `other` in."""
        if self.count == 0:
            self.of_tokens, self.of_ids = other.of_tokens, other.of_ids
        self.count += other.count
        self.probable &= other.probable
        self.classes.merge(other.classes)
        self.values.merge(other.values)
        self.ids.merge(other.ids)
        self.tokens.merge(other.tokens)
        self.differing.merge(other.differing)

    def _add_values(
        self, source: Array, candidate: Array, *, labels: Array | None, weights: Array
    ) -> None:
        rows = [item.reshape(len(item), -1).astype(np.float64) for item in (source, candidate)]
        wanted = None
        if labels is not None:
            if labels.size != source.size:
                raise _other_shape(labels, source, list(source.shape))
            wanted = labels.reshape(len(labels), -1).astype(np.float64)
        self.values.add(rows[0], rows[1], labels=wanted, weights=weights)

    def _add_classes(
        self, source: Array, candidate: Array, *, labels: Array | None, weights: Array
    ) -> None:
        if labels is not None:
            # A probability for each of several labels is two classes each time.
            if labels.shape == source.shape and source.ndim > 1 and source.shape[-1] > 1:
                source, candidate = source[..., np.newaxis], candidate[..., np.newaxis]
            labels = labels.astype(np.int64, copy=False)
        places = source.shape[:-1] if source.ndim > 1 else source.shape
        classes = source.shape[-1] if source.ndim > 1 else 1
        if labels is not None:
            # Masks often keep the axis of the output's one value.
            if labels.shape not in (places, (*places, 1)):
                raise _other_shape(labels, source, list(places))
            labels = labels.reshape(places)
        rows, others = source.reshape(-1, classes), candidate.reshape(-1, classes)
        self.of_tokens = source.ndim > 2
        if self.scoring.reads == "either":
            self.probable &= self._are_probabilities(rows)
        each = np.repeat(weights, len(rows) // max(1, len(source)))
        if labels is None:
            differing = self.classes.add(rows, others, labels=None, weights=each)
            self.differing.add(differing.reshape(len(source), -1), weights)
            return
        if not self.of_tokens:
            self.classes.add(rows, others, labels=labels, weights=each)
            return
        flat = labels.reshape(-1)
        real = flat >= 0
        lost = self.classes.add(rows[real], others[real], labels=flat[real], weights=each[real])
        self._add_tokens(real, lost, weights)

    def _add_ids(
        self, source: Array, candidate: Array, *, labels: Array | None, weights: Array
    ) -> None:
        if self.scoring.top_k or self.scoring.metric == "auc":
            raise UnsupportedError(
                "the metric ranks scores, and this output holds class ids",
                received=f"{source.dtype} {list(source.shape)}",
                remedy="use metric auto, or export the model with its scores as the output",
            )
        self.of_tokens = math.prod(source.shape[1:]) > 1
        rows, others = source.reshape(-1), candidate.reshape(-1)
        each = np.repeat(weights, len(rows) // max(1, len(source)))
        if labels is None:
            differing = self.ids.add(rows, others, labels=None, weights=each)
            self.differing.add(differing.reshape(len(source), -1), weights)
            return
        if not self.of_tokens:
            self.ids.add(rows, others, labels=labels.reshape(-1), weights=each)
            return
        flat = labels.reshape(-1)
        real = flat >= 0
        lost = self.ids.add(rows[real], others[real], labels=flat[real], weights=each[real])
        self._add_tokens(real, lost, weights)

    def _add_tokens(self, real: Array, lost: Array, weights: Array) -> None:
        """Count what each example, of `weights` [batch], lost on its `real` tokens."""
        spread = np.zeros(len(real))
        spread[real] = lost
        count = len(weights)
        tokens = weights * real.reshape(count, -1).sum(axis=1)
        self.tokens.add(weights * spread.reshape(count, -1).sum(axis=1), tokens)

    def _are_probabilities(self, rows: Array) -> bool:
        """Return whether each row is a distribution, or a single probability."""
        if rows.shape[1] == 1:
            return self.scoring.threshold.is_of_probabilities
        return are_distributions(rows)

    @property
    def _is_of_values(self) -> bool:
        reads = self.scoring.reads
        if self.of_ids:
            return False
        return reads == "values" or (reads == "either" and not self.probable)

    def scored(self) -> Scored:
        """Return the scores of the output.

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
            agreed = self.values.agreement()
            return Scored(Metric.named(VALUE_AGREEMENT), 1.0, agreed, None, _NO_INTERVAL)
        predictions = self.ids if self.of_ids else self.classes
        if not metric:
            agreement = predictions.summary()["agreement"]
            name = TOKEN_AGREEMENT if self.of_tokens else AGREEMENT
            return Scored(Metric.named(name), 1.0, agreement, self.differing.interval())
        if not predictions.labelled:
            raise ExamplesError(
                "all labels of the eval split are padding",
                received="no label of 0 or more",
                remedy="give the class id of each token that counts",
            )
        of_tokens = metric == "token_accuracy"
        source, score, interval = (
            self.ids.scores()
            if self.of_ids
            else self.classes.scores("top_1" if of_tokens else metric)
        )
        if of_tokens:
            interval = self.tokens.interval()
        return Scored(Metric.named(metric), source, score, interval)

    def summary(self) -> dict[str, Any]:
        """Return the output's figures in evaluation.json, without those of `scored`."""
        if self._is_of_values:
            return self.values.summary()
        predictions = self.ids if self.of_ids else self.classes
        result = predictions.summary()
        if result.get("threshold") is not None:
            result["threshold_origin"] = self.scoring.threshold.origin
        if self.of_tokens:
            result["tokens"] = predictions.count
        if self.tokens.count:
            result |= interval_ends("accuracy_drop", self.tokens.interval())
        if self.scoring.metric == "auc":
            result["score_error"] = self.classes.ranks.area_error()
        return result


def are_distributions(scores: Array) -> bool:
    """Return whether each row is a distribution over two or more classes.

    Args:
        scores: Floats [..., classes].
    """
    if scores.ndim < 2 or scores.shape[-1] < 2 or not ((scores >= 0) & (scores <= 1)).all():
        return False
    sums = scores.sum(axis=-1, dtype=np.float64)
    return bool((np.abs(sums - 1) <= _ROUNDING).all())


def _are_ids(source: Array, labels: Array | None) -> bool:
    """Return whether the integers of an output are predictions, not scores or values."""
    if source.dtype.kind == "f":
        return False
    return labels is None or (labels.dtype.kind != "f" and labels.size == source.size)


def _other_shape(labels: Array, output: Array, wanted: list[int]) -> ExamplesError:
    return ExamplesError(
        "the labels have another shape than the model's output asks for",
        received=f"labels {list(labels.shape)}, output {list(output.shape)}",
        remedy=f"give labels of shape {wanted} for such a batch",
    )
