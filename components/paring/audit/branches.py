"""Choices for which both sides are computed, and one is thrown away."""

from typing import Any

from paring.audit.finding import Finding, counted
from paring.audit.subject import HEAVY, Subject
from paring.graphs.names import place

_SELECTS = frozenset({"Select", "SelectV2"})
_MIN_SHARE = 0.01


def both_branches(subject: Subject) -> list[Finding]:
    """Find selections by one condition, of which a product or a loop is computed in vain.

    A condition for each element is left alone: there both sides are needed. So are
    conditions for each example unless both sides are expensive, since masks are such.
    """
    result = []
    for op in subject.live:
        if op.type not in _SELECTS or op.inputs[0].shape.num_elements() != 1:
            continue
        sides = [_only_for(subject, tensor, op) for tensor in op.inputs[1:]]
        flops = [sum(subject.flops[item.name] for item in side) for side in sides]
        heavy = [any(item.type in HEAVY for item in side) for side in sides]
        scalar = op.inputs[0].shape.rank == 0
        if not (any(heavy) if scalar else all(heavy)):
            continue
        # At least the cheaper side is in vain, or the only expensive one at times.
        wasted = min(flops) if all(heavy) else max(flops)
        side = sides[flops.index(wasted)]
        if subject.share(wasted) < _MIN_SHARE and not subject.unknown(side):
            continue
        how = "" if scalar else " where all examples go one way, else tf.boolean_mask for each side"
        result.append(
            Finding(
                rule="both_branches",
                severity=subject.severity(side),
                place=place(op),
                cost=f"computes both sides, {counted(len(sides[0]), 'operator')} and"
                f" {len(sides[1])}, and throws one away, at least {subject.cost(side)}",
                fix=f"choose with tf.cond, whose functions compute one side alone{how}",
            )
        )
    return result


def _only_for(subject: Subject, tensor: Any, select: Any) -> list[Any]:
    """Return the operations on which nothing but this input of the selection depends."""
    outputs = {output.op.name for output in subject.graph.outputs}
    inside: dict[str, Any] = {}
    position = {op.name: index for index, op in enumerate(subject.live)}
    if tensor.op.name not in position:
        return []
    reached = {tensor.op.name}
    for op in reversed(subject.live[: position[tensor.op.name] + 1]):
        if op.name not in reached or op.name in outputs:
            continue
        if all(user.name in inside or user is select for user in subject.users[op.name]):
            inside[op.name] = op
            reached |= {item.op.name for item in op.inputs}
    return list(inside.values())
