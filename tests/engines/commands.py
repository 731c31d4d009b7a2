"""Commands of Paring in the namespaces, with Beam's options for an engine."""

import subprocess
import sys
from pathlib import Path

from tests.engines.conftest import BATCH, Inputs
from tests.engines.engines import SLOTS, Engines, Flink, Spark

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
        # Workers that another process starts serve one task manager alone.
        words += f" --parallelism={SLOTS if 'PROCESS' in environment else 1}"
    return words


def flags(engine: Flink | Spark, environment: str, shared: Path) -> list[str]:
    return [f"--beam-options={options(engine, environment)}", f"--shared-dir={shared}"]
