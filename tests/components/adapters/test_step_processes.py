"""Steps in child processes: limits, crashes, interrupts, and all that is as in this process."""

import ctypes
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.helpers import broken_steps
from tests.helpers.broken_steps import end_oddly
from tests.helpers.endless_model import write_endless_model
from tests.helpers.step_server import STEPS, lasting_server

from paring.adapters import step_processes as processes
from paring.adapters.step_processes import Execute, limited_calls, step_processes
from paring.artifacts import Artifact
from paring.errors import (
    ContentionError,
    CrashError,
    OutOfMemoryError,
    TimeLimitError,
    UnsupportedError,
)
from paring.execution import Call, execute
from paring.steps.evaluate import evaluate
from paring.system import interruption, logs
from paring.system.step_limits import DEFAULT_LIMITS, LimitSettings


@pytest.fixture(scope="module", autouse=True)
def _lasting() -> Iterator[None]:
    with lasting_server():
        yield


@pytest.fixture(autouse=True)
def _broken_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STEPS, broken_steps.__file__)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    return path


def _end(
    model: Path, way: str, *, tolerate: bool = True, limits: LimitSettings = DEFAULT_LIMITS
) -> dict[str, Artifact]:
    call = Call({"model": model}, {"made": model.parent / "out"}, {"way": way}, tolerate=tolerate)
    with step_processes(limits) as run:
        return run(end_oddly, call)


def _reason(outputs: dict[str, Artifact]) -> str:
    (output,) = outputs.values()
    assert output.failure is not None
    assert output.failure.outcome == "failed"
    return output.failure.reason


def _left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _started(folder: Path) -> tuple[int, int]:
    """The ids of the process of a step that sleeps, and of the one that it has started."""
    step, its_own = (folder / "started").read_text().split()
    return int(step), int(its_own)


