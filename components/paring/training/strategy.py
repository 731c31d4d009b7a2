"""Devices that a training runs on, by TensorFlow's distribution strategies."""

import logging
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import tensorflow as tf
import tf_keras

from paring.errors import MissingDependencyError, ParameterError, UnsupportedError, first_line
from paring.models.gpu_memory import require_gpu
from paring.models.library_types import KerasModel
from paring.models.loading import optimization_classes, save_keras
from paring.models.tpu import has_tpu, open_tpu
from paring.system.tpu import require_tpu
from paring.system.workers import StrategyName, Workers, read_workers, require_workers
from paring.training.dtype_policy import with_dtype_policy

_COMPILED = ("xla", "tpu")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Devices:
    """Devices over which a training is distributed.

    Attributes:
        strategy: one_device, mirrored, multi_worker, xla or tpu.
        replicas: Copies of the model that train on a part of each batch.
        dtype_policy: Keras's dtype policy: float32, or mixed_bfloat16 for xla and on a TPU.
        scope: Enters the context that models must be made or loaded in, and trained.
    """

    strategy: str
    replicas: int = 1
    dtype_policy: str = "float32"
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def compiled(self) -> bool:
        """True if XLA compiles each training step, and so the shapes of batches must be static."""
        return self.strategy in _COMPILED

    @property
    def jit_compile(self) -> bool:
        """True if Keras is to have its steps compiled; TPUStrategy has them compiled by itself."""
        return self.strategy == "xla"

    def __str__(self) -> str:
        """Return the devices as in `mirrored, 2 replicas, float32`."""
        counted = f"{self.replicas} replica{'s' if self.replicas > 1 else ''}"
        return f"{self.strategy}, {counted}, {self.dtype_policy}"

    def on_host(self) -> AbstractContextManager[Any]:
        """Return the context of a computation outside of training, one operator after another.

        On a TPU XLA would compile each operator by itself; the host's processor does it.
        """
        context: AbstractContextManager[Any] = (
            tf.device("/CPU:0") if self.strategy == "tpu" else nullcontext()
        )
        return context

    def put_on(self, model: KerasModel) -> KerasModel:
        """Return a model of a single device as one of these; call it within `scope`."""
        return self._moved(model, self.dtype_policy)

    def take_off(self, model: KerasModel) -> KerasModel:
        """Return a model of these devices as one of a single device; call it outside of `scope`.

        What is saved of it is the same as without a strategy.
        """
        return self._moved(model, "float32")

    def _moved(self, model: KerasModel, dtype_policy: str) -> KerasModel:
        if self.strategy == "one_device":
            return model
        moved = _rebuilt(model)
        return moved if self.dtype_policy == "float32" else with_dtype_policy(moved, dtype_policy)

    def batch_size(self, wanted: int, fixed: int | None = None) -> int:
        """Return the largest batch of at most `wanted` that all replicas get an equal part of.

        It has at least one example for each.

        Args:
            wanted: Examples in a step.
            fixed: The only batch that the model takes; None where it takes any.

        Raises:
            UnsupportedError: The model's batch is fixed, and there are several replicas.
        """
        if fixed is not None:
            if self.replicas == 1:
                return fixed
            raise UnsupportedError(
                f"the model takes batches of {fixed} alone, which can't be divided among devices",
                received=str(self),
                remedy="give strategy one_device, or a model with a free batch size",
            )
        divided = max(1, wanted // self.replicas) * self.replicas
        if divided != wanted:
            _log.warning(
                "a batch of %d can't be divided among %d replicas, so that %d are taken",
                wanted,
                self.replicas,
                divided,
            )
        return divided


def _rebuilt(model: KerasModel) -> KerasModel:
    """Return a copy of `model` in the scope that this is called in."""
    # By way of a file: configs alone build wrapped layers twice.
    with tempfile.TemporaryDirectory(prefix="paring-rebuilt-") as folder:
        file = Path(folder) / "keras" / "model.keras"
        save_keras(model, file)
        with optimization_classes():
            return tf_keras.models.load_model(file, compile=False, safe_mode=False)


def open_devices(strategy: StrategyName) -> Devices:
    """Return the devices of `strategy`, set up; call it before anything else uses TensorFlow.

    Args:
        strategy: auto takes the first that the machine offers: a TPU; several workers
            that TF_CONFIG names; several GPUs; else one device. mirrored takes all GPUs
            of this machine, or without any, TensorFlow's logical CPU devices, if there are
            several. xla is one
            device, a GPU or the processor, with what a TPU would do: the training steps
            compiled by XLA for static shapes, in mixed_bfloat16.

    Raises:
        MissingDependencyError: Strategy tpu was requested, and there is no TPU; mirrored, and
            there is no GPU; or a TPU or GPU that a variable requests is not there.
        ParameterError: TF_CONFIG is broken, or missing where multi_worker was requested;
            or TensorFlow has been used in this process before that.
    """
    if strategy != "tpu":
        require_gpu(tf.config.list_physical_devices("GPU"))
    strategy = chosen_strategy(strategy)
    if strategy == "one_device":
        # TensorFlow's own choice: the first GPU where there is one.
        return Devices(strategy)
    if strategy == "multi_worker":
        require_workers()
    made = _make(strategy)
    policy = "mixed_bfloat16" if strategy in _COMPILED else "float32"
    devices = Devices(strategy, int(made.num_replicas_in_sync), policy, made.scope)
    _log.info("training on %s", devices)
    return devices


def chosen_strategy(strategy: StrategyName) -> StrategyName:
    """Return the strategy that `open_devices` takes, without opening any device.

    Raises:
        MissingDependencyError: Strategy tpu was requested, and there is no TPU.
        ParameterError: TF_CONFIG is broken.
    """
    if strategy == "auto":
        return _offered(read_workers())
    if strategy == "tpu":
        require_tpu()
    return strategy


def _offered(workers: Workers | None) -> StrategyName:
    if has_tpu():
        return "tpu"
    if workers is not None and len(workers.addresses) > 1:
        return "multi_worker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one_device"


@cache
def _make(strategy: StrategyName) -> Any:
    """Return TensorFlow's strategy object, one for the whole process.

    A second one would number the exchanges between replicas from the start again, and
    TensorFlow would take them for those of the first.
    """
    match strategy:
        case "mirrored":
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            if len(devices) == 1 and devices[0].device_type == "CPU":
                raise MissingDependencyError(
                    "strategy mirrored: there is no GPU here that TensorFlow sees",
                    remedy="run on a machine with GPUs, or give strategy one_device or auto, which"
                    " train on the processor",
                )
            return tf.distribute.MirroredStrategy([device.name for device in devices])
        case "multi_worker":
            return _multi_worker()
        case "xla":
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            return tf.distribute.OneDeviceStrategy(devices[0].name)
        case "tpu":
            return open_tpu().all_cores()
    raise ParameterError(
        "strategy: there is no such one",
        received=strategy,
        remedy=f"give one of {', '.join(get_args(StrategyName))}",
    )


def _multi_worker() -> Any:
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        # It must set up its servers before anything else starts TensorFlow.
        raise ParameterError(
            "strategy multi_worker: TensorFlow has been used in this process before",
            received=first_line(error),
            remedy="run the step in a process of its own: paring step NAME, on each worker",
        ) from error
