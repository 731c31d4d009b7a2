"""Functions that only TensorRT for servers has.

A timing cache, and engines for other GPUs and later versions than they were built with.
It measures kernels while it builds, so it needs the GPU that the engine is for.
"""

from typing import Any

from paring.errors import ParameterError
from paring.tensorrt.library import Library

_LEVELS = {
    "none": "NONE",
    "same_compute_capability": "SAME_COMPUTE_CAPABILITY",
    "ampere_plus": "AMPERE_PLUS",
}


def configure(
    library: Library,
    config: Any,
    *,
    version_compatible: bool,
    hardware_compatibility: str,
    timing_cache: bytes,
) -> Any:
    """Set what only this product has.

    Args:
        library: TensorRT for servers.
        config: An IBuilderConfig; gets the settings.
        version_compatible: Let later versions of the same major version load it.
        hardware_compatibility: "none", "same_compute_capability" or "ampere_plus".
        timing_cache: That of an earlier build; empty for none.

    Returns:
        The ITimingCache that the build goes on filling; it must live as long.

    Raises:
        ParameterError: The cache is of another GPU or version.
    """
    module = library.module
    if version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    level = _LEVELS[hardware_compatibility]
    config.hardware_compatibility_level = getattr(module.HardwareCompatibilityLevel, level)
    cache = config.create_timing_cache(timing_cache)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ParameterError(
            "earlier: its timing cache is of another GPU or another version of TensorRT",
            received=f"{library.title} here",
            remedy="leave earlier out, and use this engine for it the next time",
        )
    return cache
