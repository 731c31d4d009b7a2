"""TensorRT engines on a GPU, by TensorRT for servers or TensorRT for RTX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paring.artifacts import Servable
from paring.errors import ModelError, UnsupportedError, UntrustedModelError
from paring.runtimes.base import (
    DeviceMemory,
    Features,
    InputTensor,
    LoadOptions,
    Runtime,
    RuntimeSpec,
    check_names,
    check_threads,
)
from paring.tensorrt.conditions import Conditions, check_conditions, read_conditions
from paring.tensorrt.device import Device
from paring.tensorrt.driver import Driver
from paring.tensorrt.library import RTX, Library, Messages
from paring.tensorrt.machine import look
from paring.tensorrt.nvml import MemoryMeter


class TensorRTRuntime(Runtime):
    """An engine; a call copies the batch to the GPU and the outputs back.

    Args:
        file: The engine's file, with engine.json beside it.
        threads: Of the CPU, which computes nothing here; taken as the others take it.
        trusted: Whether the user, or the pipeline that built it, lets it be loaded: an engine
            is code, which NVIDIA's library checks no more than any other program.

    Raises:
        UntrustedModelError: It is not trusted.
        ModelError: It can't be loaded, or what it was built for is not known.
        MissingDependencyError: There is no GPU, or not the library that built it.
        UnsupportedError: It was built for another GPU, driver or version, or takes or
            gives what NumPy has no type for.
    """

    def __init__(self, file: Path, *, threads: int = 0, trusted: bool = False) -> None:
        check_threads(threads)
        _refuse_untrusted(file, trusted)
        conditions = read_conditions(file)
        library, gpu = look(conditions.product, needs_gpu=True)
        if gpu is not None:
            check_conditions(file, conditions, library, gpu)
        self.name = "tensorrt-rtx" if library.product == RTX else "tensorrt"
        self._file = file
        self._conditions = conditions
        driver = Driver()
        # Before the library takes any memory.
        self._meter = MemoryMeter(driver.pci_bus_id())
        self._messages = Messages(library)
        self._runtime = library.module.Runtime(self._messages.logger)
        self._engine = _load_engine(file, conditions, library, self._runtime, self._messages)
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise UnsupportedError(
                f"{file}: {library.title} can't prepare it to run",
                received=self._messages.reason,
                remedy="lower max_batch; most often the GPU's memory is too small",
            )
        self._dtypes, self._inputs, self._outputs = _tensors(file, library, self._engine)
        # What each tensor has on the GPU: an address and its size in bytes.
        self._buffers: dict[str, tuple[int, int]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._device = Device(driver)

    @property
    def batch_size(self) -> int | None:
        """The only batch that the engine takes; None if it takes several."""
        conditions = self._conditions
        return conditions.min_batch if conditions.min_batch == conditions.max_batch else None

    @property
    def inputs(self) -> Mapping[str, InputTensor]:
        """See `paring.runtimes.base.Runtime.inputs`."""
        return {
            name: InputTensor(shape, self._dtypes[name]) for name, shape in self._inputs.items()
        }

    def run(self, features: Features) -> dict[str, np.ndarray[Any, Any]]:
        """See `paring.runtimes.base.Runtime.run`."""
        device, context = self._device, self._context
        device.enter()
        shapes = {name: array.shape for name, array in features.items()}
        if shapes != self._shapes:
            self._shapes = {}
            self._set_shapes(features)
            self._shapes = shapes
        # These live until the wait below, and so are there while they are copied.
        arrays = {name: np.ascontiguousarray(array) for name, array in features.items()}
        for name, array in arrays.items():
            if array.dtype != self._dtypes[name]:
                raise self._wrong_dtype(name, array)
        for name, array in arrays.items():
            device.copy_in(self._buffers[name][0], array)
        if not context.execute_async_v3(device.stream):
            raise UnsupportedError(
                f"{self._file}: the engine failed on this batch",
                received=self._messages.reason,
                remedy="lower the batch; the messages are TensorRT's",
            )
        results = {}
        for name in self._outputs:
            shape = tuple(context.get_tensor_shape(name))
            results[name] = np.empty(shape, self._dtypes[name])
            device.copy_out(results[name], self._buffers[name][0])
        device.wait()
        return results

    def peak_device_memory(self) -> DeviceMemory | None:
        """See `paring.runtimes.base.Runtime.peak_device_memory`.

        What an engine takes, it keeps until it is closed: its weights and its room to work from
        the load on, its inputs and outputs from the largest batch on.
        """
        memory = self._meter.read()
        return DeviceMemory(*memory) if memory else None

    def close(self) -> None:
        """See `paring.runtimes.base.Runtime.close`."""
        self._device.enter()
        # In this order: each refers to the next.
        del self._context, self._engine, self._runtime
        for address, _ in self._buffers.values():
            self._device.free(address)
        self._buffers = {}
        self._device.close()

    def _wrong_dtype(self, name: str, array: np.ndarray[Any, Any]) -> ModelError:
        return ModelError(
            f"{self._file}: input {name!r} takes {self._dtypes[name].name}",
            received=array.dtype,
            remedy="convert the examples to the dtype of the model's signature",
        )

    def _set_shapes(self, features: Features) -> None:
        """Compare a batch of a new shape with the engine, and make room for it."""
        check_names(self._file, features, self._inputs)
        for name, array in features.items():
            known = self._inputs[name]
            fits = len(known) == array.ndim and all(
                size in (None, given)
                for size, given in zip(known[1:], array.shape[1:], strict=True)
            )
            if not fits:
                raise ModelError(
                    f"{self._file}: input {name!r} takes the shape {known}",
                    received=array.shape,
                    remedy="give examples of the shape of the model's signature",
                )
            if known:
                self._check_batch(name, known[0], len(array))
            self._context.set_input_shape(name, array.shape)
            self._make_room(name, array.nbytes)
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if min(shape, default=0) < 0:
                raise UnsupportedError(
                    f"{self._file}: the shape of output {name!r} depends on the data",
                    received=shape,
                    remedy="end the model before the operator that makes it so",
                )
            self._make_room(name, int(np.prod(shape)) * self._dtypes[name].itemsize)

    def _check_batch(self, name: str, fixed: int | None, given: int) -> None:
        conditions = self._conditions
        low, high = (fixed, fixed) if fixed else (conditions.min_batch, conditions.max_batch)
        if not low <= given <= high:
            raise UnsupportedError(
                f"{self._file}: input {name!r} takes batches of {low} to {high}",
                received=given,
                remedy="build the engine with another min_batch or max_batch",
            )

    def _make_room(self, name: str, size: int) -> None:
        address, room = self._buffers.get(name, (0, -1))
        if size > room:
            if address:
                self._device.free(address)
                del self._buffers[name]
            address = self._device.allocate(size)
            self._buffers[name] = address, size
        self._context.set_tensor_address(name, address)


def _load_engine(
    file: Path, conditions: Conditions, library: Library, runtime: Any, messages: Messages
) -> Any:
    # A version-compatible engine carries the runtime of the version that built it.
    runtime.engine_host_code_allowed = conditions.version_compatible
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise ModelError(
            f"{file} can't be loaded by {library.title}",
            received=messages.reason,
            remedy="build the engine again; the file is damaged, or the driver too old",
        )
    return engine


def _tensors(
    file: Path, library: Library, engine: Any
) -> tuple[dict[str, np.dtype[Any]], dict[str, tuple[int | None, ...]], list[str]]:
    """Return the type of each tensor, the shapes of the inputs, and the names of the outputs."""
    trt = library.module
    dtypes: dict[str, np.dtype[Any]] = {}
    inputs: dict[str, tuple[int | None, ...]] = {}
    outputs: list[str] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        try:
            dtypes[name] = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        except TypeError as error:
            raise UnsupportedError(
                f"{file}: {name!r} is of a type that NumPy does not have",
                received=engine.get_tensor_dtype(name),
                remedy="keep the model's inputs and outputs in float32",
            ) from error
        if engine.is_shape_inference_io(name):
            raise UnsupportedError(
                f"{file}: {name!r} stands for a shape, not for data",
                remedy="export the model with that shape fixed",
            )
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            shape = engine.get_tensor_shape(name)
            inputs[name] = tuple(None if size < 0 else int(size) for size in shape)
        else:
            outputs.append(name)
    return dtypes, inputs, outputs


def _refuse_untrusted(file: Path, trusted: bool) -> None:
    if not trusted:
        raise UntrustedModelError(
            f"{file} is a TensorRT engine, which is code that runs once it is loaded",
            remedy="give --trust-model if you or your pipeline built it; a step by hand"
            " takes --trust-engine too, which is about engines alone",
        )


def _is_trusted(artifact: Servable) -> bool:
    return artifact.trusted or artifact.engine_trusted


def _check(file: Path, artifact: Servable) -> None:
    _refuse_untrusted(file, _is_trusted(artifact))


def _load(file: Path, artifact: Servable, options: LoadOptions) -> TensorRTRuntime:
    return TensorRTRuntime(file, threads=options.threads, trusted=_is_trusted(artifact))


def _import_library(file: Path) -> None:
    look(read_conditions(file).product, needs_gpu=True)


RUNTIME = RuntimeSpec(
    name="tensorrt",
    served_files=("model.engine",),
    libraries={"tensorrt": "tensorrt", "tensorrt-rtx-cu13-bindings": "tensorrt_rtx_bindings"},
    check=_check,
    load=_load,
    import_library=_import_library,
)
