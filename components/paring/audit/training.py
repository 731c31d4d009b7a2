"""Rules on operators of training that were left in the serving graph."""

from typing import Any

from paring.audit.finding import Finding, Severity, counted, places
from paring.audit.subject import PASSED_ON, Subject
from paring.graphs.names import place

_UNIFORM = frozenset({"RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2"})
_RANDOM = _UNIFORM | {
    "RandomStandardNormal", "RandomUniformInt", "StatelessRandomNormal", "StatelessRandomNormalV2",
    "StatelessRandomUniformInt", "StatelessRandomUniformIntV2", "StatelessTruncatedNormalV2",
    "TruncatedNormal",
}  # fmt: skip
_IMAGE = frozenset(
    {
        "AdjustContrastv2", "AdjustHue", "AdjustSaturation", "CropAndResize",
        "ImageProjectiveTransformV2", "ImageProjectiveTransformV3", "SampleDistortedBoundingBoxV2",
    }
)  # fmt: skip
_ARITHMETIC = PASSED_ON | {
    "Add", "AddV2", "Cast", "ConcatV2", "Cos", "Exp", "Fill", "Mul", "Neg", "Pack", "RealDiv",
    "Sin", "StridedSlice", "Sub", "Tile", "ZerosLike", "GreaterEqual", "Less", "SelectV2",
}  # fmt: skip
_COMPARISONS = frozenset({"GreaterEqual", "Greater", "Less", "LessEqual"})
_MASKING = frozenset({"Mul", "Select", "SelectV2"})


def dropout(subject: Subject) -> list[Finding]:
    """Find masks that are drawn at random and multiplied onto activations."""
    result = []
    for op in subject.needed:
        if op.type in _UNIFORM:
            compared = subject.behind(op, _COMPARISONS, PASSED_ON | {"Add", "AddV2", "Mul", "Sub"})
            masked = [
                item
                for comparison in compared
                for item in subject.behind(comparison, _MASKING, PASSED_ON | {"Cast"})
                if item.outputs[0].shape.rank
            ]
            result += masked[:1]
    what = "dropout is on: the same input gives another output each time"
    fix = "export the model as it infers: call its layers with training=False"
    return _finding("dropout_in_serving", "high", result, what=what, fix=fix)


def augmentation(subject: Subject) -> list[Finding]:
    """Find images that are changed at random."""
    result: dict[str, Any] = {}
    for op in subject.needed:
        if op.type in _RANDOM:
            result |= {item.name: item for item in subject.behind(op, _IMAGE, _ARITHMETIC)}
    what = "the input is changed at random before the model sees it"
    fix = "move the augmentation into the input pipeline, or call its layers with training=False"
    return _finding("augmentation_in_serving", "high", list(result.values()), what=what, fix=fix)


def batch_statistics(subject: Subject) -> list[Finding]:
    """Find batch normalization by the batch's own statistics.

    Layer and group normalization use the same operator on a tensor that they reshape, so
    that the statistics are each example's own.
    """
    result = [
        op
        for op in subject.live
        if op.type.startswith("FusedBatchNorm")
        and op.get_attr("is_training")
        and op.inputs[0].op.type != "Reshape"
    ]
    what = "an example's output depends on the others of its batch, and nothing can be folded"
    fix = "export the model as it infers: call its layers with training=False"
    return _finding("batch_statistics_in_serving", "high", result, what=what, fix=fix)


def _finding(
    rule: str, severity: Severity, result: list[Any], *, what: str, fix: str
) -> list[Finding]:
    if not result:
        return []
    cost = f"{counted(len(result), 'operator')}: {what}"
    return [Finding(rule, severity, places([place(op) for op in result]), cost, fix)]