def test_a_step_has_a_process_of_its_own_in_the_callers_surroundings(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    monkeypatch.setenv("PARING_TEST_FACT", "seen")
    made = _end(model, "")["made"]
    assert made.failure is None
    assert made.digest
    assert int((made.path / "process").read_text()) != os.getpid()
    folder, fact, temporary = (made.path / "facts").read_text().splitlines()
    assert (folder, fact) == (str(model.parent), "seen")
    assert not Path(temporary).exists()


def test_the_record_is_that_of_a_step_in_this_process(model: Path) -> None:
    made = _end(model, "")["made"]
    call = Call({"model": model}, {"made": model.parent / "here"})
    (here,) = execute(end_oddly, call).values()
    assert made.lineage | {"output": ""} == here.lineage | {"output": ""}


def test_the_end_of_the_time_is_a_failure_that_names_the_limit(model: Path) -> None:
    reason = _reason(_end(model, "sleep", limits=LimitSettings.parse("1s")))
    assert reason.startswith("the step's time limit of 1 s was reached (given by --step-time")
    assert "raise --step-time-limit" in reason
    assert _left(model.parent) == {"model.bin", "out", "started"}
    assert _left(model.parent / "out") == {"paring.json"}


def test_the_end_of_the_memory_is_a_failure_that_names_the_limit(model: Path) -> None:
    reason = _reason(_end(model, "hoard", limits=LimitSettings.parse(None, "1GiB")))
    assert reason.startswith("out of memory: 1.")
    assert "of 1.00 GiB used, the step's memory limit (given by --step-memory-limit)" in reason


def test_a_crash_is_a_failure_that_names_the_signal_and_the_place(model: Path) -> None:
    reason = _reason(_end(model, "crash"))
    assert "ended by SIGSEGV" in reason
    assert "__init__.py:" in reason
    assert "in string_at" in reason


@pytest.mark.parametrize(
    ("way", "result"),
    [
        ("vanish", "ended without a result\n  received: exit code 7"),
        ("quit", "SystemExit: enough"),
        ("odd", "OddError: 1 and 2"),
    ],
)
def test_an_end_of_another_kind_is_a_failure_too(model: Path, way: str, result: str) -> None:
    assert result in _reason(_end(model, way))


def test_without_tolerance_errors_are_raised_as_they_are(model: Path) -> None:
    with pytest.raises(UnsupportedError, match="can't be done") as caught:
        _end(model, "unsupported", tolerate=False)
    assert (caught.value.received, caught.value.remedy) == ("a model", "take another")
    assert "broken_steps.py" in "".join(caught.value.__notes__)
    with pytest.raises(CrashError, match="SIGSEGV"):
        _end(model, "crash", tolerate=False)
    with pytest.raises(TimeLimitError, match="1 s"):
        _end(model, "sleep", tolerate=False, limits=LimitSettings.parse("1s"))
    with pytest.raises(OutOfMemoryError):
        _end(model, "hoard", tolerate=False, limits=LimitSettings.parse(None, "700MB"))
    assert _left(model.parent) == {"model.bin", "started"}


def test_what_a_step_has_started_ends_with_it(model: Path) -> None:
    made = _end(model, "orphan")["made"]
    assert not psutil.pid_exists(int((made.path / "orphan").read_text()))


def test_log_events_are_written_here(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    _end(model, "speak")
    assert "a warning" in caplog.text
    assert "something happened" not in caplog.text
    stream = io.StringIO()
    logs.write_json(stream)
    try:
        with logs.about(run="this"):
            _end(model, "speak")
    finally:
        logs.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [item["event"] for item in lines] == [
        *("step started", "something happened", "a warning", "step ended")
    ]
    assert {item.get("run") for item in lines} == {"this", None}
    assert lines[1]["number"] == "nan"


def test_a_server_that_was_killed_is_replaced(model: Path) -> None:
    with processes.open_servers() as servers:
        server = servers._all[0]
        server._process.kill()
        server._process.wait()
    assert _end(model, "")["made"].failure is None


def test_a_server_that_is_killed_while_a_step_runs_is_a_failure(model: Path) -> None:
    def kill() -> None:
        _wait_for(model.parent / "started")
        with processes.open_servers() as servers:
            servers._all[0]._process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    reason = _reason(_end(model, "sleep"))
    killer.join()
    assert "the process that runs the steps was ended" in reason
    step, its_own = _started(model.parent)
    _wait_until(lambda: not psutil.pid_exists(step))
    # The server, which would have ended it, is gone.
    os.kill(its_own, signal.SIGKILL)


def test_steps_of_several_threads_run_at_the_same_time(model: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    calls = [
        Call({"model": model}, {"made": folder / "out"}, {"way": "meet"}) for folder in folders
    ]
    for folder in folders:
        folder.mkdir()
    with step_processes(DEFAULT_LIMITS, jobs=2) as run, ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(partial(run, end_oddly), calls))
    processes_of = {(item["made"].path / "process").read_text() for item in ended}
    assert len(processes_of) == 2


@pytest.mark.parametrize(("way", "limit"), [("crash", "8GiB"), ("hoard", "300MiB")])
def test_a_step_that_is_ended_beside_another_is_not_judged(
    way: str, limit: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "beside").mkdir()
    limits = LimitSettings.parse(None, limit)
    slow = Call({"model": model}, {"made": tmp_path / "beside" / "out"}, {"way": "sleep"})
    with interruption.handle_interrupts(), step_processes(DEFAULT_LIMITS, jobs=2) as run:
        beside = threading.Thread(target=_ended_by_interrupt, args=(run, slow))
        beside.start()
        _wait_for(tmp_path / "beside" / "started")
        with step_processes(limits, jobs=2) as limited:
            call = Call({"model": model}, {"made": tmp_path / "out"}, {"way": way}, tolerate=True)
            with pytest.raises(ContentionError):
                limited(end_oddly, call)
        assert not (tmp_path / "out").exists()
        with pytest.raises(KeyboardInterrupt):
            _interrupt_this_process()
        beside.join()
    # Alone it is.
    outputs = _end(model, way, limits=limits)
    assert outputs["made"].failure is not None


def _interrupt_this_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def _ended_by_interrupt(run: Execute, call: Call) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(end_oddly, call)


def test_an_interrupt_ends_the_step_and_leaves_nothing(model: Path) -> None:
    def interrupt() -> None:
        _wait_for(model.parent / "started")
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    killer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interruption.handle_interrupts():
        _end(model, "sleep")
    killer.join()
    assert time.monotonic() - start < 30
    assert _left(model.parent) == {"model.bin", "started"}
    assert not [process for process in _started(model.parent) if psutil.pid_exists(process)]
    # The next step does not hear of it.
    assert _end(model, "")["made"].failure is None


def test_without_limits_steps_run_in_this_process(model: Path) -> None:
    made = _end(model, "", limits=LimitSettings.parse("0", "0"))["made"]
    assert int((made.path / "process").read_text()) == os.getpid()


def test_a_function_that_is_called_in_a_child_ends_at_its_limit(tmp_path: Path) -> None:
    # Functions that any process finds by their name, which one of the tests has not.
    code = f"import os, pathlib; pathlib.Path({str(tmp_path / 'process')!r})"
    write_process = partial(exec, f"{code}.write_text(str(os.getpid()))", {})
    with limited_calls(LimitSettings.parse("1s")) as call:
        call(write_process)
        with pytest.raises(TimeLimitError, match="time limit of 1 s was reached"):
            call(partial(time.sleep, 300))
        with pytest.raises(FileNotFoundError):
            call(partial(os.stat, tmp_path / "absent"))
        with pytest.raises(CrashError, match="SIGSEGV"):
            call(partial(ctypes.string_at, 0))
    assert (tmp_path / "process").read_text() != str(os.getpid())
    with limited_calls(LimitSettings.parse("0", "0")) as call:
        call(write_process)
    assert (tmp_path / "process").read_text() == str(os.getpid())


def test_a_graph_that_never_ends_is_a_failed_evaluation(
    tmp_path: Path, endless_model: Path, tiny_models: dict[str, Path]
) -> None:
    examples = tmp_path / "examples.npz"
    rows = np.ones((8, 4), np.float32)
    np.savez(examples, x_train=rows, x_eval=rows)

    def run(execute_limited: Execute, candidate: Path) -> Any:
        inputs = {"source": tiny_models["saved"], "candidate": candidate, "examples": examples}
        outputs = {"evaluation": tmp_path / f"evaluation-of-{candidate.name}"}
        return execute_limited(evaluate, Call(inputs, outputs, tolerate=True))["evaluation"]

    with step_processes(LimitSettings.parse("20s")) as execute_limited:
        endless = run(execute_limited, endless_model)
    with step_processes(DEFAULT_LIMITS) as execute_limited:
        other = run(execute_limited, tiny_models["saved"])
    assert "the step's time limit of 20 s was reached" in endless.failure.reason
    assert other.failure is None
    assert other.agreement == pytest.approx(1.0)


def _wait_for(file: Path) -> None:
    _wait_until(lambda: file.is_file() and bool(file.read_text()))


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of the signature of `tiny_models`, whose loop never ends."""
    return write_endless_model(tmp_path_factory.mktemp("endless") / "model")
