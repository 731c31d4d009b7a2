"""`evaluate` on real clusters of Flink and Spark gives what it gives in this process."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.engines.conftest import BATCH, METRIC, Inputs, save_examples
from tests.engines.engines import SLOTS, Engines, Flink, Spark, inner, wait_until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

RECIPE = """\
[recipes.tflite-float16]
about = "Half precision."
steps = [{ step = "convert_tflite", quantization = "fp16" }]
"""

PARING = [sys.executable, "-m", "paring_pipelines.cli.main"]


def start(
    engines: Engines, inputs: Inputs, out: Path, *flags: str, batch_size: int = BATCH
) -> subprocess.Popen[bytes]:
    """Start `paring step evaluate` in the namespaces."""
    command = [
        *PARING,
        "step",
        "evaluate",
        f"--source={inputs.source}",
        f"--candidate={inputs.candidate}",
        f"--examples={inputs.examples}",
        f"--evaluation={out}",
        f"--batch-size={batch_size}",
        *flags,
    ]
    return engines.start(out.name, command)


def finish(engines: Engines, process: subprocess.Popen[bytes], out: Path) -> bytes:
    """Wait for the end of `start`, and return the content of evaluation.json."""
    assert process.wait() == 0, engines.log(out.name).read_text()
    return (out / "evaluation.json").read_bytes()


def options(engine: Flink | Spark, environment: str) -> str:
    words = f"--runner={engine.name} --job_endpoint=127.0.0.1:{engine.job_port} {environment}"
    if isinstance(engine, Flink):
        words += f" --parallelism={SLOTS} --sdk_worker_parallelism={SLOTS}"
    return words


def flags(engine: Flink | Spark, environment: str, shared: Path) -> list[str]:
    return [f"--beam-options={options(engine, environment)}", f"--shared-dir={shared}"]


@pytest.fixture(scope="session")
def in_process(engines: Engines, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Content of evaluation.json of a run in one process."""
    out = tmp_path_factory.mktemp("alone") / "alone"
    return finish(engines, start(engines, inputs, out), out)


@pytest.mark.parametrize("environment", ["LOOPBACK", "PROCESS", "EXTERNAL"])
def test_results_equal_those_in_process_byte_for_byte(
    tmp_path: Path,
    engines: Engines,
    engine: Flink | Spark,
    environments: dict[str, str],
    inputs: Inputs,
    in_process: bytes,
    environment: str,
) -> None:
    out = tmp_path / f"{engine.name}-{environment}"
    shared = tmp_path / "shared"
    process = start(engines, inputs, out, *flags(engine, environments[environment], shared))
    assert finish(engines, process, out) == in_process
    assert list(shared.iterdir()) == []


def hold(engines: Engines) -> Path:
    """Have `METRIC` take two seconds for a batch until the file that is returned is removed."""
    (engines.folder / "reached").unlink(missing_ok=True)
    held = engines.folder / "held"
    held.touch()
    return held


def test_a_worker_that_is_killed_changes_nothing(
    tmp_path: Path,
    engines: Engines,
    engine: Flink | Spark,
    environments: dict[str, str],
    inputs: Inputs,
    in_process: bytes,
) -> None:
    out = tmp_path / f"{engine.name}-killed"
    held = hold(engines)
    words = flags(engine, environments["EXTERNAL"], tmp_path / "shared")
    process = start(engines, inputs, out, f"--metric={METRIC}", *words)
    wait_until((engines.folder / "reached").exists, "a batch is at work", 300)
    engine.kill_worker()
    held.unlink()
    result, expected = (
        json.loads(content) for content in (finish(engines, process, out), in_process)
    )
    for name in ("count", "score", "source_score", "accuracy", "agreement"):
        assert result[name] == expected[name]


def test_ctrl_c_ends_the_job_and_leaves_nothing(
    tmp_path: Path,
    engines: Engines,
    engine: Flink | Spark,
    environments: dict[str, str],
    inputs: Inputs,
) -> None:
    out, shared = tmp_path / f"{engine.name}-interrupted", tmp_path / "shared"
    held = hold(engines)
    words = flags(engine, environments["EXTERNAL"], shared)
    # Two minutes of work for two workers.
    process = start(engines, inputs, out, f"--metric={METRIC}", *words, batch_size=8)
    wait_until((engines.folder / "reached").exists, "a batch is at work", 300)
    assert engine.is_busy()
    inner(process).send_signal(signal.SIGINT)
    assert process.wait(60) == 130, engines.log(out.name).read_text()
    assert list(shared.iterdir()) == []
    wait_until(lambda: not engine.is_busy(), "the job has ended", 45)
    held.unlink()


def test_a_run_evaluates_on_the_engine(
    tmp_path: Path, engines: Engines, flink: Flink, environments: dict[str, str], inputs: Inputs
) -> None:
    out, recipes = tmp_path / "run", tmp_path / "recipes.toml"
    recipes.write_text(RECIPE)
    command = [
        *PARING,
        "run",
        f"--model={inputs.source}",
        f"--examples={inputs.examples}",
        f"--recipes={recipes}",
        "--brief",
        f"--out={out}",
        f"--beam-options={options(flink, environments['EXTERNAL'])}",
        f"--shared-dir={tmp_path / 'shared'}",
    ]
    before = flink.jobs()
    process = engines.start("run", command)
    assert process.wait() in (0, 1), engines.log("run").read_text()
    # The source and the candidate.
    assert flink.jobs() == before + 2


@contextmanager
def watched(engines: Engines) -> Iterator[dict[str, int]]:
    """Yield the most memory so far of a process of Paring, and of a worker."""
    peaks = {"paring_pipelines.cli.main": 0, "sdk_worker_main": 0}
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
