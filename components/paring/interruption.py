"""Ctrl-C and SIGTERM, also where a library takes what they raise for an error.

They raise KeyboardInterrupt wherever the main thread happens to be. Beam and
TensorFlow's callbacks from C++ turn that into errors of their own, and in a finalizer
Python drops it. So it is remembered too, for `check` to raise it again.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_come: list[int] = []


@contextmanager
def heeded() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM, and remember it for `check`.

    SIGINT stays ignored where it was, as in the background of a shell script.

    Raises:
        KeyboardInterrupt: A signal came, whatever error it has become on its way.
    """
    heed = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        heed.append(signal.SIGINT)
    before = {number: signal.signal(number, _interrupt) for number in heed}
    _come.clear()
    try:
        yield
    except Exception:
        check()
        raise
    finally:
        _come.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Go on, unless the user has interrupted.

    Raises:
        KeyboardInterrupt: A signal has come since `heeded` was entered.
    """
    if _come:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _come.append(number)
    # Of threads that lose what they serve, such as Beam's, nobody needs to hear.
    threading.excepthook = _drop
    raise KeyboardInterrupt


def _drop(arguments: threading.ExceptHookArgs) -> None:
    """Leave a thread's error untold."""
