"""Statistics of the weights in a TFLite file, read from the file itself.

The file is a flatbuffer of operators, tensors and buffers
(https://github.com/google-ai-edge/LiteRT/blob/main/tflite/schema/schema.fbs).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

# The operands that hold weights, of each operator that has some. Those of recurrent
# layers stand for the four gates: of the input, then of the state.
_WEIGHT_OPERANDS = {
    schema.BuiltinOperator.CONV_2D: (1,),
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: (1,),
    schema.BuiltinOperator.CONV_3D: (1,),
    schema.BuiltinOperator.TRANSPOSE_CONV: (1,),
    schema.BuiltinOperator.CONV_3D_TRANSPOSE: (1,),
    schema.BuiltinOperator.FULLY_CONNECTED: (1,),
    schema.BuiltinOperator.BATCH_MATMUL: (0, 1),
    schema.BuiltinOperator.EMBEDDING_LOOKUP: (1,),
    schema.BuiltinOperator.GATHER: (0,),
    schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_RNN: (1, 2),
    schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM: tuple(range(1, 9)),
}

_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
}


@dataclass(frozen=True)
class StoredTensor:
    """One weight tensor as the file holds it.

    Attributes:
        name: The tensor's name in the file.
        values: As they are stored, of type float32, float16, int8 or uint8.
        zeros: How many of them stand for 0.0.
    """

    name: str
    values: NDArray[Any]
    zeros: int


@dataclass(frozen=True)
class StoredWeights:
    """All weights of a file.

    Attributes:
        count: How many weights there are.
        sparsity: The share of them that stand for 0.0; None without weights.
        distinct: Half of the weights are in tensors with no more distinct stored
            values than this; None without weights.
    """

    count: int
    sparsity: float | None
    distinct: int | None


def stored_weights(content: bytes) -> StoredWeights:
    """Measure the weights in the TFLite file `content`; see `weight_tensors`."""
    tensors = list(weight_tensors(content))
    count = sum(tensor.values.size for tensor in tensors)
    if not count:
        return StoredWeights(0, None, None)
    sparsity = sum(tensor.zeros for tensor in tensors) / count
    figures = sorted((len(np.unique(tensor.values)), tensor.values.size) for tensor in tensors)
    # Small kernels that nothing was done to, such as depthwise ones, do not decide.
    half = int(np.searchsorted(np.cumsum([size for _, size in figures]), count / 2))
    return StoredWeights(count, sparsity, figures[half][0])


def stored_constants(content: bytes) -> tuple[int, int]:
    """Count what the TFLite file `content` holds, and what it lacks.

    Returns:
        How many values its constants have; and how many variables it reads that no
        operator of it sets.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    constants: dict[int, int] = {}
    read: set[bytes] = set()
    written: set[bytes] = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data):
                shape = [] if tensor.shape is None else tensor.shape
                constants[tensor.buffer] = int(np.prod(shape, dtype=np.int64))
        handles: dict[int, bytes] = {}
        for operator in graph.operators:
            kind = operator_kind(model, operator)
            if kind == schema.BuiltinOperator.VAR_HANDLE:
                options = operator.builtinOptions
                handles[operator.outputs[0]] = b"%s/%s" % (
                    options.container or b"",
                    options.sharedName or b"",
                )
            elif kind == schema.BuiltinOperator.READ_VARIABLE and operator.inputs[0] in handles:
                read.add(handles[operator.inputs[0]])
            elif kind == schema.BuiltinOperator.ASSIGN_VARIABLE:
                written.add(handles.get(operator.inputs[0], b""))
    return sum(constants.values()), len(read - written)


def weight_tensors(content: bytes) -> Iterator[StoredTensor]:
    """Yield the weight tensors in the TFLite file `content`, each once.

    They are the constants with two dimensions or more that convolutions, dense and
    recurrent layers, and embeddings compute with: no biases, shapes or paddings.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    seen: set[int] = set()
    for graph in model.subgraphs:
        # Half-precision weights go through an operator that makes float32 of them.
        widened = {
            operator.outputs[0]: operator.inputs[0]
            for operator in graph.operators
            if operator_kind(model, operator) == schema.BuiltinOperator.DEQUANTIZE
        }
        for operator in graph.operators:
            for position in _WEIGHT_OPERANDS.get(operator_kind(model, operator), ()):
                # An operand that is left out has the index -1.
                index = operator.inputs[position] if position < len(operator.inputs) else -1
                if index < 0:
                    continue
                tensor = graph.tensors[widened.get(index, index)]
                data = model.buffers[tensor.buffer].data
                if data is None or tensor.buffer in seen or len(tensor.shape) < 2:
                    continue
                if tensor.type in _DTYPES:
                    seen.add(tensor.buffer)
                    yield _stored(tensor, data)


def operator_kind(model: Any, operator: Any) -> int:
    """Return the number of an operator's kind, as in `schema.BuiltinOperator`."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Codes above 127 do not fit in the older of the two fields, and small ones
    # may be in that alone.
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _stored(tensor: Any, data: Any) -> StoredTensor:
    raw = np.asarray(data, np.uint8).tobytes()
    values = np.frombuffer(raw, _DTYPES[tensor.type]).reshape(tensor.shape)
    zero_point: Any = 0
    if tensor.quantization is not None and tensor.quantization.zeroPoint is not None:
        zero_point = np.asarray(tensor.quantization.zeroPoint)
        if zero_point.size > 1:
            shape = [1] * values.ndim
            shape[tensor.quantization.quantizedDimension] = -1
            zero_point = zero_point.reshape(shape)
    return StoredTensor(tensor.name.decode(), values, int(np.count_nonzero(values == zero_point)))
