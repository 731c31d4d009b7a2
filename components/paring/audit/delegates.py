"""Operators that keep a compiler or a converter from taking the model."""

from collections.abc import Callable

from paring.audit.finding import Finding, places
from paring.audit.host import PYTHON
from paring.audit.subject import Subject
from paring.graphs.kernels import XLA, has_kernel
from paring.models.library_types import NodeDef

ONNX_OPSET = 18

_FOLDED = frozenset(
    {
        "Assert", "BroadcastArgs", "Case", "CheckNumerics", "Const", "FakeQuantWithMinMaxArgs",
        "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel", "Identity", "IdentityN",
        "NoOp", "PartitionedCall", "Placeholder", "ReadVariableOp", "StatefulPartitionedCall",
        "VarHandleOp", "_Arg", "_Retval",
    }
)  # fmt: skip
"""These are gone, or made of others, before a converter or compiler looks for them."""

NOT_IN_TFLITE = frozenset(
    {
        "Acos", "Acosh", "AdjustContrastv2", "AdjustHue", "AdjustSaturation", "Angle", "AsString",
        "Asin", "Asinh", "Atan", "Atanh", "BesselI0e", "Betainc", "Bincount", "CTCGreedyDecoder",
        "Cholesky", "CombinedNonMaxSuppression", "Cosh", "CropAndResize", "Cross", "Cumprod",
        "DecodeJpeg", "DecodeRaw", "DenseBincount", "Digamma", "Dilation2D", "DynamicPartition",
        "Erfinv", "EuclideanNorm", "ExtractImagePatches", "FFT", "FFT2D", "FractionalMaxPool",
        "HistogramFixedWidth", "IFFT", "Igamma", "ImageProjectiveTransformV3", "InTopKV2",
        "LeftShift", "LowerBound", "MatrixDeterminant", "MatrixDiagPartV3", "MatrixInverse",
        "MatrixSolve", "MatrixTriangularSolve", "MaxPool3D", "MaxPoolWithArgmax", "Ndtri",
        "NextAfter", "NthElement", "PopulationCount", "Qr", "RGBToHSV", "RandomGamma",
        "RandomShuffle", "ReduceJoin", "ResizeArea", "ResizeBicubic", "SegmentMax",
        "SegmentMean", "SelfAdjointEigV2", "Sinh", "SparseSegmentSum", "SparseTensorDenseMatMul",
        "StatelessMultinomial", "StatelessRandomUniformV2", "StaticRegexReplace", "StringJoin",
        "StringLength", "StringLower", "StringSplitV2", "StringToHashBucketFast",
        "StringToNumber", "Substr", "Svd", "Tan", "TensorScatterMax", "UnicodeDecode",
        "UniqueV2", "UniqueWithCounts", "Zeta",
    }
)  # fmt: skip
"""Each was converted by itself with TensorFlow 2.21, and the converter refused it. Others
are not named: it turns many of them into its own."""

_NOT_IN_TENSORRT = frozenset(
    {"LeftShift", "MatrixDeterminant", "Multinomial", "RightShift", "Unique"}
)
"""In ONNX BitShift, Det, Multinomial and Unique, which NVIDIA's parser has no layer for
(docs/operators.md of onnx-tensorrt)."""


def blocks_xla(subject: Subject) -> list[Finding]:
    """Find operators that XLA can't compile."""

    def blocks(node: NodeDef) -> bool:
        return not has_kernel(node, XLA)

    cost = "jit_compile=True fails, and TPUs refuse the model"
    fix = "move them before or behind what is compiled, or use other operators"
    return _finding("blocks_xla", subject, blocks, cost=cost, fix=fix)


def blocks_tflite(subject: Subject) -> list[Finding]:
    """Find operators that TFLite's own set does not have."""

    def blocks(node: NodeDef) -> bool:
        return node.op in NOT_IN_TFLITE or node.op in PYTHON

    cost = "convert_tflite fails, or the app must carry TensorFlow's operators (Flex)"
    fix = "move them out of the model, or use operators that TFLite has"
    return _finding("blocks_tflite", subject, blocks, cost=cost, fix=fix)


def blocks_tensorrt(subject: Subject) -> list[Finding]:
    """Find operators without ONNX in tf2onnx, which is the way to TensorRT, or without it there."""
    # The first import registers the operators.
    import tf2onnx.tfonnx  # noqa: F401
    from tensorflow.core.framework.types_pb2 import DT_STRING
    from tensorflow.python.framework import op_def_registry
    from tf2onnx.handler import tf_op

    from paring.converters.onnx.onnx_export import OWN_OPERATORS

    known = tf_op.create_mapping(ONNX_OPSET, []).keys() | OWN_OPERATORS.keys()

    def blocks(node: NodeDef) -> bool:
        definition = op_def_registry.get(node.op)
        types = {item.type for item in node.attr.values()}
        types |= {item.type for item in (*definition.input_arg, *definition.output_arg)}
        return DT_STRING in types or node.op not in known or node.op in _NOT_IN_TENSORRT

    cost = f"by way of ONNX (tf2onnx, opset {ONNX_OPSET}) TensorRT can't take the model whole"
    fix = "move them before or behind the model, or use operators that both have"
    return _finding("blocks_tensorrt", subject, blocks, cost=cost, fix=fix)


def _finding(
    rule: str, subject: Subject, blocks: Callable[[NodeDef], bool], *, cost: str, fix: str
) -> list[Finding]:
    result = [
        (where, node.op)
        for where, node in subject.nodes()
        if node.op not in _FOLDED and blocks(node)
    ]
    if not result:
        return []
    kinds = places(list(dict.fromkeys(kind for _, kind in result)), 8)
    named = places([where for where, _ in result])
    return [Finding(rule, "medium", f"{named} ({kinds})", cost, fix)]
