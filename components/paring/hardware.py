"""What the machine is, for figures that hold on this machine alone."""

import os
import platform
from pathlib import Path


def describe() -> dict[str, str | int]:
    """CPU model, usable cores, total memory in bytes, architecture, system."""
    import psutil

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
    }


def free_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The memory that processes can still take, in this container where there is one.

    Args:
        cgroup: The folder of the control group (version 2) that limits this process.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
    except OSError:
        # Not in a group of its own, or one of version 1.
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
