"""Scores of a candidate and its source, from exact sums that merge in any order.

One file a family: `classes` (top-1, top-k, AUC by `ranks`; of examples or of
tokens), `values` (MAE, RMSE), `function` (the user's own); `outputs` chooses
among them, and here are the models as a whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from paring.errors import ParameterError, nearest
from paring.evaluation.metrics import Metric, check_name
from paring.evaluation.scoring.function import (
    Function,
    call_function,
    higher_is_better,
    load_function,
)
from paring.evaluation.scoring.means import PairedMeans
from paring.evaluation.scoring.outputs import (
    Array,
    OutputTally,
    Scored,
    Scoring,
    Threshold,
)

__all__ = ["Array", "Plan", "Tally", "Threshold", "make_plan"]

_ABSENT = (
    *("accuracy", "source_accuracy", "agreement", "accuracy_drop"),
    *("accuracy_drop_low", "accuracy_drop_high", "threshold", "threshold_origin"),
    *("nan_predictions", "source_nan_predictions", "classes", "most_confused"),
)
"""What evaluation.json always has, null where the first output has no such figure."""


@dataclass(frozen=True)
class Plan:
    """Scoring of each output in a comparison of two models.

    Attributes:
        outputs: The scoring of each output that is looked at.
        first: The output that a table has room for.
        alone: Whether the gate is on that one alone; else it is on each.
        function: MODULE:FUNCTION where the gate is on that alone; else "".
    """

    outputs: Mapping[str, Scoring]
    first: str
    alone: bool = False
    function: str = ""

    @property
    def gated_outputs(self) -> int:
        """Number of outputs that the gate applies to."""
        return 1 if self.alone or self.function else len(self.outputs)


def make_plan(
    metric: str,
    *,
    top_k: int,
    gated: str,
    outputs: Mapping[str, Array | None],
    thresholds: Mapping[str, Threshold] = MappingProxyType({}),
) -> Plan:
    """Return the plan for models with these outputs.

    The metric is that of the first output, or, if it is a function, of the whole
    model; other outputs have the one that goes with their labels.

    Args:
        metric: See `paring.evaluation.metrics.NAMES`, or MODULE:FUNCTION.
        top_k: For the metric top_k.
        gated: The output that the gate is on; "" for all. The first one with
            labels, or without any the first one, then comes first.
        outputs: The labels of each output of the source, or None.
        thresholds: Of the outputs with one value for each example or token; see
            `paring.evaluation.thresholds.find_thresholds`.

    Raises:
        ParameterError: There is no such metric or output, the function can't be
            loaded, or the labels are of another kind.
    """
    check_name(metric)
    labelled = [name for name, labels in outputs.items() if labels is not None]
    if gated and gated not in outputs:
        raise ParameterError(
            f"output: the source has no output {gated!r}", remedy=nearest(gated, outputs)
        )
    chosen = gated or next(iter(labelled or outputs))
    function = metric if Metric(metric).is_function else ""
    if function:
        # A name that can't be loaded is an error whether or not there are labels.
        load_function(function)
    own = "auto" if function else metric
    scorings = {
        name: Scoring.of(
            own if name == chosen else "auto", top_k, labels=labels, threshold=thresholds.get(name)
        )
        for name, labels in outputs.items()
    }
    return Plan(scorings, chosen, bool(gated), function if labelled else "")


@dataclass
class Tally:
    """Counts of the outputs of two models; the tallies of single batches are merged.

    Attributes:
        plan: Scoring of the outputs.
        count: Examples.
        outputs: Tally of each output.
        function: Mean of the user's function over each model's examples.
    """

    plan: Plan
    count: int = 0
    outputs: dict[str, OutputTally] = field(default_factory=dict)
    function: PairedMeans = field(default_factory=PairedMeans)

    def __post_init__(self) -> None:
        self.outputs = {name: OutputTally(item) for name, item in self.plan.outputs.items()}

    def add(
        self,
        source: Mapping[str, Array],
        candidate: Mapping[str, Array],
        *,
        labels: Mapping[str, Array],
        function: Function | None = None,
        weights: Array | None = None,
    ) -> None:
        """Count a batch in.

        Args:
            source: The source's outputs [batch, ...], by name.
            candidate: The candidate's.
            labels: Those that there are, by the output's name.
            function: The user's, where the plan has one.
            weights: How much each example counts, [batch]; 1 if left out. Those of 0 are
                not counted.

        Raises:
            UnsupportedError, ExamplesError, ParameterError: See
                `OutputTally.add` and `call_function`.
        """
        if weights is not None:
            used = weights > 0
            weights = weights[used].astype(np.float64)
            source, candidate, labels = (
                {name: array[used] for name, array in item.items()}
                for item in (source, candidate, labels)
            )
            if not weights.size:
                return
        for name, tally in self.outputs.items():
            tally.add(source[name], candidate[name], labels=labels.get(name), weights=weights)
        count = len(next(iter(source.values())))
        self.count += count
        if function is not None:
            wanted = _alone(labels) if len(source) == 1 else labels
            said = [
                call_function(
                    function,
                    self.plan.function,
                    predictions=_alone(item) if len(item) == 1 else item,
                    labels=wanted,
                    count=count,
                )
                for item in (source, candidate)
            ]
            self.function.add(said[0], said[1], weights)

    def merge(self, other: "Tally") -> None:
        """Count all of `other` in."""
        self.count += other.count
        self.function.merge(other.function)
        for name, tally in self.outputs.items():
            tally.merge(other.outputs[name])

    def summary(self) -> dict[str, Any]:
        """Return the figures of evaluation.json; see the step `evaluate`.

        Raises:
            UnsupportedError, ExamplesError: The gate's metric has no value, see
                `OutputTally.scored` and `Scored.summary`.
        """
        first = self.outputs[self.plan.first]
        scored = self._scored_by_function() if self.plan.function else first.scored()
        result: dict[str, Any] = {"count": self.count, "output": self.plan.first}
        result["gated_outputs"] = self.plan.gated_outputs
        result |= scored.summary() | dict.fromkeys(_ABSENT) | first.summary()
        others = {
            name: tally.scored().summary() | {"agreement": tally.summary()["agreement"]}
            for name, tally in self.outputs.items()
            if name != self.plan.first
        }
        return result | {"other_outputs": others}

    def _scored_by_function(self) -> Scored:
        means = self.function
        higher = higher_is_better(load_function(self.plan.function))
        metric = Metric(self.plan.function, higher)
        interval = means.difference_interval() if higher else means.growth_interval()
        return Scored(metric, means.source, means.candidate, interval)


def _alone(arrays: Mapping[str, Array]) -> Array:
    return next(iter(arrays.values()))
