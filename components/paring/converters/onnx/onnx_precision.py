"""ONNX graphs in half precision and in int8."""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from paring.converters.onnx.input_scales import nodes_in_float
from paring.converters.onnx.onnx_export import sort_nodes, weight_arrays
from paring.converters.tflite.conversion import Calls
from paring.data.scales import unlike_inputs
from paring.errors import UnsupportedError, first_line
from paring.models.quiet import silent_stderr

Int8For = Literal["tensorrt", "onnxruntime"]

# What is computed in int8. TensorRT chooses for the rest by itself, and takes no
# graph that rounds it.
_COMPUTED = ("Conv", "MatMul", "Gemm", "Add")
# The operators with weights, and the axis of the output channels of these.
_WEIGHTED = ("Conv", "MatMul", "Gemm")
# int8 without -128, so that zero is in the middle.
_STEPS = 127
# How far from whole steps a weight may be that quantization-aware training rounded.
_ON_GRID = 1e-3


# Of weights in float16, which ends at 65,504: of the masks that attention adds to its scores, as
# -1e9, the sum of two stays finite.
_LARGEST_HALF = 3e4


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in float16, with float32 inputs and outputs.

    Operators that have no float16 kernel stay in float32, between casts. Weights too
    small for float16, or above 30,000, are cut off there.
    """
    from onnxconverter_common import float16

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated")
        made: onnx.ModelProto = float16.convert_float_to_float16(
            model, max_finite_val=_LARGEST_HALF, keep_io_types=True, check_fp16_ready=False
        )
    _follow_types(made.graph)
    sort_nodes(made.graph)
    return made


def _follow_types(graph: onnx.GraphProto) -> None:
    """Have casts to float32, as of integers, give float16 where their results became that.

    The library changes the types of the results alone.
    """
    types = {item.name: item.type.tensor_type.elem_type for item in graph.value_info}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _follow_types(attribute.g)
            elif (
                node.op_type == "Cast"
                and attribute.i == onnx.TensorProto.FLOAT
                and types.get(node.output[0]) == onnx.TensorProto.FLOAT16
            ):
                attribute.i = onnx.TensorProto.FLOAT16


def quantize(model: onnx.ModelProto, calls: Calls, int8_runtime: Int8For) -> onnx.ModelProto:
    """Return the graph with int8 weights and activations, between Q and DQ nodes.

    Weights are symmetric, with a scale for each output channel. The ranges of the
    activations are the least and the largest value that the calls give. Inputs whose
    channels have unlike scales stay in float up to where a normalization has evened them out.

    Args:
        model: A float graph.
        calls: The calibration inputs.
        int8_runtime: "tensorrt": symmetric int8 activations, rounded in front of
            convolutions, products and additions alone, biases in float: what its parser
            takes. "onnxruntime": asymmetric uint8 activations, rounded between all
            operators that have an int8 kernel, so that it can join them.

    Raises:
        UnsupportedError: ONNX Runtime can't quantize it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if int8_runtime == "tensorrt":
        settings: dict[str, Any] = {
            "activation_type": QuantType.QInt8,
            "op_types_to_quantize": list(_COMPUTED),
            "extra_options": {
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(_COMPUTED),
            },
        }
    else:
        settings = {
            "activation_type": QuantType.QUInt8,
            "extra_options": {"WeightSymmetric": True},
        }
    with tempfile.TemporaryDirectory(prefix="paring-onnx-") as scratch, silent_stderr():
        whole, prepared, made = (Path(scratch) / name for name in ("whole", "prepared", "made"))
        onnx.save(model, whole)
        try:
            quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            float_layers: list[str] = []
            if unlike_inputs(calls()):
                graph = onnx.load(prepared)
                float_layers = nodes_in_float(graph, calls(), Path(scratch))
                onnx.save(graph, prepared)
            quantize_static(
                prepared,
                made,
                _reader(calls),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=float_layers,
                **settings,
            )
        except Exception as error:
            # It raises ValueError, RuntimeError, onnx's and its own errors by the stage.
            raise UnsupportedError(
                "ONNX Runtime can't quantize this model",
                received=first_line(error),
                remedy="use precision fp16 or fp32, or convert_tflite",
            ) from error
        return onnx.load(made)


