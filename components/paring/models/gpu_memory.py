"""Memory of GPUs and TPUs that TensorFlow takes in this process: its limit and its peak."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from paring.errors import MissingDependencyError, ParameterError
from paring.models.quiet import quiet_tensorflow
from paring.system import accelerators


def set_gpu_memory(limit_mb: int) -> None:
    """Let TensorFlow take what it needs of each GPU, or `limit_mb` at the most.

    By itself it takes nearly all of every GPU as soon as it starts, and leaves nothing
    to a TensorRT engine or another process beside it. This is possible before it starts
    alone. Without a GPU nothing happens.

    Args:
        limit_mb: MiB; with 0 its share grows as it needs more, and is never given back
            before the process ends. Where TensorFlow has started, 0 changes nothing.

    Raises:
        ParameterError: The limit is negative, or TensorFlow has started with another.
        MissingDependencyError: A GPU is requested, and TensorFlow sees none.
    """
    if limit_mb < 0:
        raise ParameterError(
            "gpu_memory_mb: must be 0 or more",
            received=limit_mb,
            remedy="give 0 to take what is needed, or a limit in MiB",
        )
    quiet_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    require_gpu(gpus)
    for gpu in gpus:
        _set_one(tf, gpu, limit_mb)


def require_gpu(gpus: Sequence[Any]) -> None:
    """Refuse to compute on the CPU where the caller requests a GPU.

    Args:
        gpus: The GPUs that TensorFlow sees.

    Raises:
        MissingDependencyError: There are none.
    """
    name, kind = accelerators.requested()
    if kind == "nvidia" and not gpus:
        raise MissingDependencyError(
            f"{accelerators.VARIABLE} requests {name}, and TensorFlow sees no GPU",
            received="the driver has one, if nvidia-smi lists it here",
            remedy="use the image gpu or tensorrt, or install tensorflow[and-cuda], with a driver"
            " for its CUDA; TF_CPP_MIN_LOG_LEVEL=0 shows which library TensorFlow can't load",
        )


def peak_memory(tf: Any) -> int | None:
    """Return the peak of TensorFlow's allocators on GPUs and TPUs, in bytes and in sum.

    Args:
        tf: The module `tensorflow`.

    Returns:
        None where no device but the CPU counts.
    """
    peaks = []
    for device in tf.config.list_logical_devices():
        if device.device_type == "CPU":
            continue
        name = ":".join(device.name.split(":")[-2:])
        # TensorFlow raises either of these for a device that does not count.
        with suppress(ValueError, tf.errors.OpError):
            peaks.append(int(tf.config.experimental.get_memory_info(name)["peak"]))
    return sum(peaks) if peaks else None


def _set_one(tf: Any, gpu: Any, limit_mb: int) -> None:
    config = tf.config
    known = config.get_logical_device_configuration(gpu)
    if limit_mb and known and [item.memory_limit for item in known] == [limit_mb]:
        return
    try:
        if limit_mb:
            limit = config.LogicalDeviceConfiguration(memory_limit=limit_mb)
            config.set_logical_device_configuration(gpu, [limit])
        elif not known:
            # TensorFlow takes no growth beside logical devices, which a caller has set.
            config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        # Started: what it holds now it keeps, so that only a limit was promised too much.
        if limit_mb:
            raise ParameterError(
                "gpu_memory_mb: TensorFlow has already started with another limit",
                received=limit_mb,
                remedy="use a fresh process, or leave gpu_memory_mb at 0",
            ) from error
