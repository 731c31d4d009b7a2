"""Supervision of a child process, which is ended at its limits of time and memory.

Kubernetes has the kernel kill all processes of a container whose limit is reached, and
nothing is left to write down what happened. So the process that is started stays small,
does the work in a child, and looks at the clock and at the memory in use meanwhile.
"""

import contextlib
import ctypes
import faulthandler
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from paring.errors import CrashError, OutOfMemoryError, ParingError, TimeLimitError
from paring.system.children import signal_name
from paring.system.control_groups import memory_groups
from paring.system.process_memory import descendants, used_bytes
from paring.system.step_limits import StepLimits

GRACE_SECONDS = 10.0
"""Time from a signal that ends the child, or from its time limit, until it is killed."""

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

# In the child's temporary folder: the Python stack of a crash, and the mark of a time limit.
_CRASH_FILE = "crash"
_TIME_LIMIT_FILE = "time-limit"
_FRAME = re.compile(r'  File "([^"]+)", line ([0-9]+) in (.+)')

_supervisors: list[int] = []


@dataclass(frozen=True)
class Ended:
    """End of a supervised child process.

    Attributes:
        status: Its status, as `os.waitpid` gives it.
        error: Limit for which it was ended, or None.
        interrupted: Whether it was asked to end by a signal to the supervisor.
        crash: Innermost line of Python code in which it crashed; "" where that is unknown.
    """

    status: int
    error: ParingError | None
    interrupted: bool
    crash: str

    @property
    def failure(self) -> ParingError | None:
        """Error to report; None if the child has ended by itself."""
        if os.WIFEXITED(self.status) and os.WEXITSTATUS(self.status) == 0:
            # It was faster than its limit.
            return None
        if self.error is not None:
            return self.error
        if self.interrupted or os.WIFEXITED(self.status):
            return None
        return _crash_error(os.WTERMSIG(self.status), self.crash)


class Supervisor:
    """Supervision of one child after another, with limits for each.

    Must be used where the process has no threads that hold locks. What was loaded into it
    has to work after a fork: TensorFlow does if it was imported only.

    Args:
        owner: Process by whose number `process_number` calls the child.
        is_abandoned: Called at each look; True ends the child at once, since nobody waits
            for it any more.
    """

    def __init__(
        self, owner: int | None = None, is_abandoned: Callable[[], bool] = lambda: False
    ) -> None:
        self._owner = owner or os.getpid()
        self._is_abandoned = is_abandoned
        self._waited = _waited_for()
        self._groups = memory_groups()

    @property
    def signals(self) -> set[signal.Signals]:
        """Signals that are taken from the queue, and passed on to the child."""
        return self._waited

    def drop_signals(self) -> None:
        """Forget the signals that are in the queue; they have to be blocked."""
        while signal.sigtimedwait(self._waited, 0) is not None:
            pass

    @property
    def has_groups(self) -> bool:
        """True if control groups limit the memory of this process."""
        return bool(self._groups)

    def run(self, work: Callable[[], None], limits: StepLimits) -> Ended | None:
        """Run `work` in a child process within `limits`.

        Returns:
            End of the child, once all that it has started is gone; None in the child, after
            `work`.
        """
        scratch = Path(tempfile.mkdtemp(prefix="paring-step-"))
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        supervisor = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        with _blocked(self._waited) as before:
            counted = [(group.kills(), group.refusals()) for group in self._groups]
            # What the child leaves behind becomes a child of this process, which can then end it.
            prctl(_SET_CHILD_SUBREAPER, 1)
            child = os.fork()
            if child == 0:
                _supervisors[:] = [self._owner]
                # Ctrl-C in a terminal then reaches the supervisor alone, which passes it on.
                os.setsid()
                prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
                if os.getppid() != supervisor:
                    os._exit(1)
                _work_in_child(work, scratch, before)
                return None
            ended: Ended | None = None
            try:
                ended = self._watch(child, limits, scratch, counted)
            finally:
                _end_all()
                prctl(_SET_CHILD_SUBREAPER, 0)
                shutil.rmtree(scratch, ignore_errors=True)
        return ended

    def _watch(
        self, child: int, limits: StepLimits, scratch: Path, counted: list[tuple[int, int]]
    ) -> Ended:
        """Wait until the child has ended, and end it at its limits."""
        end = time.monotonic() + (limits.seconds or math.inf)
        kill_at, pause = math.inf, 0.0
        error: ParingError | None = None
        interrupted = False
        while True:
            received = signal.sigtimedwait(self._waited, pause)
            # CPython 3.11 gives any number where this process was stopped and has gone on.
            if received is not None and received.si_signo in self._waited - {signal.SIGCHLD}:
                os.kill(child, received.si_signo)
                # A second one is of somebody who won't wait.
                kill_at = 0.0 if interrupted else time.monotonic() + GRACE_SECONDS
                interrupted = True
            status = _reaped_status(child)
            if status is not None:
                break
            now = time.monotonic()
            if self._is_abandoned():
                interrupted, kill_at = True, 0.0
            if error is None and now >= end:
                error = limits.time_error()
                # So that it can end what it has started elsewhere, on Beam's workers.
                (scratch / _TIME_LIMIT_FILE).touch()
                os.kill(child, signal.SIGTERM)
                kill_at = min(kill_at, now + GRACE_SECONDS)
            left, exhausted = self._left(limits)
            if exhausted is not None:
                error, kill_at = error or exhausted, 0.0
            if now >= kill_at:
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                break
            pause = min(_LONGEST_LOOK, max(_SHORTEST_LOOK, left / _RATE))
            pause = max(0.0, min(pause, kill_at - now, end - now if error is None else pause))
        if error is None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            error = self._kernel_error(counted)
        return Ended(status, error, interrupted, _crash_place(scratch / _CRASH_FILE))

    def _left(self, limits: StepLimits) -> tuple[float, OutOfMemoryError | None]:
        """Return the bytes that are left, and the error where none are."""
        left = math.inf
        for group in self._groups:
            used = group.used_bytes()
            reserve = max(_LEAST_RESERVE, group.limit_bytes * _RESERVE)
            if group.limit_bytes - used < reserve:
                return 0.0, _group_error(used, group.limit_bytes)
            left = min(left, group.limit_bytes - used - reserve)
        if limits.memory_bytes is not None:
            used = used_bytes(descendants(os.getpid()), limits.memory_bytes)
            if used > limits.memory_bytes:
                return 0.0, limits.memory_error(used)
            left = min(left, limits.memory_bytes - used)
        return left, None

    def _kernel_error(self, counted: list[tuple[int, int]]) -> OutOfMemoryError | None:
        """Return the error of a child that the kernel has killed at a group's limit."""
        for group, (kills, refusals) in zip(self._groups, counted, strict=True):
            # Kills alone may be due to a machine that has run out.
            if group.kills() > kills and group.refusals() > refusals:
                return _group_error(group.limit_bytes, group.limit_bytes)
        return None


