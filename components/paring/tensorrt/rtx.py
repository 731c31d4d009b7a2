"""Functions that only TensorRT for RTX has.

Engines are compiled ahead for a stated compute capability, on any machine, and finished
on the GPU that runs them. Its timing caches do nothing, and it has no hardware
compatibility (its own warnings say so, 1.7); its packages lack the lean runtime that
version compatibility needs.
"""

from typing import Any

from paring.errors import UnsupportedError
from paring.tensorrt.library import Library

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""The compute capabilities that it builds for; Hopper, 9.0, is not one."""


def configure(library: Library, config: Any, *, compute_capability: str) -> None:
    """Set which GPUs the engine is for.

    Raises:
        UnsupportedError: The product has no engines for this compute capability.
    """
    if compute_capability not in CAPABILITIES:
        raise UnsupportedError(
            f"{library.title} builds no engines for compute capability {compute_capability}",
            remedy=f"use product server there; known here: {', '.join(CAPABILITIES)}",
        )
    wanted = "SM" + compute_capability.replace(".", "")
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(library.module.ComputeCapability, wanted), 0)
