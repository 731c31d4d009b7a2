"""Start a measuring child process and turn how it ended into a result."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import paring.errors
from paring.errors import ParingError, StepFailedError
from paring.runtimes.measure import Spec

_STDERR_LINES = 12


def measure(spec: Spec, *, timeout_seconds: float) -> dict[str, Any]:
    """Run `python -m paring.runtimes.measure` on `spec`; the JSON it wrote.

    The child has this interpreter, this `sys.path` and a process group of its
    own, which is killed if it takes too long or this process is interrupted.

    Raises:
        ParingError: What the child raised, as the same class.
        StepFailedError: It crashed, was killed, or ran out of time; the message
            ends with the last lines of its stderr.
    """
    log = Path(spec.folder) / f"{spec.task}.log"
    # -P: a file in the working directory must not stand in for a module.
    command = [sys.executable, "-P", "-m", "paring.runtimes.measure", str(spec.write())]
    places = [str(Path(place).absolute()) for place in sys.path]
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            start_new_session=True,
        )
        try:
            code = child.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise StepFailedError(
                f"measuring {spec.candidate} took longer than {timeout_seconds:g} s",
                received=_last_lines(log),
                remedy="raise timeout_seconds, or lower rounds, windows or batch_size",
            ) from error
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    return _read_result(spec, code, log)


def _read_result(spec: Spec, code: int, log: Path) -> dict[str, Any]:
    if code < 0 or not spec.result.is_file():
        raise StepFailedError(
            f"the process that measured {spec.candidate} {_how_it_ended(code)}",
            received=_last_lines(log),
            remedy=(
                "most often memory ran out: free some, or lower batch_size"
                if code == -signal.SIGKILL
                else "the message above comes from the runtime; try the model in it alone"
            ),
        )
    found: dict[str, Any] = json.loads(spec.result.read_text())
    if "error" in found:
        error = found["error"]
        kind: type[ParingError] = getattr(paring.errors, error["type"])
        raise kind(error["what"], received=error["received"], remedy=error["remedy"])
    return found


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    # After a crash in native code: Python's stack, the innermost call first.
    crash = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python")), None)
    chosen = lines[-_STDERR_LINES:] if crash is None else lines[crash : crash + _STDERR_LINES]
    return "\n    ".join(chosen) or "nothing on stderr"
