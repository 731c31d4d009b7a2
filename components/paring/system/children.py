"""Child processes that run a module of Paring's."""

import os
import sys
from pathlib import Path


def module_command(module: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    # -P: a file in the working directory must not stand in for a module.
    return [sys.executable, "-P", "-m", module]


def module_environment() -> dict[str, str]:
    """Return this process's environment, by which a child finds its modules where it does."""
    places = (str(Path(place).absolute()) for place in sys.path)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
