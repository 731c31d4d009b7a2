"""`paring step` in a control group with a limit, as in a container.

The groups are the kernel's own, in the version that has the machine's memory controller.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.helpers.control_group import memory_group, processes, start_in

from paring.artifacts import PrunedModel, read_record
from paring.system.control_groups import MemoryGroup

_MIB = 1 << 20
_LIMIT = 256 * _MIB
# More than the limit.
_TOO_MUCH = 400
_PROGRAM = Path(__file__).parent / "hungry_program.py"


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[MemoryGroup]:
    with memory_group(request.node.name.partition("[")[0][:60], _LIMIT) as made:
        yield made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    return path


def _arguments(model: Path, *options: object) -> list[str]:
    given = ["--model", model, "--filled", model.parent / "out", *options]
    return [sys.executable, str(_PROGRAM), "step", "fill", *map(str, given)]


def _start(group: MemoryGroup, model: Path, *options: object) -> "subprocess.Popen[str]":
    scratch = model.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return start_in(
        group,
        _arguments(model, *options),
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _run(group: MemoryGroup, model: Path, *options: object) -> tuple[int, str]:
    child = _start(group, model, *options)
    try:
        _, error = child.communicate(timeout=120)
    finally:
        child.kill()
    return child.returncode, error


def _wait_for(file: Path) -> str:
    deadline = time.monotonic() + 60
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < deadline, f"{file} was not written"
        time.sleep(0.05)
    return file.read_text()


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", ["work", "child"])
def test_a_step_that_runs_out_of_memory_is_a_failed_candidate(
    group: MemoryGroup, model: Path, mode: str
) -> None:
    code, error = _run(group, model, "--mib", _TOO_MUCH, "--mode", mode, "--tolerate")
    assert code == 0, error
    failure = PrunedModel.load(model.parent / "out").failure
    assert failure is not None
    assert (failure.outcome, failure.step) == ("failed", "fill")
    assert failure.reason.startswith("out of memory: 0.2")
    assert "of 0.25 GiB used" in failure.reason
    # Nothing of the child's is left: no process, no unfinished output, no scratch files.
    assert processes(group) == []
    assert _left(model.parent) == ["model.bin", "out", "scratch"]
    assert _left(model.parent / "scratch") == []
    assert "process" not in _left(model.parent / "out")


def test_a_step_is_ended_before_the_kernel_kills_it(group: MemoryGroup, model: Path) -> None:
    code, error = _run(group, model, "--mib", _TOO_MUCH, "--mib-per-second", 200, "--tolerate")
    assert code == 0, error
    assert group.kills() == 0


def test_where_nothing_is_tolerated_it_is_an_error_with_a_code_of_its_own(
    group: MemoryGroup, model: Path
) -> None:
    code, error = _run(group, model, "--mib", _TOO_MUCH)
    assert code == 19
    assert "out of memory: 0.2" in error
    assert "raise the container's memory limit" in " ".join(error.split())
    assert _left(model.parent) == ["model.bin", "scratch"]


def test_kubeflow_is_told_of_it(group: MemoryGroup, model: Path) -> None:
    result = model.parent / "result" / "executor_output.json"
    uri = str(model.parent / "out")
    executor_input: dict[str, Any] = {
        "inputs": {
            "parameterValues": {"mib": float(_TOO_MUCH)},
            "artifacts": {"model": {"artifacts": [{"name": "model", "uri": str(model)}]}},
        },
        "outputs": {
            "artifacts": {"filled": {"artifacts": [{"name": "filled", "uri": uri}]}},
            "outputFile": str(result),
        },
    }
    text = json.dumps(executor_input)
    command = [sys.executable, str(_PROGRAM), "step", "fill", "--executor-input", text]
    child = start_in(group, [*command, "--tolerate"], stderr=subprocess.PIPE)
    _, error = child.communicate(timeout=120)
    assert child.returncode == 0, error
    (answer,) = json.loads(result.read_text())["artifacts"]["filled"]["artifacts"]
    assert answer["metadata"]["outcome"] == "failed"
    assert answer["metadata"]["reason"].startswith("out of memory: ")


def test_what_the_kernel_kills_at_the_limit_is_out_of_memory_too(
    group: MemoryGroup, model: Path
) -> None:
    child = _start(group, model, "--mib", _TOO_MUCH, "--tolerate")
    supervisor = psutil.Process(child.pid)
    while not supervisor.children():
        assert child.poll() is None
        time.sleep(0.01)
    (worker,) = supervisor.children()
    # It does not look, as where a step takes memory faster than it can.
    child.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the kernel has killed nothing"
        time.sleep(0.05)
    assert group.kills() == 1
    child.send_signal(signal.SIGCONT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
    failure = PrunedModel.load(model.parent / "out").failure
    assert failure is not None
    assert failure.reason.startswith("out of memory: 0.25 GiB of 0.25 GiB used")


def test_the_cache_of_files_is_not_memory_in_use(group: MemoryGroup, model: Path) -> None:
    code, error = _run(group, model, "--file-mib", _TOO_MUCH, "--mib", 40)
    assert code == 0, error
    assert read_record(model.parent / "out") is not None
    assert (model.parent / "out" / "file").stat().st_size == _TOO_MUCH * _MIB


def test_a_limit_that_is_kept_changes_nothing(group: MemoryGroup, model: Path) -> None:
    child = _start(group, model, "--mib", 40)
    shown, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
    assert shown.startswith("filled")
    assert int((model.parent / "out" / "process").read_text()) != child.pid
    assert _left(model.parent / "scratch") == []


def test_without_a_limit_there_is_no_second_process(model: Path) -> None:
    unlimited = ["--step-time-limit", "0", "--step-memory-limit", "0"]
    child = subprocess.Popen(_arguments(model, *unlimited), stdout=subprocess.DEVNULL)
    assert child.wait(60) == 0
    assert int((model.parent / "out" / "process").read_text()) == child.pid


def test_an_error_keeps_its_exit_code_and_is_told_once(group: MemoryGroup, model: Path) -> None:
    code, error = _run(group, model, "--mode", "unsupported")
    assert code == 13
    assert error.count("can't be filled") == 1


def test_what_a_killed_step_has_started_is_ended(group: MemoryGroup, model: Path) -> None:
    code, error = _run(group, model, "--mode", "orphan")
    # Nothing says that memory was short.
    assert code == 16, error
    assert "killed by SIGKILL, and not by Paring" in error
    assert processes(group) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_step(group: MemoryGroup, model: Path, number: signal.Signals) -> None:
    child = _start(group, model, "--mode", "wait")
    _wait_for(model.parent / "started")
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert error.count("interrupted") == 1
    assert processes(group) == []
    assert _left(model.parent) == ["model.bin", "scratch", "started"]


def test_a_step_ends_with_its_supervisor(group: MemoryGroup, model: Path) -> None:
    child = _start(group, model, "--mode", "wait")
    worker = int(_wait_for(model.parent / "started"))
    assert worker != child.pid
    child.kill()
    child.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while processes(group):
        assert time.monotonic() < deadline, "the step goes on without its supervisor"
        time.sleep(0.05)


def test_what_a_killed_container_left_unfinished_is_not_in_the_way(model: Path) -> None:
    # In each container the step's process has the same number.
    as_first = ["unshare", "--pid", "--fork"]
    unlimited = ["--step-time-limit", "0", "--step-memory-limit", "0"]
    if os.geteuid() != 0:
        as_first += ["--user", "--map-root-user"]
    vanished = subprocess.run(
        [*as_first, *_arguments(model, *unlimited, "--mode", "vanish")], check=False
    )
    assert vanished.returncode == 1
    assert len(_left(model.parent)) == 2
    subprocess.run([*as_first, *_arguments(model, *unlimited)], check=True)
    assert (model.parent / "out" / "process").read_text() == "1"
    assert _left(model.parent) == ["model.bin", "out"]
