"""TF-TRT: a SavedModel whose parts are TensorRT engines, run by TensorFlow.

For a TensorFlow that was built with TensorRT, which its packages have not been since
2.18. The converter's module can be imported in any of them, so what the build says of
itself decides.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from paring.converters.comparison import Compared, compare
from paring.converters.tflite.conversion import Calls
from paring.errors import MissingDependencyError, StepFailedError, UnsupportedError, first_line
from paring.models.arguments import name_signature
from paring.models.plain_paths import plain_path
from paring.models.quiet import quiet_tensorflow
from paring.models.same_signatures import same_signatures
from paring.models.saved_model import SavedModel
from paring.runtimes import Features
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.tensorrt.driver import find_gpu

PRECISIONS: Final = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}

_ENGINE: Final = "TRTEngineOp"
_ALL_OF_IT: Final = 64 << 30


def require() -> None:
    """Look for a GPU, then ask TensorFlow whether it was built with TensorRT.

    Raises:
        MissingDependencyError: There is no GPU, or it was not.
    """
    # First, since importing TensorFlow takes seconds.
    find_gpu()
    quiet_tensorflow()
    import tensorflow as tf

    if not built_with_tensorrt(tf.sysconfig.get_build_info()):
        raise MissingDependencyError(
            "TF-TRT can't be used here: this TensorFlow was built without TensorRT",
            received=f"tensorflow {tf.__version__}, whose build says so",
            remedy="use a TensorFlow that was built with it, or build_tensorrt",
        )


def built_with_tensorrt(build_info: Mapping[str, Any]) -> bool:
    """Return whether TensorFlow was built with TensorRT, by `tf.sysconfig.get_build_info()`."""
    return bool(build_info.get("is_tensorrt_build", False))


def convert(
    model: SavedModel,
    out: Path,
    *,
    precision: str,
    workspace_mb: int,
    shapes: Calls,
    calibration: Calls | None,
) -> int:
    """Write a SavedModel with engines for the GPU here.

    Args:
        model: A SavedModel; the converter writes the signature that it was opened for alone.
        out: Where the other goes.
        precision: One of `PRECISIONS`.
        workspace_mb: Memory that an engine may work in, in MiB; 0 for all.
        shapes: Inputs of the smallest and the largest batch; engines take those between.
        calibration: For int8: what the ranges are taken from.

    Returns:
        How many engines there are.

    Raises:
        UnsupportedError: TensorRT takes no part of the graph.
        StepFailedError: The converter failed.
    """
    quiet_tensorflow()
    from tensorflow.python.compiler.tensorrt.trt_convert import TrtGraphConverterV2

    try:
        converter = TrtGraphConverterV2(
            input_saved_model_dir=str(plain_path(model.folder)),
            input_saved_model_signature_key=model.key,
            use_dynamic_shape=True,
            dynamic_shape_profile_strategy="Range",
            max_workspace_size_bytes=workspace_mb << 20 or _ALL_OF_IT,
            precision_mode=PRECISIONS[precision],
            use_calibration=precision == "int8",
            # A batch out of range runs in TensorFlow; nothing is built while serving.
            allow_build_at_runtime=False,
        )
        converter.convert(calibration_input_fn=calibration)
        # Builds the profiles, then calibrates if a calibration was requested.
        converter.build(input_fn=shapes)
        converter.save(str(out), save_gpu_specific_engines=True)
        name_signature(out, model.key, same_signatures(model))
    except Exception as error:
        # The converter raises bare ValueError and RuntimeError, and TensorFlow's own
        # errors for what goes wrong in a graph.
        raise StepFailedError(
            "TF-TRT can't convert this model",
            received=first_line(error),
            remedy="try build_tensorrt, which takes the model as ONNX",
        ) from error
    count = count_engines(out)
    if not count:
        raise UnsupportedError(
            "TF-TRT makes no part of this model an engine",
            remedy="try build_tensorrt, which says what stands in the way",
        )
    return count


def check_outputs(
    source: SavedModel,
    made: SavedModel,
    batches: Sequence[Features],
    *,
    precision: str,
    drawn: bool,
) -> Compared:
    """Compare a SavedModel with engines with the one that it was made of.

    Args:
        source: The source.
        made: The SavedModel with engines.
        batches: What both are run on.
        precision: One of `PRECISIONS`; GPUs compute products of float32 in TF32.
        drawn: Whether the batches are examples, and not random numbers.

    Raises:
        UnsupportedError: It does not compute what its source does.
    """
    return compare(
        lambda: SavedModelRuntime(source),
        lambda: SavedModelRuntime(made),
        batches,
        form="integer" if precision == "int8" else "half",
        drawn=drawn,
        what="the SavedModel with engines",
        # The weights stay in the graph that the engines are built of.
        only_rounded=lambda: True,
    )


def count_engines(folder: Path) -> int:
    """Return the number of engines in a SavedModel.

    Raises:
        ModelError: It can't be read.
    """
    graph = SavedModel(folder).meta_graph.graph_def
    functions = (node for function in graph.library.function for node in function.node_def)
    return sum(node.op == _ENGINE for nodes in (graph.node, functions) for node in nodes)
