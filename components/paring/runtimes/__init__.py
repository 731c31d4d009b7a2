"""Runtimes, which load the served files of a candidate and run batches.

One file a runtime. Which one fits is read from what the path holds, and only
that one is imported: a process that runs a TFLite file never imports
TensorFlow, so its start and its memory are the file's own.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from paring.artifacts import SERVING_DIR, Servable
from paring.errors import ModelError, ParameterError, UnsupportedError, nearest

SIGNATURE = "serving_default"
"""The signature that every runtime calls."""

SERVED_FILES = ("model.tflite", "model.onnx", "model.xml", "model.engine")
"""What a folder may hold in place of a SavedModel."""

_LIBRARIES = {
    ".tflite": "ai_edge_litert.interpreter",
    ".onnx": "onnxruntime",
    ".xml": "openvino",
}

Features = Mapping[str, np.ndarray[Any, Any]]
"""A batch: an array [batch, ...] for each input of the signature."""


@dataclass(frozen=True)
class InputTensor:
    """An input of a signature.

    Attributes:
        shape: Its dimensions with the batch, None where one varies; None where not even
            their number is known.
        dtype: NumPy's type; object for text.
    """

    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any]


class Runtime(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """Name of the runtime, such as "tensorflow", "tflite", "onnxruntime" or "tensorrt"."""
        ...

    @property
    def batch_size(self) -> int | None:
        """The only batch that the model takes; None if it takes any."""
        ...

    @property
    def inputs(self) -> Mapping[str, "InputTensor"]:
        """Type and shape of each input of the signature, by its name."""
        ...

    def encode(self, features: Features) -> Features:
        """Return the batch in the dtypes that the model itself takes.

        A TFLite file may take integers where its source takes floats. `run` takes
        both; what is timed is given encoded, as a device's sensor would give it.
        """
        ...

    def run(self, features: Features) -> dict[str, np.ndarray[Any, Any]]:
        """Return the outputs for one batch, by the signature's output names.

        Calls are independent: a model that holds state starts each of them from none.
        Integers that stand for floats are turned back into those.

        Args:
            features: An array [batch, ...] for each input of the signature, in
                the dtype that the signature states, or from `encode`.

        Raises:
            ModelError: Names, dtypes or shapes are not the signature's.
            UnsupportedError: The model does not take a batch of this size.
        """
        ...

    def close(self) -> None:
        """Let go of the model; `run` must not be called afterwards."""
        ...


def open_runtime(
    artifact: Servable, *, threads: int = 0, gpu_memory_mb: int = 0, whole: bool = False
) -> Runtime:
    """Load what `artifact` serves into the runtime for it.

    Args:
        artifact: A TFLite or ONNX file, a TensorRT engine, a folder that holds one of
            these or OpenVINO's files, a SavedModel, or a folder of Paring's or TFX's that
            holds one of them below `Format-Serving/`.
        threads: Threads for one call; 0 leaves the number to the runtime.
        gpu_memory_mb: Of a SavedModel: MiB of each GPU's memory that TensorFlow may
            take in this process; with 0 it takes what it needs. The other runtimes have
            no such limit.
        whole: Whether all functions of a SavedModel are loaded, as by `tf.saved_model.load`,
            and not just those that its signatures call.

    Raises:
        ModelError: The path holds none of them, or it can't be read.
        ParameterError: TensorFlow already started with other threads or another limit.
        UntrustedModelError: It holds code of its own, or names code that is not known to be
            harmless, and is not trusted.
        MissingDependencyError: OpenVINO is not installed, or an engine's GPU or library
            is missing.
        UnsupportedError: An engine was built for another GPU, driver or version.
    """
    file = served_file(artifact.path)
    if file is not None:
        if file.suffix == ".tflite":
            from paring.runtimes.tflite import TFLiteRuntime

            return TFLiteRuntime(file, threads=threads, trusted=artifact.trusted)
        if file.suffix == ".onnx":
            from paring.runtimes.onnx import OnnxRuntime

            return OnnxRuntime(file, threads=threads, trusted=artifact.trusted)
        if file.suffix == ".engine":
            from paring.runtimes.tensorrt import TensorRTRuntime

            trusted = artifact.trusted or artifact.engine_trusted
            return TensorRTRuntime(file, threads=threads, trusted=trusted)

        from paring.runtimes.openvino import OpenVinoRuntime

        return OpenVinoRuntime(file, threads=threads, trusted=artifact.trusted)

    from paring.models.loading import saved_model_dir
    from paring.runtimes.savedmodel import SavedModelRuntime

    folder = saved_model_dir(artifact)
    return SavedModelRuntime(folder, threads=threads, gpu_memory_mb=gpu_memory_mb, whole=whole)


def blank_batch(runtime: Runtime) -> Features | None:
    """Return the smallest batch of zeros that the model takes.

    None where the signature does not say what that is: it takes text, or a dimension
    besides the batch varies.
    """
    batch: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in runtime.inputs.items():
        if tensor.shape is None or None in tensor.shape[1:] or tensor.dtype.kind not in "biuf":
            return None
        batch[name] = np.zeros([1 if size is None else size for size in tensor.shape], tensor.dtype)
    return batch


def check_served(artifact: Servable) -> None:
    """Check what `artifact` serves, as `open_runtime` does before it loads it.

    What was checked is known until it changes; this is for timing the load by itself.

    Raises:
        ModelError, UntrustedModelError: See `open_runtime`.
    """
    file = served_file(artifact.path)
    if file is None:
        from paring.models.loading import saved_model_dir

        saved_model_dir(artifact)
    elif file.suffix == ".tflite":
        from paring.models.tflite_files import check_tflite

        check_tflite(file, trusted=artifact.trusted)
    elif file.suffix == ".onnx":
        from paring.models.onnx_files import check_onnx

        check_onnx(file, trusted=artifact.trusted)
    elif file.suffix == ".xml":
        from paring.models.openvino_files import check_openvino

        check_openvino(file, trusted=artifact.trusted)


def import_library(artifact: Servable) -> None:
    """Import the library that `open_runtime` needs for `artifact`.

    It does so itself; this is for timing the import apart from the load.
    """
    file = served_file(artifact.path)
    if file is None:
        from paring.models.quiet import quiet_tensorflow

        quiet_tensorflow()
    elif file.suffix == ".engine":
        from paring.tensorrt.conditions import read_conditions
        from paring.tensorrt.machine import look

        look(read_conditions(file).flavour, needs_gpu=True)
    else:
        importlib.import_module(_LIBRARIES[file.suffix])


def served_path(artifact: Servable) -> Path:
    """Return the file or the folder that `artifact` serves: all of it, and nothing else.

    Raises:
        ModelError: The path holds nothing that a runtime takes.
    """
    file = served_file(artifact.path)
    if file is not None:
        # OpenVINO's weights lie in a file of their own.
        return file.parent if file.suffix == ".xml" else file

    from paring.models.loading import find_saved_model

    return find_saved_model(artifact)


def run_rows(runtime: Runtime, features: Features) -> dict[str, np.ndarray[Any, Any]]:
    """Return the outputs for any number of rows, whatever batch the model takes.

    Args:
        runtime: The model.
        features: An array [rows, ...] for each input, at least one row.

    Raises:
        ModelError, UnsupportedError: See `Runtime.run`.
    """
    count = len(next(iter(features.values())))
    size = runtime.batch_size
    if size is None or size == count:
        return runtime.run(features)
    parts = []
    for start in range(0, count, size):
        part = {name: array[start : start + size] for name, array in features.items()}
        have = min(size, count - start)
        if have < size:
            # The last row again and again; those results are dropped.
            part = {
                name: np.concatenate([array, np.repeat(array[-1:], size - have, axis=0)])
                for name, array in part.items()
            }
        parts.append({name: array[:have] for name, array in runtime.run(part).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def served_file(path: Path) -> Path | None:
    """Return the file at or below `path` that is no SavedModel's, None where there is none."""
    if path.is_file():
        return path if path.suffix in (".tflite", ".onnx", ".engine") else None
    for folder in (path / SERVING_DIR, path):
        if (folder / "saved_model.pb").is_file():
            return None
        for name in SERVED_FILES:
            if (folder / name).is_file():
                return folder / name
    return None