def from_trained_ranges(model: onnx.ModelProto, int8_runtime: Int8For) -> onnx.ModelProto:
    """Return the graph of a model from quantization-aware training, with its own ranges.

    tf2onnx leaves such a model's activations between Q and DQ nodes of asymmetric
    uint8, and its weights as floats of the values that they were rounded to. The weights
    become int8 again: with a scale for each output channel of its largest value over
    127, which gives the rounded values back where training had a scale for each channel,
    and a finer rounding of them where it had one for all.

    Args:
        model: What tf2onnx made of it; changed in place.
        int8_runtime: See `quantize`. For "tensorrt", an activation's range becomes
            symmetric: that of the larger end, in 127 steps.

    Returns:
        `model`.

    Raises:
        UnsupportedError: No weight was rounded.
    """
    arrays = weight_arrays(model)
    if int8_runtime == "tensorrt":
        _make_symmetric(model, arrays)
    if not _round_weights(model, arrays):
        raise UnsupportedError(
            "no weight of this model was rounded by quantization-aware training",
            remedy="use precision fp16 or fp32, or convert_tflite",
        )
    sort_nodes(model.graph)
    return model


def layers_in_float(model: onnx.ModelProto) -> list[str]:
    """Return the names of convolutions and products of weights that are not in int8."""
    dequantized = {
        item.output[0] for item in model.graph.node if item.op_type == "DequantizeLinear"
    }
    weights = {item.name for item in model.graph.initializer} | dequantized
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _WEIGHTED
        and node.input[1] in weights
        and node.input[1] not in dequantized
    ]


def _reader(calls: Calls) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Calibration reader of ONNX Runtime for the inputs of each call."""

        def __init__(self) -> None:
            self._left: Iterator[dict[str, NDArray[Any]]] = calls()

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._left, None)

    return Reader()


def _make_symmetric(model: onnx.ModelProto, arrays: dict[str, Any]) -> None:
    """Turn uint8 activations with a zero point into int8 ones around zero."""
    made: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = float(arrays[node.input[1]]), int(arrays[node.input[2]])
        limits = np.iinfo(arrays[node.input[2]].dtype)
        steps = max(zero - limits.min, limits.max - zero)
        # One scale may serve several zero points.
        name = f"{node.input[1]}_{zero}_symmetric"
        if name not in made:
            made.add(name)
            _add(model, name, np.array(scale * steps / _STEPS, np.float32))
            _add(model, f"{name}_zero", np.array(0, np.int8))
        node.input[1], node.input[2] = name, f"{name}_zero"
    _drop_unused(model)


def _round_weights(model: onnx.ModelProto, arrays: dict[str, Any]) -> int:
    """Make int8 of the weights that were rounded; how many tensors."""
    rounded: dict[str, str] = {}
    added = []
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED or node.input[1] not in arrays:
            continue
        name = node.input[1]
        axis = _channel_axis(node)
        weights = arrays[name]
        if not _was_rounded(weights, axis):
            continue
        if name not in rounded:
            rounded[name] = f"{name}_dequantized"
            added.append(_dequantize(model, name, weights, axis=axis, output=rounded[name]))
        node.input[1] = rounded[name]
    model.graph.node.extend(added)
    _drop_unused(model)
    return len(rounded)


def _channel_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return 0 if transposed else 1


def _was_rounded(weights: NDArray[Any], axis: int) -> bool:
    """Return whether some output channel holds multiples of its largest value over 127.

    Not all do where training had one scale for the whole tensor.
    """
    if weights.ndim < 2:
        return False
    channels = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    channels = channels[np.abs(channels).max(axis=1) > 0]
    steps = channels / np.abs(channels).max(axis=1, keepdims=True) * _STEPS
    distance = np.abs(steps - np.rint(steps)).max(axis=1)
    return bool((distance < _ON_GRID).any())


def _dequantize(
    model: onnx.ModelProto, name: str, weights: NDArray[Any], *, axis: int, output: str
) -> onnx.NodeProto:
    """Add the weights as int8, and their scales; the node that gives them back."""
    others = tuple(item for item in range(weights.ndim) if item != axis)
    largest = np.abs(weights).max(axis=others)
    scales = np.where(largest > 0, largest / _STEPS, 1).astype(np.float32)
    shape = [1] * weights.ndim
    shape[axis] = -1
    _add(model, f"{name}_int8", np.rint(weights / scales.reshape(shape)).astype(np.int8))
    _add(model, f"{name}_scale", scales)
    _add(model, f"{name}_zero", np.zeros(len(scales), np.int8))
    return onnx.helper.make_node(
        "DequantizeLinear",
        [f"{name}_int8", f"{name}_scale", f"{name}_zero"],
        [output],
        name=output,
        axis=axis,
    )


def _add(model: onnx.ModelProto, name: str, array: NDArray[Any]) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [item for item in model.graph.initializer if item.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
