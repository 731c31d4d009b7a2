"""Mixed precision: quantization of all layers except those with the largest errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from paring.converters.tflite.conversion import (
    Calls,
    activation_quantization,
    check_weights,
    convert_any_batch,
    convertible,
    open_converter,
    quantize_but,
    quiet_converter,
    reason,
)
from paring.converters.tflite.input_scales import nodes_in_float
from paring.data.scales import unlike_inputs
from paring.errors import UnsupportedError
from paring.models.quiet import silent_stderr
from paring.models.saved_model import SavedModel

# Examples that layers' errors are measured on; each of them has many values.
_MEASURED = 32


@dataclass(frozen=True)
class Layer:
    """An operator whose output int8 would round.

    Attributes:
        name: The name of its output tensor.
        operator: TFLite's name of its kind.
        error: What rounding its output costs by itself: the root mean square of the
            rounding error over the standard deviation, at most 1, as the mean over
            the output's channels. A channel whose values all round to one number
            has 1.
        touching: The names of the operators that must compute in float for the
            output not to be rounded: it, and those that read it.
    """

    name: str
    operator: str
    error: float
    touching: tuple[str, ...]


class Quantizer:
    """A model, calibrated once, to be quantized in all but some layers.

    Attributes:
        layers: Those that can be quantized, the worst error first.
        batch_size: The only batch that the files take; None if they take what the
            SavedModel does.
    """

    def __init__(self, model: SavedModel, calls: Calls) -> None:
        """Calibrate a SavedModel, and measure its layers.

        Args:
            model: The SavedModel.
            calls: Gives the calibration inputs, one call of the model at a time.

        Raises:
            ModelError: TensorFlow can't load the SavedModel.
            UnsupportedError: The converter can't take it, or quantizes nothing, or it
                keeps state from call to call.
        """
        with convertible(model) as (source, weights), quiet_converter():
            self._float, self.batch_size = convert_any_batch(
                source, lambda form: _calibrated(form, calls)
            )
        check_weights(self._float, weights)
        unlike = unlike_inputs(calls())
        self._in_float = nodes_in_float(self._float, calls()) if unlike else []
        self.layers = _measure(self._float, self.without(()), calls)
        if not self.layers:
            raise UnsupportedError(
                "no layer of this model has an int8 form",
                remedy="use quantization none or fp16 of convert_tflite",
            )

    def in_float(self) -> bytes:
        """Return the file with nothing quantized."""
        return self._float

    def without(self, layers: Sequence[Layer]) -> bytes:
        """Return the file with all quantized but what touches the outputs of `layers`."""
        touched = {name for layer in layers for name in layer.touching}
        names = sorted(touched | set(self._in_float))
        with quiet_converter():
            # TensorFlow's debugger does the same, but refuses to where nothing is left that
            # it could measure.
            return quantize_but(self._float, names)


def _calibrated(model: SavedModel, calls: Calls) -> bytes:
    """Return the TFLite file in float, with the ranges of its tensors."""
    converter = open_converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calls
    converter._experimental_calibrate_only = True
    try:
        return bytes(converter.convert())
    except Exception as error:
        # ConverterError, ValueError and RuntimeError, by the stage.
        raise UnsupportedError(
            "this model can't be calibrated for int8",
            received=reason(error, model),
            remedy="use quantization none, fp16 or dynamic of convert_tflite",
        ) from error


def fewest(layers: int, passes: Callable[[int], bool]) -> int:
    """Return the fewest of the worst layers to leave in float so that `passes`.

    Doubles their number until it passes, then bisects; so it takes about twice the
    logarithm of the number of layers. All of them always pass.

    Args:
        layers: How many there are.
        passes: Whether the model passes with that many in float.
    """
    low, high = -1, 0
    while high < layers and not passes(high):
        low, high = high, min(max(1, 2 * high), layers)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def outputs(content: bytes, calls: Calls) -> dict[str, NDArray[Any]]:
    """Return the TFLite file's outputs for all calls, by name, along the first axis."""
    with silent_stderr():
        interpreter = Interpreter(model_content=content)
        runner = interpreter.get_signature_runner()
        given = []
        for features in calls():
            given.append(runner(**features))
            # The calls are independent; a recurrent layer's state is not handed on.
            interpreter.reset_all_variables()
    return {name: np.concatenate([item[name] for item in given]) for name in given[0]}


def _measure(content: bytes, quantized: bytes, calls: Calls) -> list[Layer]:
    """Return the layers that `quantized` rounds, the worst first, on the float model's values."""
    scales = activation_quantization(quantized)
    interpreter = Interpreter(
        model_content=content,
        # Kernels that are run by a delegate leave nothing between them.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    names = {detail["index"]: detail["name"] for detail in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    readers: dict[int, list[str]] = {}
    for item in operators:
        for index in item["inputs"]:
            readers.setdefault(int(index), []).append(names[int(item["outputs"][0])])
    made_by = {
        int(item["outputs"][0]): item["op_name"]
        for item in operators
        if names[int(item["outputs"][0])] in scales
    }
    sums = {index: _Rounding(*scales[names[index]]) for index in made_by}
    runner = interpreter.get_signature_runner()
    for features in islice(calls(), _MEASURED):
        runner(**features)
        for index, rounding in sums.items():
            rounding.add(interpreter.get_tensor(index))
        interpreter.reset_all_variables()
    result = [
        Layer(names[index], operator, sums[index].error(), (names[index], *readers.get(index, ())))
        for index, operator in made_by.items()
    ]
    return sorted(result, key=lambda layer: -layer.error)


class _Rounding:
    """Sums, over batches of values, of what rounding them to int8 costs."""

    def __init__(self, scale: float, zero_point: int) -> None:
        self._scale = scale
        self._limits = (-128 - zero_point) * scale, (127 - zero_point) * scale
        self._count = 0
        self._sums: Any = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Count in values of shape [..., channels]."""
        rows = values.reshape(-1, values.shape[-1] if values.ndim else 1).astype(np.float64)
        # Zero is a step of the grid, so that the grid is the multiples of the scale.
        rounded = np.clip(np.rint(rows / self._scale) * self._scale, *self._limits)
        errors = np.square(rounded - rows).sum(axis=0)
        self._sums += np.stack([errors, rows.sum(axis=0), np.square(rows).sum(axis=0)])
        self._count += len(rows)

    def error(self) -> float:
        """See `Layer.error`."""
        errors, total, squares = self._sums / self._count
        variance = np.maximum(squares - np.square(total), 0)
        # A channel that is constant has nothing to lose.
        varies = variance > 1e-12
        share = np.sqrt(errors[varies] / variance[varies])
        return float(np.minimum(share, 1).mean()) if varies.any() else 0.0
