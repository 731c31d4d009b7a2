"""Supervision of a child process, which is ended before its container runs out of memory.

Kubernetes has the kernel kill all processes of a container whose limit is reached, and
nothing is left to write down what happened. So the process that is started stays small,
does the work in a child, and looks at the container's memory meanwhile.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from paring.errors import OutOfMemoryError
from paring.system.control_groups import MemoryGroup, memory_groups

# Of the limit, what is left for the supervisor and for what a process takes between two
# looks, and its least value.
_RESERVE = 1 / 32
_LEAST_RESERVE = 32 << 20
# How fast processes are thought to take memory, in bytes a second, and the bounds of the
# time between two looks that follow from it.
_RATE = 8 << 30
_SHORTEST_LOOK, _LONGEST_LOOK = 0.005, 0.25
_GIB = 1 << 30

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

# Of prctl.
_SET_PARENT_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36

_supervisors: list[int] = []


@dataclass(frozen=True)
class _Usage:
    """Memory in use in a group, and its limit."""

    used_bytes: int
    limit_bytes: int

    def error(self) -> OutOfMemoryError:
        """Return the error to report."""
        used, limit = (f"{size / _GIB:.2f} GiB" for size in (self.used_bytes, self.limit_bytes))
        return OutOfMemoryError(
            f"out of memory: {used} of {limit} used",
            remedy="raise the container's memory limit (memory_limit in the runtime file), or"
            " lower batch_size",
        )


def run_below_limit(work: Callable[[], None]) -> OutOfMemoryError | None:
    """Run `work`, in a child process where this process's memory is limited.

    Without a limit `work` is simply called. With one, this function returns in the child
    when `work` is done. In the calling process it returns only if memory ran out, after
    the child and all that it started are gone; otherwise it ends the process as the child
    ended, with its exit code or by the same signal.

    Must be called where the process has no threads that hold locks, and before libraries
    are loaded that don't work after a fork, such as TensorFlow.

    Returns:
        What to report where memory ran out; else None.

    Raises:
        SystemExit: With the child's exit code.
    """
    groups = memory_groups()
    if not groups:
        work()
        return None
    scratch = tempfile.mkdtemp(prefix="paring-step-")
    supervisor = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    waited = _waited_for()
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    counted = [(group.kills(), group.refusals()) for group in groups]
    # Orphans of the child become children of this process, which can then end them.
    prctl(_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        _supervisors[:] = [supervisor]
        # Ctrl-C in a terminal then interrupts the supervisor alone, which passes it on.
        os.setsid()
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        work()
        return None
    ended: int | _Usage | None = None
    try:
        ended = _watch(child, groups, waited)
    finally:
        if not (isinstance(ended, int) and os.WIFEXITED(ended)):
            _end_all()
        prctl(_SET_CHILD_SUBREAPER, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(ended, _Usage):
        return ended.error()
    if os.WIFEXITED(ended):
        raise SystemExit(os.WEXITSTATUS(ended))
    number = os.WTERMSIG(ended)
    if number == signal.SIGKILL:
        for group, (kills, refusals) in zip(groups, counted, strict=True):
            # Kills alone may be due to a machine that has run out.
            if group.kills() > kills and group.refusals() > refusals:
                return _Usage(group.limit_bytes, group.limit_bytes).error()
    _end_by(number)


def process_number() -> int:
    """Return the number of this process; in a child, that of its supervisor.

    So that the supervisor finds what a child that it has ended left unfinished.
    """
    return _supervisors[0] if _supervisors else os.getpid()


def _waited_for() -> set[signal.Signals]:
    """Return the signals that the supervisor takes from the queue, not by handlers."""
    # SIGINT stays ignored where it was, as in the background of a shell script.
    taken = {number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN}
    return taken | {signal.SIGCHLD}


def _watch(child: int, groups: Sequence[MemoryGroup], waited: set[signal.Signals]) -> int | _Usage:
    """Wait until the child has ended, and end it before memory runs out.

    Returns:
        The child's status, as `os.waitpid` gives it; or the memory used when it was ended.
    """
    pause = 0.0
    while True:
        received = signal.sigtimedwait(waited, pause)
        # CPython 3.11 gives any number where this process was stopped and has gone on.
        if received is not None and received.si_signo in waited - {signal.SIGCHLD}:
            os.kill(child, received.si_signo)
        while True:
            number, status = _reaped()
            if number == child:
                return status
            if not number:
                break
        pause = _LONGEST_LOOK
        for group in groups:
            used = group.used_bytes()
            left = group.limit_bytes - used - max(_LEAST_RESERVE, group.limit_bytes * _RESERVE)
            if left < 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return _Usage(used, group.limit_bytes)
            pause = min(pause, max(_SHORTEST_LOOK, left / _RATE))


def _reaped() -> tuple[int, int]:
    """Return a child that has ended, with its status; 0, 0 if none has."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _end_all() -> None:
    """Kill the processes that the child has left, until there are none."""
    import psutil

    while left := psutil.Process().children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        while _reaped()[0]:
            pass
        time.sleep(_SHORTEST_LOOK)


def _end_by(number: int) -> NoReturn:
    """End this process by a signal, as the child was."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # The first process of a container is not ended by signals of its own.
    raise SystemExit(128 + number)
