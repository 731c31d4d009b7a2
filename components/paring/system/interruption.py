"""Handling of Ctrl-C and SIGTERM, also in libraries that catch their exceptions.

They raise KeyboardInterrupt wherever the main thread happens to be. Beam and
TensorFlow's callbacks from C++ turn that into errors of their own, so it is remembered too,
for `check` to raise it again. In a finalizer Python drops it, and it is raised after that.
"""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_LATER_SECONDS = 0.01

_come: list[int] = []


@contextmanager
def handle_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM, and remember it for `check`.

    SIGINT stays ignored where it was, as in the background of a shell script.

    Raises:
        KeyboardInterrupt: A signal came, whatever error it has become on its way.
    """
    heed = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        heed.append(signal.SIGINT)
    before = {number: signal.signal(number, _interrupt) for number in heed}
    hook = sys.unraisablehook
    _come.clear()
    try:
        yield
    except Exception:
        raise_if_interrupted()
        raise
    finally:
        _come.clear()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if the user has interrupted.

    Raises:
        KeyboardInterrupt: A signal has come since `handle_interrupts` was entered.
    """
    if _come:
        raise KeyboardInterrupt


def count() -> int:
    """Return how often the user has interrupted since `handle_interrupts` was entered."""
    return len(_come)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _come.append(number)
    # Of threads that lose what they serve, such as Beam's, nobody needs to hear.
    threading.excepthook = _drop
    sys.unraisablehook = _raise_again
    raise KeyboardInterrupt


def _raise_again(dropped: Any) -> None:
    """Have what a finalizer has dropped raised once more, as if the signal came a bit later."""
    if issubclass(dropped.exc_type, KeyboardInterrupt) and _come:
        # From here it would be dropped again.
        later = threading.Timer(_LATER_SECONDS, _thread.interrupt_main, [_come[-1]])
        later.daemon = True
        later.start()


def _drop(arguments: threading.ExceptHookArgs) -> None:
    """Leave a thread's error untold."""
