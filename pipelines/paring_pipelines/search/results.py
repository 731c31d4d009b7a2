"""Rounds of a search, their results, and the ranking of results."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from paring.selection.candidates import Outcome, SelectionResult
from paring.selection.pareto import (
    BYTES_PER_MB,
    SIZE_TIE,
    SOURCE,
    Gate,
    Measured,
    as_fast,
    choose,
    loss,
)
from paring_pipelines.pipeline.recipes import Recipe

Stage = Literal["post-training", "screening", "narrowing", "whole"]


@dataclass(frozen=True)
class Round:
    """Candidates that a search tries together.

    Attributes:
        stage: What the round is for; `whole` is on all examples under the gate.
        recipes: The candidates that are new on these examples, the best bet first.
        why: The reason, for people.
        train_limit: Examples to train on in a sample of the train split; 0 for the
            whole data, held to the gate on the eval split.
        base: In narrowing, the recipe whose parameters are narrowed.
    """

    stage: Stage
    recipes: tuple[Recipe, ...]
    why: str
    train_limit: int = 0
    base: str = ""


@dataclass(frozen=True)
class Result:
    """Result of one candidate in one round.

    Attributes:
        outcome: `passed` (selected ones too), `rejected`, `unsupported` or `failed`.
        reasons: Why, where it did not pass.
        measured: Its figures.
    """

    outcome: str
    reasons: tuple[str, ...]
    measured: Measured

    @property
    def works(self) -> bool:
        """True if the candidate could be built and measured."""
        return self.outcome in ("passed", "rejected")


@dataclass(frozen=True)
class Done:
    """A round that is complete.

    Attributes:
        round: What was tried.
        results: By candidate; of `SOURCE` and of the round's recipes.
        seconds: How long it took.
    """

    round: Round
    results: Mapping[str, Result]
    seconds: float


def results_of(selection: SelectionResult, names: Iterable[str]) -> dict[str, Result]:
    """Return the results of `names` and of the source in a selection."""
    wanted = {SOURCE, *names}
    passed = (Outcome.SELECTED, Outcome.PASSED)
    return {
        row.id: Result("passed", (), row.measured)
        if row.outcome in passed
        else Result(str(row.outcome), row.reasons, row.measured)
        for row in selection.candidates
        if row.id in wanted
    }


def ranking(results: Mapping[str, Result], source: Result, gate: Gate) -> list[str]:
    """Return the names of `results`, the best first, by what `select` would choose.

    What passes comes first: what `select` chooses of it, what it would choose without
    that, and so on; so differences within the noise count as none. Then what the gate
    rejects, by how far it misses; then what broke, then what is not supported.

    Args:
        results: Candidates, without the source.
        source: The source's result, whose figures noise is judged by.
        gate: What they are held to, and the objective.
    """
    passing = {item.measured.id: name for name, item in results.items() if item.outcome == "passed"}
    left = [result.measured for result in results.values() if result.outcome == "passed"]
    order: list[str] = []
    while best := choose(left, source.measured, gate.objective):
        order.append(passing[best.id])
        left.remove(best)
    others = [name for name in results if name not in order]
    return order + sorted(others, key=lambda name: (_misses(results[name], gate), name))


def is_better(result: Result, other: Result, *, source: Result, gate: Gate) -> bool:
    """Return whether `result` ranks before `other` by more than the noise."""
    pair = {"one": result, "other": other}
    if ranking(pair, source, gate)[0] == "other":
        return False
    if result.outcome != "passed" or other.outcome != "passed":
        return _misses(result, gate) < _misses(other, gate)
    mine, its = result.measured, other.measured
    small, large = sorted((mine.size, its.size))
    slow, fast = sorted((mine, its), key=lambda which: -which.relative_latency)
    alike = large <= small * (1 + SIZE_TIE) and as_fast(slow, fast) and loss(mine) == loss(its)
    return not alike or mine.memory_level(source.measured) < its.memory_level(source.measured)


def _misses(result: Result, gate: Gate) -> tuple[float, float]:
    """Return the sort key of a result: passing first, then by outcome and by the excess."""
    kind = ("passed", "rejected", "failed", "unsupported").index(result.outcome)
    return (kind, _excess(result.measured, gate) if result.outcome == "rejected" else 0.0)


def _excess(candidate: Measured, gate: Gate) -> float:
    """Return the excess over the gate: a share of accuracy, and shares of each budget."""
    drop = math.inf if candidate.drop is None else candidate.drop
    budgets = (
        (candidate.p50_ms, gate.max_latency_ms),
        (candidate.size_bytes and candidate.size_bytes / BYTES_PER_MB, gate.max_size_mb),
        (
            candidate.peak_memory_bytes and candidate.peak_memory_bytes / BYTES_PER_MB,
            gate.max_memory_mb,
        ),
    )
    over = [value / limit - 1 for value, limit in budgets if value and limit]
    return max(0.0, drop - gate.max_accuracy_drop) + sum(max(0.0, item) for item in over)
