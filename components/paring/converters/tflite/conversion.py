"""Conversion of SavedModels to TFLite, and a check that the result runs."""

import gzip
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import TFLiteModel
from paring.converters.comparison import Form, compare
from paring.converters.tflite.input_scales import nodes_in_float
from paring.converters.tflite.loop_outputs import read_loop_outputs
from paring.converters.tflite.loop_state import fix_state_shapes
from paring.converters.tflite.tflite_weights import stored_constants, stored_weights
from paring.data.scales import unlike_inputs
from paring.errors import ParingError, UnsupportedError, first_line
from paring.graphs.graph import concrete_shape
from paring.models.arguments import argument_specs, by_position, save_signatures, signature_specs
from paring.models.quiet import quiet_tensorflow, silent_stderr
from paring.models.same_signatures import dropped_signatures
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature, loading_saved_model
from paring.models.signature_loading import load_signatures
from paring.models.state import refuse_state
from paring.models.tflite_files import has_variable_tensors
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.runtimes.tflite import TFLiteRuntime

Quantization = Literal["none", "fp16", "dynamic", "int8", "int16x8"]
# The operator that the converter refuses in loops whose state has no fixed shape.
_OPEN_STATE = "TensorListReserve"
# The end of its message on tensors between a loop and its body, of which it has no ranges.
_NO_RANGE = "should be recorded during calibration"

_log = logging.getLogger(__name__)

Features = dict[str, NDArray[Any]]
Calls = Callable[[], Iterator[Features]]
"""Gives the inputs of one call of a model after another, by signature name."""


def has_fake_quantization(model: SavedModel) -> bool:
    """Return whether the SavedModel has ranges from quantization-aware training."""
    graph = model.meta_graph.graph_def
    functions = (node for function in graph.library.function for node in function.node_def)
    return any(
        node.op.startswith("FakeQuantWithMinMaxVars")
        for nodes in (graph.node, functions)
        for node in nodes
    )


def form_of(quantization: Quantization, *, rounded: bool) -> Form:
    """Return what a file of this quantization is compared as.

    Args:
        quantization: See the step convert_tflite.
        rounded: Whether the source itself rounds: it is from quantization-aware training,
            whose steps a rounding error tips, or computes in half precision.
    """
    if quantization == "none":
        return "half" if rounded else "float"
    return "half" if quantization == "fp16" else "integer"


@dataclass(frozen=True)
class _Settings:
    """Arguments of `convert`."""

    quantization: Quantization
    representative: Calls | None
    integer_io: bool


@dataclass(frozen=True)
class Converted:
    """A TFLite file.

    Attributes:
        content: Its bytes.
        batch_size: The only batch that it takes; None if it takes what the
            SavedModel does.
    """

    content: bytes
    batch_size: int | None = None


def convert(
    model: SavedModel,
    quantization: Quantization,
    representative: Calls | None,
    *,
    integer_io: bool = False,
) -> Converted:
    """Return the TFLite file of a SavedModel.

    Inputs and outputs keep the signature's names, and its dtypes unless
    `integer_io`. Where an operator has no quantized kernel, it stays in float.
    LSTM converts for one batch size alone, which then is 1.

    Args:
        model: The SavedModel.
        quantization: The kind; see the step convert_tflite.
        representative: Gives the calibration inputs by signature name, one call
            of the model at a time; None where ranges come with the model.
        integer_io: Whether int8 and int16x8 also take and give integers where the
            signature has floats.

    Raises:
        ModelError: TensorFlow can't load the SavedModel.
        UnsupportedError: The converter can't take it, naming the operators, or it keeps
            state from call to call.
    """
    settings = _Settings(quantization, representative, integer_io)
    with convertible(model) as (source, weights):
        content, batch = convert_any_batch(source, lambda form: _convert(form, settings))
    check_weights(content, weights)
    return Converted(content, batch)


