"""Start of measuring child processes, and conversion of their exits into results."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paring.errors
from paring.benchmarking.measure import Spec
from paring.errors import ParingError, StepFailedError
from paring.system.children import module_command, module_environment

_STDERR_LINES = 12
_POLL_SECONDS = 0.02
_MIB = 1 << 20


def measure(spec: Spec, *, timeout_seconds: float) -> dict[str, Any]:
    """Run `python -m paring.benchmarking.measure` on `spec`; the JSON it wrote.

    The child has this interpreter, this `sys.path` and a process group of its
    own, which is killed if it takes too long or this process is interrupted.

    Raises:
        ParingError: What the child raised, as the same class.
        StepFailedError: It crashed, was killed, or ran out of time; the message
            ends with the last lines of its stderr.
    """
    with _started([spec]) as (child,):
        try:
            code = child.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise _out_of_time(spec, timeout_seconds) from error
    return _read_result(spec, code)


def measure_together(
    specs: Sequence[Spec], *, timeout_seconds: float, memory_bytes: int
) -> list[dict[str, Any]]:
    """Run a child for each of `specs` at the same time; the JSON that each wrote.

    They are of the task "throughput", in folders of one parent folder, and are let
    begin once all of them are ready.

    Args:
        specs: What each child shall do.
        timeout_seconds: When all are given up.
        memory_bytes: All are ended once their resident memory is larger in sum. It is
            looked at fifty times a second.

    Raises:
        ParingError: What a child raised, as the same class.
        StepFailedError: One crashed or was killed, or they took too long or too much
            memory. The others are ended then.
    """
    end = time.monotonic() + timeout_seconds
    with _started(specs) as children:
        while any(child.poll() is None for child in children):
            used = sum(_resident_bytes(child.pid) for child in children)
            if used > memory_bytes:
                raise StepFailedError(
                    f"measuring {specs[0].candidate} took more than"
                    f" {memory_bytes / _MIB:.0f} MiB of memory",
                    received=f"{used / _MIB:.0f} MiB in {len(specs)} processes",
                    remedy="raise the limit, or lower batch_size",
                )
            if time.monotonic() > end:
                raise _out_of_time(specs[0], timeout_seconds)
            if any(child.poll() for child in children):
                break
            if all(spec.ready.exists() for spec in specs):
                specs[0].start.touch()
            time.sleep(_POLL_SECONDS)
        ended = [(spec, child.poll()) for spec, child in zip(specs, children, strict=True)]
    # What went wrong in one of them first; the others may still have run.
    for spec, code in ended:
        if code:
            _read_result(spec, code)
    return [_read_result(spec, code or 0) for spec, code in ended]


@contextmanager
def _started(specs: Sequence[Spec]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield the child of each spec; those that still run in the end are killed."""
    command = module_command("paring.benchmarking.measure")
    children: list[subprocess.Popen[bytes]] = []
    try:
        for spec in specs:
            with _log(spec).open("wb") as stream:
                child = subprocess.Popen(
                    [*command, str(spec.write())],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=module_environment(),
                    start_new_session=True,
                )
            children.append(child)
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _log(spec: Spec) -> Path:
    return Path(spec.folder) / f"{spec.task}.log"


def _out_of_time(spec: Spec, timeout_seconds: float) -> StepFailedError:
    return StepFailedError(
        f"measuring {spec.candidate} took longer than {timeout_seconds:g} s",
        received=_last_lines(_log(spec)),
        remedy="raise timeout_seconds, or lower rounds, windows or batch_size",
    )


def _resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 once it is gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _read_result(spec: Spec, code: int) -> dict[str, Any]:
    if code < 0 or not spec.result.is_file():
        raise StepFailedError(
            f"the process that measured {spec.candidate} {_how_it_ended(code)}",
            received=_last_lines(_log(spec)),
            remedy=(
                "free memory, or lower batch_size; most often memory ran out"
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
