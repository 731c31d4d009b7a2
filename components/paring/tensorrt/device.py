"""Memory on a GPU, by the CUDA driver's own library."""

import ctypes
from typing import Any, Final

import numpy as np

from paring.tensorrt.driver import Driver

_NON_BLOCKING: Final = 1


class Device:
    """Memory and a stream on a driver's GPU, in the context that CUDA libraries share."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._context, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), driver.device)
        self.enter()
        driver.call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return self._stream.value or 0

    def enter(self) -> None:
        """Make the context that of this thread; a call may come from any."""
        self._driver.call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Return the address of `size` new bytes, at least one."""
        address = ctypes.c_uint64()
        self._driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._driver.call("cuMemFree_v2", ctypes.c_uint64(address))

    def copy_in(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy a contiguous array to the GPU, in the stream's order."""
        self._driver.call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            self._stream,
        )

    def copy_out(self, array: np.ndarray[Any, Any], address: int) -> None:
        """Copy into a contiguous array; it is filled after `wait`."""
        self._driver.call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            self._stream,
        )

    def wait(self) -> None:
        """Wait for all that is in the stream."""
        self._driver.call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Let go of the stream and the context."""
        self._driver.call("cuStreamDestroy_v2", self._stream)
        self._driver.call("cuDevicePrimaryCtxRelease_v2", self._driver.device)
