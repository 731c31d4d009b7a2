"""Transposes that only change where the channels are."""

from typing import Any

from paring.audit.finding import Finding, counted, places
from paring.audit.subject import CONVOLUTIONS, Subject, value
from paring.graphs.graph import tensor_bytes
from paring.graphs.names import place

_TO_LAST = frozenset({(0, 2, 3, 1), (0, 2, 3, 4, 1)})
_TO_FIRST = frozenset({(0, 3, 1, 2), (0, 4, 1, 2, 3)})
_LAYOUT_BOUND = CONVOLUTIONS | {"AvgPool", "AvgPool3D", "MaxPool", "MaxPool3D"}
_ANY_LAYOUT = frozenset(
    {
        "Abs", "Add", "AddN", "AddV2", "BiasAdd", "Cast", "Clip", "ClipByValue", "Elu",
        "FusedBatchNormV3", "Identity", "LeakyRelu", "Maximum", "Minimum", "Mul", "Neg", "Pad",
        "PadV2", "Relu", "Relu6", "RealDiv", "Rsqrt", "Selu", "Sigmoid", "Sqrt", "Square", "Sub",
        "Tanh",
    }
)  # fmt: skip


def layout_transposes(subject: Subject) -> list[Finding]:
    """Find transposes between channels first and channels last, around convolutions."""
    result = []
    for op in subject.live:
        if op.type != "Transpose" or not _changes_layout(op):
            continue
        behind = subject.behind(op, _LAYOUT_BOUND, _ANY_LAYOUT)
        if behind or _comes_from_convolution(op):
            result.append(op)
    if not result:
        return []
    size = sum(2 * tensor_bytes(op.outputs[0].shape, op.outputs[0].dtype) for op in result)
    moved = sum(
        tensor_bytes(op.outputs[0].shape, op.outputs[0].dtype) for op in subject.live if op.outputs
    )
    return [
        Finding(
            rule="layout_transposes",
            severity="medium" if size >= moved / 10 else "low",
            place=places([place(op) for op in result]),
            cost=f"{counted(len(result), 'transpose')}: {size:,} bytes an example read and written",
            fix='keep one layout throughout: data_format="channels_last" in each layer, which'
            " CPUs, TPUs and TFLite want, and transpose the input once outside of the model",
        )
    ]


def _changes_layout(op: Any) -> bool:
    order = value(op.inputs[1])
    return order is not None and tuple(order.tolist()) in _TO_LAST | _TO_FIRST


def _comes_from_convolution(op: Any) -> bool:
    queue, seen = [op.inputs[0].op], set()
    while queue:
        item = queue.pop()
        if item.type in _LAYOUT_BOUND:
            return True
        if item.type in _ANY_LAYOUT and item.name not in seen:
            seen.add(item.name)
            queue += [tensor.op for tensor in item.inputs]
    return False
