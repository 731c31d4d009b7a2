"""Cost of padding a graph's arrays to a TPU's tiles and matrix unit.

A TPU keeps arrays in tiles of 8 sublanes by 128 lanes of 32 bits, 16 by 128 in bfloat16,
and multiplies by a unit of 128 by 128; XLA fills what does not fit with zeros, and lays an
array out so that two of its dimensions meet the tile as well as they can. Sources: "Cloud
TPU performance guide" (cloud.google.com/tpu/docs/performance-guide: batch a multiple of 8
with features of 128, or of 128 with features of 8); Jouppi and others, "In-Datacenter
Performance Analysis of a Tensor Processing Unit", 2017 (arXiv:1704.04760), and "TPU v4",
2023 (arXiv:2304.01433), for the unit of 128 by 128. Later TPUs have units of 256.

The figures are lower bounds: a convolution's window and channels are taken to be packed
together, and an array's better layout to be the one chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paring.audit.subject import CONVOLUTIONS, LOOPS, PRODUCTS, Subject
from paring.graphs import graph
from paring.graphs.names import place

Precision = Literal["bfloat16", "float32"]

LANES = 128
UNIT = 128
_WITH_BODIES = LOOPS | {"Case", "If", "StatelessCase", "StatelessIf"}
_SUBLANES = {"bfloat16": 16, "float32": 8}
_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Padding:
    """One operator on a TPU, for a whole batch.

    Attributes:
        place: Its name.
        kind: Its type in TensorFlow.
        shapes: Of its two inputs and its output.
        flops, padded_flops: Floating-point operations, and with those on padding.
        size_bytes, padded_bytes: Of the three arrays, and with padding.
        waste: The share of the operations that is padding.
    """

    place: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    flops: int
    padded_flops: int
    size_bytes: int
    padded_bytes: int

    @property
    def waste(self) -> float:
        """The share of the operations that is on padding."""
        return 1 - self.flops / max(1, self.padded_flops)


def paddings(subject: Subject, precision: Precision) -> list[Padding]:
    """Return the padding of each product and convolution of known shapes, in graph order."""
    result = []
    for op in subject.live:
        if op.type in PRODUCTS | CONVOLUTIONS and subject.flops[op.name]:
            result.append(_padding(op, precision))
    return [item for item in result if item is not None]


def uncounted(subject: Subject) -> list[str]:
    """Return the places of loops, conditions and products whose cost `paddings` can't tell."""
    return [
        place(op)
        for op in subject.live
        if op.type in _WITH_BODIES
        or (op.type in PRODUCTS | CONVOLUTIONS and not subject.flops[op.name])
    ]


def _padding(op: Any, precision: Precision) -> Padding | None:
    left, right = _operands(op)
    result = tuple(op.outputs[0].shape.as_list())
    flops = graph.flops(op)
    sublanes = _SUBLANES[precision]
    if op.type in CONVOLUTIONS:
        channels_last = op.get_attr("data_format") in (b"NHWC", b"NDHWC")
        ends = [_batch_and_channels(shape, channels_last) for shape in (left, result)]
        read, written = _tiled(left, ends[0], sublanes), _tiled(result, ends[1], sublanes)
        padded = [read, _tiled(right, right[-2:], sublanes), written]
        padded_flops = _convolution(
            op,
            flops,
            kernel=right,
            result=result,
            channels_out=ends[1][1],
            padded_result=written,
            sublanes=sublanes,
        )
    else:
        sizes = _product_sizes(op, left, right)
        if sizes is None:
            return None
        padded = [_tiled(shape, shape[-2:], sublanes) for shape in (left, right, result)]
        padded_flops = _product(*sizes, sublanes=sublanes)
    size = sum(math.prod(shape) for shape in (left, right, result))
    return Padding(
        place=place(op),
        kind=op.type,
        shapes=(left, right, result),
        flops=flops,
        padded_flops=padded_flops,
        size_bytes=size * _BYTES[precision],
        padded_bytes=sum(padded) * _BYTES[precision],
    )


