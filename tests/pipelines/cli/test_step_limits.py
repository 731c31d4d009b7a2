"""`paring step` with limits of time and memory, outside of a container."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from paring.artifacts import PrunedModel

_PROGRAM = Path(__file__).parent / "hungry_program.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    return path


def _start(model: Path, *options: object, **environment: str) -> "subprocess.Popen[str]":
    scratch = model.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    given = ["--model", model, "--filled", model.parent / "out", *options]
    return subprocess.Popen(
        [sys.executable, str(_PROGRAM), "step", "fill", *map(str, given)],
        env={**os.environ, "TMPDIR": str(scratch), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _run(model: Path, *options: object, **environment: str) -> tuple[int, str]:
    child = _start(model, *options, **environment)
    try:
        _, error = child.communicate(timeout=120)
    finally:
        child.kill()
    return child.returncode, " ".join(error.split())


def _reason(model: Path) -> str:
    failure = PrunedModel.load(model.parent / "out").failure
    assert failure is not None
    assert (failure.outcome, failure.step) == ("failed", "fill")
    return failure.reason


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_step_that_does_not_end_is_a_failed_candidate(model: Path) -> None:
    code, error = _run(model, "--mode", "wait", "--step-time-limit", "1s", "--tolerate")
    assert code == 0, error
    assert _reason(model) == (
        "the step's time limit of 1 s was reached (given by --step-time-limit)\n"
        "  to fix it: raise --step-time-limit, for example to 2s, or give 0 for no limit"
    )
    assert "interrupted" not in error
    assert _left(model.parent) == ["model.bin", "out", "scratch", "started"]
    assert _left(model.parent / "scratch") == []


def test_a_step_that_heeds_no_signal_is_killed(model: Path) -> None:
    start = time.monotonic()
    code, error = _run(model, "--mode", "deaf", "--step-time-limit", "1s", "--tolerate")
    assert code == 0, error
    assert "time limit of 1 s" in _reason(model)
    assert time.monotonic() - start > 10


def test_where_nothing_is_tolerated_the_limit_has_a_code_of_its_own(model: Path) -> None:
    code, error = _run(model, "--mode", "wait", "--step-time-limit", "1s")
    assert code == 23
    assert "time limit of 1 s was reached" in error
    assert _left(model.parent) == ["model.bin", "scratch", "started"]


@pytest.mark.parametrize("mode", ["work", "child"])
def test_a_step_that_takes_more_memory_than_its_limit_is_a_failed_candidate(
    model: Path, mode: str
) -> None:
    options = ("--mib", 400, "--mode", mode, "--step-memory-limit", "200MiB", "--tolerate")
    code, error = _run(model, *options)
    assert code == 0, error
    reason = _reason(model)
    assert reason.startswith("out of memory: 2")
    assert "of 200 MiB used, the step's memory limit (given by --step-memory-limit)" in reason
    assert "raise --step-memory-limit" in reason
    assert _left(model.parent / "scratch") == []


def test_a_crash_is_a_failed_candidate_that_names_the_signal_and_the_place(model: Path) -> None:
    code, error = _run(model, "--mode", "crash", "--tolerate")
    assert code == 0, error
    reason = _reason(model)
    assert "ended by SIGSEGV" in reason
    assert "hungry_program.py:" in reason
    assert "in fill" in reason


def test_a_crash_is_an_error_where_nothing_is_tolerated(model: Path) -> None:
    code, error = _run(model, "--mode", "crash")
    assert code == 16
    assert "ended by SIGSEGV" in error


def test_memory_that_the_system_refuses_is_out_of_memory(model: Path) -> None:
    code, error = _run(model, "--mode", "refused", "--tolerate")
    assert code == 0, error
    assert _reason(model).startswith("out of memory: the system refused more (MemoryError")


def test_a_limit_that_is_kept_changes_nothing(model: Path) -> None:
    code, error = _run(model, "--step-time-limit", "1h", "--step-memory-limit", "1GiB")
    assert (code, error) == (0, "")
    assert PrunedModel.load(model.parent / "out").failure is None


def _started(model: Path, mode: str) -> "subprocess.Popen[str]":
    """Start the step, and wait until it runs."""
    child = _start(model, "--mode", mode)
    deadline = time.monotonic() + 60
    while not (model.parent / "started").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return child


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_is_told_once_however_long_the_interpreter_takes_to_end(
    model: Path, sent: signal.Signals
) -> None:
    child = _started(model, "linger")
    child.send_signal(sent)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert error.count("interrupted") == 1
    assert _left(model.parent) == ["model.bin", "scratch", "started"]
    assert _left(model.parent / "scratch") == []


def test_a_second_interrupt_ends_a_step_that_heeds_none(model: Path) -> None:
    child = _started(model, "deaf")
    workers = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGINT)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert error.count("interrupted") == 1
    assert workers
    assert not any(worker.is_running() for worker in workers)
    assert _left(model.parent) == ["model.bin", "scratch", "started"]


def test_on_kubeflow_the_limit_is_that_of_the_package(model: Path) -> None:
    result = model.parent / "executor_output.json"
    uri = str(model.parent / "out")
    executor_input = {
        "inputs": {
            "parameterValues": {"mode": "wait"},
            "artifacts": {"model": {"artifacts": [{"name": "model", "uri": str(model)}]}},
        },
        "outputs": {
            "artifacts": {"filled": {"artifacts": [{"name": "filled", "uri": uri}]}},
            "outputFile": str(result),
        },
    }
    child = subprocess.run(
        [
            *(sys.executable, str(_PROGRAM), "step", "fill", "--tolerate"),
            *("--executor-input", json.dumps(executor_input)),
        ],
        env={**os.environ, "PARING_STEP_TIME_LIMIT": "1s"},
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    (answer,) = json.loads(result.read_text())["artifacts"]["filled"]["artifacts"]
    assert answer["metadata"]["outcome"] == "failed"
    assert "limit of 1 s was reached (from timeout_seconds" in answer["metadata"]["reason"]
    assert "raise timeout_seconds in the runtime file" in answer["metadata"]["reason"]


@pytest.mark.parametrize(
    "given",
    [
        ("--step-time-limit", ""),
        ("--step-time-limit", "soon"),
        ("--step-time-limit", "-1s"),
        ("--step-time-limit", "1e9d"),
        ("--step-memory-limit", "1MB"),
        ("--step-memory-limit", "150%"),
        ("--step-memory-limit", "12 apples"),
    ],
)
def test_what_is_no_limit_is_refused(model: Path, given: tuple[str, str]) -> None:
    code, error = _run(model, *given)
    assert code == 2
    assert given[0] in error
    assert given[1] in error
