"""Child processes that run a module of Paring's."""

import os
import pickle
import signal
import sys
from pathlib import Path


def module_command(module: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    # -P: a file in the working directory must not stand in for a module.
    return [sys.executable, "-P", "-m", module]


TPU_LIBRARY = "TPU_LOAD_LIBRARY"
"""Variable that keeps TensorFlow from loading libtpu where it is "0".

Elsewhere TensorFlow locks the TPU of the host for its process as soon as it is imported.
"""


def module_environment(*, with_tpu: bool = False) -> dict[str, str]:
    """Return this process's environment, by which a child finds its modules where it does.

    Args:
        with_tpu: Whether the TPU of this host, if any, is the child's and not this process's.
    """
    places = (str(Path(place).absolute()) for place in sys.path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), TPU_LIBRARY: "0"}
    if with_tpu:
        del environment[TPU_LIBRARY]
    return environment


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGSEGV."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_exit(code: int) -> str:
    """Return the exit code of a child in words, or the name of the signal that ended it."""
    return f"exit code {code}" if code >= 0 else signal_name(-code)


def is_picklable(error: Exception) -> bool:
    """Return whether an error survives pickling, which one of a library's own class may not."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
