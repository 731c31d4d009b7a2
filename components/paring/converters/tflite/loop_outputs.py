"""Outputs of loops that nothing reads, which TensorFlow's calibrator crashes on.

A loop hands what its body only reads, such as the input sequence of a GRU, from each
iteration to the next and gives it out in the end, where nothing takes it. The kernel of
WHILE leaves such an output without memory. The calibrator records the values of all outputs
that are floats, and so reads from address 0.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from paring.converters.tflite.tflite_weights import operator_kind


def read_loop_outputs(content: bytes) -> bytes:
    """Return a TFLite file in which an operator reads each output of a loop.

    The quantizer removes these operators, since nothing takes what they compute.

    Args:
        content: The bytes of a TFLite file of float32.

    Returns:
        The bytes of the new file; `content` itself where there is nothing to do.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    added = sum(_read_outputs(model, graph) for graph in model.subgraphs)
    if not added:
        return content
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _read_outputs(model: Any, graph: Any) -> int:
    """Add the operators to one graph; return how many."""
    read = set(graph.outputs)
    for operator in graph.operators:
        # Handles of variables are made of nothing.
        read.update(operator.inputs if operator.inputs is not None else ())
    operators: list[Any] = []
    added = 0
    for operator in graph.operators:
        operators.append(operator)
        if operator_kind(model, operator) != schema.BuiltinOperator.WHILE:
            continue
        for index in operator.outputs:
            if index not in read and graph.tensors[index].type == schema.TensorType.FLOAT32:
                operators.append(_shape_of(model, graph, index))
                added += 1
    graph.operators = operators
    return added


def _shape_of(model: Any, graph: Any, index: int) -> Any:
    """Return an operator for the shape of a tensor, whose result is a new tensor of the graph."""
    shape = schema.TensorT()
    shape.name = graph.tensors[index].name + b"/shape"
    shape.type = schema.TensorType.INT32
    shape.shape = np.array([len(graph.tensors[index].shape)], np.int32)
    graph.tensors.append(shape)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SHAPE
    code.version = 1
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = np.array([index], np.int32)
    operator.outputs = np.array([len(graph.tensors) - 1], np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.ShapeOptions
    operator.builtinOptions = schema.ShapeOptionsT()
    operator.builtinOptions.outType = schema.TensorType.INT32
    return operator
