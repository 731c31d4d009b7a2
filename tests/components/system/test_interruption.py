"""A signal ends the work, whatever it has become on its way."""

import os
import signal
import threading
import time
import weakref

import pytest

from paring.system import interruption


@pytest.fixture(autouse=True)
def _threads_errors_are_told_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_and_the_handlers_are_put_back(sent: signal.Signals) -> None:
    before = signal.getsignal(sent)
    with pytest.raises(KeyboardInterrupt), interruption.handle_interrupts():
        os.kill(os.getpid(), sent)
    assert signal.getsignal(sent) is before


def test_an_error_that_an_interruption_has_become_is_an_interruption() -> None:
    def library() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("while running a stage") from None

    with pytest.raises(KeyboardInterrupt), interruption.handle_interrupts():
        library()


def test_an_interruption_that_was_dropped_is_found_by_the_next_check() -> None:
    with interruption.handle_interrupts():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interruption.raise_if_interrupted()
    interruption.raise_if_interrupted()


def test_an_interruption_that_falls_into_a_finalizer_is_raised_after_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Held:
        pass

    held = [Held()]
    weakref.finalize(held[0], signal.raise_signal, signal.SIGINT)
    seconds: list[float] = []

    def work() -> None:
        held.clear()
        start = time.monotonic()
        try:
            while time.monotonic() < start + 10:
                pass
        finally:
            seconds.append(time.monotonic() - start)

    with pytest.raises(KeyboardInterrupt), interruption.handle_interrupts():
        work()
    assert seconds[0] < 5
    assert "Exception ignored" not in capfd.readouterr().err


def test_an_error_of_another_kind_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), interruption.handle_interrupts():
        raise ZeroDivisionError


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption.handle_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            interruption.raise_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
