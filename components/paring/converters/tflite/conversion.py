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
from paring.converters.tflite.loop_state import fix_state_shapes
from paring.converters.tflite.tflite_weights import stored_constants, stored_weights
from paring.data.scales import unlike_inputs
from paring.errors import ParingError, UnsupportedError, first_line
from paring.graphs.graph import concrete_shape
from paring.models.arguments import argument_specs, by_position, save_signatures, signature_specs
from paring.models.quiet import quiet_tensorflow, silent_stderr
from paring.models.signature import (
    SERVING_KEY,
    Signature,
    loading_saved_model,
    read_meta_graph,
    read_signature,
)
from paring.models.signature_loading import load_signatures
from paring.models.state import refuse_state
from paring.models.tflite_files import has_variable_tensors
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.runtimes.tflite import TFLiteRuntime

Quantization = Literal["none", "fp16", "dynamic", "int8", "int16x8"]
# The operator that the converter refuses in loops whose state has no fixed shape.
_OPEN_STATE = "TensorListReserve"

_log = logging.getLogger(__name__)

Features = dict[str, NDArray[Any]]
Calls = Callable[[], Iterator[Features]]
"""Gives the inputs of one call of a model after another, by signature name."""


def has_fake_quantization(folder: Path) -> bool:
    """Return whether the SavedModel has ranges from quantization-aware training."""
    graph = read_meta_graph(folder).graph_def
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
    folder: Path,
    quantization: Quantization,
    representative: Calls | None,
    *,
    integer_io: bool = False,
) -> Converted:
    """Return the TFLite file of the SavedModel in `folder`.

    Inputs and outputs keep the signature's names, and its dtypes unless
    `integer_io`. Where an operator has no quantized kernel, it stays in float.
    LSTM converts for one batch size alone, which then is 1.

    Args:
        folder: The folder of the SavedModel.
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
    with convertible(folder) as (source, weights):
        made = _convert_any_batch(source, settings)
    check_weights(made.content, weights)
    return made


@contextmanager
def convertible(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield a copy of the SavedModel in `folder` whose variables the converter finds.

    Yields:
        The folder of that form, and how many weights it has; see
        `paring.graphs.saving_again`.

    Raises:
        ModelError: TensorFlow can't load the SavedModel.
        UnsupportedError: It keeps state from call to call.
    """
    refuse_state(folder)
    quiet_tensorflow()
    from paring.graphs.saving_again import save_again

    with tempfile.TemporaryDirectory(prefix="paring-convert-") as scratch:
        out, weights = Path(scratch) / "model", 0
        try:
            with silent_stderr():
                weights = save_again(folder, out)
        except ParingError:
            raise
        except Exception as error:
            # TensorFlow can't save again all that it loads. What the converter then loses is
            # found in its file.
            _log.warning("%s can't be saved again: %s", folder, first_line(error))
            shutil.rmtree(out, ignore_errors=True)
        yield (out if out.is_dir() else folder), weights


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


def _convert_any_batch(folder: Path, settings: _Settings) -> Converted:
    try:
        return Converted(_convert(folder, settings))
    except UnsupportedError as error:
        # Most forms of LSTM become an operator of their own if the batch is known.
        if _OPEN_STATE not in str(error.__cause__) or not _has_open_batch(folder):
            raise
    with tempfile.TemporaryDirectory(prefix="paring-convert-") as scratch:
        of_one, of_known_state = Path(scratch) / "batch", Path(scratch) / "state"
        _fix_batch(folder, of_one)
        try:
            return Converted(_convert(of_one, settings), 1)
        except UnsupportedError as error:
            # Others, as GRU and what has a mask, stay loops.
            if _OPEN_STATE not in str(error.__cause__):
                raise
        fix_state_shapes(of_one, of_known_state)
        return Converted(_convert(of_known_state, settings), 1)


def _has_open_batch(folder: Path) -> bool:
    inputs = read_signature(folder).inputs.values()
    return all(spec.shape and spec.shape[0] is None for spec in inputs)


