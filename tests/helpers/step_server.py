"""A server of steps for tests, which is kept between runs, and whose steps may be replaced.

`paring run` imports TensorFlow into a process that forks for each step. Tests run many
pipelines in one process, so their server lasts; its steps measure in warm children, and briefly.
"""

import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

STEPS = "PARING_TESTS_STEPS"
"""The environment variable that holds a Python file with `STEPS`, which come before ours."""


@contextmanager
def lasting_server() -> Iterator[None]:
    """Within it, a server that a run has started serves those after it too."""
    from tests.helpers.warm_measuring import start_server

    from paring.adapters import step_processes

    kept = []

    @contextmanager
    def open_servers(libraries: Sequence[str] = ()) -> Iterator[step_processes.Servers]:
        if not kept:
            start_server()
            kept.append(step_processes.Servers())
        yield kept[0]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(step_processes, "open_servers", open_servers)
        patched.setattr(step_processes, "server_command", server_command)
        yield
    for server in kept:
        server.close()


def server_command() -> list[str]:
    return [sys.executable, "-P", __file__]


def _serve() -> None:
    from tests.helpers.warm_measuring import ShortSubprocess

    from paring.adapters import step_server
    from paring.benchmarking import process
    from paring.catalog import find
    from paring.step import Step

    def find_replaced(name: str) -> Step:
        file = os.environ.get(STEPS)
        replaced: dict[str, Step] = runpy.run_path(file)["STEPS"] if file else {}
        return replaced.get(name) or find(name)

    process.subprocess = ShortSubprocess  # type: ignore[attr-defined]
    process.can_fork = lambda spec: False
    step_server.find = find_replaced  # type: ignore[attr-defined]
    step_server.main()


if __name__ == "__main__":
    # The tests are no installed package, and another library's may be.
    sys.path.insert(0, str(Path(__file__).parents[2]))
    _serve()
