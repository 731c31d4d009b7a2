"""Operators that XLA refuses to compile for static shapes, as in its errors."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN = 3
"""How many refusals an error names."""

_NODE = re.compile(r"\{\{node ([^}]+)\}\}")
_KIND = re.compile(r"No registered '(\w+)' OpKernel")


@dataclass(frozen=True)
class Refusal:
    """One operator that can't be compiled for static shapes.

    Attributes:
        place: Its name, or that of the input.
        kind: Its type in TensorFlow; "" where that is not known.
        reason: Why.
    """

    place: str
    kind: str
    reason: str

    def __str__(self) -> str:
        """Return the refusal as in `model/crop/Where (Where): its result has no fixed shape`."""
        return f"{self.place} ({self.kind or 'unknown'}): {self.reason}"


def text_refusals(inputs: Iterable[str]) -> list[Refusal]:
    """Return the refusals of inputs that take text."""
    return [
        Refusal(f"input {name}", "Placeholder", "text, which no accelerator holds")
        for name in inputs
    ]


def refusals_in_short(refusals: Sequence[object]) -> str:
    """Return the first refusals, as text or as `Refusal`, and the number of the others."""
    shown = [str(item) for item in refusals[:_SHOWN]]
    if len(refusals) > _SHOWN:
        shown.append(f"and {len(refusals) - _SHOWN} more")
    return "; ".join(shown)


def parse_refusal(message: str) -> Refusal:
    """Return what XLA's message of an error says, with the operator where it names one."""
    node, kind = _NODE.search(message), _KIND.search(message)
    where = node.group(1) if node else "the graph"
    if kind:
        return Refusal(where, kind.group(1), "XLA has no kernel for it")
    lines = [line for line in message.splitlines() if line.strip() and line != "in user code:"]
    return Refusal(where, "", next(iter(lines), "")[:300])


def refusal_in(error: Exception) -> Refusal | None:
    """Return what XLA refused where an error of TensorFlow says so; None for another error."""
    message = str(error)
    return parse_refusal(message) if "XLA" in message else None
