"""Steps in child processes with limits of time and memory.

    with step_processes(LimitSettings.parse("30m")) as execute_limited:
        outputs = execute_limited(step, call)
    with limited_calls(LimitSettings.parse("30m")) as call_limited:
        call_limited(partial(run_once, folder))

A server, `paring.adapters.step_server`, imports the libraries once and forks for each step.
It is a process that was started and not forked, so that it is of use in programs in which
TensorFlow runs, such as a notebook. A step that is ended at a limit, or that crashes, is a
failure outcome like any other.
"""

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path

from paring.adapters.step_server import LIBRARIES, Made, Raised, Request, run_step
from paring.artifacts import Artifact
from paring.errors import ContentionError, CrashError, OutOfMemoryError
from paring.execution import Call, execute, failing
from paring.step import Step
from paring.system import interruption, logs
from paring.system.children import TPU_LIBRARY, module_command, module_environment
from paring.system.step_limits import LimitSettings, StepLimits
from paring.system.supervision import GRACE_SECONDS, Ended

Execute = Callable[[Step, Call], dict[str, Artifact]]
"""Runs a step; see `paring.execution.execute`."""

Work = Callable[[], None]
"""A function, or a partial of one, that can be pickled."""

_LOOK_SECONDS = 0.2
# What a server needs at most to end the child and itself, after the child's own time for it.
_MORE_SECONDS = 5.0
# Which the runner of a pipeline turns down.
_LOGGERS = ("absl", "apache_beam", "tensorflow", "root")

_open: list["Servers"] = []


@contextmanager
def step_processes(
    limits: LimitSettings, libraries: Sequence[str] = LIBRARIES, *, jobs: int = 1
) -> Iterator[Execute]:
    """Start the servers, and yield what runs a step in a child process.

    Where servers are open in this process already, they serve here too. With both limits
    turned off, steps run in this process, whose registered Keras layers they may need.

    Args:
        limits: Limits of each step.
        libraries: What a server imports; a step imports what it needs besides.
        jobs: Number of threads that run steps at the same time.
    """
    if limits.are_off:
        yield execute
        return
    with open_servers(libraries) as servers:
        yield lambda step, call: servers.execute(step, call, limits, jobs)


@contextmanager
def limited_calls(limits: LimitSettings) -> Iterator[Callable[[Work], None]]:
    """Start a server, and yield what calls a function in a child process.

    The limits and the errors are those of a step that does not train; an exception of the
    function is raised here. With both limits turned off, it is called in this process.
    """
    if limits.are_off:
        yield lambda work: work()
        return
    with open_servers(()) as servers:
        yield lambda work: servers.call(work, limits.of_step(trains=False))


@contextmanager
def open_servers(libraries: Sequence[str] = LIBRARIES) -> Iterator["Servers"]:
    """Open a server, or take those that are open in this process."""
    if _open:
        yield _open[-1]
        return
    servers = Servers(libraries)
    _open.append(servers)
    try:
        yield servers
    finally:
        _open.remove(servers)
        servers.close()


def server_command() -> list[str]:
    """Return the command that starts a server, but for its arguments."""
    return module_command("paring.adapters.step_server")


