"""Operations and memory of a model's inference graph."""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paring.errors import UnsupportedError, first_line
from paring.graphs.freezing import freeze
from paring.models.arguments import by_name
from paring.models.library_types import KerasModel
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature, TensorSpec
from paring.models.signature_loading import load_signatures

UNKNOWN_DIMENSION = 32
"""What stands in for a dimension other than the batch that a model leaves open."""

# These hand their first input's buffer on, or hold none.
ALIASES = frozenset(
    {"Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "NoOp"}
)
_SOURCES = frozenset({"Const", "Placeholder"})
_NOT_LISTED = frozenset({"Placeholder", "Identity", "NoOp"})
_NO_FLOPS = ALIASES | _SOURCES | {
    "Cast", "ConcatV2", "Fill", "Gather", "GatherV2", "MirrorPad", "Pack", "Pad", "PadV2",
    "Range", "Shape", "Slice", "Split", "SplitV", "StridedSlice", "Tile", "Transpose", "Unpack",
    "ZerosLike", "OnesLike", "ResizeNearestNeighbor", "SpaceToBatchND", "BatchToSpaceND",
    "DepthToSpace", "SpaceToDepth", "BroadcastTo", "ReverseV2", "Where", "OneHot",
}  # fmt: skip
_REDUCTIONS = frozenset({"Mean", "Sum", "Max", "Min", "Prod", "All", "Any", "ArgMax", "ArgMin"})
# Operations for each element of the output; 1 for every operator not named.
_PER_ELEMENT = {
    "Softmax": 5,
    "LogSoftmax": 5,
    "FusedBatchNormV3": 2,
    "Sigmoid": 4,
    "Tanh": 4,
    "Elu": 2,
    "Selu": 2,
    "SquaredDifference": 2,
    "FakeQuantWithMinMaxVars": 4,
    "FakeQuantWithMinMaxVarsPerChannel": 4,
}
_LOOPS = frozenset({"While", "StatelessWhile", "If", "StatelessIf", "Case", "PartitionedCall"})


@dataclass(frozen=True)
class Weight:
    """One weight tensor; `size_bytes` as it is stored in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int

    @property
    def count(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GraphCost:
    """Cost of the inference of one example.

    Attributes:
        flops: Floating-point operations; a multiply-add counts as 2.
        uncounted: Operators that are not in `flops`: loops and conditions, whose
            bodies may run any number of times, and results of unknown shape.
        activation_bytes: Peak of the tensors that are live at once, when the
            operators run in the graph's topological order and no operator
            works in place. Weights are not in it.
        operators: How often each operator occurs, without constants,
            placeholders and identities.
    """

    flops: int
    uncounted: tuple[str, ...]
    activation_bytes: int
    operators: dict[str, int]


def load_function(model: SavedModel) -> Any:
    """Return the signature that the SavedModel was opened for as a concrete function.

    It keeps the loaded model alive as `_paring_owner`.

    Raises:
        ModelError: TensorFlow can't load it.
    """
    loaded = load_signatures(model)
    function = loaded.signatures[model.key]
    # Functions hold their variables weakly.
    function._paring_owner = loaded
    return function


def frozen_graph(function: Any, signature: Signature, batch_size: int = 1) -> Any:
    """Return the graph (tf.Graph) of a signature's function at one batch size.

    Variables are constants in it and called functions are inlined, but loops
    and conditions are kept. A fixed batch size stays as it is.

    Raises:
        UnsupportedError: TensorFlow can't freeze this graph.
    """
    return _traced_and_frozen(by_name(function), signature, batch_size)[1]


def keras_cost(model: KerasModel) -> tuple[int, int]:
    """Return the number of weights of a tf_keras model, and its FLOPs for one example.

    Both are what the step `profile` finds in the SavedModel.

    Raises:
        UnsupportedError: TensorFlow can't freeze its graph.
    """
    import tensorflow as tf

    specs = {
        name: TensorSpec(name, tuple(tensor.shape), tensor.dtype.name)
        for name, tensor in zip(model.input_names, model.inputs, strict=True)
    }

    def serve(tensors: dict[str, Any]) -> Any:
        given = [tensors[name] for name in specs]
        return model(tf.nest.pack_sequence_as(model.input, given), training=False)

    traced, graph = _traced_and_frozen(serve, Signature(specs, {}))
    batch_size = max(concrete_shape(spec)[0] for spec in specs.values())
    parameters = sum(weight.count for weight in weights(traced, graph))
    return parameters, cost(graph).flops // batch_size


def _traced_and_frozen(
    serve: Callable[[dict[str, Any]], Any], signature: Signature, batch_size: int = 1
) -> tuple[Any, Any]:
    import tensorflow as tf

    specs = {
        name: tf.TensorSpec(
            concrete_shape(spec, batch_size), "string" if spec.dtype == "object" else spec.dtype
        )
        for name, spec in signature.inputs.items()
    }
    try:
        concrete = tf.function(lambda tensors: serve(tensors)).get_concrete_function(specs)
        frozen = freeze(concrete)
    except (tf.errors.OpError, ValueError, TypeError, NotImplementedError) as error:
        raise UnsupportedError(
            "the model's graph can't be frozen",
            received=first_line(error),
            remedy="export the model with variables that are read by their handle, without"
            " lookup tables in the signature",
        ) from error
    return concrete, frozen


def concrete_shape(spec: TensorSpec, batch_size: int = 1) -> tuple[int, ...]:
    """Return the shape for one batch, with UNKNOWN_DIMENSION where another dimension is open."""
    return tuple(
        size if size is not None else (batch_size if axis == 0 else UNKNOWN_DIMENSION)
        for axis, size in enumerate(spec.shape)
    )


def weights(function: Any, graph: Any) -> list[Weight]:
    """Return the weights that the function reads, largest first.

    They are its variables; in a graph that was frozen before it was exported,
    its float constants with more than one element.
    """
    result = [
        Weight(v.name, tuple(v.shape.as_list()), v.dtype.name, tensor_bytes(v.shape, v.dtype))
        for v in function.variables
    ]
    if not result:
        result = [
            Weight(
                op.name,
                tuple(out.shape.as_list()),
                out.dtype.name,
                tensor_bytes(out.shape, out.dtype),
            )
            for op in graph.get_operations()
            if op.type == "Const"
            for out in op.outputs
            if out.dtype.is_floating and out.shape.rank and out.shape.num_elements() > 1
        ]
    return sorted(result, key=lambda item: (-item.size_bytes, item.name))


def cost(graph: Any) -> GraphCost:
    """Compute the cost of running the frozen `graph`; see `GraphCost`."""
    ordered = in_topological_order(graph)
    constant = constant_operations(ordered)
    computed = [op for op in ordered if op.name not in constant]
    counts = Counter(op.type for op in computed if op.type not in _NOT_LISTED)
    left_out = [op for op in computed if op.type in _LOOPS or not has_known_shapes(op)]
    skipped = {op.name for op in left_out}
    return GraphCost(
        flops=sum(flops(op) for op in computed if op.name not in skipped),
        uncounted=tuple(sorted({op.type for op in left_out} - _NO_FLOPS)),
        activation_bytes=_peak_bytes(computed, [out.name for out in graph.outputs]),
        operators=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
    )


def flops(op: Any) -> int:
    """Return the floating-point operations of one TensorFlow operation with known shapes."""
    if op.type in _NO_FLOPS or not op.outputs or not _computes_floats(op):
        return 0
    result = _elements(op.outputs[0])
    operands: list[tuple[int, ...]] = [tuple(tensor.shape) for tensor in op.inputs]
    match op.type:
        case "Conv2D" | "Conv3D":
            # The kernel is [*window, channels in a group, channels out].
            return 2 * result * math.prod(operands[1][:-1])
        case "DepthwiseConv2dNative":
            return 2 * result * math.prod(operands[1][:2])
        case "Conv2DBackpropInput":
            # A transposed convolution: each input element meets the whole
            # kernel, [*window, channels out, channels in], of its channel.
            return 2 * _elements(op.inputs[2]) * math.prod(operands[1][:-1])
        case "MatMul":
            return 2 * result * operands[0][0 if op.get_attr("transpose_a") else 1]
        case "BatchMatMul" | "BatchMatMulV2" | "BatchMatMulV3":
            return 2 * result * operands[0][-2 if op.get_attr("adj_x") else -1]
        case "Einsum":
            return _einsum_flops(op.get_attr("equation").decode(), operands)
        case "AvgPool" | "MaxPool" | "AvgPool3D" | "MaxPool3D":
            return result * int(math.prod(op.get_attr("ksize")))
        case kind if kind in _REDUCTIONS:
            return _elements(op.inputs[0])
    return result * _PER_ELEMENT.get(op.type, 1)


def _einsum_flops(equation: str, operands: Sequence[tuple[int, ...]]) -> int:
    if len(operands) < 2:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.split("->")[0].split(","), operands, strict=True):
        head, _, tail = term.partition("...")
        spread = len(shape) - len(head) - len(tail)
        labels = [*head, *(f"...{spread - i}" for i in range(spread)), *tail]
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return 2 * math.prod(sizes.values())


def has_known_shapes(op: Any) -> bool:
    """Return whether the shapes that `flops` needs are known."""
    return all(t.shape.is_fully_defined() for t in [*op.inputs, *op.outputs[:1]])


def _computes_floats(op: Any) -> bool:
    tensors = [*op.outputs[:1], *op.inputs[:1]]
    return any(tensor.dtype.is_floating or tensor.dtype.is_complex for tensor in tensors)


def in_topological_order(graph: Any) -> list[Any]:
    """Return every operation after what it needs; otherwise in the graph's own order."""
    operations = graph.get_operations()
    position = {op.name: index for index, op in enumerate(operations)}
    waiting: dict[int, int] = {}
    users: dict[int, list[int]] = {}
    for index, op in enumerate(operations):
        needed = {position[item.op.name] for item in op.inputs}
        needed |= {position[item.name] for item in op.control_inputs}
        waiting[index] = len(needed)
        for item in needed:
            users.setdefault(item, []).append(index)
    ready = [index for index, count in waiting.items() if count == 0]
    ordered: list[Any] = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(operations[index])
        for user in users.get(index, []):
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    return ordered


def constant_operations(ordered: Sequence[Any]) -> set[str]:
    """Return the names of the operations whose results no input changes."""
    constant: set[str] = set()
    for op in ordered:
        if op.type == "Const" or (
            op.inputs
            and not op.op_def.is_stateful
            and all(tensor.op.name in constant for tensor in op.inputs)
        ):
            constant.add(op.name)
    return constant


def _peak_bytes(computed: Sequence[Any], results: Sequence[str]) -> int:
    """Return the most bytes that live tensors take at once, running in this order.

    A buffer lives from the operation that makes it to the last that reads it;
    the graph's results, to the end.
    """
    buffer: dict[str, str] = {}
    size: dict[str, int] = {}
    made: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, op in enumerate(computed):
        for tensor in op.inputs:
            if tensor.name in buffer:
                last[buffer[tensor.name]] = index
        aliased = op.type in ALIASES and op.inputs and op.inputs[0].name in buffer
        for output in op.outputs:
            if aliased:
                buffer[output.name] = buffer[op.inputs[0].name]
                continue
            buffer[output.name] = output.name
            size[output.name] = tensor_bytes(output.shape, output.dtype)
            made[output.name] = last[output.name] = index
    for name in results:
        if name in buffer:
            last[buffer[name]] = len(computed)
    change = Counter[int]()
    for name, index in made.items():
        change[index] += size[name]
        change[last[name] + 1] -= size[name]
    return max(itertools.accumulate(change[index] for index in sorted(change)), default=0)


def _elements(tensor: Any) -> int:
    return int(tensor.shape.num_elements() or 0)


def tensor_bytes(shape: Any, dtype: Any) -> int:
    """Return the bytes of a tensor; 0 for a shape that is not known and for resources."""
    if not shape.is_fully_defined():
        return 0
    try:
        return int(shape.num_elements() * dtype.size)
    except TypeError:
        # Strings and handles have no size of their own.
        return 0