def _operands(op: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of what is multiplied, the kernel of a convolution second."""
    at = (2, 1) if op.type == "Conv2DBackpropInput" else (0, 1)
    left, right = (tuple(op.inputs[index].shape.as_list()) for index in at)
    return left, right


def _batch_and_channels(shape: Sequence[int], channels_last: bool) -> tuple[int, int]:
    return shape[0], shape[-1 if channels_last else 1]


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _tiled(shape: Sequence[int], pair: Sequence[int], sublanes: int) -> int:
    """Return the elements of an array with these two of its dimensions padded, the better way."""
    first, second = pair
    others = math.prod(shape) // max(1, first * second)
    return others * min(
        _up(first, sublanes) * _up(second, LANES), _up(first, LANES) * _up(second, sublanes)
    )


def _product(batch: int, rows: int, inner: int, columns: int, *, sublanes: int) -> int:
    """Return the operations of a product of [rows, inner] and [inner, columns] in the matrix unit.

    The unit holds a block of one operand, and rows of the other stream through it.
    """
    streamed = min(
        _up(rows, sublanes) * _up(columns, UNIT), _up(rows, UNIT) * _up(columns, sublanes)
    )
    return 2 * batch * streamed * _up(inner, UNIT)


def _convolution(
    op: Any,
    flops: int,
    *,
    kernel: Sequence[int],
    result: Sequence[int],
    channels_out: int,
    padded_result: int,
    sublanes: int,
) -> int:
    if op.type == "DepthwiseConv2dNative":
        # Nothing to contract, so the vector unit does it, on tiles of the result.
        return flops * padded_result // math.prod(result)
    if op.type == "Conv2DBackpropInput":
        # Each input element meets the kernel of its channel; the results are added up.
        rows = flops // (2 * math.prod(kernel))
        return _product(
            batch=1, rows=rows, inner=kernel[-1], columns=math.prod(kernel[:-1]), sublanes=sublanes
        )
    inner = math.prod(kernel[:-1])
    groups = _groups(op, kernel)
    rows = math.prod(result) // channels_out
    return _product(
        batch=groups, rows=rows, inner=inner, columns=channels_out // groups, sublanes=sublanes
    )


def _groups(op: Any, kernel: Sequence[int]) -> int:
    shape = op.inputs[0].shape
    channels = shape[-1 if op.get_attr("data_format") in (b"NHWC", b"NDHWC") else 1]
    return int(channels // kernel[-2])


def _product_sizes(
    op: Any, left: tuple[int, ...], right: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Return the batch, rows, inner and columns of a product; None for another Einsum."""
    if op.type == "Einsum":
        return _einsum_sizes(op.get_attr("equation").decode(), left, right)
    names = ("transpose_a", "transpose_b") if op.type == "MatMul" else ("adj_x", "adj_y")
    left_turned, right_turned = (op.get_attr(name) for name in names)
    inner, rows = left[-2:] if left_turned else left[-2:][::-1]
    columns = right[-2] if right_turned else right[-1]
    batch = math.prod(op.outputs[0].shape.as_list()[:-2])
    if len(left) > 2 and math.prod(right[:-2]) == 1:
        # One matrix for all of the batch: its rows are rows of one product.
        return 1, batch * rows, inner, columns
    return batch, rows, inner, columns


def _einsum_sizes(
    equation: str, left: tuple[int, ...], right: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    if "..." in equation or "->" not in equation:
        return None
    inputs, result = equation.split("->")
    first, second = inputs.split(",")
    sizes = dict(zip(first + second, left + right, strict=True))

    def size(labels: set[str]) -> int:
        return math.prod(sizes[label] for label in labels)

    a, b, c = set(first), set(second), set(result)
    return size(a & b & c), size((a - b) & c), size(a & b - c), size((b - a) & c)
