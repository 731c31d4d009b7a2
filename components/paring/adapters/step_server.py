"""Server that forks a child for each step: `python -m paring.adapters.step_server FD LIBRARY...`.

It has imported the libraries and runs nothing itself, so that a step starts in a fraction of
a second, in a process of its own. `paring.adapters.step_processes` is its client.
"""

import gc
import importlib
import logging
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from threading import Lock
from typing import NoReturn

from paring.catalog import find
from paring.errors import StepFailedError
from paring.execution import Call, execute
from paring.models.quiet import quiet_tensorflow
from paring.system import interruption, logs, tracing
from paring.system.children import is_picklable
from paring.system.step_limits import StepLimits
from paring.system.supervision import Supervisor

LIBRARIES = (
    "ai_edge_litert.interpreter",
    "apache_beam",
    "tensorflow_model_optimization",
    "tf_keras",
)
"""Libraries of several steps besides TensorFlow, which none of them starts on import."""

PROFILE_LIBRARIES = ("tf_keras",)
"""Libraries of the steps that import and profile a model."""


@dataclass(frozen=True)
class Request:
    """Request to call a function in a child process.

    Attributes:
        work: The function, which takes no arguments, pickled: the child alone imports what
            it needs.
        limits: Of its process.
        about: Facts of each log event; see `paring.system.logs.about`.
        environment: All environment variables.
        folder: Working directory.
        places: Folders in which Python looks for modules.
        log_level: Lowest level of the log records that are sent back.
        quiet: Loggers whose records are dropped.
    """

    work: bytes
    limits: StepLimits
    about: Mapping[str, object]
    environment: Mapping[str, str]
    folder: str
    places: tuple[str, ...]
    log_level: int
    quiet: tuple[str, ...]


@dataclass(frozen=True)
class Raised:
    """Message of a function that has raised an exception.

    Attributes:
        error: The exception.
        traceback: Its traceback in the child, as text.
    """

    error: Exception
    traceback: str


@dataclass(frozen=True)
class Made:
    """Message of a function that has returned, such as a step that has written its outputs."""


def run_step(name: str, call: Call) -> None:
    """Run a step by its name; see `paring.execution.execute`."""
    execute(find(name), call)


def main() -> None:
    """Serve requests from the socket of the first argument, until its other end is closed."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    connection = Connection(os.dup(channel.fileno()))
    supervisor = Supervisor(os.getppid(), is_abandoned=connection.poll)
    # What comes while no step runs is for a step that has ended by then.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, supervisor.signals)
    with suppress(EOFError, ConnectionError):
        _import_libraries(sys.argv[2:])
        connection.send(None)
        while True:
            request = connection.recv()
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
            answers = Connection(descriptors[0], readable=False)
            supervisor.drop_signals()
            ended = supervisor.run(partial(_serve, request, answers, mask), request.limits)
            answers.close()
            connection.send(ended)
    # Faster than the interpreter's own end, with all that is loaded.
    os._exit(0)


def _import_libraries(libraries: Collection[str]) -> None:
    if libraries:
        quiet_tensorflow()
    for library in libraries:
        # An image of one's own may lack one; the step that needs it says so.
        with suppress(ImportError):
            importlib.import_module(library)
    gc.collect()
    # So that what a child collects is its own, and memory stays shared.
    gc.freeze()


def _serve(request: Request, answers: Connection, mask: Collection[int]) -> NoReturn:
    """Do the work in this process, a child, send its result, and end the process."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        scratch = os.environ["TMPDIR"]
        os.environ.clear()
        os.environ.update(request.environment, TMPDIR=scratch)
        os.chdir(request.folder)
        sys.path[:] = request.places
        for name in request.quiet:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        one_at_a_time = Lock()

        def send(message: Made | Raised | logs.SentRecord) -> None:
            with one_at_a_time:
                answers.send(message)

        logs.send(send, request.log_level)
        result = _execute(request)
        tracing.stop()
        send(result)
        sys.stdout.flush()
        sys.stderr.flush()
        code = 0
    except KeyboardInterrupt:
        # Who has sent the signal knows of it.
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        # Nothing of the server's own is to end with its child.
        os._exit(code)


def _execute(request: Request) -> Made | Raised:
    try:
        with interruption.handle_interrupts(), logs.about(**request.about):
            pickle.loads(request.work)()
    except Exception as error:
        sent = error if is_picklable(error) else _unforeseen(error)
        return Raised(sent, traceback.format_exc())
    except SystemExit as error:
        return Raised(_unforeseen(error), traceback.format_exc())
    return Made()


def _unforeseen(error: BaseException) -> StepFailedError:
    return StepFailedError(
        "something broke that Paring did not foresee",
        received=f"{type(error).__name__}: {error}",
        remedy="run again with --debug and report the traceback",
    )


if __name__ == "__main__":
    # By its own name, under which the other side knows the classes of what is sent.
    importlib.import_module("paring.adapters.step_server").main()