def _convert(folder: Path, settings: _Settings) -> bytes:
    quiet_tensorflow()
    with quiet_converter():
        converter = open_converter(folder)
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
                received=reason(error, folder),
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

    Nor does what it runs to calibrate hand on state from one example to the next.
    """
    with warnings.catch_warnings(), silent_stderr(), _independent_examples():
        # The converter uses its own deprecated interpreter to calibrate.
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _independent_examples() -> Iterator[None]:
    """Make TensorFlow's calibrator start each example without state.

    By itself it resets the variable tensors of recurrent layers once, before the first.
    """
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    feed = Calibrator._feed_tensors

    def feed_each(self: Any, dataset: Calls, resize_input: bool) -> None:
        if not has_variable_tensors(self._model_content):
            feed(self, dataset, resize_input)
            return
        for example in dataset():
            feed(self, lambda example=example: iter([example]), resize_input)

    Calibrator._feed_tensors = feed_each
    try:
        yield
    finally:
        Calibrator._feed_tensors = feed


def open_converter(folder: Path) -> Any:
    """Return TensorFlow's converter on the SavedModel in `folder`.

    Raises:
        ModelError: TensorFlow can't load the SavedModel.
    """
    import tensorflow as tf

    with loading_saved_model(folder) as plain:
        return tf.lite.TFLiteConverter.from_saved_model(str(plain), signature_keys=[SERVING_KEY])


def _fix_batch(folder: Path, out: Path) -> None:
    """Save the SavedModel in `folder` to `out` with a signature for one example."""
    import tensorflow as tf

    loaded = load_signatures(folder)
    call = loaded.signatures[SERVING_KEY]
    specs = {
        name: tf.TensorSpec([1, *spec.shape[1:]], spec.dtype)
        for name, spec in signature_specs(call).items()
    }
    module = tf.Module()
    # Functions hold their variables weakly.
    module.loaded = loaded
    module.serve = tf.function(by_position(call, specs), autograph=False)
    signature = module.serve.get_concrete_function(*argument_specs(specs))
    save_signatures(module, {SERVING_KEY: signature}, out, specs)


def store(
    content: bytes,
    converted: TFLiteModel,
    folder: Path,
    batches: Sequence[Features],
    *,
    form: Form,
    drawn: bool,
) -> None:
    """Write a TFLite file into its artifact, if it computes what its source does.

    Args:
        content: The file's bytes.
        converted: Gets the file, and the facts that are measured in it.
        folder: The SavedModel that it was made of.
        batches: What both are run on.
        form: What the file computes in.
        drawn: Whether the batches are examples, and not random numbers.

    Raises:
        UnsupportedError: It can't be loaded or run, or gives other outputs.
    """
    converted.serving_dir.mkdir()
    converted.file.write_bytes(content)
    check_runs(converted.file, read_signature(folder), batches[0])

    def only_rounded() -> bool:
        # The same conversion without quantization computes what the source does, and no
        # weights are missing.
        plain = convert(folder, "none", None).content
        if stored_weights(content).count < stored_weights(plain).count:
            return False
        with tempfile.TemporaryDirectory(prefix="paring-convert-") as scratch:
            file = Path(scratch) / "model.tflite"
            file.write_bytes(plain)
            compare(
                lambda: SavedModelRuntime(folder),
                lambda: TFLiteRuntime(file),
                batches,
                # Of a source with fake quantization, rounding tips steps.
                form="half",
                drawn=drawn,
                what="the TFLite file without quantization",
            )
        return True

    compared = compare(
        lambda: SavedModelRuntime(folder),
        lambda: TFLiteRuntime(converted.file),
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
    converted.holds_state = int(has_variable_tensors(content))


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
        outputs = TFLiteRuntime(file, threads=1).run(features)
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
    computed = {int(index) for one in interpreter._get_ops_details() for index in one["outputs"]}
    return {
        one["name"]: one["quantization"]
        for one in interpreter.get_tensor_details()
        if one["index"] in computed and one["dtype"] in (np.int8, np.int16)
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


def reason(error: Exception, folder: Path | None = None) -> str:
    """Return the operators that the converter names, else its first line.

    Args:
        error: What the converter raised.
        folder: The SavedModel that it was given. If operators are lacking and it computes
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
        return lacking + _half_precision(folder)
    return first_line(error)


def _remedy(error: Exception) -> str:
    if _OPEN_STATE in str(error):
        return "give the loop's state a fixed shape, or use another runtime"
    return "replace these operators, or take another quantization or runtime"


def _half_precision(folder: Path | None) -> str:
    from paring.graphs.full_precision import precision_of

    halved = precision_of(folder) if folder else ""
    return f"; the model computes in {halved}, and TFLite in float32" if halved else ""