class Servers:
    """Servers, each of which runs one step at a time.

    The first one is started at once, the others with the first step of a caller that runs
    several at the same time.
    """

    def __init__(self, libraries: Sequence[str] = LIBRARIES) -> None:
        """Start the first server, which imports `libraries`."""
        self._libraries = libraries
        self._changed = threading.Condition()
        self._all = [_Server(libraries)]
        self._free = [*self._all]
        # Those that were at work while another one was.
        self._shared: set[_Server] = set()

    def execute(
        self, step: Step, call: Call, limits: LimitSettings, jobs: int = 1
    ) -> dict[str, Artifact]:
        """Run a step in a child process; see `paring.execution.execute`.

        Args:
            step: The step.
            call: Its inputs, outputs and parameters.
            limits: Limits of the step.
            jobs: Number of steps that the caller runs at the same time.

        Raises:
            TimeLimitError: It was ended at its time limit.
            OutOfMemoryError: It was ended at its memory limit.
            CrashError: Its process has crashed.
            ContentionError: One of the two has happened while another step was running.
            Exception: What the step raised, with the child's traceback as a note.
        """
        self._reserve(jobs)
        if step.machine_dependent:
            self._await_imports()
        with self._taken() as server:
            return server.execute(step, call, limits, lambda: server in self._shared)

    def call(self, work: Work, limits: StepLimits) -> None:
        """Call a function in a child process.

        Raises:
            TimeLimitError: It was ended at its time limit.
            OutOfMemoryError: It was ended at its memory limit.
            CrashError: Its process has crashed.
            Exception: What it raised, with the child's traceback as a note.
        """
        with self._taken() as server:
            server.call(work, limits)

    def _reserve(self, count: int) -> None:
        with self._changed:
            while len(self._all) < count:
                self._all.append(_Server(self._libraries))
                # Those that have imported their libraries are taken first.
                self._free.insert(0, self._all[-1])

    def _await_imports(self) -> None:
        """Wait until no server imports anything, which would disturb a measurement."""
        with self._changed:
            free = [*self._free]
        for server in free:
            server.prepare()

    @contextmanager
    def _taken(self) -> Iterator["_Server"]:
        with self._changed:
            while not self._free:
                interruption.raise_if_interrupted()
                self._changed.wait(_LOOK_SECONDS)
            server = self._free.pop()
            busy = set(self._all) - set(self._free)
            self._shared.discard(server)
            if len(busy) > 1:
                self._shared |= busy
        try:
            yield server
        finally:
            with self._changed:
                self._free.append(server)
                self._changed.notify()

    def close(self) -> None:
        """End the steps that run, and the servers."""
        for server in self._all:
            server.close()


