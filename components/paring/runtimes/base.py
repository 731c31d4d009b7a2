"""Base classes of runtimes, their batches, and the record by which the registry knows one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from paring.artifacts import Servable
from paring.errors import ModelError, ParameterError, UnsupportedError, nearest

Features = Mapping[str, np.ndarray[Any, Any]]
"""A batch: an array [batch, ...] for each input of the signature."""


class DeviceMemory(NamedTuple):
    """Peak memory that a model took on its GPUs or TPUs.

    Attributes:
        bytes: Number of bytes.
        counted: What counted them: "allocator" is TensorFlow's own allocator, "process" the
            driver for this process, "device" the driver for all that came on the device since
            before the model was loaded.
    """

    bytes: int
    counted: Literal["allocator", "process", "device"]


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


class Runtime(ABC):
    """A loaded model.

    Attributes:
        name: Name of the runtime, such as "tensorflow", "tflite", "onnxruntime" or "tensorrt".
    """

    name: str

    @property
    def batch_size(self) -> int | None:
        """The only batch that the model takes; None if it takes any."""
        return fixed_batch(self.inputs)

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, InputTensor]:
        """Type and shape of each input of the signature, by its name."""

    def encode(self, features: Features) -> Features:
        """Return the batch in the dtypes that the model itself takes.

        A TFLite file may take integers where its source takes floats. `run` takes
        both; what is timed is given encoded, as a device's sensor would give it.
        """
        return features

    @abstractmethod
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

    def peak_device_memory(self) -> DeviceMemory | None:
        """Return the most memory of GPUs or TPUs so far; None if the model runs on the CPU.

        None also where nothing tells. Call it before `close`.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of the model; `run` must not be called afterwards."""


@dataclass(frozen=True)
class LoadOptions:
    """Options of loading a model, which each runtime applies as far as it has them.

    Attributes:
        threads: Threads for one call; 0 leaves the number to the runtime.
        gpu_memory_mb: MiB of each GPU's memory that the process may take; 0 for no limit.
        whole: Whether functions are loaded that no signature calls.
        compiled: Whether XLA compiles the model for each shape of batch: for a TPU where this
            host has one, else for the GPU or the processor.
    """

    threads: int = 0
    gpu_memory_mb: int = 0
    whole: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class RuntimeSpec:
    """Record of a runtime: the files that it serves, and the functions that check and load one.

    The functions import what they need when they are called, since each process reads all
    records to choose one. `file` is the first of `served_files`, and `artifact` says whether it
    is trusted.

    Attributes:
        name: Name of the runtime.
        served_files: Files of a model in its folder. The first one shows that the model is
            there and complete. A model of several files is its folder; one of a single file may
            also be given as a file with the same suffix.
        libraries: Modules that the runtime imports, by the name of the distribution.
        check: Takes `(file, artifact)` and raises an error if the model must not be loaded.
        load: Takes `(file, artifact, options)` and returns the loaded model.
        import_library: Takes `file` and imports the library for it. By default the modules of
            `libraries` are imported.
        limits_gpu_memory: True if `load` applies `gpu_memory_mb`.
    """

    name: str
    served_files: tuple[str, ...]
    libraries: Mapping[str, str]
    check: Callable[[Path, Servable], object]
    load: Callable[[Path, Servable, LoadOptions], Runtime]
    import_library: Callable[[Path], object] | None = None
    limits_gpu_memory: bool = False


class SignatureRuntime(Runtime):
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
    def inputs(self) -> dict[str, InputTensor]:
        """See `Runtime.inputs`."""
        return dict(self._inputs)

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


def run_rows(runtime: Runtime, features: Features) -> dict[str, np.ndarray[Any, Any]]:
    """Return the outputs for any number of rows, whatever batch the model takes.

    Args:
        runtime: The model.
        features: An array [rows, ...] for each input, at least one row.

    Returns:
        An array [rows, ...] for each output, bfloat16 as float32.

    Raises:
        ModelError, UnsupportedError: See `Runtime.run`.
    """
    count = len(next(iter(features.values())))
    size = runtime.batch_size
    if size is None or size == count:
        return widened(runtime.run(features))
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
    return widened({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def widened(outputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the outputs with bfloat16 as float32, which holds the same values.

    To NumPy bfloat16 is no kind of float, so what is done with numbers would pass it over.
    """
    return {
        name: array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        for name, array in outputs.items()
    }


def _named(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind == "O" else dtype.name


def _fits(shape: tuple[int, ...], known: tuple[int | None, ...]) -> bool:
    return all(item in (None, size) for size, item in zip(shape, known, strict=True))
