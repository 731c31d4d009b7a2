"""Export of models to ONNX, in full or half precision or in int8."""

from typing import Annotated, Literal

from annotated_types import Ge, Le

from paring.artifacts import CalibrationSet, Examples, Model, ONNXModel, QuantizedModel
from paring.errors import ParameterError, UnsupportedError
from paring.step import Input, Output, step

# Of examples that were not drawn for the purpose.
_CALIBRATION_SIZE = 200
_COMPARED = 300


@step(version="7")
def export_onnx(
    model: Input[Model],
    examples: Input[Examples | None],
    calibration: Input[CalibrationSet | None],
    exported: Output[ONNXModel],
    *,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    int8_runtime: Literal["tensorrt", "onnxruntime"] = "tensorrt",
    opset: Annotated[int, Ge(13), Le(18)] = 18,
    max_difference: Annotated[float, Ge(0), Le(1)] = 1.0,
    calibration_size: Annotated[int, Ge(0)] = 0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Export a model to one ONNX file, and compare it with its source in ONNX Runtime.

    The file has the inputs and outputs of the SavedModel's signature, under the same names
    and in the same dtypes; a batch size that varies there varies here. tf2onnx
    (https://github.com/onnx/tensorflow-onnx) converts it.

    - fp32: as trained;
    - fp16: weights and computation in float16, inputs and outputs as they were;
    - int8: weights and activations in int8, between QuantizeLinear and
      DequantizeLinear nodes; weights symmetric with a scale for each output channel,
      ranges of activations from calibration examples.

    A model from quantization-aware training contains the ranges for int8; the other
    precisions would discard the ranges.

    Before it is written, the file's outputs are compared with the source's, on examples
    of the train split or else on random numbers, without ONNX Runtime's optimizations of
    the graph. fp32 must agree to within a thousandth of the largest output.

    Examples:
        >>> exported = paring.export_onnx(network, arrays)
        >>> exported.difference < 1e-3
        True

    Args:
        model: Any model with a SavedModel.
        examples: int8 is calibrated, and all files are compared, on the train split.
            Without examples a file is compared on random numbers, and can't be int8.
        calibration: Calibration examples of `draw_calibration`, in place of the train split's.
        exported: The ONNX file.
        precision: Precision of the file; see above.
        int8_runtime: Runtime of the int8 file: "tensorrt" takes symmetric int8 activations alone,
            rounded in front of the operators that it computes in int8; "onnxruntime" is faster
            with asymmetric uint8 ones that are rounded between all operators.
        opset: The version of ONNX's operators.
        max_difference: Largest allowed share of the compared examples whose class is
            another than the source's; for outputs that are no class scores, the largest
            root mean square of the difference over their standard deviation. With 1, it is
            the accuracy gate that judges; a file that is broken is refused in any case, see
            `paring.converters.comparison`.
        calibration_size: Number of examples to calibrate on, drawn with each class in its
            share; 0 for all of `calibration`, or 200 of `examples`.
        seed: Seed of the draws.

    Raises:
        ParameterError: int8 without examples.
        ModelError: The SavedModel is missing or broken.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: ONNX lacks operators of the model, the model was trained for
            another precision, or the file's outputs are too far from the source's.
    """
    given = calibration or examples
    if precision == "int8" and given is None:
        raise ParameterError(
            "precision int8 is calibrated and checked on examples, and there are none",
            received="precision int8",
            remedy="give --examples, or use precision fp16, which needs none",
        )

    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.converters.onnx.onnx_check import store
    from paring.converters.onnx.onnx_export import to_onnx
    from paring.converters.onnx.onnx_precision import from_trained_ranges, quantize, to_half
    from paring.converters.tflite.calibration import calibration_calls, drawn_batches
    from paring.converters.tflite.conversion import has_fake_quantization
    from paring.data.examples import open_split
    from paring.models.saved_model import SavedModel

    saved = SavedModel.open(model)
    signature = saved.signature()
    trained = isinstance(model, QuantizedModel) or has_fake_quantization(saved)
    if trained and precision != "int8":
        raise UnsupportedError(
            f"a model from quantization-aware training can't become {precision}",
            received=f"precision {precision}",
            remedy="use precision int8, for which it was trained",
        )
    graph = to_onnx(saved, opset)
    if precision == "fp16":
        graph = to_half(graph)
    elif trained:
        graph = from_trained_ranges(graph, int8_runtime)
    elif precision == "int8" and given is not None:
        split = open_split(given, "train", signature)
        size = calibration_size or (split.count if given is calibration else _CALIBRATION_SIZE)
        graph = quantize(
            graph, calibration_calls(split, signature, size=size, seed=seed), int8_runtime
        )

    batches = drawn_batches(examples or calibration, signature, size=_COMPARED, seed=seed)
    store(graph, exported, saved, batches, precision=precision, max_difference=max_difference)
    exported.opset = opset
    if precision == "int8":
        exported.int8_runtime = int8_runtime
        if calibration is not None and not trained:
            exported.note = calibration.warning