@contextmanager
def convertible(model: SavedModel) -> Iterator[tuple[SavedModel, int]]:
    """Yield a copy of a SavedModel whose variables the converter finds.

    Yields:
        That form, and how many weights it has; see
        `paring.graphs.saving_again`.

    Raises:
        ModelError: TensorFlow can't load the SavedModel.
        UnsupportedError: It keeps state from call to call.
    """
    refuse_state(model)
    quiet_tensorflow()
    from paring.graphs.saving_again import save_again

    with tempfile.TemporaryDirectory(prefix="paring-convert-") as scratch:
        out, weights = Path(scratch) / "model", 0
        try:
            with silent_stderr():
                weights = save_again(model, out)
        except ParingError:
            raise
        except Exception as error:
            # TensorFlow can't save again all that it loads. What the converter then loses is
            # found in its file.
            _log.warning("%s can't be saved again: %s", model.folder, first_line(error))
            shutil.rmtree(out, ignore_errors=True)
        yield (SavedModel(out, model.key) if out.is_dir() else model), weights


def check_weights(content: bytes, weights: int) -> None:
    """Refuse a TFLite file that reads variables whose values it does not hold.

    Args:
        content: The file's bytes.
        weights: How many weights its source has.

    Raises:
        UnsupportedError: It does.
    """
    constants, variables = stored_constants(content)
    if variables:
        raise UnsupportedError(
            "the converted TFLite file holds less than the weights of its source",
            received=f"{constants} constant values, and {variables} variables that nothing"
            " sets" + (f", for {weights} weights" if weights else ""),
            remedy="export the model with model.export(DIR)",
        )


def convert_any_batch(
    model: SavedModel, convert_one: Callable[[SavedModel], bytes]
) -> tuple[bytes, int | None]:
    """Convert a SavedModel, for one example a call where its loops need a known batch.

    Args:
        model: The SavedModel.
        convert_one: Converts a SavedModel. Its UnsupportedError has that of TensorFlow's
            converter as its cause.

    Returns:
        The file's bytes, and the only batch that it takes; None if it takes what the
        SavedModel does.

    Raises:
        UnsupportedError: The converter can't take it in any form.
    """
    try:
        return convert_one(model), None
    except UnsupportedError as error:
        # Most forms of LSTM become an operator of their own if the batch is known.
        if _OPEN_STATE not in str(error.__cause__) or not _has_open_batch(model):
            raise
    with tempfile.TemporaryDirectory(prefix="paring-convert-") as scratch:
        of_one, of_known_state = Path(scratch) / "batch", Path(scratch) / "state"
        _fix_batch(model, of_one)
        fixed = SavedModel(of_one, model.key)
        try:
            return convert_one(fixed), 1
        except UnsupportedError as error:
            # Others, as GRU and what has a mask, stay loops.
            if _OPEN_STATE not in str(error.__cause__):
                raise
        fix_state_shapes(fixed, of_known_state)
        return convert_one(SavedModel(of_known_state, model.key)), 1


def _has_open_batch(model: SavedModel) -> bool:
    inputs = model.signature().inputs.values()
    return all(spec.shape and spec.shape[0] is None for spec in inputs)


def _convert(model: SavedModel, settings: _Settings) -> bytes:
    quiet_tensorflow()
    with quiet_converter():
        converter = open_converter(model)
        _configure(converter, settings)
        calls = settings.representative
        try:
            if (
                calls is None
                or settings.integer_io
                or settings.quantization != "int8"
                or not unlike_inputs(calls())
            ):
                return bytes(converter.convert())
            converter._experimental_calibrate_only = True
            calibrated = bytes(converter.convert())
            return quantize_but(calibrated, nodes_in_float(calibrated, calls()))
        except Exception as error:
            # The converter raises ConverterError, ValueError and RuntimeError
            # for what it can't take, by the stage that notices.
            raise UnsupportedError(
                "this model can't be converted to TFLite with quantization"
                f" {settings.quantization}",
                received=reason(error, model),
                remedy=_remedy(error),
            ) from error


def quantize_but(calibrated: bytes, nodes: Sequence[str]) -> bytes:
    """Quantize a calibrated TFLite file to int8 in all but the operators that are named."""
    from tensorflow.lite.python.convert import mlir_quantize

    return bytes(
        mlir_quantize(calibrated, fully_quantize=False, denylisted_nodes=list(nodes) or None)
    )


