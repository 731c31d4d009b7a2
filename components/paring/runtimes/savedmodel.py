"""SavedModels in TensorFlow, called through a signature of theirs."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paring.artifacts import Servable
from paring.errors import ModelError, ParameterError
from paring.models.arguments import by_name, signature_specs
from paring.models.gpu_memory import peak_memory, set_gpu_memory
from paring.models.quiet import quiet_tensorflow
from paring.runtimes.base import (
    DeviceMemory,
    Features,
    InputTensor,
    LoadOptions,
    RuntimeSpec,
    SignatureRuntime,
    check_threads,
)
from paring.runtimes.compiled import accelerator_strategy, compiled_call
from paring.system.memory import release_memory

if TYPE_CHECKING:
    from paring.models.saved_model import SavedModel


class SavedModelRuntime(SignatureRuntime):
    """A SavedModel; a call goes from numpy arrays to numpy arrays.

    Args:
        model: The SavedModel, which was checked when it was opened; the signature that it was
            opened for is called.
        threads: Threads within and across operators, for the whole process;
            0 leaves them to TensorFlow.
        gpu_memory_mb: MiB of each GPU's memory that the whole process may take; with 0
            it takes what it needs, unless TensorFlow has started already.
        whole: Whether functions are loaded that no signature calls.
        compiled: Whether XLA compiles it for each shape of batch, when that first comes: for
            one core of a TPU where this host has one, else for the GPU or the processor.

    Raises:
        ModelError: It can't be loaded, or has no such signature.
        UnsupportedError: Its outputs depend on the calls before.
        MissingDependencyError: The TPU can't be opened.
        ParameterError: TensorFlow already started with other threads or another limit.
    """

    name = "tensorflow"

    def __init__(
        self,
        model: "SavedModel",
        *,
        threads: int = 0,
        gpu_memory_mb: int = 0,
        whole: bool = False,
        compiled: bool = False,
    ) -> None:
        check_threads(threads)
        from paring.models.signature_loading import load_signatures
        from paring.models.state import refuse_state

        quiet_tensorflow()
        import tensorflow as tf

        if threads:
            _set_threads(tf, threads)
        set_gpu_memory(gpu_memory_mb)
        # Of a model that was split: otherwise all weights go to the first device.
        options = tf.saved_model.LoadOptions(
            experimental_variable_policy=tf.saved_model.experimental.VariablePolicy.SAVE_VARIABLE_DEVICES
        )
        strategy = accelerator_strategy() if compiled else None
        if strategy is not None:
            options = tf.saved_model.LoadOptions(experimental_io_device="/job:localhost")
        # The signature holds no reference to the variables; the model does.
        with strategy.scope() if strategy is not None else nullcontext():
            self._model: Any = load_signatures(model, options, whole=whole)
        if model.key not in self._model.signatures:
            # It names those that there are.
            model.signature()
            raise ModelError(
                f"{model.folder}: TensorFlow does not load the signature {model.key!r}",
                received=", ".join(self._model.signatures) or "no signatures",
                remedy="export the model with model.save(dir) or model.export(dir)",
            )
        function = self._model.signatures[model.key]
        if function.variables:
            refuse_state(model)
        self._tf = tf
        self._call = by_name(function)
        if strategy is not None:
            self._call = compiled_call(self._call, strategy, model.folder)
        self._specs = signature_specs(function)
        super().__init__(model.folder, {name: _input(spec) for name, spec in self._specs.items()})

    def run(self, features: Features) -> dict[str, np.ndarray[Any, Any]]:
        """See `paring.runtimes.base.Runtime.run`."""
        # TensorFlow would convert another dtype.
        self.check(features)
        tensors = {
            name: self._tf.constant(array, dtype=self._specs[name].dtype)
            for name, array in features.items()
        }
        return {name: tensor.numpy() for name, tensor in self._call(tensors).items()}

    def peak_device_memory(self) -> DeviceMemory | None:
        """See `paring.runtimes.base.Runtime.peak_device_memory`.

        TensorFlow counts for the process, from its start on: of several models in one process
        this is the most of all.
        """
        peak = peak_memory(self._tf)
        return None if peak is None else DeviceMemory(peak, "allocator")

    def close(self) -> None:
        """See `paring.runtimes.base.Runtime.close`."""
        del self._call, self._model
        # Its functions refer to each other in circles, and so hold the variables and
        # the graph until Python next looks for these.
        release_memory()


def _input(spec: Any) -> InputTensor:
    shape = None if spec.shape.rank is None else tuple(spec.shape.as_list())
    return InputTensor(shape, np.dtype(spec.dtype.as_numpy_dtype))


def _set_threads(tf: Any, threads: int) -> None:
    """Set the process's threads, which is possible before TensorFlow starts only."""
    threading = tf.config.threading
    current = (
        threading.get_intra_op_parallelism_threads(),
        threading.get_inter_op_parallelism_threads(),
    )
    if current == (threads, threads):
        return
    try:
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise ParameterError(
            "threads: TensorFlow has already started with other threads",
            received=threads,
            remedy="use a fresh process, or leave threads at 0",
        ) from error


def _check(file: Path, artifact: Servable) -> None:
    from paring.models.saved_model import SavedModel

    SavedModel.open(artifact)


def _load(file: Path, artifact: Servable, options: LoadOptions) -> SavedModelRuntime:
    from paring.models.saved_model import SavedModel

    return SavedModelRuntime(
        SavedModel(file.parent, artifact.signature),
        threads=options.threads,
        gpu_memory_mb=options.gpu_memory_mb,
        whole=options.whole,
        compiled=options.compiled,
    )


def _import_library(file: Path) -> None:
    quiet_tensorflow()


RUNTIME = RuntimeSpec(
    name=SavedModelRuntime.name,
    served_files=("saved_model.pb", "variables"),
    libraries={"tensorflow": "tensorflow"},
    check=_check,
    load=_load,
    import_library=_import_library,
    limits_gpu_memory=True,
)
