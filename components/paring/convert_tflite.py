"""Convert a model to a TFLite file, quantized or not."""

import gzip
from typing import Annotated, Literal

from annotated_types import Ge

from paring.artifacts import Examples, Model, QuantizedModel, TFLiteModel
from paring.errors import ParameterError, UnsupportedError
from paring.step import Input, Output, step


@step(version="2")
def convert_tflite(
    model: Input[Model],
    examples: Input[Examples | None],
    converted: Output[TFLiteModel],
    *,
    quantization: Literal["none", "fp16", "dynamic", "int8", "int16x8"] = "none",
    calibration_size: Annotated[int, Ge(1)] = 200,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Convert a model to one TFLite file, checked to run.

    The file takes and gives what the SavedModel's signature does, under the same
    names and in the same dtypes; with an LSTM in it, one example at a time, and
    the fact `batch_size` says so. The same model and parameters give the same
    bytes. The quantizations are TensorFlow's post-training ones
    (https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization):

    - none: float32 as trained;
    - fp16: weights stored as float16, computed in float32;
    - dynamic: weights int8, activations quantized as they come;
    - int8: weights and activations int8, ranges from calibration examples;
    - int16x8: weights int8, activations int16, ranges likewise.

    A model from quantization-aware training brings the ranges for int8 itself
    and needs no examples; the other quantizations would discard them.

    Args:
        model: Any model with a SavedModel.
        examples: Where int8 and int16x8 are calibrated, on the train split; its
            first example is also the one that the check runs on. Without it the
            check takes random numbers.
        converted: The TFLite file, with the facts `weight_count`, `sparsity` and
            `distinct_weights`, measured in the file itself.
        quantization: See above.
        calibration_size: How many examples to calibrate on, drawn with each
            class in its share.
        seed: Of that draw.

    Raises:
        ParameterError: int8 or int16x8 without examples to calibrate on.
        ModelError: The SavedModel is missing or broken.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: TFLite has no such operators, or the model was trained
            for another quantization.
    """
    from paring.tf.calibration import calibration_calls
    from paring.tf.conversion import check_runs, convert, has_fake_quantization, random_features
    from paring.tf.examples import open_split
    from paring.tf.loading import saved_model_dir
    from paring.tf.signature import read_signature
    from paring.tf.tflite_weights import stored_weights

    folder = saved_model_dir(model)
    signature = read_signature(folder)
    trained = isinstance(model, QuantizedModel) or has_fake_quantization(folder)
    if trained and quantization not in ("none", "int8"):
        raise UnsupportedError(
            f"a model from quantization-aware training can't become {quantization}",
            received=f"quantization {quantization}",
            remedy="convert it with quantization int8, for which it was trained",
        )
    calibrated = quantization in ("int8", "int16x8") and not trained
    if calibrated and examples is None:
        raise ParameterError(
            f"quantization {quantization} is calibrated on examples, and there are none",
            received=f"quantization {quantization}",
            remedy="give --examples, or take quantization dynamic, which needs none",
        )
    split = None if examples is None else open_split(examples, "train", signature)
    if split is None:
        calls, features = None, random_features(signature, seed)
    else:
        calls = calibration_calls(split, signature, calibration_size, seed)
        features = next(calls())
    made = convert(folder, quantization, calls if calibrated else None)
    check_runs(made.content, signature, features)

    converted.serving_dir.mkdir()
    converted.file.write_bytes(made.content)
    converted.quantization = quantization
    converted.batch_size = made.batch_size
    converted.size_bytes = len(made.content)
    converted.gzip_bytes = len(gzip.compress(made.content, compresslevel=9, mtime=0))
    weights = stored_weights(made.content)
    converted.weight_count = weights.count
    converted.sparsity = weights.sparsity
    converted.distinct_weights = weights.distinct
