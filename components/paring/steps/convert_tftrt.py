"""Conversion of SavedModels by TF-TRT."""

from collections.abc import Iterator
from typing import Annotated, Literal

from annotated_types import Ge

from paring.artifacts import CalibrationSet, Examples, Model, TFTRTModel, content_bytes
from paring.errors import ParameterError, UnsupportedError
from paring.step import Input, Output, step

# Of examples that were not drawn for the purpose.
_CALIBRATION_SIZE = 200
# Examples that the result and its source are compared on.
_COMPARED = 32


@step(version="4", machine_dependent=True)
def convert_tftrt(
    model: Input[Model],
    examples: Input[Examples | None],
    calibration: Input[CalibrationSet | None],
    converted: Output[TFTRTModel],
    *,
    precision: Literal["fp32", "fp16", "int8"] = "fp16",
    max_batch: Annotated[int, Ge(1)] = 64,
    workspace_mb: Annotated[int, Ge(0)] = 0,
    calibration_size: Annotated[int, Ge(0)] = 0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Convert the parts of a SavedModel that TensorRT supports to engines by TF-TRT.

    TF-TRT
    (https://docs.nvidia.com/deeplearning/frameworks/tf-trt-user-guide/) needs a TensorFlow
    that was built with TensorRT; the engines are for the GPU of this machine. TensorFlow's
    packages have been built without TensorRT since 2.18; `build_tensorrt` works with them.

    Examples:
        >>> paring.convert_tftrt(network, arrays, precision="fp16").precision  # doctest: +SKIP
        'fp16'

    Args:
        model: Any model with a SavedModel whose batch varies.
        examples: int8 is calibrated on the train split where there is no `calibration`. On
            32 examples the result is also compared with its source; without examples on
            random numbers.
        calibration: Calibration examples of `draw_calibration`.
        converted: The SavedModel, under the same signature.
        precision: Type that the engines compute in.
        max_batch: Largest batch size of the engines; TensorFlow computes larger batches.
        workspace_mb: Memory of the GPU that an engine may work in, in MiB; 0 for all.
        calibration_size: Number of examples to calibrate on, drawn with each class in its
            share; 0 for all of `calibration`, or 200 of `examples`.
        seed: Seed of the draw.

    Raises:
        MissingDependencyError: There is no GPU, or TensorFlow was built without TensorRT.
        ParameterError: int8 without examples to calibrate on.
        ModelError: The SavedModel is missing or broken.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: The batch size is fixed, TensorRT supports no part of the model, or the
            outputs differ from the source's.
        StepFailedError: The converter failed.
    """
    given = calibration or examples
    if precision == "int8" and given is None:
        raise ParameterError(
            "int8 is calibrated on examples, and there are none",
            received=f"precision {precision}",
            remedy="give --examples, or use fp16, which needs none",
        )
    from paring.converters import tftrt

    tftrt.require()

    import numpy as np

    from paring.converters.tflite.calibration import calibration_calls, drawn_batches
    from paring.converters.tflite.conversion import Calls, Features, random_features
    from paring.data.examples import open_split
    from paring.models.same_signatures import keep_methods, note_dropped
    from paring.models.saved_model import SavedModel

    saved = SavedModel.open(model)
    signature = saved.signature()
    if any(spec.shape[:1] != (None,) for spec in signature.inputs.values()):
        raise UnsupportedError(
            "TF-TRT is given models whose batch varies",
            received=", ".join(f"{name} {item.shape}" for name, item in signature.inputs.items()),
            remedy="export the model with a batch dimension of None",
        )
    calls: Calls | None = None
    if precision == "int8" and given is not None:
        split = open_split(given, "train", signature)
        whole = split.count if given is calibration else _CALIBRATION_SIZE
        calls = calibration_calls(split, signature, size=calibration_size or whole, seed=seed)

    def shapes() -> Iterator[Features]:
        item = random_features(signature, seed)
        yield item
        yield {name: np.repeat(array, max_batch, axis=0) for name, array in item.items()}

    converted.engines = tftrt.convert(
        saved,
        converted.serving_dir,
        precision=precision,
        workspace_mb=workspace_mb,
        shapes=shapes,
        calibration=calls,
    )
    batches = drawn_batches(given, signature, size=_COMPARED, seed=seed)
    compared = tftrt.check_outputs(
        saved,
        SavedModel(converted.serving_dir, saved.key),
        batches,
        precision=precision,
        drawn=given is not None,
    )
    converted.compared, converted.difference = compared.on, compared.difference
    keep_methods(saved, converted.serving_dir)
    note_dropped(saved, converted)
    converted.keras = "none"
    converted.precision = precision
    converted.max_batch = max_batch
    converted.size_bytes = content_bytes(converted.serving_dir)
    if calibration is not None and calls is not None:
        converted.note = calibration.warning
