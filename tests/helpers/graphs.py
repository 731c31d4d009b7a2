"""Small ONNX files: made of real networks, in each precision, and some that are refused."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

TYPES = ["Conv", "MatMul", "Gemm", "Add"]

SYMMETRIC = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "OpTypesToExcludeOutputQuantization": TYPES,
}
"""onnxruntime's settings for graphs that TensorRT takes."""


def export(call: Any, shape: tuple[int, ...], file: Path) -> Path:
    """Write what `call` computes of `image`, float32 [batch, *shape]."""
    import tensorflow as tf
    import tf2onnx

    spec = [tf.TensorSpec((None, *shape), tf.float32, "image")]
    tf2onnx.convert.from_function(
        tf.function(call, input_signature=spec), spec, opset=18, output_path=str(file)
    )
    return file


def halve(source: Path, file: Path) -> Path:
    """Write it in float16, with inputs and outputs in float32."""
    from onnxconverter_common import float16

    with warnings.catch_warnings():
        # Of weights below 1e-7, which become that.
        warnings.filterwarnings("ignore", "the float32 number", UserWarning)
        made = float16.convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, str(file))
    return file


def quantize(source: Path, file: Path, images: np.ndarray, **settings: Any) -> Path:
    """Write it with explicit quantization, calibrated on `images`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = file.with_suffix(".prepared")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(file),
        _Reader(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=settings.pop("activation", QuantType.QInt8),
        weight_type=QuantType.QInt8,
        op_types_to_quantize=TYPES,
        extra_options=SYMMETRIC | settings,
    )
    return file


class _Reader:
    """Hands onnxruntime one batch."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([{"image": images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def product(file: Path, kind: int, shape: list[int | str] | None = None) -> Path:
    """Write x [batch, 8] times a constant [8, 8], computed in one type; x is of it."""
    identity = np.eye(8, dtype=helper.tensor_dtype_to_np_dtype(kind))
    weight = helper.make_tensor("w", kind, [8, 8], identity.tobytes(), raw=True)
    known = shape or ["n", 8]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "graph",
        [helper.make_tensor_value_info("x", kind, known)],
        [helper.make_tensor_value_info("y", kind, known)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(file))
    return file


FLOAT, DOUBLE, BFLOAT16 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16