class _Server:
    def __init__(self, libraries: Sequence[str] = LIBRARIES) -> None:
        self._libraries = libraries
        # For whoever closes it in another thread.
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        """Start the process; it imports libraries while this one goes on."""
        self._ready = self._stopped = False
        self._channel, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._channel.fileno()))
        with theirs:
            self._process = subprocess.Popen(
                [*server_command(), str(theirs.fileno()), *self._libraries],
                stdin=subprocess.DEVNULL,
                env=module_environment(),
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal reaches this process alone, which passes it on.
                start_new_session=True,
            )

    def execute(
        self, step: Step, call: Call, limits: LimitSettings, is_shared: Callable[[], bool]
    ) -> dict[str, Artifact]:
        """Run a step in a child process; see `Servers.execute`."""
        work = partial(run_step, step.name, call)
        with self._lock:
            error, is_own = self._error_of(work, limits.of_step(trains=step.trains))
            if error is not None and is_own and not call.tolerate:
                raise error
            if isinstance(error, OutOfMemoryError | CrashError) and not is_own and is_shared():
                raise ContentionError(error.what, received=error.received, remedy=error.remedy)
            if error is not None:
                # Recorded or raised; and what the child has left unfinished is removed, before
                # another thread that closes this server ends the process.
                return execute(failing(step, error), call)
        return {name: kind.load(call.outputs[name]) for name, kind in step.outputs.items()}

    def call(self, work: Work, limits: StepLimits) -> None:
        """Call a function in a child process; see `Servers.call`."""
        with self._lock:
            error, _ = self._error_of(work, limits)
        if error is not None:
            raise error

    def _error_of(self, work: Work, limits: StepLimits) -> tuple[BaseException | None, bool]:
        """Call a function in a child process; return its error, and whether it raised it itself."""
        request = Request(
            pickle.dumps(work),
            limits,
            dict(logs.known()),
            # As the server has it, which would hold a TPU for all of its children.
            {**os.environ, TPU_LIBRARY: "0"},
            str(Path.cwd()),
            tuple(sys.path),
            logs.level(),
            tuple(n for n in _LOGGERS if logging.getLogger(n).level >= logging.CRITICAL),
        )
        result, error = self._run(request)
        if isinstance(result, Raised):
            result.error.add_note(result.traceback)
            return result.error, True
        return error, False

    def _run(self, request: Request) -> tuple[Made | Raised | None, BaseException | None]:
        """Run a step in a child process.

        Returns:
            Its result, or None; and the error or interrupt that has ended it before that.
        """
        try:
            self.prepare()
            ours, theirs = socket.socketpair()
            with Connection(ours.detach(), writable=False) as answers:
                with theirs:
                    self._connection.send(request)
                    socket.send_fds(self._channel, [b"."], [theirs.fileno()])
                result, ended = self._wait(answers)
        except (EOFError, OSError):
            code = self._process.wait()
            return None, CrashError(
                "the process that runs the steps was ended",
                received=f"exit code {code}",
                remedy="most often the machine ran out of memory: free some",
            )
        except BaseException:
            # What comes next needs a server that waits for it.
            self._process.kill()
            self._process.wait()
            raise
        if ended.interrupted:
            return None, KeyboardInterrupt()
        if ended.failure is not None:
            return None, ended.failure
        if result is None:
            code = os.waitstatus_to_exitcode(ended.status)
            return None, CrashError(
                "the step's process has ended without a result",
                received=f"exit code {code}",
                remedy="a library may have ended it: see what it has written above",
            )
        return result, None

    def prepare(self) -> None:
        """Wait until the server has imported its libraries; start another if it was killed."""
        if self._process.poll() is not None:
            self._close_sockets()
            self._start()
        while not self._ready:
            interruption.raise_if_interrupted()
            if self._connection.poll(_LOOK_SECONDS):
                self._connection.recv()
                self._ready = True
        self._stopped = False

    def _wait(self, answers: Connection) -> tuple[Made | Raised | None, Ended]:
        """Wait for the end of a step, and write its log records meanwhile."""
        result: Made | Raised | None = None
        sources: list[Connection] = [self._connection, answers]
        interrupts = 0
        while True:
            try:
                # In other threads than the main one no signal raises anything.
                if interruption.count() > interrupts:
                    interrupts = interruption.count()
                    self._stop(again=interrupts > 1)
                ready = wait(sources, _LOOK_SECONDS)
                # The child's messages first, which it has sent before its end.
                if answers in ready:
                    try:
                        message = answers.recv()
                    except EOFError:
                        sources.remove(answers)
                        continue
                    if isinstance(message, logs.SentRecord):
                        logs.receive(message)
                    else:
                        result = message
                elif self._connection in ready:
                    ended: Ended = self._connection.recv()
                    return result, ended
            except KeyboardInterrupt:
                interrupts = interruption.count()
                # A second one has the child killed.
                self._stop(again=True)

    def _stop(self, *, again: bool = False) -> None:
        """Have the server end the step that runs; `again` even if it is at it."""
        if again or not self._stopped:
            self._stopped = True
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the step that runs, if one does, and the server."""
        deadline = time.monotonic() + GRACE_SECONDS + _MORE_SECONDS
        # That of a thread, whose runner has left it alone.
        while not self._lock.acquire(timeout=_LOOK_SECONDS):
            if time.monotonic() > deadline:
                self._process.kill()
            self._stop()
        if not self._ready:
            # It has no child, and would import to the end.
            self._process.kill()
        self._close_sockets()
        try:
            self._process.wait(_MORE_SECONDS)
        except subprocess.TimeoutExpired:
            # Its child is killed with it.
            self._process.kill()
            self._process.wait()

    def _close_sockets(self) -> None:
        self._connection.close()
        self._channel.close()
