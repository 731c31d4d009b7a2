"""SavedModel to TFLite, and a check that the result runs."""

import gzip
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import TFLiteModel
from paring.errors import UnsupportedError, first_line
from paring.runtimes.tflite import TFLiteRuntime
from paring.tf.graph import concrete_shape
from paring.tf.quiet import quiet_tensorflow, silent_stderr
from paring.tf.signature import (
    SERVING_KEY,
    Signature,
    loading_saved_model,
    read_meta_graph,
    read_signature,
)
from paring.tf.tflite_weights import stored_weights

Quantization = Literal["none", "fp16", "dynamic", "int8", "int16x8"]
# The converter's complaint about recurrent layers whose batch is open.
_OPEN_STATE = "TensorListReserve"

Features = dict[str, NDArray[Any]]
Calls = Callable[[], Iterator[Features]]
"""Gives the inputs of one call of a model after another, by signature name."""


def has_fake_quantization(folder: Path) -> bool:
    """Whether the SavedModel carries ranges from quantization-aware training."""
    graph = read_meta_graph(folder).graph_def
    functions = (node for function in graph.library.function for node in function.node_def)
    return any(
        node.op.startswith("FakeQuantWithMinMaxVars")
        for nodes in (graph.node, functions)
        for node in nodes
    )


@dataclass(frozen=True)
class _Settings:
    """What `convert` was asked for."""

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
    """The TFLite file of the SavedModel in `folder`.

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
        UnsupportedError: The converter can't take it, naming the operators.
    """
    settings = _Settings(quantization, representative, integer_io)
    try:
        return Converted(_convert(folder, settings))
    except UnsupportedError as error:
        # Most forms of LSTM become an operator of their own if the batch is known.
        if _OPEN_STATE not in str(error.__cause__) or not _has_open_batch(folder):
            raise
    with tempfile.TemporaryDirectory(prefix="paring-convert-") as scratch:
        _fix_batch(folder, Path(scratch))
        return Converted(_convert(Path(scratch), settings), 1)


def _has_open_batch(folder: Path) -> bool:
    inputs = read_signature(folder).inputs.values()
    return all(spec.shape and spec.shape[0] is None for spec in inputs)


def _convert(folder: Path, settings: _Settings) -> bytes:
    quiet_tensorflow()
    with quiet_converter():
        converter = open_converter(folder)
        _configure(converter, settings)
        try:
            return bytes(converter.convert())
        except Exception as error:
            # The converter raises ConverterError, ValueError and RuntimeError
            # for what it can't take, by the stage that notices.
            raise UnsupportedError(
                "this model can't be converted to TFLite with quantization"
                f" {settings.quantization}",
                received=reason(error),
                remedy="replace these operators, or take another quantization or runtime",
            ) from error


@contextmanager
def quiet_converter() -> Iterator[None]:
    """Within it, neither the converter nor what it runs to calibrate says anything."""
    with warnings.catch_warnings(), silent_stderr():
        # The converter uses its own deprecated interpreter to calibrate.
        warnings.simplefilter("ignore")
        yield


def open_converter(folder: Path) -> Any:
    """TensorFlow's converter on the SavedModel in `folder`.

    Raises:
        ModelError: TensorFlow can't load the SavedModel.
    """
    import tensorflow as tf

    with loading_saved_model(folder):
        return tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[SERVING_KEY])


def _fix_batch(folder: Path, out: Path) -> None:
    """Save the SavedModel in `folder` to `out` with a signature for one example."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    call = loaded.signatures[SERVING_KEY]
    specs = [
        tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name=name)
        for name, spec in call.structured_input_signature[1].items()
    ]
    names = [spec.name for spec in specs]
    module = tf.Module()
    # Functions hold their variables weakly.
    module.loaded = loaded
    module.serve = tf.function(
        lambda *tensors: call(**dict(zip(names, tensors, strict=True))), autograph=False
    )
    signature = module.serve.get_concrete_function(*specs)
    tf.saved_model.save(module, str(out), signatures={SERVING_KEY: signature})


def store(content: bytes, converted: TFLiteModel, signature: Signature, features: Features) -> None:
    """Write a TFLite file into its artifact, and run it once.

    Args:
        content: The file's bytes.
        converted: Gets the file, and the facts that are measured in it.
        signature: Of the source; see `check_runs`.
        features: One call's inputs, by signature name.

    Raises:
        UnsupportedError: It can't be loaded or run, or gives other outputs.
    """
    converted.serving_dir.mkdir()
    converted.file.write_bytes(content)
    check_runs(converted.file, signature, features)
    weights = stored_weights(content)
    converted.size_bytes = len(content)
    converted.gzip_bytes = len(gzip.compress(content, compresslevel=9, mtime=0))
    converted.weight_count = weights.count
    converted.sparsity = weights.sparsity
    converted.distinct_weights = weights.distinct


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
            remedy="take another quantization or runtime for this model",
        ) from error
    if sorted(outputs) != sorted(signature.outputs):
        raise UnsupportedError(
            "the converted TFLite file gives other outputs than its source",
            received=f"{', '.join(sorted(outputs))} for {', '.join(signature.outputs)}",
            remedy="take another runtime for this model",
        )


def activation_quantization(content: bytes) -> dict[str, tuple[float, int]]:
    """Scale and zero point of each int8 or int16 tensor that the file's operators compute.

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
    """One call's inputs: floats uniform in [0, 1), zeros for other types."""
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


def reason(error: Exception) -> str:
    """The operators that the converter names, else its first line."""
    text = str(error)
    if _OPEN_STATE in text:
        return "a loop whose state has no known shape, as GRU has"
    named = re.findall(r"(?:TF Select|Custom) ops: ([^\n]+)", text)
    named += re.findall(r"Encountered unresolved custom op: (\w+)", text)
    if named:
        operators = sorted({op.strip() for group in named for op in group.split(",")})
        return f"operators that TFLite lacks: {', '.join(operators)}"
    return first_line(error)
