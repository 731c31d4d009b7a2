"""ONNX files in ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np

from paring.artifacts import Servable
from paring.errors import ModelError, first_line
from paring.models.onnx_files import check_onnx
from paring.runtimes.base import (
    Features,
    InputTensor,
    LoadOptions,
    RuntimeSpec,
    SignatureRuntime,
    check_threads,
)

# The fastest first; ONNX Runtime's build decides which there are.
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_ONLY_ERRORS = 3

_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(string)": "object"}


class OnnxRuntime(SignatureRuntime):
    """An ONNX file, on a GPU where this build of ONNX Runtime can use one.

    The file is checked before ONNX Runtime opens it; see `paring.models.onnx_files`.

    Args:
        file: The ONNX file.
        threads: Threads for one call; 0 leaves them to ONNX Runtime.
        optimized: Whether ONNX Runtime may change the graph, as it does by default.
        trusted: Whether it may hold operators of other libraries.

    Raises:
        ModelError: It can't be read.
        UntrustedModelError: It has operators of other libraries, and is not trusted.
    """

    name = "onnxruntime"

    def __init__(
        self, file: Path, *, threads: int = 0, optimized: bool = True, trusted: bool = False
    ) -> None:
        check_threads(threads)
        check_onnx(file, trusted=trusted)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ONLY_ERRORS
        if not optimized:
            levels = onnxruntime.GraphOptimizationLevel
            options.graph_optimization_level = levels.ORT_DISABLE_ALL
        there = onnxruntime.get_available_providers()
        providers = [provider for provider in _PROVIDERS if provider in there]
        try:
            self._session: Any = onnxruntime.InferenceSession(file, options, providers=providers)
        except Exception as error:
            # Its classes of errors have no public base but Exception.
            raise ModelError(
                f"{file} can't be loaded as an ONNX file",
                received=first_line(error),
                remedy="export the model again; the file is incomplete or damaged, or has"
                " operators that ONNX Runtime lacks",
            ) from error
        super().__init__(file, {item.name: _input(item) for item in self._session.get_inputs()})
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, features: Features) -> dict[str, np.ndarray[Any, Any]]:
        """See `paring.runtimes.base.Runtime.run`."""
        self.check(features)
        result = self._session.run(self._outputs, dict(features))
        return dict(zip(self._outputs, result, strict=True))

    def close(self) -> None:
        """See `paring.runtimes.base.Runtime.close`."""
        del self._session


def _input(tensor: Any) -> InputTensor:
    # A dimension that varies has a name, or none.
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    kind = tensor.type
    return InputTensor(shape, np.dtype(_DTYPES.get(kind) or kind[len("tensor(") : -1]))


def _check(file: Path, artifact: Servable) -> None:
    check_onnx(file, trusted=artifact.trusted)


def _load(file: Path, artifact: Servable, options: LoadOptions) -> OnnxRuntime:
    return OnnxRuntime(file, threads=options.threads, trusted=artifact.trusted)


RUNTIME = RuntimeSpec(
    name=OnnxRuntime.name,
    served_files=("model.onnx",),
    libraries={"onnxruntime": "onnxruntime"},
    check=_check,
    load=_load,
)
