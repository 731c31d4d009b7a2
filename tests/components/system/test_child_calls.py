"""Functions called in child processes give results and errors as if they were called here."""

import os
import signal
import time

import psutil
import pytest

from paring.catalog import find
from paring.errors import CrashError, ParameterError
from paring.system.child_calls import call_here, call_in_child


def test_a_function_runs_in_another_process() -> None:
    assert call_in_child(os.getpid) != os.getpid()
    assert call_in_child(int, "ff", base=16) == call_here(int, "ff", base=16) == 255


def test_an_error_keeps_its_class_and_its_parts() -> None:
    with pytest.raises(ParameterError) as here:
        find("prun")
    with pytest.raises(ParameterError) as there:
        call_in_child(find, "prun")
    assert vars(there.value) | {"__notes__": None} == vars(here.value) | {"__notes__": None}
    assert "Traceback" in there.value.__notes__[0]


def test_a_child_without_a_result_has_crashed() -> None:
    with pytest.raises(CrashError, match="the process of abort has ended") as signalled:
        call_in_child(os.abort)
    assert signalled.value.received == "SIGABRT"
    with pytest.raises(CrashError) as exited:
        call_in_child(os._exit, 3)
    assert exited.value.received == "exit code 3"


def test_a_result_that_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises(TypeError, match="pickle"):
        call_in_child(os.scandir)


def test_an_interruption_ends_the_child() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            call_in_child(time.sleep, 600)
    finally:
        signal.signal(signal.SIGALRM, before)
    left = [
        child for child in psutil.Process().children() if "child_calls" in " ".join(child.cmdline())
    ]
    assert not left
