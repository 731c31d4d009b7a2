"""Conversion of models to OpenVINO."""

from typing import Annotated

from annotated_types import Ge, Le

from paring.artifacts import Examples, OpenVINOModel, Servable
from paring.step import Input, Output, step

_COMPARED = 300


@step(version="6")
def convert_openvino(
    model: Input[Servable],
    examples: Input[Examples | None],
    converted: Output[OpenVINOModel],
    *,
    max_difference: Annotated[float, Ge(0), Le(1)] = 1.0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Convert a model to OpenVINO's format, which Intel's and AMD's processors run fast.

    OpenVINO (https://docs.openvino.ai) has a reader for each form: a SavedModel, which it takes
    in float32 where ONNX lacks operators of it; an ONNX file in any precision; and a TFLite
    file, whose int8 it keeps. The precision stays, and so do the names of inputs and outputs.
    The result is compared with the source in the source's own runtime.

    Examples:
        >>> exported = paring.export_onnx(network, arrays)
        >>> paring.convert_openvino(exported, arrays).difference < 1e-3
        True

    Args:
        model: A SavedModel, or the output of `export_onnx` or `convert_tflite`; int8 of
            `export_onnx` should be for onnxruntime, which rounds between all operators.
        examples: Both files are compared on examples of the train split; without examples,
            on random numbers.
        converted: OpenVINO's files, `model.xml` and `model.bin`.
        max_difference: Largest allowed share of the compared examples whose class is
            another than the source's; for outputs that are no class scores, the
            largest root mean square of the difference over their standard deviation. With
            1, it is the accuracy gate that judges; a file that is broken is refused in any
            case, see `paring.converters.comparison`.
        seed: Seed of the draw.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        ArtifactTypeError: The model is of a form that OpenVINO can't read.
        ModelError: The model is missing or broken, or weights of it are elsewhere.
        UntrustedModelError: It has operators of other libraries, and trust_model is off.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: OpenVINO lacks operators of the model, or its outputs differ.
    """
    from paring.runtimes.openvino import import_openvino

    import_openvino()
    from paring.converters.openvino.conversion import store
    from paring.converters.openvino.sources import open_source
    from paring.converters.tflite.calibration import drawn_batches

    source = open_source(model)
    batches = drawn_batches(examples, source.signature, size=_COMPARED, seed=seed)
    store(source, converted, batches, max_difference=max_difference, trusted=model.trusted)
    converted.note = model.note
