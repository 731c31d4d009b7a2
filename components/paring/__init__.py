"""Steps that make trained TensorFlow models smaller and faster, and measure what that costs.

`paring.optimize` runs the whole pipeline on a model, and each step is a function, such as
`paring.prune`; the decorator of `paring.step` makes a step of a function. All names are
imported on first use, since every measuring process imports this module.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from paring.adapters.functions import as_function
    from paring.artifacts import Artifact, Examples, Failure, Model, SelectedModel, TFLiteModel
    from paring.errors import ParingError
    from paring.execution import Call, execute
    from paring.serving.runner import Runner, load_runner
    from paring.step import Attempted, Input, Inputs, Output, Step
    from paring_pipelines.api import Result, optimize

__all__ = [
    "Artifact",
    "Attempted",
    "Call",
    "Examples",
    "Failure",
    "Input",
    "Inputs",
    "Model",
    "Output",
    "ParingError",
    "Result",
    "Runner",
    "SelectedModel",
    "Step",
    "TFLiteModel",
    "__version__",
    "as_function",
    "benchmark",
    "build_tensorrt",
    "check_tpu",
    "cluster",
    "convert_mixed",
    "convert_openvino",
    "convert_tflite",
    "convert_tftrt",
    "distill",
    "draw_calibration",
    "evaluate",
    "execute",
    "export_onnx",
    "import_examples",
    "import_model",
    "load_runner",
    "optimize",
    "optimize_savedmodel",
    "profile",
    "prune",
    "prune_channels",
    "push",
    "quantize",
    "report",
    "select",
    "split_model",
    "tune_batch",
]

__version__: Final = "0.1.0"

# In the order of the docs, as in `paring.catalog`.
_STEPS = (
    "import_model",
    "import_examples",
    "draw_calibration",
    "profile",
    "check_tpu",
    "prune",
    "prune_channels",
    "cluster",
    "quantize",
    "distill",
    "convert_tflite",
    "convert_mixed",
    "optimize_savedmodel",
    "split_model",
    "export_onnx",
    "convert_openvino",
    "build_tensorrt",
    "convert_tftrt",
    "benchmark",
    "evaluate",
    "tune_batch",
    "select",
    "report",
    "push",
)

_MODULES = {
    **dict.fromkeys(_STEPS, "paring.adapters.functions"),
    **dict.fromkeys(
        ("Artifact", "Examples", "Failure", "Model", "SelectedModel", "TFLiteModel"),
        "paring.artifacts",
    ),
    **dict.fromkeys(("Call", "execute"), "paring.execution"),
    **dict.fromkeys(("Attempted", "Input", "Inputs", "Output", "Step"), "paring.step"),
    "ParingError": "paring.errors",
    **dict.fromkeys(("Runner", "load_runner"), "paring.serving.runner"),
    "as_function": "paring.adapters.functions",
    # The one place where paring reaches paring_pipelines: see docs/adr/0017-public-api.md.
    **dict.fromkeys(("Result", "optimize"), "paring_pipelines.api"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
