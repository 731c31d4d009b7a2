"""Start of measuring child processes, and conversion of their exits into results."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

import paring.errors
from paring.benchmarking.measure import Spec, run
from paring.errors import ParingError, StepFailedError
from paring.system import logs
from paring.system.children import describe_exit, module_command, module_environment
from paring.system.step_limits import format_size

_STDERR_LINES = 12
_POLL_SECONDS = 0.02


class _Child(Protocol):
    """As much of a `subprocess.Popen` as measurements use."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def measure(spec: Spec, *, timeout_seconds: float) -> dict[str, Any]:
    """Run `python -m paring.benchmarking.measure` on `spec`; the JSON it wrote.

    The child has this interpreter, this `sys.path` and a process group of its
    own, which is killed if it takes too long or this process is interrupted. For
    "latency" it is a fork of this process where TensorFlow is imported but not started
    here, which saves the seconds of the import.

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
                    f" {format_size(memory_bytes)} of memory",
                    received=f"{format_size(used)} in {len(specs)} processes",
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
def _started(specs: Sequence[Spec]) -> Iterator[list[_Child]]:
    """Yield the child of each spec; those that still run in the end are killed."""
    children: list[_Child] = []
    try:
        for spec in specs:
            with _log(spec).open("wb") as stream:
                if can_fork(spec):
                    children.append(_ForkedChild(spec.write(), stream))
                else:
                    children.append(_start_fresh(spec.write(), stream, with_tpu=spec.compiled))
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def can_fork(spec: Spec) -> bool:
    """Return whether a fork of this process can measure what a fresh one would.

    What a process takes to load a model, "latency" does not tell. A fork has no TPU.
    """
    return (
        spec.task == "latency"
        and not spec.compiled
        and "tensorflow" in sys.modules
        and _is_single_threaded()
    )


def _is_single_threaded() -> bool:
    # Those of libraries too, which Python does not count.
    tasks = Path("/proc/self/task")
    return tasks.is_dir() and len(list(tasks.iterdir())) == 1


def _start_fresh(file: Path, stream: IO[bytes], *, with_tpu: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*module_command("paring.benchmarking.measure"), str(file)],
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=stream,
        env=module_environment(with_tpu=with_tpu),
        start_new_session=True,
    )


class _ForkedChild:
    """Fork of this process that runs the task of a spec."""

    def __init__(self, file: Path, stream: IO[bytes]) -> None:
        forking = multiprocessing.get_context("fork")
        self._process = forking.Process(target=_measure_in_fork, args=(file, stream))
        self._process.start()
        self.pid = int(self._process.pid or 0)
        # Whichever of the two is first: the group is there once this returns.
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("paring.benchmarking.measure", timeout or 0.0)
        return code


def _measure_in_fork(file: Path, stream: IO[bytes]) -> NoReturn:
    """Run the task of a spec, with its output in `stream`, and end with its exit code."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for descriptor in (1, 2):
        os.dup2(stream.fileno(), descriptor)
    # They write into what belongs to the parent.
    logs.stop()
    sys.exit(run(file))


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
    answer: dict[str, Any] = json.loads(spec.result.read_text())
    if "error" in answer:
        error = answer["error"]
        kind: type[ParingError] = getattr(paring.errors, error["type"])
        raise kind(error["what"], received=error["received"], remedy=error["remedy"])
    return answer


def _how_it_ended(code: int) -> str:
    return f"{'ended with' if code >= 0 else 'was ended by'} {describe_exit(code)}"


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    # After a crash in native code: Python's stack, the innermost call first.
    crash = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python")), None)
    chosen = lines[-_STDERR_LINES:] if crash is None else lines[crash : crash + _STDERR_LINES]
    return "\n    ".join(chosen) or "nothing on stderr"
