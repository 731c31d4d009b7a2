"""`evaluate` on real clusters of Flink and Spark gives what it gives in this process."""

import json
import signal
from pathlib import Path

import pytest
from tests.engines.commands import finish, flags, start
from tests.engines.conftest import METRIC, WORKED, Inputs
from tests.engines.engines import SLOTS, Engines, Flink, Spark, inner, wait_until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]


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


def test_each_slot_works_in_a_process_of_its_own(
    tmp_path: Path,
    engines: Engines,
    flink: Flink,
    environments: dict[str, str],
    inputs: Inputs,
) -> None:
    for file in worked(engines):
        file.unlink()
    out = tmp_path / f"{flink.name}-slots"
    held = hold(engines)
    words = flags(flink, environments["PROCESS"], tmp_path / "shared")
    process = start(engines, inputs, out, f"--metric={METRIC}", *words)
    # While each batch takes two seconds.
    wait_until(lambda: len(worked(engines)) == SLOTS, "all slots are at work", 300)
    held.unlink()
    finish(engines, process, out)
    assert len(worked(engines)) == SLOTS


def worked(engines: Engines) -> list[Path]:
    """Return a file for each process in which `METRIC` ran."""
    return list(engines.folder.glob(f"{WORKED}*"))


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
