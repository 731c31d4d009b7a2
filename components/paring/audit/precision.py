"""Types that are wider than what they hold."""

from typing import Any

from paring.audit.finding import Finding, counted, places
from paring.audit.subject import Subject, origin
from paring.graphs.graph import tensor_bytes
from paring.graphs.names import place

_INDEX_OF = {
    "Gather": 1, "GatherV2": 1, "GatherNd": 1, "ResourceGather": 1, "OneHot": 0,
    "ScatterNd": 0, "TensorScatterUpdate": 1, "SegmentSum": 1, "UnsortedSegmentSum": 1,
}  # fmt: skip
"""Which input of an operator is indices."""

_CHOSEN = {
    "Placeholder": "declare the input as tf.int32, or cast it",
    "Cast": "cast to tf.int32 instead",
}
"""Where indices can come from that need not be int64, and what to do there."""


def float64_operators(subject: Subject) -> list[Finding]:
    """Find operators that compute in double precision."""
    wide = [
        op
        for op in subject.live
        if op.type not in ("Placeholder", "Cast") and _is_double(op) and op.outputs[0].shape.rank
    ]
    if not wide:
        return []
    names = {op.name for op in wide}
    first = [op for op in wide if not any(item.op.name in names for item in op.inputs)]
    size = sum(tensor_bytes(op.outputs[0].shape, op.outputs[0].dtype) for op in wide)
    return [
        Finding(
            rule="float64",
            severity=subject.severity(wide),
            place=places([place(op) for op in first]),
            cost=f"{counted(len(wide), 'operator')} in float64: {subject.cost(wide)}"
            + (f"; on {size:,} bytes, half of them spare" if size else ""),
            fix="keep constants and inputs in float32: give tf.constant a dtype, and"
            " NumPy arrays .astype(numpy.float32), where double precision comes in",
        )
    ]


def int64_indices(subject: Subject) -> list[Finding]:
    """Find lookups whose indices have 64 bits."""
    result = []
    for op in subject.live:
        if op.type in _INDEX_OF:
            tensor = op.inputs[_INDEX_OF[op.type]]
            # Lookup tables give nothing else; inputs and casts are the model's own choice.
            if tensor.dtype.name == "int64" and origin(tensor).type in _CHOSEN:
                result.append((op, tensor))
    if not result:
        return []
    size = sum(tensor_bytes(tensor.shape, tensor.dtype) for _, tensor in result)
    how = dict.fromkeys(_CHOSEN[origin(tensor).type] for _, tensor in result)
    return [
        Finding(
            rule="int64_indices",
            severity="low",
            place=places([place(op) for op, _ in result]),
            cost=f"{size:,} bytes of indices an example, half of them spare; a TPU emulates int64",
            fix=" and ".join(how),
        )
    ]


def _is_double(op: Any) -> bool:
    return bool(op.outputs) and op.outputs[0].dtype.name == "float64"
