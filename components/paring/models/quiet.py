"""Suppression of TensorFlow's log messages."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from paring.system.tpu import skip_metadata_server


def quiet_tensorflow() -> None:
    """Import TensorFlow with its logging, and that of TFX, turned down.

    Its C++ part reads TF_CPP_MIN_LOG_LEVEL once, when it is loaded, so this is
    called before the first import; a level that the user has set stays. Level 3
    is needed since a missing GPU driver is logged as an error; what really
    fails is raised as an exception as well, also where absl logs it first.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    skip_metadata_server()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import absl.logging

    absl.logging.set_verbosity(absl.logging.FATAL)
    if "tensorflow" in sys.modules:
        return
    # Messages from before the C++ logging is set up ignore its level.
    with silent_stderr():
        import tensorflow  # noqa: F401


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Send what C++ code writes to file descriptor 2 to /dev/null.

    For calls that log there whatever the level is. Exceptions pass through;
    Python's own `sys.stderr` is silenced too, where it is that descriptor.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(sink)
        os.close(kept)
