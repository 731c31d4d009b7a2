"""Conversion to TFLite, with or without quantization after training."""

from itertools import islice
from typing import Annotated, Literal

from annotated_types import Ge

from paring.artifacts import CalibrationSet, Examples, Model, QuantizedModel, TFLiteModel
from paring.errors import ParameterError, UnsupportedError
from paring.step import Input, Output, step

# Of examples that were not drawn for the purpose.
_CALIBRATION_SIZE = 200
# Calls that the file and its source are compared on.
_COMPARED = 32


@step(version="8")
def convert_tflite(
    model: Input[Model],
    examples: Input[Examples | None],
    calibration: Input[CalibrationSet | None],
    converted: Output[TFLiteModel],
    *,
    quantization: Literal["none", "fp16", "dynamic", "int8", "int16x8"] = "none",
    integer_io: bool = False,
    calibration_size: Annotated[int, Ge(0)] = 0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Convert a model to one TFLite file, and compare it with its source.

    The file has the inputs and outputs of the SavedModel's signature, under the same
    names and, unless `integer_io`, in the same dtypes; with an LSTM in it, it takes one
    example at a time, which the fact `batch_size` states. The same model and
    parameters give the same bytes. The quantizations are TensorFlow's
    post-training ones
    (https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization):

    - none: float32, also where the model computes in half precision;
    - fp16: weights stored as float16, computed in float32;
    - dynamic: weights int8, activations quantized at run time;
    - int8: weights and activations int8, ranges from calibration examples;
    - int16x8: weights int8, activations int16, ranges likewise.

    A model from quantization-aware training contains the ranges for int8
    and needs no examples; the other quantizations would discard the ranges.

    Examples:
        >>> converted = paring.convert_tflite(network, quantization="dynamic")
        >>> [file.name for file in converted.serving_dir.iterdir()]
        ['model.tflite']

    Args:
        model: Any model with a SavedModel.
        examples: int8 and int16x8 are calibrated on the train split. On 32 of its
            examples the file is also compared with its source; without examples on
            random numbers.
        calibration: Calibration examples of `draw_calibration`; `examples` are not read then.
        converted: The TFLite file, with the facts `weight_count`, `sparsity` and
            `distinct_weights`, measured in the file itself.
        quantization: Quantization after training; see above.
        integer_io: Use int8 inputs and outputs (int16 for int16x8) where the signature has
            floats: for devices without floating point. A float is the integer less
            the tensor's zero point, times its scale; the file states both.
        calibration_size: Number of examples to calibrate on, drawn with each
            class in its share; 0 for all of `calibration`, or 200 of `examples`.
        seed: Seed of the draw.

    Raises:
        ParameterError: int8 or int16x8 without examples to calibrate on, or
            `integer_io` with another quantization.
        ModelError: The SavedModel is missing or broken.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: TFLite lacks operators of the model, the file's outputs differ from
            its source's, the model was trained for another quantization, or the columns of
            an input have scales too unlike for the integers of int16x8 or `integer_io`.
    """
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.converters.tflite.calibration import calibration_calls
    from paring.converters.tflite.conversion import (
        convert,
        form_of,
        has_fake_quantization,
        random_features,
        store,
    )
    from paring.converters.tflite.input_scales import refuse_unlike_scales
    from paring.data.examples import open_split
    from paring.graphs.full_precision import precision_of
    from paring.models.saved_model import SavedModel

    if integer_io and quantization not in ("int8", "int16x8"):
        raise ParameterError(
            "integer_io goes with quantization int8 or int16x8 alone",
            received=f"quantization {quantization}",
            remedy="use one of them, or leave integer_io out",
        )
    saved = SavedModel.open(model)
    signature = saved.signature()
    trained = isinstance(model, QuantizedModel) or has_fake_quantization(saved)
    if trained and quantization not in ("none", "int8"):
        raise UnsupportedError(
            f"a model from quantization-aware training can't become {quantization}",
            received=f"quantization {quantization}",
            remedy="convert it with quantization int8, for which it was trained",
        )
    calibrated = quantization in ("int8", "int16x8") and not trained
    given = calibration or examples
    if calibrated and given is None:
        raise ParameterError(
            f"quantization {quantization} is calibrated on examples, and there are none",
            received=f"quantization {quantization}",
            remedy="give --examples, or use quantization dynamic, which needs none",
        )
    calls, batches = None, [random_features(signature, seed)]
    if given is not None:
        split = open_split(given, "train", signature)
        whole = split.count if given is calibration else _CALIBRATION_SIZE
        calls = calibration_calls(split, signature, size=calibration_size or whole, seed=seed)
        batches = list(islice(calls(), _COMPARED))
        if integer_io or quantization == "int16x8":
            refuse_unlike_scales(calls(), quantization, integer_io=integer_io)
    made = convert(saved, quantization, calls if calibrated else None, integer_io=integer_io)
    store(
        made.content,
        converted,
        saved,
        batches,
        form=form_of(quantization, rounded=trained or bool(precision_of(saved))),
        drawn=given is not None,
    )
    converted.quantization = quantization
    converted.batch_size = made.batch_size
    if calibrated and calibration is not None:
        converted.note = calibration.warning
