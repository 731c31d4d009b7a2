"""The first GPU, by the CUDA driver's own library.

The driver is there wherever a GPU can be used, and nothing else has to be: neither the
CUDA toolkit nor TensorFlow. Without a GPU it says so at once, where TensorRT's runtime
ends the process.

Functions and constants are those of the CUDA driver API
(https://docs.nvidia.com/cuda/cuda-driver-api/).
"""

import ctypes
from dataclasses import dataclass
from typing import Any, Final

from paring.errors import MissingDependencyError, ParingError, StepFailedError, UnsupportedError
from paring.tensorrt.nvml import driver_version

_LIBRARY: Final = "libcuda.so.1"

_OUT_OF_MEMORY: Final = 2
_CAPABILITY_MAJOR: Final = 75
_CAPABILITY_MINOR: Final = 76
_NAME_BYTES: Final = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As the driver names it, such as "NVIDIA L4".
        compute_capability: Such as "8.9".
        driver_version: Such as "580.82.07"; "" where NVML does not say.
    """

    name: str
    compute_capability: str
    driver_version: str


def find_gpu() -> Gpu:
    """Return the first GPU that this process may use, by CUDA_VISIBLE_DEVICES.

    Raises:
        MissingDependencyError: There is no driver, or no GPU.
    """
    return Driver().gpu


class Driver:
    """The driver, initialized, and its first GPU.

    Raises:
        MissingDependencyError: There is no driver, or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._library: Any = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise _no_gpu(str(error)) from error
        device, count = ctypes.c_int(), ctypes.c_int()
        try:
            self.call("cuInit", ctypes.c_uint(0))
            self.call("cuDeviceGetCount", ctypes.byref(count))
        except ParingError as error:
            raise _no_gpu(f"{error.what}: {error.received}") from error
        if not count.value:
            raise _no_gpu("the driver counts 0 GPUs")
        self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self.device = device
        self.gpu = Gpu(self._name(), self._capability(), driver_version())

    def pci_bus_id(self) -> str:
        """Return the name by which NVML knows the GPU, such as "0000:01:00.0"."""
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self.call("cuDeviceGetPCIBusId", text, ctypes.c_int(_NAME_BYTES), self.device)
        return text.value.decode(errors="replace")

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver API, whose arguments are ctypes' objects.

        Raises:
            UnsupportedError: The GPU's memory ran out.
            StepFailedError: It failed otherwise; the driver's text is given.
        """
        code = getattr(self._library, function)(*arguments)
        if not code:
            return
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        received = f"CUDA error {code}: {(text.value or b'no text').decode(errors='replace')}"
        if code == _OUT_OF_MEMORY:
            raise UnsupportedError(
                f"{function}: the GPU's memory ran out",
                received=received,
                remedy="lower the batch, or end what else runs on this GPU",
            )
        raise StepFailedError(
            f"{function} failed", received=received, remedy="see whether nvidia-smi works here"
        )

    def _name(self) -> str:
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self.call("cuDeviceGetName", text, ctypes.c_int(_NAME_BYTES), self.device)
        return text.value.decode(errors="replace")

    def _capability(self) -> str:
        result = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int()
            self.call(
                "cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), self.device
            )
            result.append(value.value)
        return f"{result[0]}.{result[1]}"


def _no_gpu(received: str) -> MissingDependencyError:
    return MissingDependencyError(
        "there is no NVIDIA GPU that this process can use",
        received=received,
        remedy="run it on a machine with an NVIDIA GPU and its driver; nvidia-smi must work there",
    )
