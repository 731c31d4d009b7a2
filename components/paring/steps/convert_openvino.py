"""Conversion of ONNX models to OpenVINO."""

from typing import Annotated

from annotated_types import Ge, Le

from paring.artifacts import Examples, ONNXModel, OpenVINOModel
from paring.step import Input, Output, step

_COMPARED = 300


@step(version="5")
def convert_openvino(
    model: Input[ONNXModel],
    examples: Input[Examples | None],
    converted: Output[OpenVINOModel],
    *,
    max_difference: Annotated[float, Ge(0), Le(1)] = 1.0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Convert an ONNX file to OpenVINO's format, which Intel's and AMD's processors run fast.

    The precision is the ONNX file's, and so are the names of its inputs and outputs.
    OpenVINO (https://docs.openvino.ai) reads the file itself, without its telemetry.
    The result is compared with the ONNX file in ONNX Runtime.

    Examples:
        >>> exported = paring.export_onnx(network, arrays)
        >>> paring.convert_openvino(exported, arrays).difference < 1e-3
        True

    Args:
        model: Output of `export_onnx`; int8 should be for onnxruntime, which rounds
            between all operators.
        examples: Both files are compared on examples of the train split; without examples,
            on random numbers.
        converted: OpenVINO's files, `model.xml` and `model.bin`.
        max_difference: Largest allowed share of the compared examples whose class is
            another than the ONNX file's; for outputs that are no class scores, the
            largest root mean square of the difference over their standard deviation. With
            1, it is the accuracy gate that judges; a file that is broken is refused in any
            case, see `paring.converters.comparison`.
        seed: Seed of the draw.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        ModelError: The ONNX file is missing or broken, or weights of it are elsewhere.
        UntrustedModelError: It has operators of other libraries, and trust_model is off.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: OpenVINO lacks operators of the model, or its outputs differ.
    """
    from paring.models.onnx_files import check_onnx
    from paring.runtimes.openvino import import_openvino

    import_openvino()
    check_onnx(model.file, trusted=model.trusted)
    from paring.converters.onnx.onnx_export import read_onnx_signature
    from paring.converters.onnx.openvino_conversion import store
    from paring.converters.tflite.calibration import drawn_batches

    signature = read_onnx_signature(model.file)
    batches = drawn_batches(examples, signature, size=_COMPARED, seed=seed)
    store(
        model.file,
        converted,
        batches,
        max_difference=max_difference,
        precision=model.precision,
        trusted=model.trusted,
    )
    converted.precision = model.precision
    converted.note = model.note
