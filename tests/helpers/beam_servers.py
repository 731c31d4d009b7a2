"""Beam's job server and worker pools for tests, as processes on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

POOL = "apache_beam.runners.worker.worker_pool_main"
"""Module of the pool that starts workers as processes."""


@contextmanager
def job_server(folder: Path) -> Iterator[str]:
    """Yield the address of Beam's own job server, which writes to `folder` alone."""
    module = "apache_beam.runners.portability.local_job_service_main"
    arguments = ["--port_file", str(folder / "port"), "--staging_dir", str(folder / "staged")]
    with python_module(folder, module, *arguments) as process:
        wait_for(process, (folder / "port").exists)
        yield f"localhost:{(folder / 'port').read_text()}"


@contextmanager
def python_module(
    folder: Path,
    module: str,
    *arguments: str,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module; see `started`."""
    command = [sys.executable, "-m", module, *arguments]
    with started(folder, command, environment=environment) as process:
        yield process


@contextmanager
def started(
    folder: Path, command: Sequence[str], *, environment: Mapping[str, str] = os.environ
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a group of its own, ended in the end; `folder` gets its log."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Wait until `ready`; the process must not end before."""
    while not ready():
        assert process.poll() is None
        time.sleep(0.1)


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.socket() as item:
        item.bind(("127.0.0.1", 0))
        port: int = item.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    """Return whether something listens on a port of loopback."""
    with socket.socket() as item:
        return item.connect_ex(("127.0.0.1", port)) == 0
