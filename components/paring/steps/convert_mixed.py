"""Conversion to TFLite in int8, with some layers in float."""

import json
import logging
from itertools import islice
from typing import Annotated

from annotated_types import Ge, Le

from paring.artifacts import CalibrationSet, Examples, Model, TFLiteModel
from paring.errors import UnsupportedError
from paring.step import Input, Output, Search, step

# Of examples that were not drawn for the purpose.
_CALIBRATION_SIZE = 200
# Calls that the file and the source are compared on, besides the choice of layers.
_CHECKED = 32

_log = logging.getLogger(__name__)


@step(version="6")
def convert_mixed(
    model: Input[Model],
    examples: Input[Examples],
    calibration: Input[CalibrationSet | None],
    converted: Output[TFLiteModel],
    *,
    # How many layers are left in float follows from it.
    max_difference: Annotated[float, Ge(0), Le(1), Search(0.002, 0.1, log=True)] = 0.01,
    calibration_size: Annotated[int, Ge(0)] = 0,
    comparison_size: Annotated[int, Ge(1)] = 300,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Convert a model to an int8 TFLite file, with the layers that lose most by int8 in float.

    Each layer's error is measured on calibration examples: the error of rounding its output
    to int8, relative to the variation of that output, channel by channel. The layers
    with the worst errors compute in float, as few as it takes for the file's
    outputs to be within `max_difference` of the float model's on other examples of
    the train split. The eval split is not read.

    `layers.json`, beside the served file, lists the layers, the worst first: `name`,
    `operator`, `error` and `in_float`.

    Examples:
        >>> converted = paring.convert_mixed(network, arrays)
        >>> converted.difference < 0.1
        True

    Args:
        model: Any model with a SavedModel.
        examples: Models are compared on the train split, and calibrated on it
            where there is no `calibration`.
        calibration: Calibration examples of `draw_calibration`.
        converted: The TFLite file, and `layers.json`.
        max_difference: Largest allowed share of the compared examples whose class is
            another than the float model's; for outputs that are no class scores,
            the largest root mean square of the difference over their standard
            deviation.
        calibration_size: Number of examples to calibrate on, drawn with each class in
            its share; 0 for all of `calibration`, or 200 of `examples`.
        comparison_size: Number of examples to compare on. None of them is among those
            that are calibrated on, unless there are no others.
        seed: Seed of the draws.

    Raises:
        ModelError: The SavedModel is missing or broken.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: TFLite can't take the model, no layer has an int8 form, or
            the model was trained for quantization.
    """
    import numpy as np

    from paring.converters.comparison import difference
    from paring.converters.tflite.calibration import calls_of, draw
    from paring.converters.tflite.conversion import has_fake_quantization, store
    from paring.data.examples import draw_rows, open_split
    from paring.models.quiet import quiet_tensorflow
    from paring.models.saved_model import SavedModel

    quiet_tensorflow()
    from paring.converters.tflite.mixed_precision import Quantizer, fewest, outputs

    saved = SavedModel.open(model)
    signature = saved.signature()
    if has_fake_quantization(saved):
        raise UnsupportedError(
            "a model from quantization-aware training brings the ranges of all its layers",
            remedy="convert it with convert_tflite and quantization int8",
        )
    train = open_split(examples, "train", signature)
    given = train if calibration is None else open_split(calibration, "train", signature)
    whole = _CALIBRATION_SIZE if calibration is None else given.count
    size = calibration_size or whole
    fitted = given.take(draw_rows(given.labels, np.arange(given.count), limit=size, seed=seed))
    compared = train.take(draw(train, fitted, size=comparison_size, seed=seed).rows)

    quantizer = Quantizer(saved, calls_of(fitted, signature))
    calls = calls_of(compared, signature)
    reference = outputs(quantizer.in_float(), calls)

    def differs(count: int) -> float:
        result = difference(reference, outputs(quantizer.without(quantizer.layers[:count]), calls))
        _log.info("%d layers in float: %.4f", count, result)
        return result

    kept = fewest(len(quantizer.layers), lambda count: differs(count) <= max_difference)
    content = quantizer.without(quantizer.layers[:kept])

    batches = list(islice(calls(), _CHECKED))
    store(content, converted, saved, batches, form="integer", drawn=True)
    rows = [
        {
            "name": layer.name,
            "operator": layer.operator,
            "error": layer.error,
            "in_float": index < kept,
        }
        for index, layer in enumerate(quantizer.layers)
    ]
    converted.layer_table.write_text(json.dumps(rows, indent=2) + "\n")
    converted.quantization = "mixed"
    converted.batch_size = quantizer.batch_size
    converted.layers = len(rows)
    converted.layers_in_float = kept
    if calibration is not None:
        converted.note = calibration.warning