@contextmanager
def quiet_converter() -> Iterator[None]:
    """Silence the converter and its calibration.

    Nor does what it runs to calibrate hand on state from one example to the next, or crash
    on loops.
    """
    with warnings.catch_warnings(), silent_stderr(), _sound_calibration():
        # The converter uses its own deprecated interpreter to calibrate.
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _sound_calibration() -> Iterator[None]:
    """Make TensorFlow's calibrator start each example without state, and take loops.

    By itself it resets the variable tensors of recurrent layers once, before the first. On
    loops see `paring.converters.tflite.loop_outputs`.
    """
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    start, feed = Calibrator.__init__, Calibrator._feed_tensors

    def start_with_loops(self: Any, content: bytes, *others: Any, **named: Any) -> None:
        start(self, read_loop_outputs(bytes(content)), *others, **named)

    def feed_each(self: Any, dataset: Calls, resize_input: bool) -> None:
        if not has_variable_tensors(self._model_content):
            feed(self, dataset, resize_input)
            return
        for example in dataset():
            feed(self, lambda example=example: iter([example]), resize_input)

    Calibrator.__init__, Calibrator._feed_tensors = start_with_loops, feed_each
    try:
        yield
    finally:
        Calibrator.__init__, Calibrator._feed_tensors = start, feed


def open_converter(model: SavedModel) -> Any:
    """Return TensorFlow's converter on a SavedModel.

    Raises:
        ModelError: TensorFlow can't load the SavedModel.
    """
    import tensorflow as tf

    with loading_saved_model(model.folder) as plain:
        return tf.lite.TFLiteConverter.from_saved_model(str(plain), signature_keys=[model.key])


def _fix_batch(model: SavedModel, out: Path) -> None:
    """Save a SavedModel to `out` with a signature for one example."""
    import tensorflow as tf

    loaded = load_signatures(model)
    call = loaded.signatures[model.key]
    specs = {
        name: tf.TensorSpec([1, *spec.shape[1:]], spec.dtype)
        for name, spec in signature_specs(call).items()
    }
    module = tf.Module()
    # Functions hold their variables weakly.
    module.loaded = loaded
    traced = tf.function(by_position(call, specs), autograph=False)
    signature = traced.get_concrete_function(*argument_specs(specs))
    save_signatures(module, {model.key: signature}, out, {model.key: specs})


def store(
    content: bytes,
    converted: TFLiteModel,
    source: SavedModel,
    batches: Sequence[Features],
    *,
    form: Form,
    drawn: bool,
) -> None:
    """Write a TFLite file into its artifact, if it computes what its source does.

    Args:
        content: The file's bytes.
        converted: Gets the file, and the facts that are measured in it.
        source: The SavedModel that it was made of.
        batches: What both are run on.
        form: What the file computes in.
        drawn: Whether the batches are examples, and not random numbers.

    Raises:
        UnsupportedError: It can't be loaded or run, or gives other outputs.
    """
    converted.serving_dir.mkdir()
    converted.file.write_bytes(content)
    check_runs(converted.file, source.signature(), batches[0])
    converted.drop_signatures(dropped_signatures(source))

    def only_rounded() -> bool:
        # The same conversion without quantization computes what the source does, and no
        # weights are missing.
        plain = convert(source, "none", None).content
        if stored_weights(content).count < stored_weights(plain).count:
            return False
        with tempfile.TemporaryDirectory(prefix="paring-convert-") as scratch:
            file = Path(scratch) / "model.tflite"
            file.write_bytes(plain)
            compare(
                lambda: SavedModelRuntime(source),
                lambda: TFLiteRuntime(file, signature=source.key),
                batches,
                # Of a source with fake quantization, rounding tips steps.
                form="half",
                drawn=drawn,
                what="the TFLite file without quantization",
            )
        return True

    compared = compare(
        lambda: SavedModelRuntime(source),
        lambda: TFLiteRuntime(converted.file, signature=source.key),
        batches,
        form=form,
        drawn=drawn,
        what="the converted TFLite file",
        only_rounded=only_rounded,
    )
    converted.compared, converted.difference = compared.on, compared.difference
    weights = stored_weights(content)
    converted.size_bytes = len(content)
    converted.gzip_bytes = len(gzip.compress(content, compresslevel=9, mtime=0))
    converted.weight_count = weights.count
    converted.sparsity = weights.sparsity
    converted.distinct_weights = weights.distinct
    converted.holds_state = has_variable_tensors(content)


