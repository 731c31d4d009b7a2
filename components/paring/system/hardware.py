"""Description of the machine, for figures that hold on this machine alone."""

import os
import platform
from pathlib import Path

from paring.system.control_groups import memory_groups


def describe() -> dict[str, str | int]:
    """Return the CPU model, usable cores, memory in bytes, architecture and system."""
    import psutil

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
    }


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory that processes can still take, in this container where there is one.

    Args:
        root: Where the file system starts.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    return min([free, *(group.free_bytes() for group in memory_groups(root))])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
