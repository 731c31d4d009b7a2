"""Findings of the audit of a graph, one for each change to make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["high", "medium", "low"]

_HIGH_SHARE = 0.25
_MEDIUM_SHARE = 0.05


@dataclass(frozen=True)
class Finding:
    """Costly part of a graph that can be changed.

    Attributes:
        rule: The rule that found it.
        severity: How much there is to gain; see `graded`.
        place: The operator, or the function, by its name in the model.
        cost: What it costs, counted in the graph or estimated from its shapes.
        fix: What to do about it.
    """

    rule: str
    severity: Severity
    place: str
    cost: str
    fix: str


def graded(share: float) -> Severity:
    """Return the severity of what takes this share of the model's operations, nodes or bytes.

    High from a quarter on, medium from a twentieth on.
    """
    if share >= _HIGH_SHARE:
        return "high"
    return "medium" if share >= _MEDIUM_SHARE else "low"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 operator" or "2 operators"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def places(names: Sequence[str], shown: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    listed = ", ".join(names[:shown])
    return listed if len(names) <= shown else f"{listed} and {len(names) - shown} more"
