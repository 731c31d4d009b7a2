"""Keeper of a cluster's namespaces, which removes them when their user ends.

    python keeper.py FOLDER LISTENER

The user of a cluster holds the other end of this process's standard input. When the user
ends, even by SIGKILL, that end is closed, and this process kills the first process of the
namespaces: the kernel then kills every process in them and removes their mounts, interfaces
and rules. FOLDER and the control groups named for it belong to no namespace, and are removed
here. If this process itself is killed, the kernel ends the namespaces too, and the next
keeper removes the files.

LISTENER is passed on to namespaces.py. Standard output gets one line, the process id of the
namespaces' first process, when they are set up.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "paring-cluster-"
"""Prefix of the name of a cluster's folder and control groups; the process id of its user
follows."""

_CGROUPS = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """Return the roots of control groups: that of version 2, or those of all controllers."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [item for item in _CGROUPS.iterdir() if (item / "cgroup.procs").exists()]


def children(process: int) -> list[int]:
    result = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # Its name may hold anything, a bracket too.
            after_name = status.read_text().rpartition(")")[2].split()
            if int(after_name[1]) == process:
                result.append(int(status.parent.name))
    return result


def keep(folder: Path, listener: int) -> int:
    """Hold the namespaces until standard input ends, and return an exit code."""
    # setpriv: the kernel kills unshare with this process, and unshare its child with itself.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
    command += ["--mount", "--mount-proc", "--net", "--uts", "--ipc", "--"]
    command += [sys.executable, str(Path(__file__).with_name("namespaces.py"))]
    with subprocess.Popen(
        [*command, str(folder), str(listener)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=[listener],
        text=True,
    ) as outer:
        os.close(listener)
        if outer.stdout is None:
            raise RuntimeError("a process without its pipe")
        try:
            if outer.stdout.readline() != "ready\n":
                return 1
            (first,) = children(outer.pid)
            sys.stdout.write(f"{first}\n")
            sys.stdout.flush()
            # Ends with whoever holds the other end, and is never written to.
            sys.stdin.read()
        finally:
            ending = [os.pidfd_open(item) for item in children(outer.pid)]
            outer.kill()
            # Readable when a process has ended, the first one after all in its namespace.
            for item in ending:
                select.select([item], [], [])
    return 0


def remove(folder: Path) -> None:
    """Remove the files and control groups that outlive a cluster's namespaces."""
    for root in hierarchies():
        _remove_groups(root / folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_groups(group: Path) -> None:
    if not group.is_dir():
        return
    for item in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        _remove_group(item)
    _remove_group(group)


def _remove_group(group: Path) -> None:
    # Processes that were killed are in their group until they are gone.
    for _ in range(100):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return


def left_behind() -> Iterator[Path]:
    """Yield the folders of clusters whose keeper and user were killed."""
    names = {item.name for root in hierarchies() for item in root.glob(f"{PREFIX}*")}
    names |= {item.name for item in Path(tempfile.gettempdir()).glob(f"{PREFIX}*")}
    for name in names:
        process = name.removeprefix(PREFIX).partition("-")[0]
        if process.isdecimal() and not Path("/proc", process).exists():
            yield Path(tempfile.gettempdir(), name)


if __name__ == "__main__":
    # A terminal's Ctrl-C is for the one who holds the other end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cluster = Path(sys.argv[1])
    try:
        for other in left_behind():
            remove(other)
        code = keep(cluster, int(sys.argv[2]))
    finally:
        remove(cluster)
    sys.exit(code)
