"""Selections for tests, without the steps that make one."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from paring.evaluation.metrics import Metric
from paring.selection.candidates import CandidateRow, Outcome, SelectionResult
from paring.selection.pareto import Gate

TOP_1 = Metric.named("top_1")


def candidate_row(name: str, **given: Any) -> CandidateRow:
    """A candidate that passes and of which nothing but what is given was measured."""
    values: dict[str, Any] = {field.name: None for field in fields(CandidateRow)}
    values |= {"recipe": "", "artifact": "/models", "reasons": (), "notes": (), "pareto": True}
    values |= {"other_outputs": {}, "metric": TOP_1, "outcome": Outcome.PASSED}
    return CandidateRow(**values | {"id": name} | given)


def selection_result(rows: Sequence[CandidateRow], gate: Gate | None = None) -> SelectionResult:
    """A selection of these, of which the last is the chosen one."""
    return SelectionResult(
        verdict="The last one.",
        source_digest="sha256:aa",
        selected=rows[-1].id,
        gate=gate or Gate(),
        metric=rows[0].metric,
        candidates=tuple(rows),
        search={},
    )
