"""Control groups of the kernel's own, for tests that run as root."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from paring.system.control_groups import MemoryGroup

_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@contextmanager
def memory_group(name: str, limit_bytes: int) -> Iterator[MemoryGroup]:
    """A control group with a limit on memory, in the version that has the controller."""
    result = _parent()
    if result is None:
        pytest.skip("makes a control group, which takes root and a mounted memory controller")
    version, parent = result
    folder = parent / f"paring-test-{os.getpid()}-{name}"
    folder.mkdir()
    limit = "memory.limit_in_bytes" if version == 1 else "memory.max"
    (folder / limit).write_text(str(limit_bytes))
    try:
        yield MemoryGroup(folder, version, limit_bytes)
    finally:
        # What was killed is in it a moment longer.
        for _ in range(100):
            with suppress(OSError):
                folder.rmdir()
                break
            sleep(0.05)


def start_in(group: MemoryGroup, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command that is in the group from its first instruction on."""
    return subprocess.Popen(["sh", "-c", _ENTER, str(group.folder), *command], text=True, **options)


def processes(group: MemoryGroup) -> list[int]:
    """The numbers of the processes in the group."""
    return [int(line) for line in (group.folder / "cgroup.procs").read_text().split()]


def _parent() -> tuple[int, Path] | None:
    """The version, and a group in which others can be made."""
    if os.geteuid() != 0:
        return None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        mount = Path(place.split()[4])
        filesystem, _, options = kind.split(maxsplit=2)
        if filesystem == "cgroup" and "memory" in options.split(","):
            return 1, mount
        if filesystem == "cgroup2" and "memory" in _words(mount / "cgroup.subtree_control"):
            return 2, mount
    return None


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []
