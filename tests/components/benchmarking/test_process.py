"""However a measuring process ends, the parent learns how, and none is left."""

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from paring.benchmarking.measure import Spec
from paring.benchmarking.process import can_fork, measure
from paring.errors import ModelError, StepFailedError


@pytest.fixture
def endless(digits_model: Path, tmp_path: Path) -> Spec:
    """A measurement that would take hours."""
    return _spec(digits_model, tmp_path, "image", rounds=1000, window_seconds=3600.0)


def _spec(
    model: Path, folder: Path, name: str, *, rounds: int = 0, window_seconds: float = 0.0
) -> Spec:
    inputs = folder / "inputs.npz"
    np.savez(inputs, **{"0": np.zeros((2, 1, 32, 32, 1), np.float32)})
    task = "latency" if rounds else "solo"
    return Spec(
        task,
        source=str(model),
        candidate=str(model),
        inputs=str(inputs),
        names=[name],
        folder=str(folder),
        threads=1,
        rounds=rounds,
        windows=1,
        window_seconds=window_seconds,
    )


FORKING = """
import json, os, sys
from pathlib import Path
import tensorflow
from paring.benchmarking import process
from paring.benchmarking.measure import Spec
from paring.errors import StepFailedError

def refuse(*arguments, **options):
    raise AssertionError("a fresh process")

# As a step's process is made, which has none of the threads of this one.
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
process.subprocess.Popen = refuse
spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
found = process.measure(spec, timeout_seconds=60)
log = Path(sys.argv[2]).read_text()
late = ""
try:
    process.measure(spec, timeout_seconds=0.1)
except StepFailedError as error:
    late = str(error)
print(json.dumps([found, log, late]))
"""


def test_where_tensorflow_is_imported_but_not_started_a_fork_measures(
    digits_model: Path, tmp_path: Path
) -> None:
    spec = _spec(digits_model, tmp_path, "image", rounds=2, window_seconds=0.02)
    command = [sys.executable, "-c", FORKING, spec.write(), tmp_path / "latency.log"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result, log, late = json.loads(done.stdout)
    assert "tensorflow" in result["libraries"]
    assert "round 2 of 2" in log
    assert "longer than 0.1 s" in late
    with np.load(spec.latencies) as arrays:
        assert arrays["source"].shape[:2] == arrays["candidate"].shape[:2] == (2, 1)
        assert (arrays["source"] > 0).all()


def test_a_process_with_threads_does_not_fork(digits_model: Path, tmp_path: Path) -> None:
    # TensorFlow runs in the process of the tests.
    spec = _spec(digits_model, tmp_path, "image", rounds=2, window_seconds=0.02)
    import tensorflow as tf

    tf.constant(1) + 1
    assert not can_fork(spec)


def _children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "paring.benchmarking.measure" in child.cmdline()
    ]


def _once_it_runs(spec: Spec, act: Callable[[int], None]) -> None:
    """Do something with the child's id, once it has written its first line."""
    log = Path(spec.folder) / f"{spec.task}.log"

    def wait() -> None:
        while not (log.exists() and log.stat().st_size):
            time.sleep(0.02)
        act(_children()[0].pid)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("sent", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_an_error_with_the_signals_name(sent: signal.Signals, endless: Spec) -> None:
    _once_it_runs(endless, lambda pid: os.kill(pid, sent))
    with pytest.raises(StepFailedError, match=sent.name) as caught:
        measure(endless, timeout_seconds=60)
    if sent == signal.SIGSEGV:
        # Python's stack, from the child's stderr.
        assert "Segmentation fault" in caught.value.received
    else:
        assert "memory" in caught.value.remedy


def test_a_child_out_of_time_is_ended(endless: Spec) -> None:
    with pytest.raises(StepFailedError, match=r"longer than 0\.5 s"):
        measure(endless, timeout_seconds=0.5)
    assert not _children()


def test_an_interruption_ends_the_child(endless: Spec) -> None:
    _once_it_runs(endless, lambda pid: _thread.interrupt_main())
    with pytest.raises(KeyboardInterrupt):
        measure(endless, timeout_seconds=60)
    assert not _children()


def test_an_unforeseen_exception_keeps_its_last_lines(tmp_path: Path, digits_model: Path) -> None:
    spec = _spec(digits_model, tmp_path, "image")
    Path(spec.inputs).unlink()
    with pytest.raises(StepFailedError, match="exit code 1") as caught:
        measure(spec, timeout_seconds=60)
    assert "FileNotFoundError" in caught.value.received


def test_an_expected_error_comes_back_as_its_own_class(tmp_path: Path, digits_model: Path) -> None:
    with pytest.raises(ModelError, match="takes other inputs") as caught:
        measure(_spec(digits_model, tmp_path, "picture"), timeout_seconds=60)
    assert caught.value.received == "picture"
    assert "known: image" in caught.value.remedy
