"""Operators of a TFLite file that must not round inputs of channels with unlike scales."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from paring.data.scales import INT8_STEPS, INT16_STEPS, MEASURED_CALLS, Scales, unlike_inputs
from paring.errors import UnsupportedError

# What comes behind these has scales of its own.
_HEAVY = frozenset(
    {
        "BATCH_MATMUL",
        "CONV_2D",
        "CONV_3D",
        "DEPTHWISE_CONV_2D",
        "EMBEDDING_LOOKUP",
        "FULLY_CONNECTED",
        "GATHER",
        "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        "WHILE",
    }
)


def refuse_unlike_scales(
    batches: Iterator[Mapping[str, NDArray[Any]]], quantization: str, *, integer_io: bool
) -> None:
    """Refuse a form that rounds its inputs where it would round whole columns away.

    Of int8 the converter can leave the operators in float that `nodes_in_float` names. Of
    int16x8 it can leave none, and integers as inputs are rounded before any operator.

    Args:
        batches: What the model is run on, by signature name.
        quantization: "int8" or "int16x8".
        integer_io: Whether the file takes integers.

    Raises:
        UnsupportedError: The channels of an input have scales too unlike for its integers.
    """
    steps = INT16_STEPS if quantization == "int16x8" else INT8_STEPS
    unlike = unlike_inputs(batches, steps)
    if unlike:
        raise UnsupportedError(
            f"the columns of input {unlike[0]!r} have scales too unlike for one range of"
            f" {steps + 1:,} integers, which would round some of them away",
            received=f"quantization {quantization}" + (" with integer_io" if integer_io else ""),
            remedy="take quantization int8 without integer_io, which keeps them in float up to a"
            " normalization, or normalize the columns before they are given to the model",
        )


def nodes_in_float(content: bytes, batches: Iterator[Mapping[str, NDArray[Any]]]) -> list[str]:
    """Return the names of the operators up to the first heavy one that unlike scales pass.

    They are those between the inputs and the first convolution or product on the way, which
    read or give a tensor of unlike scales; and that one as well, if it reads one.

    Args:
        content: The TFLite file, in float.
        batches: What it is run on, by signature name.
    """
    interpreter = Interpreter(
        model_content=content,
        # Kernels that are run by a delegate leave nothing between them.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    runner = interpreter.get_signature_runner()
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    front = {int(detail["index"]) for detail in interpreter.get_input_details()}
    for operator in operators:
        if operator["op_name"] not in _HEAVY and front & set(map(int, operator["inputs"])):
            front |= set(map(int, operator["outputs"]))
    scales = {index: Scales() for index in front if details[index]["dtype"] == np.float32}
    for features in islice(batches, MEASURED_CALLS):
        runner(**features)
        for index, seen in scales.items():
            seen.add(interpreter.get_tensor(index))
        interpreter.reset_all_variables()
    unlike = {index for index, seen in scales.items() if seen.unlike()}
    return [
        str(details[int(operator["outputs"][0])]["name"])
        for operator in operators
        if unlike & {*map(int, operator["inputs"]), *map(int, operator["outputs"])}
    ]
