"""Loops that Python unrolled: the same operators, with the same weights, many times."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from paring.audit.finding import Finding, graded
from paring.audit.subject import CONVOLUTIONS, PRODUCTS, Subject
from paring.graphs.names import place

MIN_STEPS = 4
"""Fewer equal steps are taken for a repeated layer, not for a loop."""

_DEPTH = 3
"""How far back two operators must be equal to be taken for the same one, again."""

_IDENTITIES = frozenset({"Identity", "IdentityN", "NoOp", "Placeholder", "StopGradient"})

_LOOP_FIX = (
    "write the loop with tf.while_loop or `for step in tf.range(steps)` and a tf.TensorArray, or"
    " as a Keras RNN layer with unroll=False; what does not depend on the step before, as a"
    " product with the inputs, goes before the loop, for all steps at once"
)
_LAYER_FIX = "stack the slices into one tensor and apply the operators to it once"


def unrolled_loops(subject: Subject) -> list[Finding]:
    """Find groups of operators that occur again and again, with the same weights.

    A group in which each operator depends on the one before is a loop, else one layer that
    is applied to slices one after another. Blocks that are alike and have weights of
    their own, as most networks have, are neither.
    """
    operators = [op for op in subject.live if op.type not in _IDENTITIES]
    classes = _repeated(operators)
    members: dict[int, list[Any]] = defaultdict(list)
    group = _connected(operators, classes)
    for op in operators:
        if op.name in classes:
            members[group[classes[op.name]]].append(op)
    result = []
    for ops in members.values():
        steps = _chained_steps(ops, classes)
        chained = steps >= MIN_STEPS
        if not chained:
            if not any(_has_weights(op) for op in ops):
                continue
            steps = min(Counter(classes[op.name] for op in ops if _has_weights(op)).values())
        result.append(
            _finding(
                subject,
                ops,
                operators=len(operators),
                classes=classes,
                steps=steps,
                chained=chained,
            )
        )
    return result


def _finding(
    subject: Subject,
    ops: list[Any],
    *,
    operators: int,
    classes: Mapping[str, int],
    steps: int,
    chained: bool,
) -> Finding:
    flops: Counter[int] = Counter()
    for op in ops:
        flops[classes[op.name]] += subject.flops[op.name]
    heaviest = flops.most_common(1)[0][0]
    named = [place(op) for op in ops if classes[op.name] == heaviest]
    share = subject.share(sum(flops.values()))
    nodes = len(ops) / operators
    return Finding(
        rule="unrolled_loop" if chained else "layer_in_a_loop",
        severity=graded(max(share, nodes)),
        place=f"{named[0]} to {named[-1]}",
        cost=f"{steps} equal steps, {len(ops)} of {operators} operators and"
        f" {share:.0%} of the operations",
        fix=_LOOP_FIX if chained else _LAYER_FIX,
    )


def _repeated(operators: list[Any]) -> dict[str, int]:
    """Return the hash of each operator whose hash at least MIN_STEPS operators share."""
    own = {op.name: hash(_likeness(op)) for op in operators}
    known = dict(own)
    for _ in range(_DEPTH):
        known = {
            op.name: hash(
                (
                    own[op.name],
                    *(known.get(_source(item).name, _constant(item)) for item in op.inputs),
                )
            )
            for op in operators
        }
    counts = Counter(known.values())
    return {name: like for name, like in known.items() if counts[like] >= MIN_STEPS}


def _likeness(op: Any) -> tuple[Any, ...]:
    attributes = sorted(
        (name, item.SerializeToString(deterministic=True))
        for name, item in op.node_def.attr.items()
        if not name.startswith("_")
    )
    shapes = [
        tuple(out.shape.as_list()) if out.shape.rank is not None else None for out in op.outputs
    ]
    return (op.type, tuple(attributes), tuple(shapes))


def _constant(tensor: Any) -> int:
    """Return the hash of a constant: by its name if a weight, else by its type and shape."""
    if _is_weight(tensor):
        return hash(_source(tensor).name)
    return hash((tensor.dtype.name, str(tensor.shape)))


def _is_weight(tensor: Any) -> bool:
    return bool(tensor.dtype.is_floating and tensor.shape.rank)


def _has_weights(op: Any) -> bool:
    """Return whether the operator is a product or convolution with a constant weight."""
    if op.type not in PRODUCTS | CONVOLUTIONS or len(op.inputs) < 2:
        return False
    return _source(op.inputs[1]).type == "Const" and _is_weight(op.inputs[1])


def _connected(operators: list[Any], classes: Mapping[str, int]) -> dict[int, int]:
    """Return the group of each class: classes belong together if members read one another."""
    parent = {item: item for item in classes.values()}

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for op in operators:
        if op.name in classes:
            for before in _read(op, classes):
                parent[root(classes[before])] = root(classes[op.name])
    return {item: root(item) for item in parent}


def _chained_steps(ops: list[Any], classes: Mapping[str, int]) -> int:
    """Return the length of the longest chain of one class, through these operators alone."""
    most = 0
    inside = {op.name for op in ops}
    for kind in {classes[name] for name in inside}:
        length: dict[str, int] = {}
        for op in ops:
            before = max((length[item] for item in _read(op, classes) if item in inside), default=0)
            length[op.name] = before + (classes[op.name] == kind)
        most = max(most, *length.values())
    return most


def _read(op: Any, classes: Mapping[str, int]) -> Iterator[str]:
    names = (_source(tensor).name for tensor in op.inputs)
    return (name for name in names if name in classes)


def _source(tensor: Any) -> Any:
    """Return the operation that computes the tensor, behind identities."""
    while tensor.op.type in _IDENTITIES and tensor.op.inputs:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor.op
