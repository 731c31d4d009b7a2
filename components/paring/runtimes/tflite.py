"""TFLite files in LiteRT's interpreter, without TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paring.artifacts import DEFAULT_SIGNATURE, Servable
from paring.errors import ModelError, UnsupportedError, first_line
from paring.models.quiet import silent_stderr
from paring.models.signature import Signature, TensorSpec, choose_signature
from paring.models.tflite_files import check_tflite
from paring.runtimes.base import (
    Features,
    InputTensor,
    LoadOptions,
    Runtime,
    RuntimeSpec,
    check_features,
    check_names,
    check_threads,
)

_ASSIGN = "ASSIGN_VARIABLE"


class TFLiteRuntime(Runtime):
    """A TFLite file, with the XNNPACK kernels that LiteRT applies by default.

    Each call of `run` is a batch of independent sequences: tensors that hold state, as
    those of recurrent layers do, are zero at its start.

    The file is checked before LiteRT opens it; see `paring.models.tflite_files`.

    Args:
        file: The TFLite file.
        threads: Threads for one call; 0 leaves them to LiteRT.
        trusted: Whether it may hold custom operators.
        signature: Name of its signature that is called.

    Raises:
        ModelError: It can't be read, or has no such signature.
        UntrustedModelError: It has custom operators, and is not trusted.
        UnsupportedError: It keeps state in variables that can't be reset.
    """

    name = "tflite"

    def __init__(
        self,
        file: Path,
        *,
        threads: int = 0,
        trusted: bool = False,
        signature: str = DEFAULT_SIGNATURE,
    ) -> None:
        check_threads(threads)
        check_tflite(file, trusted=trusted)
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter: Any = Interpreter(model_path=str(file), num_threads=threads or None)
            signatures = self._interpreter.get_signature_list()
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"{file} can't be loaded as a TFLite file",
                received=first_line(error),
                remedy="convert the model again; the file is incomplete or damaged",
            ) from error
        if signature not in signatures:
            raise ModelError(
                f"{file} has no signature {signature!r}",
                received=", ".join(signatures) or "no signatures",
                remedy=choose_signature(tuple(signatures))
                if signatures
                else "convert it from a SavedModel, which carries its signature over",
            )
        self._file = file
        operators = {detail["op_name"] for detail in self._interpreter._get_ops_details()}
        if _ASSIGN in operators:
            raise UnsupportedError(
                f"{file} keeps state from call to call, and examples are evaluated one by one",
                received=f"an operator {_ASSIGN}",
                remedy="convert the model with stateful=False, or with the state as an input and"
                " an output of the signature",
            )
        self._inputs, self._outputs = _tensors(self._interpreter, signature)
        # Tensors are set and read by their index in the first graph, which is
        # the fast path; a signature of another graph would need the runner.
        first = {details["index"] for details in self._interpreter.get_input_details()}
        if {details["index"] for details in self._inputs.values()} != first:
            raise ModelError(
                f"{file}: the signature {signature!r} is not that of its first graph",
                remedy="convert the SavedModel with this one signature",
            )
        self._takes_integers = any(_stands_for_floats(d) for d in self._inputs.values())
        self._shapes: dict[str, tuple[int, ...]] = {}
        # LiteRT tells of the delegate that it makes.
        with silent_stderr():
            self._allocate({name: _shape(d["shape"]) for name, d in self._inputs.items()})

    @property
    def inputs(self) -> dict[str, InputTensor]:
        """See `paring.runtimes.base.Runtime.inputs`."""
        return {
            name: InputTensor(_open_shape(details), np.dtype(details["dtype"]))
            for name, details in self._inputs.items()
        }

    @property
    def signature(self) -> Signature:
        """The signature's inputs and outputs; integers that stand for floats are these."""
        inputs, outputs = (
            {name: _spec(name, tensors[name]) for name in sorted(tensors)}
            for tensors in (self._inputs, self._outputs)
        )
        return Signature(inputs, outputs)

    @property
    def tensor_names(self) -> tuple[dict[str, str], dict[str, str]]:
        """Names in the file of the signature's inputs and of its outputs, by their own."""
        inputs, outputs = (
            {name: str(details["name"]) for name, details in tensors.items()}
            for tensors in (self._inputs, self._outputs)
        )
        return inputs, outputs

    def encode(self, features: Features) -> Features:
        """See `paring.runtimes.base.Runtime.encode`."""
        check_names(self._file, features, self._inputs)
        return {name: _encode(array, self._inputs[name]) for name, array in features.items()}

    def run(self, features: Features) -> dict[str, np.ndarray[Any, Any]]:
        """See `paring.runtimes.base.Runtime.run`."""
        if self._takes_integers:
            features = self.encode(features)
        shapes = {name: array.shape for name, array in features.items()}
        if shapes != self._shapes:
            check_features(self._file, features, self.inputs)
            self._allocate(shapes)
        interpreter = self._interpreter
        for name, array in features.items():
            try:
                interpreter.set_tensor(self._inputs[name]["index"], array)
            except ValueError as error:
                raise self._wrong_dtype(name, array) from error
        # LiteRT itself would go on where the last call ended. This takes 0.2 microseconds.
        interpreter.reset_all_variables()
        interpreter.invoke()
        return {
            name: _decode(interpreter.get_tensor(details["index"]), details)
            for name, details in self._outputs.items()
        }

    def close(self) -> None:
        """See `paring.runtimes.base.Runtime.close`."""
        del self._interpreter

    def _wrong_dtype(self, name: str, array: np.ndarray[Any, Any]) -> ModelError:
        return ModelError(
            f"{self._file}: input {name!r} takes {np.dtype(self._inputs[name]['dtype']).name}",
            received=array.dtype,
            remedy="convert the examples to the dtype of the model's signature",
        )

    def _allocate(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Plan the memory of all tensors for inputs of these shapes."""
        try:
            for name, shape in shapes.items():
                details = self._inputs[name]
                if shape != self._shapes.get(name, _shape(details["shape"])):
                    self._interpreter.resize_tensor_input(details["index"], shape, strict=True)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UnsupportedError(
                f"{self._file} can't be run on inputs of this shape",
                received=f"{shapes}: {first_line(error)}",
                remedy="use the batch that it was converted for; some operator has a fixed shape",
            ) from error
        self._shapes = shapes


def _tensors(
    interpreter: Any, signature: str
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the details of the signature's inputs and outputs, by name."""
    # The runner must be gone before tensors are allocated: LiteRT refuses that
    # while anything else refers to the interpreter's inner object.
    runner = interpreter.get_signature_runner(signature)
    return runner.get_input_details(), runner.get_output_details()


def _spec(name: str, details: Mapping[str, Any]) -> TensorSpec:
    dtype = "float32" if _stands_for_floats(details) else np.dtype(details["dtype"]).name
    return TensorSpec(name, _open_shape(details), dtype)


def _open_shape(details: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Return a tensor's shape, None where a size is open."""
    return tuple(None if size < 0 else size for size in _shape(details["shape_signature"]))


def _stands_for_floats(details: Mapping[str, Any]) -> bool:
    """Return whether the tensor's integers are floats divided by a scale."""
    return bool(details["quantization"][0]) and np.issubdtype(details["dtype"], np.integer)


def _encode(array: np.ndarray[Any, Any], details: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    if array.dtype.kind != "f" or not _stands_for_floats(details):
        return array
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    rounded = np.rint(array / scale) + zero_point
    limited: np.ndarray[Any, Any] = np.clip(rounded, limits.min, limits.max)
    return limited.astype(details["dtype"])


def _decode(array: np.ndarray[Any, Any], details: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    if not _stands_for_floats(details):
        return array
    scale, zero_point = details["quantization"]
    steps = array.astype(np.float32) - np.float32(zero_point)
    return steps * np.float32(scale)


def _shape(sizes: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in sizes)


def _check(file: Path, artifact: Servable) -> None:
    check_tflite(file, trusted=artifact.trusted)


def _load(file: Path, artifact: Servable, options: LoadOptions) -> TFLiteRuntime:
    return TFLiteRuntime(
        file,
        threads=options.threads,
        trusted=artifact.trusted,
        signature=artifact.signature,
    )


RUNTIME = RuntimeSpec(
    name=TFLiteRuntime.name,
    served_files=("model.tflite",),
    libraries={"ai-edge-litert": "ai_edge_litert.interpreter"},
    check=_check,
    load=_load,
)
