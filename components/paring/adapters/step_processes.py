"""Steps in child processes with limits of time and memory.

    with step_processes(LimitSettings.parse("30m")) as execute_limited:
        outputs = execute_limited(step, call)

A server, `paring.adapters.step_server`, imports the libraries once and forks for each step.
It is a process that was started and not forked, so that it is of use in programs in which
TensorFlow runs, such as a notebook. A step that is ended at a limit, or that crashes, is a
failure outcome like any other.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path

from paring.adapters.step_server import Made, Raised, Request
from paring.artifacts import Artifact
from paring.errors import CrashError
from paring.execution import Call, execute, failing
from paring.step import Step
from paring.system import interruption, logs
from paring.system.children import module_command, module_environment
from paring.system.step_limits import LimitSettings
from paring.system.supervision import GRACE_SECONDS, Ended

Execute = Callable[[Step, Call], dict[str, Artifact]]
"""Runs a step; see `paring.execution.execute`."""

_LOOK_SECONDS = 0.2
# What a server needs at most to end the child and itself, after the child's own time for it.
_MORE_SECONDS = 5.0
# Which the runner of a pipeline turns down.
_LOGGERS = ("absl", "apache_beam", "tensorflow", "root")

_open_servers: list["_Server"] = []


@contextmanager
def step_processes(limits: LimitSettings) -> Iterator[Execute]:
    """Start the server, and yield what runs a step in a child process.

    Where a server is open in this process already, it serves here too. With both limits
    turned off, steps run in this process, whose registered Keras layers they may need.
    """
    if limits.are_off:
        yield execute
        return
    with open_server() as server:
        yield lambda step, call: server.execute(step, call, limits)


@contextmanager
def open_server() -> Iterator["_Server"]:
    """Open a server, or take the one that is open in this process."""
    if _open_servers:
        yield _open_servers[-1]
        return
    server = _Server()
    _open_servers.append(server)
    try:
        yield server
    finally:
        _open_servers.remove(server)
        server.close()


def server_command() -> list[str]:
    """Return the command that starts a server, but for its last argument."""
    return module_command("paring.adapters.step_server")


class _Server:
    def __init__(self) -> None:
        # Nodes run one after another; those of Beam in a thread.
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        """Start the process; it imports libraries while this one goes on."""
        self._ready = self._stopped = False
        self._channel, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._channel.fileno()))
        with theirs:
            self._process = subprocess.Popen(
                [*server_command(), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=module_environment(),
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal reaches this process alone, which passes it on.
                start_new_session=True,
            )

    def execute(self, step: Step, call: Call, limits: LimitSettings) -> dict[str, Artifact]:
        """Run a step in a child process; see `paring.execution.execute`.

        Raises:
            TimeLimitError: It was ended at its time limit.
            OutOfMemoryError: It was ended at its memory limit.
            CrashError: Its process has crashed.
            Exception: What the step raised, with the child's traceback as a note.
        """
        request = Request(
            step.name,
            call,
            limits.of_step(trains=step.trains),
            dict(logs.known()),
            dict(os.environ),
            str(Path.cwd()),
            tuple(sys.path),
            logs.level(),
            tuple(n for n in _LOGGERS if logging.getLogger(n).level >= logging.CRITICAL),
        )
        with self._lock:
            result, error = self._run(request)
            if isinstance(result, Raised):
                result.error.add_note(result.traceback)
                if not call.tolerate:
                    raise result.error
                error = result.error
            if error is not None:
                # Recorded or raised; and what the child has left unfinished is removed, before
                # another thread that closes this server ends the process.
                return execute(failing(step, error), call)
        return {name: kind.load(call.outputs[name]) for name, kind in step.outputs.items()}

    def _run(self, request: Request) -> tuple[Made | Raised | None, BaseException | None]:
        """Run a step in a child process.

        Returns:
            Its result, or None; and the error or interrupt that has ended it before that.
        """
        try:
            self._prepare()
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

    def _prepare(self) -> None:
        """Wait until the server has imported its libraries; start another if it was killed."""
        if self._process.poll() is not None:
            self._close_sockets()
            self._start()
        while not self._ready:
            interruption.check()
            if self._connection.poll(_LOOK_SECONDS):
                self._connection.recv()
                self._ready = True
        self._stopped = False

    def _wait(self, answers: Connection) -> tuple[Made | Raised | None, Ended]:
        """Wait for the end of a step, and write its log records meanwhile."""
        result: Made | Raised | None = None
        sources: list[Connection] = [self._connection, answers]
        while True:
            try:
                # In Beam's thread too, where no signal raises anything.
                if not self._stopped:
                    interruption.check()
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
