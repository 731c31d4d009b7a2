"""OpenVINO's files, on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np

from paring.artifacts import Servable
from paring.errors import MissingDependencyError, ModelError, first_line
from paring.models.openvino_files import check_openvino
from paring.runtimes.base import (
    Features,
    InputTensor,
    LoadOptions,
    RuntimeSpec,
    SignatureRuntime,
    check_threads,
)


class OpenVinoRuntime(SignatureRuntime):
    """A `model.xml` with its `model.bin`, compiled for this CPU and the lowest latency.

    The files are checked before OpenVINO opens them; see `paring.models.openvino_files`.

    Args:
        file: The `.xml` file.
        threads: Threads for one call; 0 leaves them to OpenVINO.
        trusted: Whether it may hold layers of extensions.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        ModelError: The files can't be read.
        UntrustedModelError: There are layers of extensions, and it is not trusted.
    """

    name = "openvino"

    def __init__(self, file: Path, *, threads: int = 0, trusted: bool = False) -> None:
        check_threads(threads)
        check_openvino(file, trusted=trusted)
        openvino = import_openvino()
        # Where a processor has bfloat16, OpenVINO would compute in it unasked.
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model: Any = openvino.Core().compile_model(str(file), "CPU", settings)
        except RuntimeError as error:
            raise ModelError(
                f"{file} can't be loaded by OpenVINO",
                received=first_line(error),
                remedy="convert the model again; the files are incomplete or damaged",
            ) from error
        super().__init__(file, {_name(port): _input(port) for port in self._model.inputs})
        self._outputs = {name: port for port in self._model.outputs for name in port.get_names()}
        self._request: Any = self._model.create_infer_request()
        self._holds_state = bool(self._request.query_state())

    def run(self, features: Features) -> dict[str, np.ndarray[Any, Any]]:
        """See `paring.runtimes.base.Runtime.run`."""
        self.check(features)
        if self._holds_state:
            # Each call is a batch of independent sequences.
            self._request.reset_state()
        result = self._request.infer(dict(features), share_inputs=True)
        return {name: np.array(result[port]) for name, port in self._outputs.items()}

    def close(self) -> None:
        """See `paring.runtimes.base.Runtime.close`."""
        del self._request, self._outputs, self._model


def import_openvino() -> Any:
    """Return the module `openvino`.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            "OpenVINO is not installed", received=error, remedy="pip install 'paring[openvino]'"
        ) from error
    return openvino


def _name(port: Any) -> str:
    return str(port.get_any_name())


def _input(port: Any) -> InputTensor:
    partial = port.get_partial_shape()
    shape = None
    if partial.rank.is_static:
        shape = tuple(None if size.is_dynamic else size.get_length() for size in partial)
    return InputTensor(shape, np.dtype(port.get_element_type().to_dtype()))


def _check(file: Path, artifact: Servable) -> None:
    check_openvino(file, trusted=artifact.trusted)


def _load(file: Path, artifact: Servable, options: LoadOptions) -> OpenVinoRuntime:
    return OpenVinoRuntime(file, threads=options.threads, trusted=artifact.trusted)


def _import_library(file: Path) -> None:
    import_openvino()


RUNTIME = RuntimeSpec(
    name=OpenVinoRuntime.name,
    served_files=("model.xml", "model.bin"),
    libraries={"openvino": "openvino"},
    check=_check,
    load=_load,
    import_library=_import_library,
)
