"""Memory of `evaluate` and its workers on engines does not depend on the number of examples."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.engines.commands import finish, flags, start
from tests.engines.conftest import Inputs, save_examples
from tests.engines.engines import Engines, Flink, Spark

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]


@contextmanager
def watched(engines: Engines) -> Iterator[dict[str, int]]:
    """Yield the most memory so far of a process of Paring, and of a worker."""
    peaks = {"paring_pipelines.cli.main": 0, "SdkHarness": 0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            for process in engines.processes():
                with suppress(psutil.Error, OSError):
                    command = " ".join(process.cmdline())
                    for role in peaks:
                        if role in command and "nsenter" not in command:
                            peaks[role] = max(peaks[role], peak(process.pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def peak(pid: int) -> int:
    """Return the most memory that a process has had, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def test_memory_does_not_grow_with_the_examples(
    tmp_path: Path,
    engines: Engines,
    engine: Flink | Spark,
    environments: dict[str, str],
    inputs: Inputs,
) -> None:
    peaks = []
    for rows in (10_000, 1_000_000):
        out = tmp_path / f"{engine.name}-{rows}"
        large = replace(inputs, examples=save_examples(tmp_path / f"{rows}.npz", rows))
        words = flags(engine, environments["EXTERNAL"], tmp_path / "shared")
        with watched(engines) as seen:
            process = start(engines, large, out, *words, batch_size=1000)
            assert json.loads(finish(engines, process, out))["count"] == rows
        large.examples.unlink()
        peaks.append(seen)
    few, many = peaks
    for role, size in few.items():
        assert 0 < many[role] <= 1.1 * size, peaks
