"""Memory of a GPU and version of its driver, by NVIDIA's management library (NVML).

NVML comes with the driver, and tells of all processes on a GPU, where CUDA knows its own alone.
Functions and structures are those of https://docs.nvidia.com/deploy/nvml-api/.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple

_LIBRARY: Final = "libnvidia-ml.so.1"
_TEXT_BYTES: Final = 256

_INSUFFICIENT_SIZE: Final = 7
_NOT_AVAILABLE: Final = 2**64 - 1

Scope = Literal["process", "device"]


class GpuMemory(NamedTuple):
    """Memory in use on a GPU.

    Attributes:
        bytes: Number of bytes.
        scope: "process" for what this process uses, or "device" for what all use, where the
            driver does not list this process: in a container it knows it by another number.
    """

    bytes: int
    scope: Scope


class _Memory(ctypes.Structure):
    """The structure `nvmlMemory_t`."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Process(ctypes.Structure):
    """The structure `nvmlProcessInfo_t` of the functions that end in `_v2` and `_v3`."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class MemoryMeter:
    """Meter of the memory on a GPU that came since the meter was made.

    Args:
        pci_bus_id: The GPU, as `Driver.pci_bus_id` names it.
    """

    def __init__(self, pci_bus_id: str) -> None:
        self._bus_id = pci_bus_id
        self._before = memory_in_use(pci_bus_id, scope="device")

    def read(self) -> GpuMemory | None:
        """Return what this process uses, or what all use more than before; None if unknown."""
        now = memory_in_use(self._bus_id)
        if now is None or now.scope == "process":
            return now
        if self._before is None:
            return None
        return GpuMemory(max(0, now.bytes - self._before.bytes), "device")


def driver_version() -> str:
    """Return the driver's version; "" without NVML, since nothing else depends on it."""
    with _library() as nvml:
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        if nvml is None or nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(_TEXT_BYTES)):
            return ""
        return text.value.decode(errors="replace")


def memory_in_use(pci_bus_id: str, *, scope: Scope = "process") -> GpuMemory | None:
    """Return the memory in use on a GPU; None if NVML does not tell.

    Args:
        pci_bus_id: The GPU, as `Driver.pci_bus_id` names it.
        scope: "process" for that of this process if the driver lists it, "device" for all.
    """
    with _library() as nvml:
        handle = ctypes.c_void_p()
        name = ctypes.c_char_p(pci_bus_id.encode())
        if nvml is None or nvml.nvmlDeviceGetHandleByPciBusId_v2(name, ctypes.byref(handle)):
            return None
        own = _own_memory(nvml, handle) if scope == "process" else None
        if own is not None:
            return GpuMemory(own, "process")
        memory = _Memory()
        if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            return None
        return GpuMemory(memory.used, "device")


def _own_memory(nvml: Any, handle: ctypes.c_void_p) -> int | None:
    """Return the bytes that this process uses on a GPU; None if the driver does not list it."""
    if not hasattr(nvml, "nvmlDeviceGetComputeRunningProcesses_v3"):
        return None
    room = 64
    while True:
        processes, count = (_Process * room)(), ctypes.c_uint(room)
        code = nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), processes)
        if code != _INSUFFICIENT_SIZE or count.value <= room:
            break
        room = count.value
    if code:
        return None
    known = [
        item.used
        for item in processes[: count.value]
        if item.pid == os.getpid() and item.used != _NOT_AVAILABLE
    ]
    return sum(known) if known else None


@contextmanager
def _library() -> Iterator[Any]:
    """Open NVML for the calls within; None where there is none."""
    try:
        nvml = ctypes.CDLL(_LIBRARY)
    except OSError:
        nvml = None
    if nvml is None or nvml.nvmlInit_v2():
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()
