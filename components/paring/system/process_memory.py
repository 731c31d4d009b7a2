"""The memory of a process and of those that it has started, from Linux's /proc.

Counted is what the kernel can't take back: anonymous and shared memory, and what of both was
swapped out. Files that are mapped are not in it.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_RESIDENT = ("RssAnon", "RssShmem", "VmSwap")
# A process that was forked shares pages with its parent; each of them counts a part.
_PROPORTIONAL = ("Pss_Anon", "Pss_Shmem", "SwapPss")
_KIB = 1 << 10


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have started.

    Where the kernel doesn't list children, psutil looks through all processes.
    """
    if not (_PROC / f"{pid}/task/{pid}/children").exists():
        import psutil

        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []
    result: list[int] = []
    waiting = [pid]
    while waiting:
        children = list(_children(waiting.pop()))
        result += children
        waiting += children
    return result


def _children(pid: int) -> Iterator[int]:
    # Processes and threads may end meanwhile.
    with suppress(OSError):
        for thread in list((_PROC / f"{pid}/task").iterdir()):
            with suppress(OSError):
                yield from map(int, (thread / "children").read_text().split())


def used_bytes(pids: list[int], limit_bytes: int) -> int:
    """Return the memory in use by some processes together; exact above a limit alone.

    The resident memory of each, which is read in microseconds, counts shared pages several
    times. Where it is above the limit, each page is counted once, which takes milliseconds
    for each GiB.
    """
    resident = sum(_sum(_PROC / f"{pid}/status", _RESIDENT) for pid in pids)
    if resident <= limit_bytes:
        return resident
    # 0 where the kernel, or a sandbox in its place, doesn't say.
    return sum(_sum(_PROC / f"{pid}/smaps_rollup", _PROPORTIONAL) for pid in pids) or resident


def _sum(file: Path, names: tuple[str, ...]) -> int:
    """Add up lines such as `RssAnon:  12 kB`; 0 once the process has ended."""
    with suppress(OSError):
        rows = (line.split() for line in file.read_text().splitlines())
        return _KIB * sum(int(row[1]) for row in rows if row[0].rstrip(":") in names)
    return 0
