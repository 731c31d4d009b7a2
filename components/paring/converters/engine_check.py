"""Comparison of a TensorRT engine with the ONNX file that it was built of."""

from pathlib import Path

from paring.artifacts import Examples, ONNXModel
from paring.converters.comparison import Compared, compare
from paring.converters.onnx.onnx_export import read_onnx_signature
from paring.converters.tflite.calibration import drawn_batches
from paring.errors import ModelError, first_line
from paring.models.signature import Signature, TensorSpec
from paring.runtimes.onnx import OnnxRuntime
from paring.runtimes.tensorrt import TensorRTRuntime

_EXAMPLES = 32


def compare_engine(
    engine: Path,
    file: Path,
    *,
    batch_size: int,
    examples: Examples | None,
    seed: int = 0,
    trusted: bool = False,
) -> Compared:
    """Run an engine on the GPU here, and its ONNX file in ONNX Runtime.

    Args:
        engine: The engine's file, built here, with engine.json beside it.
        file: The ONNX file.
        batch_size: One that the engine takes.
        examples: Both are run on 32 of the train split; without them on random numbers.
        seed: Of the draw.
        trusted: Whether the ONNX file may hold operators of other libraries.

    Raises:
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: The engine does not compute what the ONNX file does.
    """
    import onnx

    try:
        OnnxRuntime(file, optimized=False, trusted=trusted).close()
    except ModelError as error:
        # TensorRT has types that ONNX Runtime has no kernels for, such as bfloat16.
        return Compared(f"not compared: ONNX Runtime can't run its graph: {first_line(error)}")
    signature = read_onnx_signature(file)
    inputs = {
        name: TensorSpec(name, (spec.shape[0] or batch_size, *spec.shape[1:]), spec.dtype)
        for name, spec in signature.inputs.items()
        if spec.shape
    }
    fixed = Signature(signature.inputs | inputs, signature.outputs)
    nodes = onnx.load(str(file), load_external_data=False).graph.node
    quantized = any(node.op_type == "QuantizeLinear" for node in nodes)
    return compare(
        # What ONNX Runtime makes of the graph for a processor may round otherwise.
        lambda: OnnxRuntime(file, optimized=False, trusted=trusted),
        lambda: TensorRTRuntime(engine, trusted=True),
        drawn_batches(examples, fixed, size=_EXAMPLES, seed=seed),
        form="integer" if quantized else "half",
        drawn=examples is not None,
        what="the engine",
    )


def compared_elsewhere(model: ONNXModel) -> Compared:
    """Return what is known of an engine that the building machine can't run.

    Args:
        model: The ONNX file; one of `export_onnx` was compared with its source.
    """
    reason = "not compared: no GPU here that the engine is for"
    if model.difference is None:
        return Compared(f"{reason}; of its ONNX file it is not known either")
    return Compared(f"{reason}; its ONNX file differs from its source by {model.difference:.3g}")
