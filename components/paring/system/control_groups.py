"""The control groups that limit the memory of this process, in both versions of cgroups."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MEMBERSHIPS = Path("proc/self/cgroup")
_MOUNTS = Path("proc/self/mountinfo")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryGroup:
    """A control group with a limit on memory.

    Attributes:
        folder: Where its files are mounted.
        version: Of cgroups, 1 or 2.
        limit_bytes: The most memory that its processes may use together.
    """

    folder: Path
    version: int
    limit_bytes: int

    def used_bytes(self) -> int:
        """Return the memory in use that the kernel can't take back when it runs short.

        The cache of files is not in it. A container that reads and writes files fills its
        limit with that cache, and is none the worse for it.
        """
        counted = _read_table(self.folder / "memory.stat")
        if self.version == 1:
            used = int((self.folder / "memory.usage_in_bytes").read_text())
            cache = counted["total_active_file"] + counted["total_inactive_file"]
        else:
            used = int((self.folder / "memory.current").read_text())
            cache = counted["active_file"] + counted["inactive_file"]
            # Kernels before 5.0 don't report it.
            cache += counted.get("slab_reclaimable", 0)
        # The kernel adds up the parts at other times than the whole.
        return max(0, used - cache)

    def free_bytes(self) -> int:
        """Return the memory that its processes can still take; 0 at least."""
        return max(0, self.limit_bytes - self.used_bytes())

    def kills(self) -> int:
        """Return how many of its processes the kernel has killed at a limit."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return _read_table(self.folder / name).get("oom_kill", 0)

    def refusals(self) -> int:
        """Return how often its limit has been reached."""
        if self.version == 1:
            return int((self.folder / "memory.failcnt").read_text())
        return _read_table(self.folder / "memory.events").get("oom", 0)


def memory_groups(root: Path = Path("/")) -> list[MemoryGroup]:
    """Return the groups that limit this process, its own first, then those around it.

    A limit that is not below the machine's memory is none. In a container the groups
    outside of it are not visible, and the first one is the container's.

    Args:
        root: Where the file system starts.
    """
    try:
        memberships = (root / _MEMBERSHIPS).read_text()
        mounts = (root / _MOUNTS).read_text()
    except OSError:
        # Another system than Linux.
        return []
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limited = []
    for version, folder in _folders(memberships, mounts, root):
        name = "memory.limit_in_bytes" if version == 1 else "memory.max"
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            # The outermost group of version 2 has no such file.
            continue
        if text == "max" or int(text) >= machine:
            continue
        group = MemoryGroup(folder, version, int(text))
        try:
            for read in (group.used_bytes, group.kills, group.refusals):
                read()
        except (OSError, KeyError) as error:
            # Of sandboxes that have a part of Linux, such as gVisor.
            _log.warning("%s: the memory limit is not watched: %r", folder, error)
            continue
        limited.append(group)
    return limited


def _folders(memberships: str, mounts: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of each group of this process, the innermost first."""
    paths = {}
    for line in memberships.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            paths[2] = path
        elif "memory" in controllers.split(","):
            paths[1] = path
    # Where both are mounted, version 2 has the controllers that version 1 has not.
    version = 1 if 1 in paths else 2
    if version not in paths:
        return
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        top, mount = (_unescape(text) for text in place.split()[3:5])
        filesystem, _, options = kind.split(maxsplit=2)
        if version == 1 and (filesystem != "cgroup" or "memory" not in options.split(",")):
            continue
        if version == 2 and filesystem != "cgroup2":
            continue
        outer = root / mount.lstrip("/")
        yield from ((version, folder) for folder in _between(paths[version], top, outer))
        return


def _between(path: str, top: str, mount: Path) -> Iterator[Path]:
    """Yield the folders of a group and of those around it, as far as they are mounted.

    Args:
        path: The group, from the root of all groups.
        top: The group that is mounted, likewise.
        mount: Where.
    """
    inner = mount
    if path == top or path.startswith(top.rstrip("/") + "/"):
        inner = mount / path[len(top.rstrip("/")) :].lstrip("/")
    # In version 1 a container has its own group mounted, and reads its path on the host.
    if not inner.is_dir():
        inner = mount
    while inner != mount:
        yield inner
        inner = inner.parent
    yield mount


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _read_table(file: Path) -> dict[str, int]:
    """Read a file of lines of a name and a number each."""
    rows = (line.split() for line in file.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows}