def check_runs(file: Path, signature: Signature, features: Mapping[str, NDArray[Any]]) -> None:
    """Run the TFLite file once with LiteRT.

    Args:
        file: The TFLite file.
        signature: Of the source; the file must have the same names.
        features: One call's inputs, by signature name.

    Raises:
        UnsupportedError: It can't be loaded or run, or gives other outputs.
    """
    try:
        outputs = TFLiteRuntime(file, threads=1, signature=signature.key).run(features)
    except Exception as error:
        # LiteRT raises RuntimeError and ValueError, by what goes wrong.
        raise UnsupportedError(
            "the converted TFLite file does not run in LiteRT",
            received=reason(error),
            remedy="use another quantization or runtime for this model",
        ) from error
    if sorted(outputs) != sorted(signature.outputs):
        raise UnsupportedError(
            "the converted TFLite file has other outputs than its source",
            received=f"{', '.join(sorted(outputs))} for {', '.join(signature.outputs)}",
            remedy="use another runtime for this model",
        )


def activation_quantization(content: bytes) -> dict[str, tuple[float, int]]:
    """Return scale and zero point of each int8 or int16 tensor that the file's operators compute.

    Args:
        content: A TFLite file's bytes.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    # Only they, since weights have scales too, which no example changes.
    computed = {
        int(index) for detail in interpreter._get_ops_details() for index in detail["outputs"]
    }
    return {
        detail["name"]: detail["quantization"]
        for detail in interpreter.get_tensor_details()
        if detail["index"] in computed and detail["dtype"] in (np.int8, np.int16)
    }


def random_features(signature: Signature, seed: int) -> Features:
    """Return one call's inputs: floats uniform in [0, 1), zeros for other types."""
    generator = np.random.default_rng(seed)
    features: Features = {}
    for name, spec in signature.inputs.items():
        shape = concrete_shape(spec)
        values = generator.random(shape) if spec.dtype.startswith("float") else np.zeros(shape)
        features[name] = values.astype(spec.dtype)
    return features


def _configure(converter: Any, settings: _Settings) -> None:
    import tensorflow as tf

    if settings.quantization == "none":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if settings.integer_io:
        dtype = tf.int16 if settings.quantization == "int16x8" else tf.int8
        converter.inference_input_type = dtype
        converter.inference_output_type = dtype
    if settings.quantization == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    elif settings.quantization == "int16x8":
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            ops.TFLITE_BUILTINS,
        ]
    if settings.representative is not None:
        converter.representative_dataset = settings.representative


def reason(error: Exception, model: SavedModel | None = None) -> str:
    """Return the operators that the converter names, else its first line.

    Args:
        error: What the converter raised.
        model: The SavedModel that it was given. If operators are lacking and it computes
            in half precision, this is said too.
    """
    text = str(error)
    if _OPEN_STATE in text:
        callers = re.findall(r'PartitionedCall:", "([^"@]+)/(?:Stateful)?PartitionedCall', text)
        place = f" in {callers[0]}" if callers else ""
        return f"{_OPEN_STATE}{place}: a loop whose state has no fixed shape"
    named = re.findall(r"(?:TF Select|Custom) ops: ([^\n]+)", text)
    named += re.findall(r"Encountered unresolved custom op: (\w+)", text)
    if named:
        operators = sorted({op.strip() for group in named for op in group.split(",")})
        lacking = f"operators that TFLite lacks: {', '.join(operators)}"
        return lacking + _half_precision(model)
    if _NO_RANGE in text:
        return "a loop or a branch, in which calibration records no range of some tensors"
    return first_line(error)


def _remedy(error: Exception) -> str:
    if _OPEN_STATE in str(error):
        return "give the loop's state a fixed shape, or use another runtime"
    return "replace these operators, or take another quantization or runtime"


def _half_precision(model: SavedModel | None) -> str:
    from paring.graphs.full_precision import precision_of

    halved = precision_of(model) if model else ""
    return f"; the model computes in {halved}, and TFLite in float32" if halved else ""