def check_names(model: Path, features: Features, known: Mapping[str, object]) -> None:
    """Refuse features that are not, by name, the inputs of the signature."""
    if features.keys() == known.keys():
        return
    name = next(iter(features.keys() - known.keys()), "")
    raise ModelError(
        f"{model} takes other inputs",
        received=", ".join(sorted(features)) or "no inputs",
        remedy=nearest(name, known),
    )


def check_features(model: Path, features: Features, inputs: Mapping[str, InputTensor]) -> None:
    """Refuse a batch that is not, by names, dtypes and shapes, what the signature takes.

    Raises:
        ModelError: It is not.
        UnsupportedError: The model does not take a batch of this size.
    """
    check_names(model, features, inputs)
    for name, array in features.items():
        tensor = inputs[name]
        if array.dtype != tensor.dtype:
            raise ModelError(
                f"{model}: input {name!r} takes {_named(tensor.dtype)}",
                received=array.dtype,
                remedy="convert the examples to the dtype of the model's signature",
            )
        shape = tensor.shape
        if shape is None:
            continue
        if len(array.shape) != len(shape) or not _fits(array.shape[1:], shape[1:]):
            raise ModelError(
                f"{model}: input {name!r} takes the shape {shape}",
                received=array.shape,
                remedy="give examples of the shape of the model's signature",
            )
        if not _fits(array.shape, shape):
            raise UnsupportedError(
                f"{model}: input {name!r} takes batches of {shape[0]} only",
                received=array.shape[0],
                remedy="export the model with a batch dimension of None",
            )


