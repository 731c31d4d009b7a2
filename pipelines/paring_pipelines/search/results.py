"""What a round of a search tried, what came of it, and which result is better."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from paring.pareto import BYTES_PER_MB, SIZE_TIE, SOURCE, Measured
from paring_pipelines.optimize import Gate
from paring_pipelines.recipes import Recipe

Stage = Literal["post-training", "screening", "narrowing", "whole"]

_PACE_STEP = 0.1
"""Latencies of brief measurements that differ by less than this share are alike."""


@dataclass(frozen=True)
class Round:
    """What is tried together.

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
    """What came of one candidate in one round.

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
        """Whether it could be made and measured."""
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


def results_of(selection: Mapping[str, Any], names: Iterable[str]) -> dict[str, Result]:
    """The results of `names` and of the source in the content of a `selection.json`."""
    wanted = {SOURCE, *names}
    return {
        row["id"]: Result(
            "passed" if row["outcome"] == "selected" else row["outcome"],
            tuple(row["reasons"]) if row["outcome"] not in ("selected", "passed") else (),
            Measured(
                id=row["id"],
                drop=row["accuracy_drop"],
                **{
                    key: row[key]
                    for key in (
                        *("p50_ms", "speedup", "speedup_low", "speedup_high"),
                        *("size_bytes", "peak_memory_bytes"),
                    )
                },
            ),
        )
        for row in selection["candidates"]
        if row["id"] in wanted
    }


def merit(result: Result, source: Result, gate: Gate) -> tuple[float, ...]:
    """Orders results, the best first, by what `select` would choose.

    What passes comes first: by the objective, then by size, then by accuracy. Then
    what the gate rejects, by how far it misses; then what broke, then what is not
    supported. Differences that a brief measurement can't tell are none: 10% of
    latency, 2% of size where size is not the objective.
    """
    one = result.measured
    if not result.works:
        return (2.0,) if result.outcome == "failed" else (3.0,)
    drop = math.inf if one.drop is None else one.drop
    if result.outcome == "rejected":
        return (1.0, _excess(one, drop, gate), drop)
    size = _step(one.size, SIZE_TIE)
    pace = _step(one.pace, _PACE_STEP)
    costs = {
        "latency": (pace, size),
        "size": (one.size, pace),
        "memory": (one.memory_level(source.measured), size),
    }
    return (0.0, *costs[gate.objective], drop)


def _excess(one: Measured, drop: float, gate: Gate) -> float:
    """By how much the gate is missed: points of accuracy, and shares of each budget."""
    budgets = (
        (one.p50_ms, gate.max_latency_ms),
        (one.size_bytes and one.size_bytes / BYTES_PER_MB, gate.max_size_mb),
        (one.peak_memory_bytes and one.peak_memory_bytes / BYTES_PER_MB, gate.max_memory_mb),
    )
    over = [value / limit - 1 for value, limit in budgets if value and limit]
    return max(0.0, drop - gate.max_accuracy_drop) + sum(max(0.0, one) for one in over)


def _step(value: float, share: float) -> float:
    """`value` in steps of `share`."""
    if not 0 < value < math.inf:
        return value
    return round(math.log(value) / math.log1p(share))