def run_limited(work: Callable[[], None], limits: StepLimits) -> BaseException | None:
    """Run `work` in a child process within limits, and within those of the container.

    Without any limit `work` is simply called. With one, this function returns in the child
    when `work` is done. In the calling process it returns only if the child was ended at a
    limit or by a signal, after all that it started is gone; otherwise it ends the process
    as the child ended, with its exit code.

    Must be called where the process has no threads that hold locks, and before libraries
    are loaded that don't work after a fork, such as a TensorFlow that has run something.

    Returns:
        The exception to raise in place of the work; None where it is done.

    Raises:
        SystemExit: With the child's exit code.
    """
    supervisor = Supervisor()
    if not supervisor.has_groups and limits.seconds is None and limits.memory_bytes is None:
        work()
        return None
    ended = supervisor.run(work, limits)
    if ended is None:
        return None
    if ended.failure is not None:
        return ended.failure
    if os.WIFEXITED(ended.status):
        raise SystemExit(os.WEXITSTATUS(ended.status))
    number = os.WTERMSIG(ended.status)
    if number == signal.SIGKILL:
        # By this process, some time after the user has interrupted.
        return KeyboardInterrupt()
    _end_by(number)


def exit_now(code: int) -> NoReturn:
    """End this process; a supervised one without the interpreter's own end.

    With TensorFlow that takes seconds. On a busy machine it was longer than the supervisor
    waits after a signal, which then killed the process and reported the interruption again.

    Raises:
        SystemExit: With `code`, where this process is not supervised.
    """
    if not _supervisors:
        raise SystemExit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def process_number() -> int:
    """Return the number of this process; in a child, that of its supervisor.

    So that the supervisor finds what a child that it has ended left unfinished.
    """
    return _supervisors[0] if _supervisors else os.getpid()


def _work_in_child(work: Callable[[], None], scratch: Path, mask: set[signal.Signals]) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    faulthandler.enable((scratch / _CRASH_FILE).open("w"))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        work()
    except KeyboardInterrupt:
        if (scratch / _TIME_LIMIT_FILE).exists():
            # The supervisor reports the limit; nobody has interrupted.
            raise SystemExit(TimeLimitError.exit_code) from None
        raise


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[set[signal.Signals]]:
    """Keep signals in the queue; yields the mask of before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    mask = {item for item in before if isinstance(item, signal.Signals)}
    owner = os.getpid()
    try:
        yield mask
    finally:
        if os.getpid() == owner:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _group_error(used: int, limit: int) -> OutOfMemoryError:
    used_text, limit_text = (f"{size / _GIB:.2f} GiB" for size in (used, limit))
    return OutOfMemoryError(
        f"out of memory: {used_text} of {limit_text} used",
        remedy="raise the container's memory limit (memory_limit in the runtime file), or"
        " lower batch_size",
    )


def _crash_error(number: int, place: str) -> CrashError:
    name = signal_name(number)
    if number == signal.SIGKILL:
        return CrashError(
            f"the step's process was killed by {name}, and not by Paring",
            remedy="most often the machine ran out of memory: free some, set a lower"
            " --step-memory-limit, or lower batch_size",
        )
    return CrashError(
        f"the step's process was ended by {name}: a library crashed",
        received=place,
        remedy="the crash is in a library's own code; try another recipe, or report it to the"
        " library with the model",
    )


def _crash_place(file: Path) -> str:
    """Return the innermost line of Python code in what faulthandler wrote; "" for nothing."""
    with contextlib.suppress(OSError):
        text = file.read_text(errors="replace")
        current = text.partition("Current thread")[2] or text
        if frame := _FRAME.search(current):
            return f"{Path(frame[1]).name}:{frame[2]} in {frame[3]}"
    return ""


def _waited_for() -> set[signal.Signals]:
    """Return the signals that the supervisor takes from the queue, not by handlers."""
    # SIGINT stays ignored where it was, as in the background of a shell script.
    taken = {number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN}
    return taken | {signal.SIGCHLD}


def _reaped_status(child: int) -> int | None:
    """Collect all children that have ended; the status of `child` if it is among them."""
    result = None
    while True:
        number, status = _reaped()
        if not number:
            return result
        if number == child:
            result = status


def _reaped() -> tuple[int, int]:
    """Return a child that has ended, with its status; 0, 0 if none has."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _end_all() -> None:
    """Kill what the child has started and left, until nothing is left."""
    while left := descendants(os.getpid()):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
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
