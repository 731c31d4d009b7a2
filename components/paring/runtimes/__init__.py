"""Runtimes: load what a candidate serves and run batches of it.

One file a runtime. Which one fits is read from what the path holds, and only
that one is imported: a process that runs a TFLite file never imports
TensorFlow, so its start and its memory are the file's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from paring.artifacts import SERVING_DIR, Model, Servable
from paring.errors import ModelError, ParameterError, nearest

SIGNATURE = "serving_default"
"""The signature that every runtime calls."""

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
        """Which one: "tensorflow", "tflite", "tensorrt" or "tensorrt-rtx"."""
        ...

    @property
    def batch_size(self) -> int | None:
        """The only batch that the model takes; None if it takes any."""
        ...

    @property
    def inputs(self) -> Mapping[str, "InputTensor"]:
        """What each input of the signature takes, by its name."""
        ...

    def encode(self, features: Features) -> Features:
        """The batch in the dtypes that the model itself takes.

        A TFLite file may take integers where its source takes floats. `run` takes
        both; what is timed is given encoded, as a device's sensor would give it.
        """
        ...

    def run(self, features: Features) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for one batch, by the signature's output names.

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


def open_runtime(artifact: Servable, *, threads: int = 0) -> Runtime:
    """Load what `artifact` serves into the runtime for it.

    Args:
        artifact: A TFLite file, a TensorRT engine, a SavedModel, or a folder of
            Paring's or TFX's that holds one of them below `Format-Serving/`.
        threads: Threads for one call; 0 leaves the number to the runtime.

    Raises:
        ModelError: The path holds none of them, or it can't be read.
        ParameterError: TensorFlow already started with other threads.
        MissingDependencyError: An engine's GPU or library is missing.
        UnsupportedError: An engine was built for another GPU, driver or version.
    """
    file = tflite_file(artifact.path)
    if file is not None:
        from paring.runtimes.tflite import TFLiteRuntime

        return TFLiteRuntime(file, threads=threads)
    engine = engine_file(artifact.path)
    if engine is not None:
        from paring.runtimes.tensorrt import TensorRTRuntime

        return TensorRTRuntime(engine, threads=threads)

    from paring.runtimes.savedmodel import SavedModelRuntime
    from paring.tf.loading import saved_model_dir

    return SavedModelRuntime(saved_model_dir(Model(artifact.path)), threads=threads)


def blank_batch(runtime: Runtime) -> Features | None:
    """The smallest batch of zeros that the model takes.

    None where the signature does not say what that is: it takes text, or a dimension
    besides the batch varies.
    """
    batch: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in runtime.inputs.items():
        if tensor.shape is None or None in tensor.shape[1:] or tensor.dtype.kind not in "biuf":
            return None
        batch[name] = np.zeros([1 if size is None else size for size in tensor.shape], tensor.dtype)
    return batch


def import_library(artifact: Servable) -> None:
    """Import the library that `open_runtime` needs for `artifact`.

    It does so itself; this is for timing the import apart from the load.
    """
    engine = engine_file(artifact.path)
    if tflite_file(artifact.path) is not None:
        import ai_edge_litert.interpreter  # noqa: F401
    elif engine is not None:
        from paring.engines.conditions import read_conditions
        from paring.engines.machine import look

        look(read_conditions(engine).flavour, needs_gpu=True)
    else:
        from paring.tf.quiet import quiet_tensorflow

        quiet_tensorflow()


def served_path(artifact: Servable) -> Path:
    """The TFLite file, the engine's file or the SavedModel folder that `artifact` serves.

    Raises:
        ModelError: The path holds none of them.
    """
    file = tflite_file(artifact.path) or engine_file(artifact.path)
    if file is not None:
        return file

    from paring.tf.loading import saved_model_dir

    return saved_model_dir(Model(artifact.path))


def tflite_file(path: Path) -> Path | None:
    """The TFLite file at or below `path`, None where there is none."""
    return _served_file(path, "model.tflite")


def engine_file(path: Path) -> Path | None:
    """The TensorRT engine's file at or below `path`, None where there is none."""
    return _served_file(path, "model.engine")


def _served_file(path: Path, name: str) -> Path | None:
    if path.is_file():
        return path if path.suffix == Path(name).suffix else None
    file = path / SERVING_DIR / name
    return file if file.is_file() else None


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


def check_threads(threads: int) -> None:
    """Refuse a negative number of threads."""
    if threads < 0:
        raise ParameterError(
            "threads: must be 0 or more", received=threads, remedy="0 leaves it to the runtime"
        )
