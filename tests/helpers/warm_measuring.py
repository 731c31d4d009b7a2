"""Forks of a process that has imported TensorFlow, in place of fresh measuring children.

A measuring child imports TensorFlow for seconds before it times anything. Under the
fixture `warm_measuring` a server imports it once, and forks for each child. What a child
runs is `python -m paring.benchmarking.measure` as ever, in a process group of its own. The
task "solo" still gets a fresh process: it tells what a process that loads a model takes.

`ShortSubprocess` forks "solo" too, and has all children warm up for one window and time two
rounds of short ones: enough for tests of what is done with the figures.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

NAME = "PARING_TESTS_WARM_MEASURING"
"""The environment variable that holds the name of the server's socket."""

MODULE = "paring.benchmarking.measure"
_POLL_SECONDS = 0.005


def _address(name: str) -> str:
    """Return the address of a socket without a file, which disappears with its server."""
    return f"\0{name}"


class ForkedChild:
    """A child of the server, as much of a `subprocess.Popen` as measurements use."""

    def __init__(
        self, command: Sequence[str], stdout: IO[bytes], env: dict[str, str], *, short: bool
    ) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_address(start_server()))
        message = {"spec": command[-1], "log": stdout.name, "cwd": str(Path.cwd()), "env": env}
        message["short"] = short
        self._answers = self._connection.makefile("rw")
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: It still runs after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(MODULE, timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code


def start_child(command: Sequence[str], **options: Any) -> Any:
    """Stand in for `subprocess.Popen` where measuring children are started."""
    spec = json.loads(Path(command[-1]).read_text())
    if list(command[-3:-1]) != ["-m", MODULE] or spec["task"] == "solo":
        return subprocess.Popen(command, **options)
    return ForkedChild(command, options["stdout"], options["env"], short=False)


def start_short_child(command: Sequence[str], **options: Any) -> Any:
    """Stand in for `start_child` where figures need not be precise."""
    if list(command[-3:-1]) != ["-m", MODULE]:
        return subprocess.Popen(command, **options)
    file = Path(command[-1])
    spec = json.loads(file.read_text())
    spec["rounds"] = min(spec["rounds"], 2)
    spec["window_seconds"] = min(spec["window_seconds"], 0.02)
    file.write_text(json.dumps(spec))
    return ForkedChild(command, options["stdout"], options["env"], short=True)


class Subprocess:
    """The module `subprocess` as `paring.benchmarking.process` sees it."""

    Popen = staticmethod(start_child)
    DEVNULL = subprocess.DEVNULL
    TimeoutExpired = subprocess.TimeoutExpired


class ShortSubprocess(Subprocess):
    """The same for measurements that are to be short."""

    Popen = staticmethod(start_short_child)


def start_server() -> str:
    """Start the server of this process, unless there is one; the name of its socket.

    It ends with this process, whose end closes its standard input.
    """
    if NAME not in os.environ:
        name = f"paring-tests-warm-measuring-{os.getpid()}"
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if server.stdin is None or server.stdout is None or not server.stdout.readline():
            raise RuntimeError(f"the process that forks ended with {server.wait()}")
        os.environ[NAME] = name
        atexit.register(_stop, server, os.getpid())
    return os.environ[NAME]


def _stop(server: subprocess.Popen[bytes], owner: int) -> None:
    # A fork of the owner comes here too where it ends as Python does.
    if os.getpid() == owner:
        server.communicate()


def serve(name: str) -> None:
    """Fork for each connection, until standard input ends."""
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    for library in ("tensorflow", "ai_edge_litert.interpreter", "paring.runtimes"):
        importlib.import_module(library)
    # So that what a fork collects is its own, and memory stays shared.
    gc.collect()
    gc.freeze()
    # Nobody waits for those that keep a child.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(_address(name))
        server.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _keep(connection)
            connection.close()


def _keep(connection: socket.socket) -> None:
    """Be the parent of one child, and tell its process id and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    answers = connection.makefile("rw")
    asked = json.loads(answers.readline())
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        connection.detach()
        _measure(asked)
    # Whichever of the two is first: whoever gets the id may signal the group.
    with suppress(PermissionError):
        os.setpgid(child, child)
    answers.write(f"{child}\n")
    answers.flush()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
            answers.flush()
            os._exit(0)
        # It ends by itself once this process, its parent, is gone.
        if select.select([connection], [], [], _POLL_SECONDS)[0]:
            os._exit(1)


def _measure(asked: dict[str, Any]) -> None:
    """Run the module as `python -m` does, with its output in the log."""
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    places = asked["env"]["PYTHONPATH"].split(os.pathsep)
    sys.path[:0] = [place for place in places if place not in sys.path]
    if asked["short"]:
        from paring.benchmarking import statistics

        statistics.has_settled = bool  # type: ignore[assignment]
    sys.argv = [MODULE, asked["spec"]]
    sys.modules.pop(MODULE, None)
    code: Any = 1
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            code = 0 if code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