def fixed_batch(inputs: Mapping[str, InputTensor]) -> int | None:
    """Return the only batch that the inputs take; None if they take any."""
    for tensor in inputs.values():
        if tensor.shape and tensor.shape[0] is not None:
            return tensor.shape[0]
    return None


def _named(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind == "O" else dtype.name


def _fits(shape: tuple[int, ...], known: tuple[int | None, ...]) -> bool:
    return all(one in (None, size) for size, one in zip(shape, known, strict=True))


class SignatureRuntime:
    """Base class of runtimes whose models take batches as their signature states them.

    Args:
        model: The file or folder, for messages.
        inputs: Type and shape of each input.
    """

    def __init__(self, model: Path, inputs: Mapping[str, InputTensor]) -> None:
        self._path = model
        self._inputs = dict(inputs)
        # What the last batch was like.
        self._checked: dict[str, tuple[tuple[int, ...], Any]] = {}

    @property
    def batch_size(self) -> int | None:
        """The only batch that the model takes; None if it takes any."""
        return fixed_batch(self._inputs)

    @property
    def inputs(self) -> dict[str, InputTensor]:
        """See `Runtime.inputs`."""
        return dict(self._inputs)

    def encode(self, features: Features) -> Features:
        """See `Runtime.encode`."""
        return features

    def check(self, features: Features) -> None:
        """Refuse a batch as `check_features` does; one like the last is not looked at."""
        kind = {name: (array.shape, array.dtype) for name, array in features.items()}
        if kind != self._checked:
            check_features(self._path, features, self._inputs)
            self._checked = kind


def check_threads(threads: int) -> None:
    """Refuse a negative number of threads."""
    if threads < 0:
        raise ParameterError(
            "threads: must be 0 or more",
            received=threads,
            remedy="give 0 to leave it to the runtime",
        )
